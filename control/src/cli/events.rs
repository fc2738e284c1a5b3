//! `events`: what happened, a line each, and what happens as it does.

use serde_json::Value;

use super::client::{Client, encode};
use super::error::CliError;
use super::output::{Format, Ink, Output, Paint};
use crate::api::model::EventRow;

/// No event is longer; more without a line feed is not the API.
const MAX_LINE: usize = 1 << 20;

/// `events`
pub(crate) async fn events(
    client: &Client,
    output: &mut Output,
    follow: bool,
    since: Option<&str>,
) -> Result<(), CliError> {
    let since = since
        .map(|since| format!("&since={}", encode(since)))
        .unwrap_or_default();
    let mut stream = client.stream(&format!("events?follow={follow}{since}")).await?;
    let mut buffer = Vec::new();
    let mut collected = Vec::new();
    loop {
        let data = tokio::select! {
            data = stream.next() => data?,
            // Ctrl-C is how a follower ends.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(data) = data else { break };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value: Value = serde_json::from_slice(&line)
                .map_err(|error| CliError::Failed(format!("the daemon's event is no JSON: {error}")))?;
            // A list that ends is an array, as every other list; one that goes on is a document per line.
            if !follow && output.format() != Format::Table {
                collected.push(value);
                continue;
            }
            let row: EventRow = client.typed(&value)?;
            output.row(&value, |paint| line_of(&row, paint))?;
        }
        if buffer.len() > MAX_LINE {
            return Err(CliError::Failed("the daemon's event has no end".to_owned()));
        }
        output.flush()?;
    }
    if !follow && output.format() != Format::Table {
        return output.document(&collected, |_| String::new());
    }
    if follow {
        return Err(CliError::Failed(
            "vswitchd has ended, and with it the events".to_owned(),
        ));
    }
    Ok(())
}

fn line_of(row: &EventRow, paint: Paint) -> String {
    let ink = match row.kind.as_str() {
        "port-up" | "start" => Ink::Good,
        "port-down" | "send-failed" | "apply-failed" => Ink::Bad,
        _ => Ink::Notable,
    };
    let kind = paint.paint(ink, &format!("{:<12}", row.kind));
    // Most messages name their port themselves.
    let port = row.port.as_deref().filter(|port| !row.message.contains(*port));
    let port = port.map(|port| format!("port {port}: ")).unwrap_or_default();
    format!(
        "{}  {kind}  {port}{}",
        paint.paint(Ink::Dim, &row.time),
        row.message
    )
}
