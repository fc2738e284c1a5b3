//! `device` ports: what leaves by them arrives whole and in order, whichever of the two ways out it takes (short plain frames
//! leave by AF_XDP, all others by AF_PACKET).

use vswitch_tests::frame::{mac, marked, sized};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::wait::BOUND;

const CONFIG: &str = "version: 1\nworkers: { count: 1 }\nswitches: { vs0: { mtu: 9000, port-groups: { all: {} }, ports: {\
     a: { port-group: all, device: veth-a }, b: { port-group: all, device: veth-b } } } }\n";

/// A switch between two stations on veths of 9000 octets.
fn between_veths(lab: &Lab) -> [Namespace; 2] {
    let stations = ["a", "b"].map(|name| {
        let station = lab.quiet(name);
        let near = format!("veth-{name}");
        lab.veth((&lab.host(), &near), (&station, "eth0"));
        for (namespace, device) in [(&lab.host(), near.as_str()), (&station, "eth0")] {
            namespace.sh(&format!("ip link set {device} mtu 9000"));
        }
        station
    });
    lab.start(CONFIG);
    lab.wait_all_up();
    stations
}

#[test]
fn short_and_long_frames_keep_their_order() {
    const COUNT: u32 = 400;
    let lab = Lab::new();
    let [a, b] = between_veths(&lab);
    let mut to = b.raw("eth0");
    let from = a.raw("eth0");
    let lengths = [60, 64, 2047, 2048, 2049, 1514, 9014];
    let len = |mark: u32| lengths[mark as usize % lengths.len()];
    from.send_all((0..COUNT).map(|mark| sized(mac(2), mac(1), &[], mark, len(mark))));
    for mark in 0..COUNT {
        let frame = to
            .receive(BOUND)
            .unwrap_or_else(|| panic!("frame {mark} arrives"));
        assert!(marked(&frame, mark), "frame {mark} is the next");
        assert_eq!(frame, sized(mac(2), mac(1), &[], mark, len(mark)));
    }
}

#[test]
fn frames_that_were_meant_for_a_device_that_is_down_do_not_leave_later() {
    let lab = Lab::new();
    let [a, b] = between_veths(&lab);
    let mut to = b.raw("eth0");
    let from = a.raw("eth0");
    let send = |marks: std::ops::Range<u32>| {
        from.send_all(marks.map(|mark| sized(mac(2), mac(1), &[], mark, 60)));
    };
    send(0..1);
    assert!(marked(&to.receive(BOUND).expect("the first arrives"), 0));
    lab.host().sh("ip link set veth-b down");
    lab.wait_down("b");
    let before = lab.stats();
    // More than can be under way at once.
    send(1..301);
    lab.stats_until("all are dropped", &before, |since| {
        since.port("a").dropped() + since.port("b").dropped() == 300
    });
    lab.host().sh("ip link set veth-b up");
    lab.wait_up("b");
    to.drain();
    for mark in 301..305 {
        send(mark..mark + 1);
        let frame = to.receive(BOUND).expect("it arrives");
        assert!(marked(&frame, mark), "nothing came before frame {mark}");
    }
}

#[test]
fn a_guest_that_does_not_read_loses_its_own_frames_only() {
    // More than a TAP's queue, which is 1000 frames long.
    const COUNT: u64 = 3000;
    let lab = Lab::new();
    let (host, station, other) = (lab.host(), lab.quiet("station"), lab.quiet("other"));
    let _guest = host.spawn(
        "paused-guest",
        &[
            "qemu-system-x86_64",
            "-S",
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-netdev",
            "tap,id=net0,ifname=vnet0,script=no,downscript=no",
            "-device",
            "virtio-net-pci,netdev=net0",
        ],
    );
    vswitch_tests::wait::wait_until("QEMU makes its TAP", BOUND, || host.link("vnet0").is_some());
    host.quiet();
    host.up("vnet0");
    lab.start(&format!(
        "version: 1\nworkers: {{ count: 1 }}\nswitches: {{ vs0: {{ port-groups: {{ all: {{}} }}, ports: {{ \
         station: {{ port-group: all, tap: eth0, netns: {} }}, other: {{ port-group: all, tap: eth0, netns: {} }}, \
         vm: {{ port-group: all, device: vnet0 }} }} }} }}\n",
        station.name(),
        other.name()
    ));
    station.up("eth0");
    other.up("eth0");
    lab.wait_all_up();
    let mut to = other.raw("eth0");
    let before = lab.stats();
    let from = station.raw("eth0");
    let mut since = before.clone();
    // Not more at once than the station's own TAP holds.
    for first in (0..COUNT).step_by(500) {
        // Nobody has said where mac(2) is, so each frame goes to both.
        from.send_all((first..first + 500).map(|mark| sized(mac(2), mac(1), &[], mark as u32, 60)));
        since = lab.stats_until("all frames are decided on", &before, |since| {
            let vm = since.port("vm");
            vm.transmit.packets + vm.dropped() == first + 500
        });
    }
    let vm = since.port("vm");
    assert_eq!(vm.drops.get("tx-queue-full"), Some(&vm.dropped()), "{vm:?}");
    assert!(vm.transmit.packets >= 500 && vm.dropped() >= 500, "{vm:?}");
    assert_eq!(since.port("other").transmit.packets, COUNT);
    for mark in 0..COUNT as u32 {
        let frame = to.receive(BOUND).expect("the other station gets all of them");
        assert!(marked(&frame, mark), "frame {mark} is the next");
    }
}
