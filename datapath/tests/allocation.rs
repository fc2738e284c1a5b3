//! Nothing is allocated on a frame's way: the whole process, worker included, allocates nothing while frames
//! of known and unknown stations, floods and drops go through.

mod support;

use std::alloc::System;
use std::os::unix::net::UnixDatagram;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{frame, id, port, queue, snapshot, start, wait_until};
use switch_core::vlan::VlanPolicy;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn no_allocation_on_a_frames_way() {
    let datapath = start();
    let mut sockets: Vec<UnixDatagram> = Vec::new();
    for number in 0..3 {
        let (queue, socket) = queue();
        datapath.attach(id(number), vec![queue]);
        sockets.push(socket);
    }
    datapath.publish(snapshot(
        1,
        (0..3).map(|number| port(number, VlanPolicy::Unaware)).collect(),
    ));
    let frames = [frame(0, 1), frame(2, 1), frame(9, 1), frame(1, 7), vec![0; 10]];
    let mut buffer = [0; 2048];
    let received = || datapath.port_stats(id(0)).receive.packets;
    let mut round = |expected: u64| {
        for frame in &frames {
            sockets[0].send(frame).unwrap();
        }
        wait_until("the batch", || received() == expected);
        for socket in &sockets[1..] {
            socket.set_nonblocking(true).unwrap();
            while socket.recv(&mut buffer).is_ok() {}
        }
    };
    round(frames.len() as u64);
    let region = Region::new(ALLOCATOR);
    for done in 2..200 {
        round(done * frames.len() as u64);
    }
    assert_eq!(region.change().allocations, 0);
    // The counter counts.
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(region.change().allocations, 1);
}
