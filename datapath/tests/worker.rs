//! A worker with ports on sockets: what goes in comes out, is counted, and changes lose nothing.

mod support;

use std::os::fd::{AsFd, BorrowedFd};

use datapath::frame::Frame;
use datapath::io::{Outgoing, Queue};
use datapath::pool::Pool;
use datapath::{CaptureFilter, Event, Seen};
use support::{frame, id, port, queue, snapshot, start, wait_until};
use switch_core::offload::Capabilities;
use switch_core::verdict::DropReason;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::VlanPolicy;

fn vid(number: u16) -> Vid {
    Vid::new(number).unwrap()
}

fn receive(socket: &std::os::unix::net::UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let len = socket.recv(&mut buffer).expect("a frame");
    buffer.truncate(len);
    buffer
}

#[test]
fn a_flood_reaches_each_port_with_its_own_tag_and_is_counted() {
    let datapath = start();
    let trunk = VlanPolicy::Trunk {
        vlans: [vid(7)].into_iter().collect(),
        native: None,
        tpid: Tpid::Dot1Q,
    };
    let policies = [VlanPolicy::Access(vid(7)), VlanPolicy::Access(vid(7)), trunk];
    let mut sockets = Vec::new();
    let mut ports = Vec::new();
    for (number, policy) in (0..).zip(policies) {
        let (queue, socket) = queue();
        datapath.attach(id(number), vec![queue]);
        sockets.push(socket);
        ports.push(port(number, policy));
    }
    datapath.publish(snapshot(1, ports));

    let sent = frame(0, 1);
    sockets[0].send(&sent).unwrap();
    assert_eq!(receive(&sockets[1]), sent);
    let tagged = receive(&sockets[2]);
    assert_eq!(tagged[12..16], [0x81, 0x00, 0x00, 0x07]);
    assert_eq!(tagged[..12], sent[..12]);
    assert_eq!(tagged[16..], sent[12..]);

    // Back from the trunk, to the station that was learnt.
    let mut reply = frame(1, 2);
    reply.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    sockets[2].send(&reply).unwrap();
    assert_eq!(receive(&sockets[0]), frame(1, 2));

    wait_until("the counters of the last frame", || {
        datapath.port_stats(id(0)).transmit.packets == 1
    });
    let stats = datapath.port_stats(id(0));
    assert_eq!(
        (
            stats.receive.packets,
            stats.receive.broadcast,
            stats.receive.bytes
        ),
        (1, 1, 64)
    );
    assert_eq!(
        (
            stats.transmit.packets,
            stats.transmit.unicast,
            stats.transmit.bytes
        ),
        (1, 1, 64)
    );
    assert_eq!(datapath.port_stats(id(2)).transmit.bytes, 68);
    assert_eq!(datapath.worker_stats()[0].flood_copies, 1);
}

#[test]
fn a_drop_is_counted_and_captured_with_its_reason() {
    let datapath = start();
    let (first, socket) = queue();
    let (second, _other) = queue();
    datapath.attach(id(0), vec![first]);
    datapath.attach(id(1), vec![second]);
    datapath.publish(snapshot(
        1,
        vec![
            port(0, VlanPolicy::Access(vid(7))),
            port(1, VlanPolicy::Access(vid(7))),
        ],
    ));
    let capture = datapath.capture(CaptureFilter {
        port: None,
        drops_only: true,
        snap_len: 20,
    });
    let mut tagged = frame(0, 1);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    socket.send(&tagged).unwrap();
    let mut captured = None;
    wait_until("the captured frame", || {
        captured = captured.take().or_else(|| capture.try_recv());
        captured.is_some()
    });
    let captured = captured.unwrap();
    assert_eq!(
        (captured.port, captured.seen),
        (id(0), Seen::Dropped(DropReason::VlanTagged))
    );
    assert_eq!((captured.len, &captured.bytes[..]), (68, &tagged[..20]));
    let stats = datapath.port_stats(id(0));
    assert_eq!(stats.drops[DropReason::VlanTagged.index()], 1);
    assert_eq!(stats.receive.packets, 1);
    assert_eq!(capture.lost(), 0);
}

#[test]
fn frames_wait_for_the_snapshot_that_has_their_port() {
    let datapath = start();
    let (first, socket) = queue();
    let (second, other) = queue();
    datapath.attach(id(0), vec![first]);
    socket.send(&frame(0, 1)).unwrap();
    datapath.attach(id(1), vec![second]);
    assert_eq!(datapath.port_stats(id(0)).receive.packets, 0);
    datapath.publish(snapshot(
        1,
        vec![port(0, VlanPolicy::Unaware), port(1, VlanPolicy::Unaware)],
    ));
    assert_eq!(receive(&other), frame(0, 1));
}

