//! The MAC table's rules, one by one. Random operations against a slow twin are in `tests/fdb_twin.rs`.

use super::*;
use crate::snapshot::Overflow;

const AGEING: Duration = Duration::from_secs(300);

fn vid(vid: u16) -> Vid {
    Vid::new(vid).unwrap()
}

fn port(id: u16) -> PortId {
    PortId::new(id).unwrap()
}

fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn learn(fdb: &Fdb, n: u64, p: u16, secs: u64) -> Learnt {
    fdb.learn(vid(1), mac(n), port(p), at(secs), AGEING, None)
}

fn lookup(fdb: &Fdb, n: u64, secs: u64) -> Option<u16> {
    fdb.lookup(vid(1), mac(n), at(secs), AGEING).map(PortId::get)
}

#[test]
fn learns_moves_and_keeps_vlans_apart() {
    let fdb = Fdb::new(100, 1);
    assert_eq!(lookup(&fdb, 1, 0), None);
    assert_eq!(learn(&fdb, 1, 3, 0), Learnt::New);
    assert_eq!(learn(&fdb, 1, 3, 0), Learnt::Known);
    assert_eq!(lookup(&fdb, 1, 0), Some(3));
    assert_eq!(fdb.lookup(vid(2), mac(1), at(0), AGEING), None);
    assert_eq!(learn(&fdb, 1, 4, 1), Learnt::Moved { from: port(3) });
    assert_eq!(lookup(&fdb, 1, 1), Some(4));
    let counters = fdb.counters();
    assert_eq!((counters.entries, counters.learnt, counters.moves), (1, 1, 1));
}

#[test]
fn an_entry_lasts_its_time_and_no_longer() {
    let fdb = Fdb::new(100, 1);
    learn(&fdb, 1, 3, 0);
    learn(&fdb, 2, 3, 200);
    assert_eq!(lookup(&fdb, 1, 300), Some(3));
    assert_eq!(learn(&fdb, 1, 3, 300), Learnt::Known);
    assert_eq!(lookup(&fdb, 1, 600), Some(3));
    assert_eq!(lookup(&fdb, 1, 601), None);
    assert_eq!(fdb.age(at(501), AGEING), 1);
    assert_eq!(fdb.entries(at(501), AGEING).len(), 1);
    assert_eq!(learn(&fdb, 1, 4, 601), Learnt::New, "an expired entry is no move");
    assert_eq!(fdb.counters().aged, 2);
    assert_eq!(fdb.counters().entries, 1);
}

#[test]
fn a_full_table_evicts_the_oldest_of_the_port_that_holds_most() {
    let fdb = Fdb::new(10, 1);
    for n in 0..4 {
        learn(&fdb, n, 1, n);
    }
    for n in 10..16 {
        learn(&fdb, n, 2, n);
    }
    learn(&fdb, 10, 2, 20);
    assert_eq!(learn(&fdb, 20, 1, 21), Learnt::New);
    assert_eq!(
        lookup(&fdb, 11, 21),
        None,
        "10 was seen since, so 11 is the oldest"
    );
    assert_eq!(lookup(&fdb, 10, 21), Some(2));
    for n in 100..200 {
        assert_eq!(learn(&fdb, n, 2, n), Learnt::New);
    }
    for n in [0, 1, 2, 3, 20] {
        assert_eq!(lookup(&fdb, n, 200), Some(1), "a flood hurts only its own port");
    }
    assert_eq!(fdb.counters().entries, 10);
    assert_eq!(fdb.counters().evictions, 101);
}

#[test]
fn static_entries_stay_where_they_are() {
    let fdb = Fdb::new(10, 1);
    learn(&fdb, 1, 5, 0);
    fdb.insert_static(vid(1), mac(1), port(1)).unwrap();
    assert_eq!(learn(&fdb, 1, 2, 0), Learnt::StaticElsewhere { owner: port(1) });
    assert_eq!(learn(&fdb, 1, 1, 0), Learnt::Static);
    for n in 10..50 {
        learn(&fdb, n, 2, 0);
    }
    fdb.flush(Filter::default());
    fdb.age(at(10_000), AGEING);
    assert_eq!(lookup(&fdb, 1, 10_000), Some(1));
    assert_eq!(fdb.counters().entries, 1);
    assert_eq!(fdb.forget_port(port(1)), 1);
    assert_eq!(lookup(&fdb, 1, 10_000), None);
}

#[test]
fn a_table_full_of_static_entries_says_so() {
    let fdb = Fdb::new(10, 1);
    for n in 0..10 {
        fdb.insert_static(vid(1), mac(n), port(1)).unwrap();
    }
    assert_eq!(fdb.insert_static(vid(1), mac(10), port(1)), Err(FdbFull));
    assert_eq!(learn(&fdb, 10, 2, 0), Learnt::Full);
    assert!(fdb.remove(vid(1), mac(3)));
    assert!(!fdb.remove(vid(1), mac(3)));
    assert_eq!(learn(&fdb, 10, 2, 0), Learnt::New);
}

