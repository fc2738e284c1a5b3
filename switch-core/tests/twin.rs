//! The pipeline and the MAC table against their slow twins.

mod common;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use switch_core::addr::MacAddr;
use switch_core::decisions::Decisions;
use switch_core::fdb::{Fdb, Filter, Kind, Learnt};
use switch_core::frame::FrameView;
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Silent, forward};
use switch_core::snapshot::{MacLimit, Overflow};
use switch_core::time::Timestamp;
use switch_core::vlan::VlanPolicy;

use common::random::play;
use common::twin::SlowFdb;
use common::{AGEING, Bench, frame, id, mac, port, tagged, trunk, vid};

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any switch, any frames: the same verdict, the same hops, the same tags, the same table.
    #[test]
    fn pipeline_is_its_twin(octets in proptest::collection::vec(any::<u8>(), 40..1200)) {
        play(&octets);
    }
}

/// Destination and source.
fn addresses() -> impl Strategy<Value = (u64, u64)> {
    const STATIONS: [u64; 6] = [1, 2, 3, 9, 1 << 24 | 1, 1 << 32 | 1];
    (
        prop_oneof![4 => prop::sample::select(&STATIONS[..]), 1 => Just(0xffff_ffff_ffff)],
        prop::sample::select(vec![1, 1 << 24 | 1, 1 << 32 | 1, 0xfd]),
    )
}

/// The TCI of a tag, and octets without it.
fn rest() -> impl Strategy<Value = (Option<u16>, usize)> {
    (
        prop::option::weighted(0.5, prop::sample::select(vec![5, 7, 0x2007, 8])),
        prop::sample::select(vec![60, 1514, 1515]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A frame of a batch goes where it would have gone alone, whatever came before it.
    #[test]
    fn a_frame_of_a_batch_is_one_alone(frames in prop::collection::vec((addresses(), prop::collection::vec(rest(), 1..5)), 1..20)) {
        let mut ports: Vec<_> = (1..=3).map(port).collect();
        for at in [0, 2] {
            ports[at].vlan = trunk(&[5, 7], Some(5));
        }
        ports[1].vlan = VlanPolicy::Access(vid(5));
        let mut bench = Bench::new(ports);
        // All are known but 9 and 0xfd.
        for source in [1, 1 << 24 | 1, 1 << 32 | 1] {
            for tci in [5, 7] {
                let _ = bench.run(1, &tagged(&frame(MacAddr::BROADCAST, mac(source)), 0x8100, tci));
            }
        }
        let _ = bench.run(2, &frame(MacAddr::BROADCAST, mac(2)));
        let _ = bench.run(3, &frame(MacAddr::BROADCAST, mac(3)));
        let _ = bench.run(3, &tagged(&frame(MacAddr::BROADCAST, mac(3)), 0x8100, 7));
        let mut hops = Vec::new();
        let mut decisions = Decisions::new(&bench.snapshot, bench.now, id(1), &mut hops);
        for ((destination, source), rests) in frames {
            for (tag, len) in rests {
                let mut octets = frame(MacAddr::from_u64(destination | 0x0200_0000_0000), mac(source));
                octets.resize(len, 0);
                if let Some(tci) = tag {
                    octets = tagged(&octets, 0x8100, tci);
                }
                let view = FrameView {
                    port: id(1),
                    header: &octets[..FrameView::HEADER_LEN.min(octets.len())],
                    len: octets.len(),
                    offload: Offload::default(),
                };
                let mut alone = Vec::new();
                let expected = forward(&bench.snapshot, bench.now, &view, Mode::Dry, &mut alone, &mut Silent);
                prop_assert_eq!(decisions.forward(&view, &mut Silent), expected);
                prop_assert_eq!(decisions.hops(), &alone[..], "{:?}", (destination, source, tag, len));
            }
        }
    }
}

/// What the fuzzer has found worth keeping (`fuzz/README.md`).
#[test]
fn corpus_is_its_twin() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/pipeline");
    let mut played = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        play(&std::fs::read(file.unwrap().path()).unwrap());
        played += 1;
    }
    assert!(played > 0, "the corpus is there");
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Learn {
        vid: u16,
        mac: u64,
        port: u16,
        limit: Option<u32>,
    },
    Lookup {
        vid: u16,
        mac: u64,
    },
    Pass {
        secs: u64,
    },
    Age,
    Flush {
        port: Option<u16>,
        vid: Option<u16>,
    },
    Fix {
        vid: u16,
        mac: u64,
        port: u16,
    },
    Remove {
        vid: u16,
        mac: u64,
    },
    Forget {
        port: u16,
    },
    Resize,
}

fn operation() -> impl Strategy<Value = Operation> {
    let vids = 0..3_u16;
    let macs = 0..12_u64;
    let ports = 0..4_u16;
    prop_oneof![
        60 => (vids.clone(), macs.clone(), ports.clone(), prop::option::weighted(0.1, 0..6_u32))
            .prop_map(|(vid, mac, port, limit)| Operation::Learn { vid, mac, port, limit }),
        10 => (vids.clone(), macs.clone()).prop_map(|(vid, mac)| Operation::Lookup { vid, mac }),
        10 => (0..200_u64).prop_map(|secs| Operation::Pass { secs }),
        3 => Just(Operation::Age),
        2 => (prop::option::of(ports.clone()), prop::option::of(vids.clone()))
            .prop_map(|(port, vid)| Operation::Flush { port, vid }),
        3 => (vids.clone(), macs.clone(), ports.clone())
            .prop_map(|(vid, mac, port)| Operation::Fix { vid, mac, port }),
        4 => (vids, macs).prop_map(|(vid, mac)| Operation::Remove { vid, mac }),
        1 => ports.prop_map(|port| Operation::Forget { port }),
        1 => Just(Operation::Resize),
    ]
}

