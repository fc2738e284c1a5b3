//! `port` and `group`: lists, details, counters, and small edits of the configuration in force.

use hyper::Method;
use serde_json::{Map, Value};
use switch_core::verdict::DropReason;

use super::args::{GroupCommand, PortAddArgs, PortCommand};
use super::client::{Client, encode};
use super::config::{About, Text, report};
use super::error::CliError;
use super::output::{Ink, Output, Paint, yaml};
use super::show::vlan;
use super::table::{Align, Cell, Table};
use super::units::scaled;
use crate::api::model::{
    Direction, GroupRow, ImportReport, PortDetail, PortEdit, PortRow, PortState, PortStats, QueueRow,
};

/// Runs one of the `port` commands.
pub(crate) async fn port(client: &Client, output: &mut Output, command: PortCommand) -> Result<(), CliError> {
    match command {
        PortCommand::List => list(client, output).await,
        PortCommand::Show { name } => show(client, output, &name).await,
        PortCommand::Add(args) => {
            let name = args.name.clone();
            let edit = addition(args)?;
            let answer = client.send(Method::POST, "ports", &edit).await?;
            report(client, output, &answer, About::Port(&name))
        }
        PortCommand::Set {
            name,
            settings,
            unset,
        } => {
            let edit = PortEdit {
                switch: None,
                name: None,
                settings: changes(&settings, &unset)?,
            };
            let answer = client
                .send(Method::PATCH, &format!("ports/{}", encode(&name)), &edit)
                .await?;
            report(client, output, &answer, About::Port(&name))
        }
        PortCommand::Del { name } => {
            let answer = client
                .call(Method::DELETE, &format!("ports/{}", encode(&name)))
                .await?;
            report(client, output, &answer, About::Port(&name))
        }
        PortCommand::Export { name } => {
            let answer = client.get(&format!("ports/{}/export", encode(&name))).await?;
            output.document(&answer, |_| format!("{answer:#}\n"))
        }
        PortCommand::Import { name, file } => {
            let text = Text::read(&file)?;
            let document: Value = serde_json::from_str(&text.text).map_err(|error| {
                CliError::Failed(format!(
                    "{} is not a document of `port export`: {error}",
                    text.name
                ))
            })?;
            let path = format!("ports/{}/import", encode(&name));
            let answer = client.send(Method::POST, &path, &document).await?;
            let report: ImportReport = client.typed(&answer)?;
            output.document(&answer, |paint| import_text(&report, paint))
        }
        PortCommand::Stats { name: None, human } => stats(client, output, human).await,
        PortCommand::Stats {
            name: Some(name),
            human,
        } => port_stats(client, output, &name, human).await,
    }
}

fn import_text(report: &ImportReport, paint: Paint) -> String {
    let mut out = String::new();
    for warning in &report.warnings {
        out.push_str(&format!("{} {warning}\n", paint.paint(Ink::Notable, "warning:")));
    }
    let when = if report.taken_up {
        "are in the MAC table and announced"
    } else {
        "are taken up when the port carries frames"
    };
    let macs = super::units::count(report.macs, "MAC address");
    out.push_str(&format!(
        "The counters of {} go on; {macs} {when}.\n",
        report.port
    ));
    out
}

/// The state of a port as a cell.
pub(crate) fn state_cell(state: PortState) -> Cell {
    match state {
        PortState::Up => Cell::inked(Ink::Good, "up"),
        PortState::Down => Cell::inked(Ink::Bad, "down"),
    }
}

async fn list(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let answer = client.get("ports").await?;
    let rows: Vec<PortRow> = client.typed(&answer)?;
    output.document(&answer, |paint| port_table(rows, paint))
}

fn port_table(rows: Vec<PortRow>, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("PORT", Align::Left),
        ("GROUP", Align::Left),
        ("VLAN", Align::Left),
        ("KIND", Align::Left),
        ("DEVICE", Align::Left),
        ("MAC", Align::Left),
        ("STATE", Align::Left),
        ("REASON", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.name.into(),
            row.group.unwrap_or_else(|| "-".to_owned()).into(),
            row.vlan.into(),
            row.kind.into(),
            row.device.into(),
            row.mac
                .map_or_else(|| "-".to_owned(), |mac| mac.to_string())
                .into(),
            state_cell(row.state),
            row.reason.unwrap_or_default().into(),
        ]);
    }
    table.render("No ports; `vswitchctl port add` makes one.", paint)
}

