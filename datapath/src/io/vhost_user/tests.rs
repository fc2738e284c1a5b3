//! A queue's handling of its guest's rings: what is whole stays whole when they break.

use super::*;
use crate::sys::vring::driver::{BUFFERS, DESCRIPTORS, Driver, GUEST, TABLES};
use crate::sys::vring::flag;

const CHUNKS: usize = 8;

/// What a pool has free: large chunks, and small ones with their lists.
fn free(pool: &Pool) -> (usize, usize) {
    (pool.free(), pool.free_small())
}

/// Receives one batch, and gives it back. Returns how many frames there were, or why the ring is broken.
fn one_batch(ring: &mut Vring, pool: &mut Pool) -> Result<usize, Broken> {
    let (mut batch, mut octets) = (Vec::new(), 0);
    let result = receive(ring, pool, &mut batch, &mut octets);
    let count = batch.len();
    for frame in batch {
        frame.release(pool);
    }
    ring.use_taken();
    result.map(|()| count)
}

/// A chain of so many buffers, the last of which is wrong.
fn wrong(driver: &mut Driver, parts: u16, spoil: impl Fn(&Driver, u16)) {
    let lens = vec![40; parts.into()];
    let (head, _) = driver.offer(&lens, false, false);
    spoil(driver, head + parts - 1);
}

#[test]
fn a_chain_that_breaks_the_ring_costs_no_buffers() {
    type Spoil = fn(&Driver, u16);
    let spoilt: [(Broken, Spoil); 5] = [
        (Broken::Address, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + (1 << 40), 40, 0, 0);
        }),
        (Broken::Direction, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + BUFFERS, 40, flag::WRITE, 0);
        }),
        (Broken::Loop, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + BUFFERS, 40, flag::NEXT, last);
        }),
        (Broken::Indirect, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + TABLES, 16, flag::INDIRECT, 0);
        }),
        (Broken::Empty, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + BUFFERS, 0, 0, 0);
        }),
    ];
    for (broken, spoil) in spoilt {
        // In few parts, and in more than a payload's list has places.
        for parts in [2, 60] {
            let mut pool = Pool::new(CHUNKS);
            let before = free(&pool);
            for _ in 0..3 * CHUNKS {
                let mut driver = Driver::new(128, 0);
                let mut ring = driver.ring(true);
                wrong(&mut driver, parts, spoil);
                assert_eq!(one_batch(&mut ring, &mut pool), Err(broken));
                assert_eq!(free(&pool), before, "{broken}, {parts} parts");
            }
        }
    }
}

#[test]
fn a_frame_that_is_too_long_counts_as_what_is_here_of_it() {
    let mut driver = Driver::new(16, 0);
    let mut ring = driver.ring(true);
    // 16 times the same quarter of the memory: 16 MiB.
    driver.offer(&[64; 16], false, true);
    for part in 0..16 {
        let next = if part < 15 { flag::NEXT } else { 0 };
        driver.descriptor(TABLES, part, GUEST, 1 << 20, next, part + 1);
    }
    let mut pool = Pool::new(CHUNKS);
    let (mut batch, mut octets) = (Vec::new(), 0);
    receive(&mut ring, &mut pool, &mut batch, &mut octets).unwrap();
    let [frame] = &batch[..] else { panic!("one frame") };
    assert_eq!(frame.fault, Some(DropReason::RxTruncated));
    assert!(frame.len() <= MAX_FRAME && octets <= MAX_FRAME, "{octets}");
}

#[test]
fn frames_in_very_many_parts_leave_time_for_others() {
    const FRAMES: u16 = 40;
    let mut driver = Driver::new(64, 0);
    let mut ring = driver.ring(true);
    // 1000 buffers of one octet, the same table for all.
    for part in 0..1000 {
        let next = if part < 999 { flag::NEXT } else { 0 };
        driver.descriptor(TABLES, part, GUEST + BUFFERS, 1, next, part + 1);
    }
    for head in 0..FRAMES {
        driver.descriptor(DESCRIPTORS, head, GUEST + TABLES, 16_000, flag::INDIRECT, 0);
        driver.announce(head);
    }
    let mut pool = Pool::new(64);
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < FRAMES.into() {
        batches.push(one_batch(&mut ring, &mut pool).unwrap());
    }
    assert!(batches.len() >= 3, "{batches:?}");

    // One buffer more than a chain may have.
    let mut driver = Driver::new(64, 0);
    let mut ring = driver.ring(true);
    for part in 0..1025 {
        let next = if part < 1024 { flag::NEXT } else { 0 };
        driver.descriptor(TABLES, part, GUEST + BUFFERS, 1, next, part + 1);
    }
    driver.descriptor(DESCRIPTORS, 0, GUEST + TABLES, 16 * 1025, flag::INDIRECT, 0);
    driver.announce(0);
    assert_eq!(one_batch(&mut ring, &mut pool), Err(Broken::Loop));
}

