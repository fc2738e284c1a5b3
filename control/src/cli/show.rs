//! `show`: the whole switch as a tree. `version`: of this command and of the daemon.

use serde_json::{Value, json};

use super::client::Client;
use super::error::CliError;
use super::output::{Ink, Output, Paint};
use super::table::{columns, wrap};
use crate::api::model::{PortRow, PortState, Tree, TreeGroup, TreeSwitch, UplinkRow, Version};

/// `show`
pub(crate) async fn show(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let answer = client.get("show").await?;
    let tree: Tree = client.typed(&answer)?;
    output.document(&answer, |paint| render(&tree, paint))
}

/// The tree as text.
fn render(tree: &Tree, paint: Paint) -> String {
    if tree.switches.is_empty() {
        return "No switch is configured; `vswitchctl apply -f FILE` makes one.\n".to_owned();
    }
    let mut out = String::new();
    for switch in &tree.switches {
        render_switch(&mut out, switch, tree.generation, paint);
    }
    out
}

fn render_switch(out: &mut String, switch: &TreeSwitch, generation: u64, paint: Paint) {
    let facts = format!(
        "mtu {}, {} of {} MAC addresses, generation {generation}",
        switch.mtu, switch.macs, switch.mac_table_size
    );
    out.push_str(&format!(
        "{}  {}\n",
        paint.paint(Ink::Bold, &switch.name),
        paint.paint(Ink::Dim, &facts)
    ));
    for (number, uplink) in switch.uplinks.iter().enumerate() {
        let last = number + 1 == switch.uplinks.len() && switch.groups.is_empty();
        render_uplink(out, uplink, last, &switch.uplinks, paint);
    }
    // Columns stand under each other across all groups of the switch.
    let ports = || switch.groups.iter().flat_map(|group| &group.ports);
    let widths = Widths {
        name: ports().map(|port| columns(&port.name)).max().unwrap_or(0),
        device: ports().map(|port| columns(&device(port))).max().unwrap_or(0),
        state: ports().map(|port| columns(state_word(port))).max().unwrap_or(0),
    };
    for (number, group) in switch.groups.iter().enumerate() {
        let last = number + 1 == switch.groups.len();
        render_group(out, group, last, &widths, paint);
    }
}

struct Widths {
    name: usize,
    device: usize,
    state: usize,
}

fn pad(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(columns(text))))
}

fn device(port: &PortRow) -> String {
    format!("{} {}", port.kind, port.device)
}

fn state_word(port: &PortRow) -> &'static str {
    match port.state {
        PortState::Up => "up",
        PortState::Down => "down",
    }
}

fn render_uplink(out: &mut String, uplink: &UplinkRow, last: bool, all: &[UplinkRow], paint: Paint) {
    let width = |text: fn(&UplinkRow) -> &str| all.iter().map(|row| columns(text(row))).max().unwrap_or(0);
    let name = pad(&uplink.name, width(|row| &row.name));
    let device = pad(&uplink.device, width(|row| &row.device));
    let (ink, state) = match uplink.state {
        PortState::Up if uplink.active => (Ink::Good, "up, in use".to_owned()),
        PortState::Up => (Ink::Good, "up".to_owned()),
        PortState::Down => {
            let reason = uplink.reason.as_deref().unwrap_or_default();
            (Ink::Bad, format!("down  {reason}").trim_end().to_owned())
        }
    };
    out.push_str(&paint.paint(Ink::Dim, if last { "└─ " } else { "├─ " }));
    out.push_str(&format!(
        "{}  {}  {}\n",
        paint.paint(Ink::Bold, &format!("uplink {name}")),
        paint.paint(Ink::Dim, &format!("device {device}")),
        paint.paint(ink, &state)
    ));
}

