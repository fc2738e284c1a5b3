//! Readers and writers of one MAC table at once: a station that stays where it is never seems to be elsewhere.

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::{AGEING, id, mac, vid};
use switch_core::fdb::{Fdb, Filter, Learnt};
use switch_core::time::Timestamp;

const STABLE: u64 = 40;
const ROUNDS: u64 = 60_000;

/// The port of a stable station.
fn home(n: u64) -> u16 {
    (n % 4) as u16
}

#[test]
fn a_stable_station_is_never_seen_elsewhere() {
    // Small, so that chains are rewritten all the time.
    let fdb = Fdb::new(96, 3);
    let now = Timestamp::from_secs(10);
    for n in 0..STABLE {
        assert_eq!(
            fdb.learn(vid(1), mac(n), id(home(n)), now, AGEING, None),
            Learnt::New
        );
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut hits, mut misses) = (0_u64, 0_u64);
                    while !done.load(Relaxed) {
                        for n in 0..STABLE {
                            match fdb.lookup(vid(1), mac(n), now, AGEING) {
                                Some(port) => {
                                    assert_eq!(port, id(home(n)), "station {n}");
                                    hits += 1;
                                }
                                None => misses += 1,
                            }
                        }
                    }
                    (hits, misses)
                })
            })
            .collect();
        let learner = scope.spawn(|| {
            while !done.load(Relaxed) {
                for n in 0..STABLE {
                    // A later time each turn, so that entries are refreshed while they are moved about.
                    let later = now + Duration::from_millis(20 * (n + 1));
                    let learnt = fdb.learn(vid(1), mac(n), id(home(n)), later, AGEING, None);
                    assert!(
                        matches!(learnt, Learnt::Known | Learnt::New | Learnt::Busy),
                        "{learnt:?}"
                    );
                }
            }
        });
        // Others come and go behind a port of their own, which holds most and so is the one evicted from.
        for round in 0..ROUNDS {
            fdb.learn(vid(1), mac(1000 + round), id(9), now, AGEING, None);
            if round % 3 == 0 {
                fdb.remove(vid(1), mac(1000 + round - round % 64));
            }
            if round % 4096 == 0 {
                fdb.flush(Filter {
                    port: Some(id(9)),
                    vid: None,
                });
            }
        }
        done.store(true, Relaxed);
        learner.join().unwrap();
        for reader in readers {
            let (hits, misses) = reader.join().unwrap();
            assert!(hits > misses, "{hits} hits, {misses} misses");
        }
    });
    for n in 0..STABLE {
        assert_eq!(fdb.lookup(vid(1), mac(n), now, AGEING), Some(id(home(n))));
    }
    assert!(fdb.counters().evictions > 0);
}