async fn show(client: &Client, output: &mut Output, name: &str) -> Result<(), CliError> {
    let answer = client.get(&format!("ports/{}", encode(name))).await?;
    let detail: PortDetail = client.typed(&answer)?;
    let settings = yaml(&detail.settings)?;
    output.document(&answer, |paint| {
        let row = &detail.row;
        let state = match row.state {
            PortState::Up => paint.paint(Ink::Good, "up"),
            PortState::Down => {
                let reason = row
                    .reason
                    .as_ref()
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                paint.paint(Ink::Bad, &format!("down{reason}"))
            }
        };
        let mut out = format!("{}  {state}\n", paint.paint(Ink::Bold, &row.name));
        let mac = row
            .mac
            .map_or_else(|| "not known yet".to_owned(), |mac| mac.to_string());
        let mac = match detail.guest_mac {
            Some(guest) => format!("{mac}; the guest uses {guest}, which `security.mac-changes` refuses"),
            None => mac,
        };
        let facts = [
            (
                "group",
                Some(match &row.group {
                    Some(group) => format!("{group} of {}", row.switch),
                    None => format!("none, an uplink of {}", row.switch),
                }),
            ),
            ("vlan", Some(row.vlan.clone())),
            (row.kind.as_str(), Some(row.device.clone())),
            ("driver", detail.driver.clone()),
            ("uplink", detail.uplink.clone()),
            ("mac", Some(mac)),
            ("behind it", Some(super::units::count(detail.macs, "MAC entry"))),
            ("queues", Some(queues(&detail.queues))),
        ];
        for (key, value) in facts {
            if let Some(value) = value {
                out.push_str(&format!("  {key:<10} {value}\n"));
            }
        }
        out.push_str("\nSettings in force:\n");
        for line in settings.lines() {
            out.push_str(&format!("  {line}\n"));
        }
        out.push('\n');
        out.push_str(&counters(&detail.stats, false, paint));
        out
    })
}

/// `0 by worker 1, 1 by worker 0`
pub(crate) fn queues(queues: &[QueueRow]) -> String {
    match queues {
        [] => "none, as its device is not open".to_owned(),
        [one] => format!("one, by worker {}{}", one.worker, unused(one)),
        _ => {
            let each: Vec<String> = queues
                .iter()
                .map(|queue| format!("{} by worker {}{}", queue.queue, queue.worker, unused(queue)))
                .collect();
            each.join(", ")
        }
    }
}

fn unused(queue: &QueueRow) -> &'static str {
    if queue.in_use { "" } else { " (not in use)" }
}

/// A number of a table.
fn number(value: u64, human: bool) -> Cell {
    if human {
        scaled(value as f64).into()
    } else {
        value.into()
    }
}

async fn stats(client: &Client, output: &mut Output, human: bool) -> Result<(), CliError> {
    let answer = client.get("stats").await?;
    let rows: Vec<PortStats> = client.typed(&answer)?;
    output.document(&answer, |paint| {
        let mut table = Table::new(&[
            ("PORT", Align::Left),
            ("RX PACKETS", Align::Right),
            ("RX BYTES", Align::Right),
            ("TX PACKETS", Align::Right),
            ("TX BYTES", Align::Right),
            ("DROPS", Align::Right),
            ("TOP REASON", Align::Left),
        ]);
        for row in rows {
            let drops = row.drops.values().sum::<u64>() + row.kernel_drops;
            let most = row
                .drops
                .iter()
                .max_by_key(|(_, count)| **count)
                .map(|(reason, _)| reason.clone());
            table.row([
                row.name.into(),
                number(row.receive.packets, human),
                number(row.receive.bytes, human),
                number(row.transmit.packets, human),
                number(row.transmit.bytes, human),
                number(drops, human),
                most.unwrap_or_else(|| if row.kernel_drops > 0 { "kernel" } else { "" }.to_owned())
                    .into(),
            ]);
        }
        table.render("No ports; `vswitchctl port add` makes one.", paint)
    })
}

