//! `uplink` and `team`: the devices by which the switches reach the network outside, and how the ports share them.

use super::args::{TeamCommand, UplinkCommand};
use super::client::{Client, encode};
use super::error::CliError;
use super::output::{Ink, Output, Paint, yaml};
use super::port::{counters, queues, state_cell};
use super::table::{Align, Cell, Table};
use super::units::count;
use crate::api::model::{PortState, TeamRow, UplinkDetail, UplinkRow};

/// Runs one of the `uplink` commands.
pub(crate) async fn uplink(
    client: &Client,
    output: &mut Output,
    command: UplinkCommand,
) -> Result<(), CliError> {
    match command {
        UplinkCommand::List => {
            let answer = client.get("uplinks").await?;
            let rows: Vec<UplinkRow> = client.typed(&answer)?;
            output.document(&answer, |paint| uplink_table(rows, paint))
        }
        UplinkCommand::Show { name } => {
            let answer = client.get(&format!("uplinks/{}", encode(&name))).await?;
            let detail: UplinkDetail = client.typed(&answer)?;
            let settings = yaml(&detail.settings)?;
            output.document(&answer, |paint| uplink_text(&detail, &settings, paint))
        }
    }
}

fn uplink_table(rows: Vec<UplinkRow>, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("UPLINK", Align::Left),
        ("SWITCH", Align::Left),
        ("DEVICE", Align::Left),
        ("STATE", Align::Left),
        ("IN USE", Align::Left),
        ("PORTS", Align::Right),
        ("ANNOUNCED", Align::Right),
        ("REASON", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.name.into(),
            row.switch.into(),
            row.device.into(),
            state_cell(row.state),
            if row.active { "yes" } else { "no" }.into(),
            row.ports.to_string().into(),
            row.announced.to_string().into(),
            row.reason.unwrap_or_default().into(),
        ]);
    }
    table.render(
        "No uplinks; they are named under `uplinks` of a switch in the configuration.",
        paint,
    )
}

fn uplink_text(detail: &UplinkDetail, settings: &str, paint: Paint) -> String {
    let row = &detail.row;
    let state = match row.state {
        PortState::Up => paint.paint(Ink::Good, "up"),
        PortState::Down => {
            let reason = row.reason.as_ref().map(|reason| format!(": {reason}"));
            paint.paint(Ink::Bad, &format!("down{}", reason.unwrap_or_default()))
        }
    };
    let mut out = format!("{}  {state}\n", paint.paint(Ink::Bold, &row.name));
    let in_use = if row.active {
        format!("yes, by {} of their own", count(row.ports, "port"))
    } else {
        "no team uses it at present".to_owned()
    };
    let facts = [
        ("switch", Some(row.switch.clone())),
        ("device", Some(row.device.clone())),
        ("driver", detail.driver.clone()),
        ("in use", Some(in_use)),
        (
            "announced",
            Some(format!("{} by it", count(row.announced as usize, "station"))),
        ),
        ("lacp", row.lacp.clone()),
        ("neighbour", row.neighbour.clone()),
        ("queues", Some(queues(&detail.queues))),
    ];
    for (key, value) in facts {
        if let Some(value) = value {
            out.push_str(&format!("  {key:<10} {value}\n"));
        }
    }
    out.push_str("\nSettings:\n");
    for line in settings.lines() {
        out.push_str(&format!("  {line}\n"));
    }
    out.push('\n');
    out.push_str(&counters(&detail.stats, false, paint));
    out
}

/// Runs one of the `team` commands.
pub(crate) async fn team(client: &Client, output: &mut Output, command: TeamCommand) -> Result<(), CliError> {
    match command {
        TeamCommand::List => {
            let answer = client.get("teams").await?;
            let rows: Vec<TeamRow> = client.typed(&answer)?;
            output.document(&answer, |paint| team_table(rows, paint))
        }
        TeamCommand::Show { group } => {
            let answer = client.get(&format!("teams/{}", encode(&group))).await?;
            let row: TeamRow = client.typed(&answer)?;
            let settings = yaml(&row.settings)?;
            output.document(&answer, |paint| team_text(&row, &settings, paint))
        }
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}

fn team_table(rows: Vec<TeamRow>, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("SWITCH", Align::Left),
        ("BALANCE", Align::Left),
        ("ACTIVE", Align::Left),
        ("STANDBY", Align::Left),
        ("FAILED", Align::Left),
    ]);
    for row in rows {
        let failed = match row.failed.is_empty() {
            true => "-".into(),
            false => Cell::inked(Ink::Bad, names(&row.failed)),
        };
        table.row([
            row.group.into(),
            row.switch.into(),
            row.balance.into(),
            names(&row.active).into(),
            names(&row.standby).into(),
            failed,
        ]);
    }
    table.render(
        "No teams; a switch with `uplinks` has one for each of its port groups.",
        paint,
    )
}

fn team_text(row: &TeamRow, settings: &str, paint: Paint) -> String {
    let mut out = format!(
        "{} of {}  {}\n",
        paint.paint(Ink::Bold, &row.group),
        row.switch,
        row.balance
    );
    for (key, value) in [
        ("active", &row.active),
        ("standby", &row.standby),
        ("failed", &row.failed),
    ] {
        out.push_str(&format!("  {key:<8} {}\n", names(value)));
    }
    if let Some(partner) = &row.partner {
        out.push_str(&format!("  {:<8} {partner}\n", "partner"));
    }
    out.push_str("\nSettings:\n");
    for line in settings.lines() {
        out.push_str(&format!("  {line}\n"));
    }
    out.push('\n');
    let mut table = Table::new(&[("PORT", Align::Left), ("UPLINK", Align::Left)]);
    let by_hash = !row.active.is_empty() && matches!(row.balance.as_str(), "source-mac" | "ip-hash" | "lacp");
    for port in &row.ports {
        let uplink = match &port.uplink {
            Some(uplink) => uplink.clone(),
            None if by_hash => "by hash".to_owned(),
            None => "none".to_owned(),
        };
        table.row([port.port.clone().into(), uplink.into()]);
    }
    out.push_str(&table.render("The group has no ports.", paint));
    out
}
