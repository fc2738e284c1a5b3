//! `trace`: what would happen to a frame, step by step, and why.

use std::net::IpAddr;

use hyper::Method;
use serde_json::Value;

use super::args::TraceArgs;
use super::client::{Client, encode};
use super::error::CliError;
use super::frame::{self, FrameSpec};
use super::output::{Ink, Output, Paint};
use super::pcap::read_packet;
use super::table::wrap;
use super::words::{Destination, Ends, Words};
use crate::api::model::{PortDetail, TraceReport, TraceRequest};
use switch_core::addr::MacAddr;

/// `trace`
pub(crate) async fn trace(client: &Client, output: &mut Output, args: TraceArgs) -> Result<(), CliError> {
    let octets = match frame::parse(&args.frame)? {
        FrameSpec::Octets(octets) => octets,
        FrameSpec::File { path, number } => read_packet(&path, number)?,
        FrameSpec::Words(words) => {
            let ends = ends(client, &args.port, &words).await?;
            words.build(&ends)?
        }
    };
    let frame = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    let answer = client
        .send(
            Method::POST,
            "trace",
            &TraceRequest {
                port: args.port.clone(),
                frame,
            },
        )
        .await?;
    let report: TraceReport = client.typed(&answer)?;
    output.document(&answer, |paint| render(&args.port, &report, paint))
}

/// Asks the switch for the addresses that the words leave open.
async fn ends(client: &Client, port: &str, words: &Words) -> Result<Ends, CliError> {
    let detail = port_detail(client, port).await?;
    let source = words.from_mac.or(detail.row.mac).ok_or_else(|| {
        CliError::Usage(format!(
            "port `{port}` has no MAC address yet: none is configured and its guest has sent nothing; add `from MAC`"
        ))
    })?;
    let version = words.destination_ip();
    let source_ip = addresses(&detail.settings)
        .find(|address| version.is_none_or(|version| version.is_ipv4() == address.is_ipv4()));
    let destination = match &words.to {
        Some(Destination::Mac(mac)) => *mac,
        Some(Destination::Port(name)) => mac_of(client, name).await?,
        None => match (words.natural_destination(), words.destination_ip()) {
            (Some(mac), _) => mac,
            (None, Some(ip)) => owner_of(client, ip).await?,
            (None, None) => {
                return Err(CliError::Usage(
                    "where does the frame go? Add `to MAC` or `to PORT`".to_owned(),
                ));
            }
        },
    };
    Ok(Ends {
        source,
        destination,
        source_ip,
    })
}

async fn port_detail(client: &Client, name: &str) -> Result<PortDetail, CliError> {
    client.typed(&client.get(&format!("ports/{}", encode(name))).await?)
}

async fn mac_of(client: &Client, port: &str) -> Result<MacAddr, CliError> {
    port_detail(client, port).await?.row.mac.ok_or_else(|| {
        CliError::Usage(format!(
            "port `{port}` has no MAC address yet: none is configured and its guest has sent nothing; give `to MAC` instead"
        ))
    })
}

/// The MAC address of the port whose `addresses` hold `ip`.
async fn owner_of(client: &Client, ip: IpAddr) -> Result<MacAddr, CliError> {
    let document = client.get("config").await?;
    let switches = document.pointer("/config/switches").and_then(Value::as_object);
    let ports = switches
        .into_iter()
        .flat_map(serde_json::Map::values)
        .filter_map(|switch| switch.get("ports"));
    let mut ports = ports.filter_map(Value::as_object).flatten();
    match ports.find(|(_, settings)| addresses(settings).any(|address| address == ip)) {
        Some((name, _)) => mac_of(client, name).await,
        None => Err(CliError::Usage(format!(
            "where does the frame go? The switch knows MAC addresses, not who has {ip}; add `to PORT` or `to MAC`"
        ))),
    }
}

/// The IP addresses that settings bind a port to.
fn addresses(settings: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let list = settings.get("addresses").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok())
}

/// Columns of a report; longer lines are broken between words.
const WIDTH: usize = 100;