async fn port_stats(client: &Client, output: &mut Output, name: &str, human: bool) -> Result<(), CliError> {
    let answer = client.get(&format!("ports/{}/stats", encode(name))).await?;
    let stats: PortStats = client.typed(&answer)?;
    output.document(&answer, |paint| counters(&stats, human, paint))
}

/// All counters of a port, its drops with what they mean.
pub(crate) fn counters(stats: &PortStats, human: bool, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("DIRECTION", Align::Left),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
        ("UNICAST", Align::Right),
        ("MULTICAST", Align::Right),
        ("BROADCAST", Align::Right),
    ]);
    let mut row = |name: &str, direction: &Direction| {
        table.row([
            name.into(),
            number(direction.packets, human),
            number(direction.bytes, human),
            number(direction.unicast, human),
            number(direction.multicast, human),
            number(direction.broadcast, human),
        ]);
    };
    row("receive", &stats.receive);
    row("transmit", &stats.transmit);
    let mut out = table.render("", paint);
    let mut drops = Table::new(&[
        ("DROPS", Align::Right),
        ("REASON", Align::Left),
        ("MEANING", Align::Left),
    ]);
    for (reason, count) in &stats.drops {
        let meaning = DropReason::from_name(reason)
            .map(DropReason::explain)
            .unwrap_or_default();
        drops.row([
            number(*count, human),
            Cell::inked(Ink::Bad, reason),
            meaning.into(),
        ]);
    }
    if stats.kernel_drops > 0 {
        drops.row([
            number(stats.kernel_drops, human),
            Cell::inked(Ink::Bad, "kernel"),
            "The kernel dropped them before the switch could read them: the sender is faster than a worker."
                .into(),
        ]);
    }
    out.push('\n');
    out.push_str(&drops.render("No drops.", paint));
    out
}

/// The document of a new port.
fn addition(args: PortAddArgs) -> Result<PortEdit, CliError> {
    let mut settings = Map::new();
    settings.insert("port-group".into(), args.group.into());
    for (key, value) in [
        ("tap", args.tap),
        ("device", args.device),
        ("vhost-user", args.vhost_user),
        ("stream", args.stream),
        ("mode", args.mode.map(|mode| mode.word().to_owned())),
        ("netns", args.netns),
    ] {
        if let Some(value) = value {
            settings.insert(key.into(), value.into());
        }
    }
    if let Some(queues) = args.queues {
        settings.insert("queues".into(), queues.into());
    }
    if let Some(mac) = args.mac {
        settings.insert("mac".into(), mac.to_string().into());
    }
    if let Some(vlan) = args.vlan {
        settings.insert("vlan".into(), parse_value("vlan", &vlan)?);
    }
    for setting in &args.set {
        let (key, value) = split(setting)?;
        insert(&mut settings, key, parse_value(key, value)?)?;
    }
    Ok(PortEdit {
        switch: args.switch,
        name: Some(args.name),
        settings,
    })
}

/// The document of changed settings; a key without a value, or unset, becomes `null`.
fn changes(settings: &[String], unset: &[String]) -> Result<Map<String, Value>, CliError> {
    let mut map = Map::new();
    for setting in settings {
        let (key, value) = split(setting)?;
        insert(&mut map, key, parse_value(key, value)?)?;
    }
    for key in unset {
        insert(&mut map, key, Value::Null)?;
    }
    Ok(map)
}

fn split(setting: &str) -> Result<(&str, &str), CliError> {
    match setting.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(CliError::Usage(format!(
            "`{setting}` is not KEY=VALUE, such as `vlan=100` or `security.promiscuous=accept`"
        ))),
    }
}

/// A value as YAML reads it; nothing is `null`.
fn parse_value(key: &str, text: &str) -> Result<Value, CliError> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // A MAC address of digits alone would be a number in base 60 to some readers; it is always text here.
    if text.parse::<switch_core::addr::MacAddr>().is_ok() {
        return Ok(text.into());
    }
    serde_saphyr::from_str(text)
        .map_err(|error| CliError::Usage(format!("the value of `{key}` is not YAML: `{text}`: {error}")))
}