/// Every entry of the table, expired ones too.
fn contents(fdb: &Fdb, now: Timestamp) -> Vec<((u16, u64), (u16, bool))> {
    fdb.entries(now, Duration::MAX)
        .iter()
        .map(|entry| {
            let fixed = entry.kind == Kind::Static;
            let key = (entry.vid.get(), entry.mac.to_u64());
            (key, (entry.port.get(), fixed))
        })
        .collect()
}

fn slow_contents(fdb: &SlowFdb) -> Vec<((u16, u64), (u16, bool))> {
    fdb.entries
        .iter()
        .map(|((vid, mac), entry)| ((vid.get(), mac.to_u64()), (entry.port.get(), entry.fixed)))
        .collect()
}

/// Removes from the twin what the table evicted, which must be a dynamic entry of a port that holds most.
fn follow_eviction(fdb: &Fdb, slow: &mut SlowFdb, before: &SlowFdb, now: Timestamp) {
    let kept: Vec<_> = contents(fdb, now).into_iter().map(|(key, _)| key).collect();
    let gone: Vec<_> = slow
        .entries
        .keys()
        .copied()
        .filter(|(vid, mac)| !kept.contains(&(vid.get(), mac.to_u64())))
        .collect();
    assert_eq!(gone.len(), 1, "one makes room for one");
    let victim = before.entries[&gone[0]];
    assert!(!victim.fixed, "static entries are never evicted");
    let most = before
        .entries
        .values()
        .map(|entry| before.held(entry.port))
        .max()
        .unwrap();
    assert_eq!(before.held(victim.port), most, "of the port that holds most");
    let of_port = before
        .entries
        .values()
        .filter(|entry| !entry.fixed && entry.port == victim.port);
    let oldest = of_port.map(|entry| entry.seen).min().unwrap();
    assert!(
        victim.seen.since(oldest) <= Duration::from_secs(2),
        "the oldest of the port, to the grain of the coarse clock"
    );
    slow.entries.remove(&gone[0]);
}

fn run(capacity: usize, operations: &[Operation]) {
    let mut fdb = Fdb::new(capacity, 99);
    let mut slow = SlowFdb::default();
    let mut now = Timestamp::from_secs(10);
    let mut evictions = 0;
    for operation in operations {
        let before = slow.clone();
        match *operation {
            Operation::Learn {
                vid: v,
                mac: m,
                port,
                limit,
            } => {
                let limit = limit.map(|count| MacLimit {
                    count,
                    overflow: Overflow::Drop,
                });
                let all_static = slow.entries.values().filter(|entry| entry.fixed).count() == fdb.capacity();
                let preview = fdb.preview(vid(v), mac(m), id(port), now, AGEING, limit);
                let fast = fdb.learn(vid(v), mac(m), id(port), now, AGEING, limit);
                assert_eq!(preview, fast);
                if fast == Learnt::Full {
                    assert!(all_static);
                    continue;
                }
                assert_eq!(fast, slow.learn(vid(v), mac(m), id(port), now, AGEING, limit));
            }
            Operation::Lookup { vid: v, mac: m } => assert_eq!(
                fdb.lookup(vid(v), mac(m), now, AGEING),
                slow.lookup(vid(v), mac(m), now, AGEING)
            ),
            Operation::Pass { secs } => now = now + Duration::from_secs(secs),
            Operation::Age => assert_eq!(fdb.age(now, AGEING), slow.age(now, AGEING)),
            Operation::Flush { port, vid: v } => {
                let filter = Filter {
                    port: port.map(id),
                    vid: v.map(vid),
                };
                assert_eq!(fdb.flush(filter), slow.flush(filter));
            }
            Operation::Fix { vid: v, mac: m, port } => {
                if fdb.insert_static(vid(v), mac(m), id(port)).is_ok() {
                    slow.insert_static(vid(v), mac(m), id(port));
                } else {
                    assert!(slow.entries.values().all(|entry| entry.fixed));
                }
            }
            Operation::Remove { vid: v, mac: m } => assert_eq!(
                fdb.remove(vid(v), mac(m)),
                slow.entries.remove(&(vid(v), mac(m))).is_some()
            ),
            Operation::Forget { port } => assert_eq!(fdb.forget_port(id(port)), slow.forget_port(id(port))),
            Operation::Resize => fdb = fdb.resized(capacity),
        }
        if slow.entries.len() > fdb.capacity() {
            follow_eviction(&fdb, &mut slow, &before, now);
            evictions += 1;
        }
        assert_eq!(contents(&fdb, now), slow_contents(&slow));
    }
    let counters = fdb.counters();
    assert_eq!(counters.entries, slow.entries.len() as u64);
    assert_eq!(counters.learnt, slow.learnt);
    assert_eq!(counters.moves, slow.moves);
    assert_eq!(counters.aged, slow.aged);
    assert_eq!(counters.evictions, evictions);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// With room for all.
    #[test]
    fn table_is_its_twin(operations in proptest::collection::vec(operation(), 1..300)) {
        run(64, &operations);
    }

    /// With far less room than addresses.
    #[test]
    fn full_table_is_fair(operations in proptest::collection::vec(operation(), 1..300)) {
        run(Fdb::MIN_CAPACITY, &operations);
    }
}
