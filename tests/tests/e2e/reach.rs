//! Stations reach whom they should, by the kernel's own ping, neighbour discovery and iperf3.

use std::time::Duration;

use serde_json::Value;
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;

/// A TAP of the switch for each (namespace, keys of its port), each with an address `10.0.0.N/24` and `fd00::N/64`.
fn stations(lab: &Lab, groups: &str, ports: &[(&str, &str)]) -> Vec<Namespace> {
    let namespaces: Vec<Namespace> = ports.iter().map(|(name, _)| lab.namespace(name)).collect();
    let rows: Vec<String> = ports
        .iter()
        .zip(&namespaces)
        .map(|((name, keys), namespace)| {
            format!(
                "      {name}: {{ tap: eth0, netns: {}, {keys} }}\n",
                namespace.name()
            )
        })
        .collect();
    lab.start(&format!(
        "version: 1\nswitches:\n  vs0:\n    port-groups: {{ {groups} }}\n    ports:\n{}",
        rows.concat()
    ));
    for (number, namespace) in namespaces.iter().enumerate() {
        namespace.address("eth0", &format!("10.0.0.{}/24", number + 1));
        namespace.address("eth0", &format!("fd00::{}/64", number + 1));
    }
    lab.wait_all_up();
    namespaces
}

#[test]
fn taps_of_one_group_reach_each_other_over_ipv4_and_ipv6() {
    let lab = Lab::new();
    let at = stations(
        &lab,
        "web: { vlan: 100 }",
        &[
            ("a", "port-group: web"),
            ("b", "port-group: web"),
            ("c", "port-group: web"),
        ],
    );
    assert!(at[0].pings("10.0.0.2", 3));
    assert!(at[1].pings("10.0.0.3", 3));
    assert!(at[0].pings("fd00::2", 3));
    assert!(at[2].pings("fd00::1", 3));
    // Found by neighbour solicitation, not by luck.
    let neighbours = at[0].ok(&["ip", "-6", "neighbour", "show", "fd00::2"]);
    assert!(neighbours.contains("lladdr"), "{neighbours}");
    // Larger than the MTU, so in fragments.
    at[0].ok(&["ping", "-n", "-c", "2", "-i", "0.1", "-s", "4000", "10.0.0.2"]);
    at[0].ok(&["ping", "-n", "-c", "2", "-i", "0.1", "-s", "4000", "fd00::2"]);

    let link = at[1].link("eth0").expect("the TAP is there");
    let mac = link["address"].as_str().expect("a link has an address");
    assert_eq!(lab.mac_port(mac, Some(100)).as_deref(), Some("b"));
    assert_eq!(lab.port("b")["mac"], mac);
}

