//! Nothing is allocated on a frame's way: known, new, moved, evicted, flooded or dropped.

mod common;

use std::alloc::System;
use std::sync::Arc;

use common::{ACCEPT, AGEING, Bench, REJECT, frame, mac, port, tagged, trunk, vid};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use switch_core::addr::MacAddr;
use switch_core::fdb::Fdb;
use switch_core::security::SecurityPolicy;
use switch_core::snapshot::{MacLimit, Overflow, Port, Switch};
use switch_core::time::Timestamp;
use switch_core::vlan::VlanPolicy;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: this file has one test, so that no other disturbs it.
fn allocations(action: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    action();
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn a_frame_allocates_nothing() {
    let ports: Vec<Port> = (1..=8)
        .map(|number| Port {
            vlan: match number {
                1..=3 => VlanPolicy::Access(vid(5)),
                4 => VlanPolicy::Tunnel(vid(5)),
                _ => trunk(&[5, 6], Some(7)),
            },
            security: match number {
                1 => REJECT,
                2 => SecurityPolicy {
                    promiscuous: true,
                    ..ACCEPT
                },
                _ => ACCEPT,
            },
            mac_limit: (number == 3).then_some(MacLimit {
                count: 2,
                overflow: Overflow::Drop,
            }),
            ..port(number)
        })
        .collect();
    let switch = Switch {
        mtu: 1500,
        ageing: AGEING,
        fdb: Arc::new(Fdb::new(64, 1)),
    };
    let mut bench = Bench::of(vec![switch], ports);
    bench.hops.reserve(8);
    let frames: Vec<(u16, Vec<u8>)> = (0..4096_u64)
        .map(|n| {
            // One of them wanders between two ports.
            let source = mac(if n % 16 / 2 == 3 { 1000 } else { n * 7 % 300 });
            let destination = match n % 5 {
                0 => MacAddr::BROADCAST,
                1 => MacAddr([1, 0x80, 0xc2, 0, 0, 0]),
                _ => mac(n * 11 % 300),
            };
            let from = 1 + (n % 8) as u16;
            let plain = frame(destination, source);
            match n % 3 {
                0 if from > 4 => (from, tagged(&plain, 0x8100, 5)),
                1 if from > 4 => (from, tagged(&plain, 0x8100, 6)),
                _ => (from, plain),
            }
        })
        .collect();
    let mut forwarded = 0;
    let mut dropped = 0;
    let count = allocations(|| {
        for (n, (from, frame)) in frames.iter().enumerate() {
            bench.now = Timestamp::from_secs(1 + n as u64 / 8);
            match bench.run(*from, frame) {
                Ok(()) => forwarded += 1,
                Err(_) => dropped += 1,
            }
        }
    });
    assert_eq!(count, 0);
    // The counter counts.
    assert!(allocations(|| drop(std::hint::black_box(vec![1_u8]))) > 0);
    assert!(
        forwarded > 1000 && dropped > 500,
        "{forwarded} forwarded, {dropped} dropped"
    );
    let counters = bench.snapshot.switches()[0].fdb.counters();
    assert!(counters.evictions > 100 && counters.moves > 10, "{counters:?}");
}