#[test]
fn a_port_that_is_replaced_or_taken_away_keeps_its_counters() {
    let datapath = start();
    let (first, socket) = queue();
    let (second, other) = queue();
    datapath.attach(id(0), vec![first]);
    datapath.attach(id(1), vec![second]);
    let ports = || vec![port(0, VlanPolicy::Unaware), port(1, VlanPolicy::Unaware)];
    datapath.publish(snapshot(1, ports()));
    socket.send(&frame(0, 1)).unwrap();
    receive(&other);

    let (replacement, new_socket) = queue();
    datapath.attach(id(0), vec![replacement]);
    assert!(
        socket.send(&frame(0, 1)).is_err(),
        "the old queue is closed when attach returns"
    );
    new_socket.send(&frame(0, 1)).unwrap();
    receive(&other);
    datapath.detach(id(0));
    assert!(
        new_socket.send(&frame(0, 1)).is_err(),
        "the queue is closed when detach returns"
    );
    assert_eq!(datapath.port_stats(id(0)).receive.packets, 2);
    datapath.reset_stats(id(0));
    assert_eq!(datapath.port_stats(id(0)).receive.packets, 0);

    // The snapshot still has the port: what is sent there is dropped and counted where it came from.
    other.send(&frame(0, 2)).unwrap();
    wait_until("the drop", || {
        datapath.port_stats(id(1)).drops[DropReason::TxPortDown.index()] == 1
    });
}

#[test]
fn a_moved_address_is_told() {
    let datapath = start();
    let (first, socket) = queue();
    let (second, other) = queue();
    datapath.attach(id(0), vec![first]);
    datapath.attach(id(1), vec![second]);
    datapath.publish(snapshot(
        1,
        vec![port(0, VlanPolicy::Unaware), port(1, VlanPolicy::Unaware)],
    ));
    socket.send(&frame(0, 9)).unwrap();
    receive(&other);
    other.send(&frame(0, 9)).unwrap();
    receive(&socket);
    let mut event = None;
    wait_until("the event", || {
        event = event.take().or_else(|| datapath.try_event());
        event.is_some()
    });
    let mac = "02:00:00:00:00:09".parse().unwrap();
    assert_eq!(
        event,
        Some(Event::MacMoved {
            vid: Vid::UNAWARE,
            mac,
            from: id(0),
            to: id(1)
        })
    );
}

/// A queue whose descriptor epoll refuses.
struct Unwaitable(std::fs::File);

impl Queue for Unwaitable {
    fn receive(&mut self, _: &mut Pool, _: &mut Vec<Frame>) -> std::io::Result<bool> {
        Ok(false)
    }

    fn transmit(&mut self, _: &mut [Frame], _: &mut [Outgoing]) {}

    fn readiness(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }
}

#[test]
fn a_device_that_cannot_be_waited_for_is_told() {
    const EPERM: i32 = 1;
    let datapath = start();
    let file = std::fs::File::open("/dev/null").unwrap();
    datapath.attach(id(0), vec![Box::new(Unwaitable(file))]);
    datapath.publish(snapshot(1, vec![port(0, VlanPolicy::Unaware)]));
    let failed = Event::PortFailed {
        port: id(0),
        errno: EPERM,
    };
    assert_eq!(datapath.try_event(), Some(failed));
}

#[test]
fn a_broken_device_is_told_and_hurts_no_other() {
    let datapath = start();
    let mut sockets = Vec::new();
    for number in 0..3 {
        let (queue, socket) = queue();
        datapath.attach(id(number), vec![queue]);
        sockets.push(socket);
    }
    datapath.publish(snapshot(
        1,
        (0..3).map(|number| port(number, VlanPolicy::Unaware)).collect(),
    ));
    sockets[0].send(&support::BREAK).unwrap();
    let mut event = None;
    wait_until("the event", || {
        event = event.take().or_else(|| datapath.try_event());
        event.is_some()
    });
    assert_eq!(
        event,
        Some(Event::PortFailed {
            port: id(0),
            errno: support::BROKEN
        })
    );
    sockets[1].send(&frame(0, 1)).unwrap();
    receive(&sockets[2]);
    sockets[2].send(&frame(1, 2)).unwrap();
    assert_eq!(receive(&sockets[1]), frame(1, 2));
    assert_eq!(
        datapath.port_stats(id(0)).drops[DropReason::TxPortDown.index()],
        1
    );
}