#[test]
fn iperf3_runs_tcp_and_udp() {
    let lab = Lab::new();
    let at = stations(
        &lab,
        "web: {}",
        &[("a", "port-group: web"), ("b", "port-group: web")],
    );
    let mut server = at[1].spawn("iperf3", &["iperf3", "--server", "--forceflush"]);
    server.wait_output("Server listening");
    let iperf = |arguments: &[&str]| -> Value {
        let text = at[0].ok(&[
            &["iperf3", "--client", "10.0.0.2", "--json", "--time", "2"],
            arguments,
        ]
        .concat());
        serde_json::from_str(&text).expect("iperf3 prints JSON")
    };
    let tcp = iperf(&[]);
    let sum = &tcp["end"]["sum_received"];
    println!(
        "TCP: {:.2} Gbit/s",
        sum["bits_per_second"].as_f64().unwrap_or_default() / 1e9
    );
    assert!(sum["bytes"].as_u64().unwrap_or_default() > 1 << 20, "{tcp:#}");
    let tcp = iperf(&["--reverse", "--parallel", "4"]);
    assert!(
        tcp["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default() > 1 << 20,
        "{tcp:#}"
    );
    let udp = iperf(&["--udp", "--bandwidth", "20M", "--length", "1400"]);
    let sum = &udp["end"]["sum"];
    let (packets, lost) = (
        sum["packets"].as_u64().unwrap_or_default(),
        sum["lost_packets"].as_u64(),
    );
    assert!(packets > 1000, "{udp:#}");
    assert!(
        lost.expect("iperf3 counts what is lost") < packets / 10,
        "{udp:#}"
    );
}

#[test]
fn vlans_are_apart() {
    let lab = Lab::new();
    let at = stations(
        &lab,
        "red: { vlan: 100 }, blue: { vlan: 200 }, plain: {}",
        &[
            ("r1", "port-group: red"),
            ("b1", "port-group: blue"),
            ("r2", "port-group: red"),
            ("b2", "port-group: blue"),
            ("p1", "port-group: plain"),
            ("p2", "port-group: plain"),
        ],
    );
    for (from, to) in [(0, 3), (1, 4), (4, 6)] {
        assert!(
            at[from].pings(&format!("10.0.0.{to}"), 2),
            "{} reaches .{to}",
            at[from].name()
        );
        assert!(
            at[from].pings(&format!("fd00::{to}"), 2),
            "{} reaches ::{to}",
            at[from].name()
        );
    }
    for (from, to) in [(0, 2), (0, 5), (1, 1), (1, 6), (4, 3), (5, 4)] {
        assert!(
            !at[from].pings(&format!("10.0.0.{to}"), 1),
            "{} must not reach .{to}",
            at[from].name()
        );
    }
    // Not even the question came across: nobody there knows of the one who asked.
    let neighbours = at[1].ok(&["ip", "neighbour", "show"]);
    assert!(!neighbours.contains("10.0.0.1 dev eth0 lladdr"), "{neighbours}");
}

#[test]
fn switches_of_one_daemon_are_apart() {
    let lab = Lab::new();
    let namespaces = ["a", "b", "c", "d"].map(|name| lab.namespace(name));
    let port = |index: usize| {
        format!(
            "{{ tap: eth0, netns: {}, port-group: all }}",
            namespaces[index].name()
        )
    };
    lab.start(&format!(
        "version: 1\nswitches:\n  left: {{ port-groups: {{ all: {{ vlan: 5 }} }}, ports: {{ a: {}, b: {} }} }}\n  \
         right: {{ port-groups: {{ all: {{ vlan: 5 }} }}, ports: {{ c: {}, d: {} }} }}\n",
        port(0),
        port(1),
        port(2),
        port(3)
    ));
    for (number, namespace) in namespaces.iter().enumerate() {
        namespace.address("eth0", &format!("10.0.0.{}/24", number + 1));
    }
    lab.wait_all_up();
    assert!(namespaces[0].pings("10.0.0.2", 2));
    assert!(namespaces[2].pings("10.0.0.4", 2));
    assert!(!namespaces[0].pings("10.0.0.3", 1));
    assert!(!namespaces[3].pings("10.0.0.2", 1));
}

#[test]
fn a_tap_is_moved_to_a_namespace_by_hand() {
    let lab = Lab::new();
    let (host, a, b) = (lab.host(), lab.namespace("a"), lab.namespace("b"));
    lab.veth((&host, "veth0"), (&b, "eth0"));
    lab.start(
        "version: 1\nswitches: { vs0: { port-groups: { web: {} }, ports: { \
         a: { port-group: web, tap: vm1 }, b: { port-group: web, device: veth0 } } } }\n",
    );
    lab.wait_up("b");
    assert!(host.link("vm1").is_some(), "the TAP is made beside the daemon");
    host.ok(&["ip", "link", "set", "vm1", "netns", a.name()]);
    a.address("vm1", "10.0.0.1/24");
    b.address("eth0", "10.0.0.2/24");
    lab.wait_up("a");
    assert!(a.pings("10.0.0.2", 3));
    // Still the same port after a while of the daemon's own housekeeping.
    lab.stats_until("the port goes on counting", &lab.stats(), |_| {
        b.pings("10.0.0.1", 1)
    });
    assert_eq!(lab.port("a")["state"], "up");
}

#[test]
fn a_disabled_port_carries_nothing_until_it_is_enabled() {
    let lab = Lab::new();
    let at = stations(
        &lab,
        "web: {}",
        &[
            ("a", "port-group: web"),
            ("b", "port-group: web"),
            ("c", "port-group: web"),
        ],
    );
    assert!(at[0].pings("10.0.0.2", 2));
    lab.ctl(&["port", "set", "b", "enabled=false"]);
    assert!(!at[0].pings("10.0.0.2", 1));
    assert!(at[0].pings("10.0.0.3", 2), "others are not concerned");
    assert_eq!(lab.port("b")["state"], "down");
    let reason = lab.port("b")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("disabled"), "{reason}");
    let before = lab.stats();
    at[1].exec(&["ping", "-n", "-c", "1", "-W", "1", "10.0.0.1"]);
    lab.stats_until("its frames are dropped by name", &before, |since| {
        since.port("b").drops.contains_key("port-disabled")
    });
    lab.ctl(&["port", "set", "b", "enabled=true"]);
    lab.wait_up("b");
    vswitch_tests::wait::wait_until("it carries again", Duration::from_secs(10), || {
        at[0].pings("10.0.0.2", 1)
    });
}
