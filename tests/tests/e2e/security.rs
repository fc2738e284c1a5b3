//! The security policy of a port group: promiscuous mode, MAC changes, forged transmits, isolation; each way.

use switch_core::addr::MacAddr;
use vswitch_tests::frame::mac;
use vswitch_tests::lab::Lab;
use vswitch_tests::wait::{BOUND, wait_until};

use crate::wires::Wires;

fn address(number: u32) -> String {
    format!("\"{}\"", mac(number))
}

#[test]
fn forged_transmits_are_dropped_where_rejected() {
    let keys = [
        format!("port-group: web, mac: {}", address(1)),
        "port-group: web".to_owned(),
    ];
    let mut wires = Wires::new("", "web: {}", &[("a", &keys[0]), ("b", &keys[1])]);
    assert_eq!(wires.probe("a", MacAddr::BROADCAST, mac(1), &[]).ports(), ["b"]);
    let outcome = wires.probe("a", MacAddr::BROADCAST, mac(9), &[]);
    assert_eq!((outcome.reason(), outcome.ports().len()), ("forged-transmit", 0));
    assert_eq!(
        wires.lab.mac_port(&mac(9).to_string(), None),
        None,
        "a forged source is not learnt"
    );
    // Without a configured address the first one seen is the port's own.
    assert_eq!(wires.probe("b", MacAddr::BROADCAST, mac(2), &[]).ports(), ["a"]);
    assert_eq!(
        wires.probe("b", MacAddr::BROADCAST, mac(3), &[]).reason(),
        "forged-transmit"
    );
    // Another station's address least of all.
    assert_eq!(
        wires.probe("b", MacAddr::BROADCAST, mac(1), &[]).reason(),
        "forged-transmit"
    );
    assert_eq!(
        wires.lab.mac_port(&mac(1).to_string(), None).as_deref(),
        Some("a")
    );
}

#[test]
fn forged_transmits_pass_where_accepted() {
    let key = format!("port-group: web, mac: {}", address(1));
    let mut wires = Wires::new(
        "",
        "web: { security: { forged-transmits: accept } }",
        &[("a", &key), ("b", "port-group: web")],
    );
    for source in 1..6 {
        assert_eq!(
            wires.probe("a", MacAddr::BROADCAST, mac(source), &[]).ports(),
            ["b"]
        );
        assert_eq!(wires.probe("b", mac(source), mac(100), &[]).ports(), ["a"]);
    }
}

#[test]
fn a_guest_that_changed_its_address_gets_nothing_where_rejected() {
    let key = format!("port-group: web, mac: {}", address(1));
    let mut wires = Wires::new("", "web: {}", &[("a", &key), ("b", "port-group: web")]);
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
    for _ in 0..4 {
        assert_eq!(wires.probe("a", mac(2), mac(9), &[]).reason(), "forged-transmit");
    }
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).reason(), "mac-changed");
    assert_eq!(
        wires.probe("b", MacAddr::BROADCAST, mac(2), &[]).reason(),
        "no-destination"
    );
    // It takes its own address again.
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).ports(), ["b"]);
    assert_eq!(wires.probe("b", mac(1), mac(2), &[]).ports(), ["a"]);
}

#[test]
fn a_guest_may_change_its_address_where_accepted() {
    let key = format!("port-group: web, mac: {}", address(1));
    let mut wires = Wires::new(
        "",
        "web: { security: { mac-changes: accept } }",
        &[("a", &key), ("b", "port-group: web")],
    );
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    // A stray frame is forged; several in a row are a change.
    assert_eq!(wires.probe("a", mac(2), mac(9), &[]).reason(), "forged-transmit");
    let passed = (0..5)
        .filter(|_| wires.probe("a", mac(2), mac(9), &[]).ports() == ["b"])
        .count();
    assert!(passed >= 3, "{passed} of 5 frames from the new address passed");
    assert_eq!(wires.probe("b", mac(9), mac(2), &[]).ports(), ["a"]);
    assert_eq!(wires.lab.port("a")["mac"], mac(9).to_string());
}