/// Adds a setting; its key may be dotted, which the daemon resolves.
fn insert(map: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), CliError> {
    if key.split('.').any(str::is_empty) {
        return Err(CliError::Usage(format!(
            "`{key}` is not a key, such as `vlan` or `security.promiscuous`"
        )));
    }
    match map.insert(key.into(), value) {
        None => Ok(()),
        Some(_) => Err(CliError::Usage(format!("`{key}` is given twice"))),
    }
}

/// Runs one of the `group` commands.
pub(crate) async fn group(
    client: &Client,
    output: &mut Output,
    command: GroupCommand,
) -> Result<(), CliError> {
    match command {
        GroupCommand::List => {
            let answer = client.get("groups").await?;
            let rows: Vec<GroupRow> = client.typed(&answer)?;
            output.document(&answer, |paint| {
                let mut table = Table::new(&[
                    ("GROUP", Align::Left),
                    ("SWITCH", Align::Left),
                    ("VLAN", Align::Left),
                    ("PORTS", Align::Right),
                    ("NAMES", Align::Left),
                ]);
                for row in rows {
                    let names = row.ports.join(" ");
                    table.row([
                        row.name.into(),
                        row.switch.into(),
                        row.vlan.into(),
                        row.ports.len().into(),
                        names.into(),
                    ]);
                }
                table.render("No port groups; they are made in the configuration.", paint)
            })
        }
        GroupCommand::Show { name } => {
            let answer = client.get(&format!("groups/{}", encode(&name))).await?;
            let row: GroupRow = client.typed(&answer)?;
            let ports: Vec<PortRow> = client.typed(&client.get("ports").await?)?;
            let settings = yaml(&row.settings)?;
            output.document(&answer, |paint| {
                let mut out = format!(
                    "{} of {}  {}\n\nSettings:\n",
                    paint.paint(Ink::Bold, &row.name),
                    row.switch,
                    vlan(&row.vlan)
                );
                for line in settings.lines() {
                    out.push_str(&format!("  {line}\n"));
                }
                out.push('\n');
                let own = ports
                    .into_iter()
                    .filter(|port| port.group.as_ref() == Some(&row.name) && port.switch == row.switch);
                out.push_str(&port_table(own.collect(), paint));
                out
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn settings_become_documents() {
        let map = changes(
            &owned(&[
                "port-group=db",
                "security.promiscuous=accept",
                "security.mac-changes=reject",
                "vlan={trunk: [100, 200-299], native: 1}",
                "mac=52:54:00:00:00:01",
                "enabled=false",
                "mac-limit=",
            ]),
            &owned(&["isolated"]),
        );
        assert_eq!(
            Value::Object(map.unwrap()),
            json!({
                "port-group": "db",
                "security.promiscuous": "accept",
                "security.mac-changes": "reject",
                "vlan": { "trunk": [100, "200-299"], "native": 1 },
                "mac": "52:54:00:00:00:01",
                "enabled": false,
                "mac-limit": null,
                "isolated": null,
            })
        );
    }

    #[test]
    fn wrong_settings_are_named() {
        for (settings, want) in [
            (&["vlan"][..], "`vlan` is not KEY=VALUE"),
            (&["=3"], "`=3` is not KEY=VALUE"),
            (&["vlan={a"], "the value of `vlan` is not YAML"),
            (&["vlan=1", "vlan=2"], "`vlan` is given twice"),
            (&["security.=1"], "is not a key"),
        ] {
            let error = changes(&owned(settings), &[]).unwrap_err();
            assert!(error.to_string().contains(want), "{settings:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn drops_carry_their_meaning() {
        let stats = PortStats {
            drops: [("forged-transmit".to_owned(), 3)].into(),
            kernel_drops: 1,
            ..PortStats::default()
        };
        let text = counters(&stats, false, Paint::new(false));
        assert!(
            text.contains("3  forged-transmit  The source is not the port's MAC address"),
            "{text}"
        );
        assert!(text.contains("1  kernel"), "{text}");
    }
}