/// The report for people: the frame, each step, the verdict.
fn render(port: &str, report: &TraceReport, paint: Paint) -> String {
    let mut out = format!("{}  {}\n\n", paint.paint(Ink::Bold, port), report.frame);
    let stage = report
        .steps
        .iter()
        .map(|step| step.stage.len())
        .max()
        .unwrap_or(0);
    for step in &report.steps {
        // The verdict below explains a drop; once is enough.
        let text = match (step.why.as_str(), &report.reason) {
            (why, Some(reason)) if why == report.explanation => format!("{}: {reason}", step.decision),
            ("", _) => step.decision.clone(),
            (why, _) => format!("{} — {why}", step.decision),
        };
        for (number, line) in wrap(&text, WIDTH - 4 - stage).iter().enumerate() {
            let name = if number == 0 { step.stage.as_str() } else { "" };
            out.push_str(&format!(
                "  {}  {line}\n",
                paint.paint(Ink::Dim, &format!("{name:<stage$}"))
            ));
        }
    }
    if !report.steps.is_empty() {
        out.push('\n');
    }
    let (ink, verdict) = match &report.reason {
        Some(reason) => (Ink::Bad, format!("{}: {reason}", report.verdict)),
        None => (Ink::Good, report.verdict.clone()),
    };
    for (number, line) in wrap(&format!("{verdict} — {}", report.explanation), WIDTH - 2)
        .iter()
        .enumerate()
    {
        match line.strip_prefix(&verdict) {
            Some(rest) if number == 0 => out.push_str(&format!("{}{rest}\n", paint.paint(ink, &verdict))),
            _ => out.push_str(&format!("  {line}\n")),
        }
    }
    let width = report
        .hops
        .iter()
        .map(|hop| hop.port.chars().count())
        .max()
        .unwrap_or(0);
    for hop in &report.hops {
        let tag = hop
            .vlan
            .map_or_else(|| "untagged".to_owned(), |vlan| format!("tagged {vlan}"));
        out.push_str(&format!("  → {:<width$}  {tag}\n", hop.port));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::model::{TraceHop, TraceStep};

    #[test]
    fn the_report() {
        let step = |stage: &str, decision: &str, why: &str| TraceStep {
            stage: stage.into(),
            decision: decision.into(),
            why: why.into(),
        };
        let report = TraceReport {
            frame: "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1, 42 octets"
                .into(),
            steps: vec![
                step("parse", "42 octets, untagged", ""),
                step("vlan-ingress", "VLAN 100", "access port"),
            ],
            verdict: "forward".into(),
            reason: None,
            explanation: "Broadcast: to every other port of VLAN 100.".into(),
            hops: vec![
                TraceHop {
                    port: "vm2".into(),
                    vlan: None,
                },
                TraceHop {
                    port: "fw".into(),
                    vlan: Some(100),
                },
            ],
        };
        assert_eq!(
            render("vm1", &report, Paint::new(false)),
            "\
vm1  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1, 42 octets

  parse         42 octets, untagged
  vlan-ingress  VLAN 100 — access port

forward — Broadcast: to every other port of VLAN 100.
  → vm2  untagged
  → fw   tagged 100
"
        );
    }

    #[test]
    fn a_drop_is_explained_once_and_long_lines_are_broken() {
        let why = "The source is not the port's MAC address, and `security.forged-transmits` is `reject`. It is decided by port vm1.";
        let report = TraceReport {
            frame: "a frame".into(),
            steps: vec![TraceStep {
                stage: "security".into(),
                decision: "drop".into(),
                why: why.into(),
            }],
            verdict: "drop".into(),
            reason: Some("forged-transmit".into()),
            explanation: why.into(),
            hops: vec![],
        };
        assert_eq!(
            render("vm1", &report, Paint::new(false)),
            "\
vm1  a frame

  security  drop: forged-transmit

drop: forged-transmit — The source is not the port's MAC address, and `security.forged-transmits`
  is `reject`. It is decided by port vm1.
"
        );
    }

    #[test]
    fn addresses_of_settings() {
        let settings = json!({"addresses": ["10.0.0.1", "fd00::1", 7, "x"]});
        let found: Vec<String> = addresses(&settings).map(|address| address.to_string()).collect();
        assert_eq!(found, ["10.0.0.1", "fd00::1"]);
    }
}