#[test]
fn a_kernel_that_changes_its_address_is_cut_off_and_comes_back() {
    let lab = Lab::new();
    let (a, b) = (lab.namespace("a"), lab.namespace("b"));
    let port = |namespace: &vswitch_tests::netns::Namespace, number| {
        format!(
            "{{ port-group: web, tap: eth0, netns: {}, mac: {} }}",
            namespace.name(),
            address(number)
        )
    };
    lab.start(&format!(
        "version: 1\nswitches: {{ vs0: {{ port-groups: {{ web: {{}} }}, ports: {{ a: {}, b: {} }} }} }}\n",
        port(&a, 1),
        port(&b, 2)
    ));
    a.address("eth0", "10.0.0.1/24");
    b.address("eth0", "10.0.0.2/24");
    assert_eq!(
        a.link("eth0").expect("the TAP is there")["address"],
        mac(1).to_string(),
        "the TAP gets its address"
    );
    lab.wait_all_up();
    assert!(a.pings("10.0.0.2", 2));
    let other = mac(77).to_string();
    a.ok(&["ip", "link", "set", "eth0", "address", &other]);
    assert!(!a.pings("10.0.0.2", 5));
    a.ok(&["ip", "link", "set", "eth0", "address", &mac(1).to_string()]);
    wait_until("the station is heard again", BOUND, || a.pings("10.0.0.2", 1));
}

#[test]
fn a_promiscuous_port_sees_its_vlan_and_no_other() {
    let ports = [
        ("a", "port-group: web"),
        ("b", "port-group: web"),
        ("blind", "port-group: web"),
        ("sniffer", "port-group: web, security: { promiscuous: accept }"),
        (
            "elsewhere",
            "port-group: web, vlan: 6, security: { promiscuous: accept }",
        ),
        (
            "trunk",
            "port-group: web, vlan: { trunk: [5] }, security: { promiscuous: accept }",
        ),
    ];
    let mut wires = Wires::new("", "web: { vlan: 5 }", &ports);
    for (number, (port, _)) in ports.iter().enumerate().take(4) {
        wires.learn(port, mac(number as u32 + 1));
    }
    let outcome = wires.probe("a", mac(2), mac(1), &[]);
    assert_eq!(outcome.ports(), ["b", "sniffer", "trunk"]);
    // What is for the sniffer itself comes once.
    assert_eq!(
        wires.probe("a", mac(4), mac(1), &[]).ports(),
        ["sniffer", "trunk"]
    );
    // The policy can change while traffic goes on.
    wires
        .lab
        .ctl(&["port", "set", "sniffer", "security.promiscuous=reject"]);
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).ports(), ["b", "trunk"]);
}

#[test]
fn isolated_ports_reach_others_and_not_each_other() {
    let ports = [
        ("a", "port-group: guests"),
        ("b", "port-group: guests"),
        ("c", "port-group: servers"),
        ("d", "port-group: servers, isolated: true"),
    ];
    let mut wires = Wires::new(
        "",
        "guests: { vlan: 5, isolated: true }\nservers: { vlan: 5 }",
        &ports,
    );
    assert_eq!(wires.probe("a", MacAddr::BROADCAST, mac(1), &[]).ports(), ["c"]);
    assert_eq!(wires.probe("b", MacAddr::BROADCAST, mac(2), &[]).ports(), ["c"]);
    assert_eq!(
        wires.probe("c", MacAddr::BROADCAST, mac(3), &[]).ports(),
        ["a", "b", "d"]
    );
    assert_eq!(wires.probe("d", MacAddr::BROADCAST, mac(4), &[]).ports(), ["c"]);
    assert_eq!(wires.probe("a", mac(2), mac(1), &[]).reason(), "isolated");
    assert_eq!(wires.probe("a", mac(4), mac(1), &[]).reason(), "isolated");
    assert_eq!(wires.probe("a", mac(3), mac(1), &[]).ports(), ["c"]);
    assert_eq!(wires.probe("c", mac(1), mac(3), &[]).ports(), ["a"]);
}
