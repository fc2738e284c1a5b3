//! `mac`: the MAC table.

use hyper::Method;
use serde_json::Value;

use super::args::{MacArgs, MacCommand};
use super::client::Client;
use super::config::{About, report};
use super::error::CliError;
use super::output::{Ink, Output};
use super::table::{Align, Cell, Table};
use super::units::{age, count};
use crate::api::model::{Flushed, MacEdit, MacFlush, MacRow};

/// Runs one of the commands.
pub(crate) async fn mac(client: &Client, output: &mut Output, command: MacCommand) -> Result<(), CliError> {
    match command {
        MacCommand::List { port, vlan } => list(client, output, port.as_deref(), vlan).await,
        MacCommand::Add(args) => edit(client, output, Method::POST, args).await,
        MacCommand::Del(args) => edit(client, output, Method::DELETE, args).await,
        MacCommand::Flush { port, vlan } => flush(client, output, MacFlush { port, vlan }).await,
    }
}

async fn list(
    client: &Client,
    output: &mut Output,
    port: Option<&str>,
    vlan: Option<u16>,
) -> Result<(), CliError> {
    let mut answer = client.get("macs").await?;
    if let Value::Array(rows) = &mut answer {
        rows.retain(|row| {
            port.is_none_or(|port| row.get("port").and_then(Value::as_str) == Some(port))
                && vlan.is_none_or(|vlan| row.get("vlan").and_then(Value::as_u64) == Some(vlan.into()))
        });
        if rows.is_empty()
            && let Some(port) = port
        {
            // An empty list for a port that doesn't exist would mislead; the daemon says so and names the nearest.
            client
                .get(&format!("ports/{}", super::client::encode(port)))
                .await?;
        }
    }
    let rows: Vec<MacRow> = client.typed(&answer)?;
    output.document(&answer, |paint| {
        let mut table = Table::new(&[
            ("MAC", Align::Left),
            ("VLAN", Align::Right),
            ("PORT", Align::Left),
            ("KIND", Align::Left),
            ("AGE", Align::Right),
        ]);
        for row in rows {
            table.row([
                row.mac.into(),
                // As in the file and in `port list`; programs get the number 0.
                if row.vlan == 0 {
                    "none".into()
                } else {
                    row.vlan.into()
                },
                row.port.into(),
                if row.kind == "static" {
                    Cell::inked(Ink::Bold, row.kind)
                } else {
                    row.kind.into()
                },
                row.age.map_or_else(|| "-".to_owned(), age).into(),
            ]);
        }
        table.render(
            "No MAC addresses: nothing has been sent, or all entries have aged.",
            paint,
        )
    })
}

async fn edit(client: &Client, output: &mut Output, method: Method, args: MacArgs) -> Result<(), CliError> {
    let edit = MacEdit {
        port: args.port,
        mac: args.mac,
        vlan: args.vlan,
    };
    let answer = client.send(method, "macs", &edit).await?;
    report(client, output, &answer, About::Port(&edit.port))
}

async fn flush(client: &Client, output: &mut Output, flush: MacFlush) -> Result<(), CliError> {
    let answer = client.send(Method::POST, "macs/flush", &flush).await?;
    let flushed: Flushed = client.typed(&answer)?;
    output.document(&answer, |_| {
        format!("{} removed.\n", count(flushed.removed, "learnt entry"))
    })
}
