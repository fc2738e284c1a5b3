//! Stream ports on running workers: frames cross between workers, and nothing is allocated on their way.

mod support;

use std::alloc::System;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use datapath::io::{Peer, SocketMode, StreamSpec, open_stream};
use datapath::{Datapath, Event, Options};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{frame, id, port, snapshot, wait_until};
use switch_core::vlan::VlanPolicy;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WORKERS: usize = 2;
/// Spread over both.
const PORTS: u16 = 8;

#[test]
fn frames_cross_between_workers_without_allocation() {
    let options = Options {
        workers: WORKERS,
        cores: Vec::new(),
    };
    let datapath = Datapath::start(&options, Box::new(|| {})).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut present = 0;
    for number in 0..PORTS {
        let spec = StreamSpec {
            socket: dir.path().join(format!("{number}.sock")),
            mode: SocketMode::Server,
        };
        datapath.attach(id(number), open_stream(&spec, datapath.peer_sink()).unwrap());
    }
    datapath.publish(snapshot(
        1,
        (0..PORTS)
            .map(|number| port(number, VlanPolicy::Unaware))
            .collect(),
    ));
    let mut peers: Vec<UnixStream> = (0..PORTS)
        .map(|number| {
            let peer = UnixStream::connect(dir.path().join(format!("{number}.sock"))).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            peer
        })
        .collect();
    wait_until("all peers are there", || {
        while let Some(event) = datapath.try_event() {
            match event {
                Event::Peer {
                    state: Peer::Present(_),
                    ..
                } => present += 1,
                other => panic!("{other:?}"),
            }
        }
        present == PORTS
    });

    let mut expected = Vec::new();
    for destination in 10..30 {
        // Unknown stations: each frame goes to all others.
        let frame = frame(destination, 1);
        expected.extend((frame.len() as u32).to_be_bytes());
        expected.extend(&frame);
    }
    let mut got = vec![0; expected.len()];
    let mut round = || {
        peers[0].write_all(&expected).unwrap();
        for peer in &mut peers[1..] {
            peer.read_exact(&mut got).unwrap();
            assert!(got == expected, "the frames come whole and in order");
        }
    };
    round();
    let region = Region::new(ALLOCATOR);
    for _ in 0..200 {
        round();
    }
    assert_eq!(region.change().allocations, 0);
    // The counter counts.
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(region.change().allocations, 1);
}
