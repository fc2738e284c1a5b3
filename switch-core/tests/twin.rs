//! The pipeline and the MAC table against their slow twins.

mod common;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use switch_core::fdb::{Fdb, Filter, Kind, Learnt};
use switch_core::snapshot::{MacLimit, Overflow};
use switch_core::time::Timestamp;

use common::random::play;
use common::twin::SlowFdb;
use common::{AGEING, id, mac, vid};

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any switch, any frames: the same verdict, the same hops, the same tags, the same table.
    #[test]
    fn pipeline_is_its_twin(octets in proptest::collection::vec(any::<u8>(), 40..1200)) {
        play(&octets);
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