#[test]
fn a_port_learns_up_to_its_limit() {
    let fdb = Fdb::new(100, 1);
    let limit = Some(MacLimit {
        count: 2,
        overflow: Overflow::Drop,
    });
    let learn = |n, p, secs| fdb.learn(vid(1), mac(n), port(p), at(secs), AGEING, limit);
    assert_eq!(learn(1, 1, 0), Learnt::New);
    assert_eq!(learn(2, 1, 0), Learnt::New);
    assert_eq!(learn(3, 1, 0), Learnt::Limited);
    assert_eq!(learn(3, 2, 0), Learnt::New);
    assert_eq!(learn(3, 1, 0), Learnt::Limited, "a move counts as well");
    assert_eq!(lookup(&fdb, 3, 0), Some(2));
    assert_eq!(learn(1, 1, 1), Learnt::Known);
    assert_eq!(
        learn(2, 1, 400),
        Learnt::New,
        "an expired entry gives its own place back"
    );
}

#[test]
fn flush_takes_what_matches() {
    let fdb = Fdb::new(1000, 1);
    let fill = || {
        for n in 0..600 {
            fdb.learn(
                vid(1 + (n % 3) as u16),
                mac(n),
                port((n % 2) as u16),
                at(0),
                AGEING,
                None,
            );
        }
    };
    fill();
    let filter = |port, vid| Filter { port, vid };
    assert_eq!(fdb.flush(filter(Some(port(0)), Some(vid(1)))), 100);
    assert_eq!(fdb.flush(filter(Some(port(0)), None)), 200);
    assert_eq!(fdb.flush(filter(None, Some(vid(2)))), 100);
    assert_eq!(fdb.flush(filter(Some(port(9)), None)), 0);
    assert_eq!(fdb.counters().entries, 200);
    assert_eq!(fdb.flush(Filter::default()), 200);
    assert_eq!(fdb.entries(at(0), AGEING), []);
    fill();
    assert_eq!(fdb.counters().entries, 600);
}

#[test]
fn resizing_keeps_the_freshest_and_the_static() {
    let fdb = Fdb::new(100, 1);
    fdb.insert_static(vid(1), mac(1000), port(7)).unwrap();
    for n in 0..60 {
        learn(&fdb, n, 1, n);
    }
    let smaller = fdb.resized(20);
    assert_eq!(smaller.counters().entries, 20);
    assert_eq!(smaller.counters().learnt, 60);
    assert_eq!(lookup(&smaller, 1000, 60), Some(7));
    assert_eq!(lookup(&smaller, 59, 60), Some(1));
    assert_eq!(lookup(&smaller, 41, 60), Some(1));
    assert_eq!(lookup(&smaller, 40, 60), None);
    let larger = smaller.resized(1000);
    assert_eq!(larger.entries(at(60), AGEING), smaller.entries(at(60), AGEING));
    assert_eq!(larger.capacity(), 1000);
}

#[test]
fn a_preview_changes_nothing() {
    let fdb = Fdb::new(10, 1);
    let preview = |n, p, secs| fdb.preview(vid(1), mac(n), port(p), at(secs), AGEING, None);
    assert_eq!(preview(1, 1, 0), Learnt::New);
    assert_eq!(preview(1, 1, 0), Learnt::New);
    learn(&fdb, 1, 1, 0);
    assert_eq!(preview(1, 1, 200), Learnt::Known);
    assert_eq!(preview(1, 2, 200), Learnt::Moved { from: port(1) });
    assert_eq!(lookup(&fdb, 1, 301), None, "a preview is no refresh");
}

#[test]
fn a_busy_table_is_not_waited_for() {
    let fdb = Fdb::new(10, 1);
    learn(&fdb, 1, 1, 0);
    let held = fdb.lock();
    assert_eq!(learn(&fdb, 2, 1, 0), Learnt::Busy);
    assert_eq!(learn(&fdb, 1, 1, 1), Learnt::Known);
    assert_eq!(lookup(&fdb, 1, 1), Some(1));
    drop(held);
    assert_eq!(learn(&fdb, 2, 1, 0), Learnt::New);
}

#[test]
fn time_seen_by_another_worker_a_little_later_is_no_age() {
    let fdb = Fdb::new(10, 1);
    learn(&fdb, 1, 1, 100);
    assert_eq!(lookup(&fdb, 1, 99), Some(1));
    assert_eq!(learn(&fdb, 1, 1, 99), Learnt::Known);
    assert_eq!(lookup(&fdb, 1, 400), Some(1), "and does not turn the entry back");
}