/// A batch of frames of 64 octets, all of which are to leave.
fn batch(pool: &mut Pool, count: u16) -> (Vec<Frame>, Vec<Outgoing>) {
    let frames = (0..count).map(|_| Frame::new(pool.take_small().unwrap(), HEADROOM, 64));
    let outgoing = (0..count).map(|frame| Outgoing {
        frame,
        tag: None,
        sole: true,
        outcome: Ok(()),
    });
    (frames.collect(), outgoing.collect())
}

#[test]
fn what_a_guest_with_tiny_buffers_is_given_leaves_time_for_others() {
    let mut driver = Driver::new(256, 0);
    let mut ring = driver.ring(true);
    // Each buffer in 1000 parts of one octet.
    for part in 0..1000 {
        let next = if part < 999 { flag::NEXT } else { 0 };
        let flags = flag::WRITE | next;
        driver.descriptor(TABLES, part, GUEST + BUFFERS, 1, flags, part + 1);
    }
    for head in 0..64 {
        driver.descriptor(DESCRIPTORS, head, GUEST + TABLES, 16_000, flag::INDIRECT, 0);
        driver.announce(head);
    }
    let mut pool = Pool::new(64);
    let (mut frames, mut outgoing) = batch(&mut pool, 64);
    transmit(&mut ring, &mut frames, &mut outgoing, |_| true).unwrap();
    let sent = outgoing.iter().filter(|item| item.outcome.is_ok()).count();
    assert!((1..20).contains(&sent), "{sent} sent");
}

#[test]
fn frames_for_a_ring_that_breaks_are_not_counted_as_sent() {
    let mut driver = Driver::new(16, 0);
    let mut ring = driver.ring(true);
    for _ in 0..2 {
        driver.offer(&[256], true, false);
    }
    let (head, _) = driver.offer(&[256], true, false);
    driver.descriptor(DESCRIPTORS, head, GUEST + (1 << 40), 256, flag::WRITE, 0);
    let mut pool = Pool::new(CHUNKS);
    let (mut frames, mut outgoing) = batch(&mut pool, 4);
    let result = transmit(&mut ring, &mut frames, &mut outgoing, |_| true);
    assert_eq!(result, Err(Broken::Address));
    let down = failure(DropReason::TxPortDown);
    assert!(outgoing.iter().all(|item| item.outcome == down), "{outgoing:?}");
    assert_eq!(driver.take_used(), []);
}

#[test]
fn a_ring_that_breaks_is_kept_only_while_frames_of_its_batch_may_lie_in_it() {
    let spec = VhostUserSpec {
        socket: "/none".into(),
        mode: crate::io::SocketMode::Client,
        pairs: 1,
        queues: 1,
        mtu: 1500,
    };
    let mut queue = Parts::new(&spec).unwrap().queues.remove(0);
    let mut pool = Pool::new(CHUNKS);
    for good in [0, 1, 0, 0] {
        let mut driver = Driver::new(128, 0);
        queue.change(Change::Start {
            index: 1,
            ring: Box::new(driver.ring(true)),
            kick: None,
            capabilities: Capabilities::default(),
        });
        for _ in 0..good {
            driver.offer(&[600], false, false);
        }
        wrong(&mut driver, 2, |driver, last| {
            driver.descriptor(DESCRIPTORS, last, GUEST + (1 << 40), 40, 0, 0);
        });
        let mut batch = Vec::new();
        queue.receive(&mut pool, &mut batch).unwrap();
        assert_eq!((batch.len(), queue.broken.len()), (good, good));
        if good > 0 {
            batch.drain(..).for_each(|frame| frame.release(&mut pool));
            queue.finish();
            assert!(queue.broken.is_empty());
        }
    }
}