fn render_group(out: &mut String, group: &TreeGroup, last: bool, widths: &Widths, paint: Paint) {
    let (branch, trunk) = if last {
        ("└─ ", "   ")
    } else {
        ("├─ ", "│  ")
    };
    out.push_str(&paint.paint(Ink::Dim, branch));
    out.push_str(&paint.paint(Ink::Bold, &group.name));
    out.push_str("  ");
    out.push_str(&vlan(&group.vlan));
    out.push('\n');
    if group.ports.is_empty() {
        out.push_str(&paint.paint(Ink::Dim, &format!("{trunk}└─ no ports")));
        out.push('\n');
    }
    for (number, port) in group.ports.iter().enumerate() {
        let (branch, below) = if number + 1 == group.ports.len() {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let (ink, reason) = match port.state {
            PortState::Up => (Ink::Good, ""),
            PortState::Down => (Ink::Bad, port.reason.as_deref().unwrap_or_default()),
        };
        let name = pad(&port.name, widths.name);
        let device = pad(&device(port), widths.device);
        let state = pad(state_word(port), widths.state);
        let mac = port.mac.map_or_else(|| pad("-", 17), |mac| mac.to_string());
        let vlan = if port.vlan == group.vlan {
            String::new()
        } else {
            format!("  {}", vlan(&port.vlan))
        };
        let plain = format!("{trunk}{branch}{name}  {device}  {state}  {mac}{vlan}  {reason}");
        let fits = paint.width().is_none_or(|edge| columns(&plain) <= edge);
        out.push_str(&paint.paint(Ink::Dim, &format!("{trunk}{branch}")));
        let mut line = format!(
            "{name}  {}  {}  {mac}{vlan}",
            paint.paint(Ink::Dim, &device),
            paint.paint(ink, &state),
        );
        if fits && !reason.is_empty() {
            line.push_str(&format!("  {}", paint.paint(Ink::Bad, reason)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
        if let Some(edge) = paint.width().filter(|_| !fits) {
            let branches = format!("{trunk}{below}  ");
            for line in wrap(reason, edge.saturating_sub(columns(&branches))) {
                out.push_str(&paint.paint(Ink::Dim, &branches));
                out.push_str(&paint.paint(Ink::Bad, &line));
                out.push('\n');
            }
        }
    }
}

/// The API's short form of a VLAN policy, as part of a sentence.
pub(crate) fn vlan(short: &str) -> String {
    match short {
        "none" => "no vlan".to_owned(),
        short => format!("vlan {short}"),
    }
}

/// `version`
pub(crate) async fn version(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    match client.get("version").await {
        Ok(answer) => {
            let daemon: Version = client.typed(&answer)?;
            let document = json!({ "vswitchctl": own, "vswitchd": answer });
            output.document(&document, |_| {
                format!(
                    "vswitchctl {own}\n{} {} (pid {}, generation {}, {})\n",
                    daemon.name,
                    daemon.version,
                    daemon.pid,
                    daemon.generation,
                    client.socket().display(),
                )
            })
        }
        // The own version is worth printing even where no daemon answers.
        Err(error) => {
            output.document(&json!({ "vswitchctl": own, "vswitchd": Value::Null }), |_| {
                format!("vswitchctl {own}\n")
            })?;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, device: &str, state: PortState, reason: Option<&str>, vlan: &str) -> PortRow {
        PortRow {
            name: name.into(),
            switch: "vs0".into(),
            group: Some("web".into()),
            kind: "tap".into(),
            device: device.into(),
            state,
            reason: reason.map(str::to_owned),
            mac: (state == PortState::Up).then(|| "52:54:00:00:00:01".parse().unwrap()),
            vlan: vlan.into(),
        }
    }

    fn uplink(name: &str, state: PortState, active: bool, reason: Option<&str>) -> UplinkRow {
        UplinkRow {
            name: name.into(),
            switch: "vs0".into(),
            device: format!("e-{name}"),
            state,
            reason: reason.map(str::to_owned),
            active,
            ports: 0,
            announced: 0,
            lacp: None,
            neighbour: None,
        }
    }

    fn tree() -> Tree {
        let group = |name: &str, vlan: &str, ports| TreeGroup {
            name: name.into(),
            vlan: vlan.into(),
            ports,
        };
        Tree {
            generation: 7,
            switches: vec![TreeSwitch {
                name: "vs0".into(),
                mtu: 1500,
                macs: 2,
                mac_table_size: 32768,
                uplinks: vec![
                    uplink("up1", PortState::Up, true, None),
                    uplink("wan", PortState::Down, false, Some("device eth9 has no carrier")),
                ],
                groups: vec![
                    group(
                        "web",
                        "100",
                        vec![
                            port("vm1", "vm1", PortState::Up, None, "100"),
                            port(
                                "database",
                                "vnet2",
                                PortState::Down,
                                Some("no device `vnet2`"),
                                "100",
                            ),
                            port("fw", "fw0", PortState::Up, None, "trunk 100,200-299 native 1"),
                        ],
                    ),
                    group("empty", "none", vec![]),
                ],
            }],
        }
    }

    #[test]
    fn the_tree() {
        assert_eq!(
            render(&tree(), Paint::new(false)),
            "\
vs0  mtu 1500, 2 of 32768 MAC addresses, generation 7
├─ uplink up1  device e-up1  up, in use
├─ uplink wan  device e-wan  down  device eth9 has no carrier
├─ web  vlan 100
│  ├─ vm1       tap vm1    up    52:54:00:00:00:01
│  ├─ database  tap vnet2  down  -                  no device `vnet2`
│  └─ fw        tap fw0    up    52:54:00:00:00:01  vlan trunk 100,200-299 native 1
└─ empty  no vlan
   └─ no ports
"
        );
    }

    #[test]
    fn a_reason_that_does_not_fit_stands_below() {
        let text = render(&tree(), Paint::new(false).within(64));
        assert!(
            text.contains(
                "
│  ├─ database  tap vnet2  down  -
│  │    no device `vnet2`
│  └─ fw "
            ),
            "{text}"
        );
    }

    #[test]
    fn colour_changes_no_text() {
        let painted = render(&tree(), Paint::new(true));
        let mut plain = String::new();
        let mut rest = painted.as_str();
        while let Some(start) = rest.find('\u{1b}') {
            plain.push_str(&rest[..start]);
            rest = &rest[start + rest[start..].find('m').unwrap() + 1..];
        }
        plain.push_str(rest);
        assert_eq!(plain, render(&tree(), Paint::new(false)));
    }
}
