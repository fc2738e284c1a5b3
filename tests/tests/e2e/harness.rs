//! The harness itself, shown on what works without the switch: a failure here is not the switch's.

use vswitch_tests::frame::{DOT1Q, frame, mac, marked, tags};
use vswitch_tests::guest::{Guest, Offloads};
use vswitch_tests::lab::Lab;
use vswitch_tests::transfer::{Datagrams, tcp, udp};
use vswitch_tests::wait::BOUND;

#[test]
fn two_namespaces_on_a_veth_reach_each_other() {
    let lab = Lab::new();
    let (a, b) = (lab.namespace("a"), lab.namespace("b"));
    lab.veth((&a, "eth0"), (&b, "eth0"));
    a.address("eth0", "10.0.0.1/24");
    a.address("eth0", "fd00::1/64");
    b.address("eth0", "10.0.0.2/24");
    b.address("eth0", "fd00::2/64");
    assert!(a.pings("10.0.0.2", 2));
    assert!(a.pings("fd00::2", 2));
    assert!(!a.pings("10.0.0.3", 1));
    tcp(&a, &b, "10.0.0.2".parse().unwrap(), 1 << 20);
    tcp(&b, &a, "fd00::1".parse().unwrap(), 1 << 20);
    udp(&a, &b, "10.0.0.2".parse().unwrap(), 100, 1400, Datagrams::Single);
    udp(
        &a,
        &b,
        "fd00::2".parse().unwrap(),
        100,
        1400,
        Datagrams::Segmented,
    );
}

#[test]
fn raw_frames_arrive_with_their_tags() {
    let lab = Lab::new();
    let (a, b) = (lab.quiet("a"), lab.quiet("b"));
    lab.veth((&a, "eth0"), (&b, "eth0"));
    let (sender, mut receiver) = (a.raw("eth0"), b.raw("eth0"));
    for vlan in [&[][..], &[(DOT1Q, 0x6064)], &[(0x88a8, 5), (DOT1Q, 7)]] {
        let sent = frame(mac(2), mac(1), vlan, 9);
        sender.send(&sent);
        let got = receiver
            .receive_where(BOUND, |frame| marked(frame, 9))
            .expect("the frame arrives");
        assert_eq!(got, sent);
        assert_eq!(tags(&got), vlan);
    }
}

#[test]
fn a_guest_boots_and_reaches_its_host() {
    let lab = Lab::new();
    let host = lab.host();
    let mut guest = Guest::start(&lab, &host, "vnet0", mac(1), Offloads::On);
    host.address("vnet0", "10.0.0.1/24");
    guest.sh("ip address add 10.0.0.2/24 dev eth0 && ip link set eth0 up");
    guest.sh("ping -c 2 10.0.0.1");
    assert!(!guest.try_sh("ping -c 1 -W 1 10.0.0.3").1);
    assert!(host.pings("10.0.0.2", 2));
    guest.kill();
    assert!(host.link("vnet0").is_none(), "the TAP goes with QEMU");
}
