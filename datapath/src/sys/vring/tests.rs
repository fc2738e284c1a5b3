//! The ring against a driver.

use std::io::Read;

use proptest::prelude::*;

use super::driver::*;
use super::*;

const HEADER_OF_AA: Header = Header {
    front: 0xaaaa_aaaa_aaaa_aaaa,
    checksum_offset: 0xaaaa,
};

/// What arrives of the frame in the first fetched chain, however it is stored.
fn whole(ring: &Vring, index: usize, head: usize) -> Vec<u8> {
    let mut bytes = vec![0; head];
    let mut payload = Payload::default();
    let taken = ring.copy(index, &mut bytes, Some(&mut payload)).unwrap();
    if taken.copied + payload.len() < taken.len {
        bytes.resize(taken.len, 0);
        let taken = ring.copy(index, &mut bytes, None).unwrap();
        assert_eq!(taken.copied, taken.len);
        return bytes;
    }
    bytes.truncate(taken.copied);
    let mut rest = vec![0; payload.len()];
    assert_eq!(payload.copy_to(&mut rest), rest.len());
    bytes.extend(rest);
    bytes
}

/// Lengths of the buffers of a chain.
fn lens(range: std::ops::Range<usize>) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(range, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a driver puts up arrives, whatever its buffers, and its buffers come back in order.
    #[test]
    fn a_frame_from_the_guest_arrives_whole(
        base in prop_oneof![Just(0u16), Just(u16::MAX - 2), any::<u16>()],
        head in 12usize..400,
        chains in prop::collection::vec((lens(1..900), any::<bool>()), 1..6),
    ) {
        let mut driver = Driver::new(256, base);
        let mut ring = driver.ring(true);
        let mut sent = Vec::new();
        for (number, (lens, indirect)) in chains.iter().enumerate() {
            let (first, places) = driver.offer(lens, false, *indirect);
            let mut frame = Vec::new();
            for (at, len) in places {
                let part: Vec<u8> = (0..len).map(|octet| (octet * 7 + number) as u8).collect();
                driver.write(at, &part);
                frame.extend(part);
            }
            sent.push((u32::from(first), frame));
        }
        prop_assert_eq!(ring.fetch(BATCH), Ok(sent.len()));
        for (index, (_, frame)) in sent.iter().enumerate() {
            prop_assert_eq!(&whole(&ring, index, head), frame);
        }
        ring.take(sent.len());
        prop_assert_eq!(driver.take_used(), vec![]);
        ring.use_taken();
        let heads: Vec<(u32, u32)> = sent.iter().map(|(head, _)| (*head, 0)).collect();
        prop_assert_eq!(driver.take_used(), heads);
        prop_assert_eq!(ring.fetch(BATCH), Ok(0));
        prop_assert_eq!(ring.base(), driver.available);
    }

    /// What is given to a driver lies in its buffers in order, with the right number of them in the header; what does not fit is left out
    /// whole.
    #[test]
    fn a_frame_to_the_guest_arrives_whole_or_not_at_all(
        base in prop_oneof![Just(0u16), Just(u16::MAX - 2), any::<u16>()],
        mergeable in any::<bool>(),
        buffers in prop::collection::vec((prop::collection::vec(12usize..700, 1..4), prop::bool::weighted(0.2)), 0..12),
        // Mostly short ones, which fit one buffer.
        frames in prop::collection::vec(
            prop_oneof![
                2 => (1usize..200, Just(0)),
                1 => (1usize..200, 0usize..300),
                1 => (1usize..2000, 0usize..1800),
            ],
            1..8,
        ),
        known in 0usize..10,
        // What stands in the buffers; with 0xaa a part of each header does already.
        before in prop_oneof![Just(0u8), Just(0xaa)],
    ) {
        let mut driver = Driver::new(256, base);
        let mut ring = driver.ring(mergeable);
        // The payload lies in another guest.
        let source = Driver::new(256, 0);
        let source_memory = source.memory();
        let mut offered: std::collections::VecDeque<_> = buffers
            .iter()
            .map(|(lens, indirect)| driver.offer(lens, true, *indirect))
            .collect();
        for (at, len) in offered.iter().flat_map(|(_, places)| places) {
            driver.write(*at, &vec![before; *len]);
        }
        let mut heads = Vec::new();
        let mut payloads = Vec::new();
        let mut at = BUFFERS;
        for (number, (head, rest)) in frames.iter().enumerate() {
            heads.push((0..*head).map(|octet| (octet + number) as u8).collect::<Vec<u8>>());
            let rest: Vec<u8> = (0..*rest).map(|octet| (octet * 3 + number) as u8).collect();
            source.write(at, &rest);
            let mut payload = Payload::default();
            if !rest.is_empty() {
                let start = source_memory.find(GUEST + at, rest.len() as u64).unwrap();
                payload.push(Slice { start, len: rest.len() as u32 });
            }
            at += rest.len() as u64;
            payloads.push((payload, rest));
        }
        let content = |frame: usize| Content {
            header: HEADER_OF_AA,
            head: &heads[frame],
            payload: Some(&payloads[frame].0).filter(|payload| !payload.is_empty()),
        };
        ring.prefetch(known);
        let mut given = Vec::new();
        let contents = (0..frames.len()).map(|frame| (frame, content(frame)));
        ring.give(contents, |frame, answer| {
            assert_eq!(frame, given.len(), "answers are in order");
            given.push(answer);
        })
        .unwrap();
        prop_assert_eq!(driver.take_used(), vec![]);
        ring.publish();
        let mut used: std::collections::VecDeque<_> = driver.take_used().into();
        let mut full = false;
        for (given, (head, (_, rest))) in given.into_iter().zip(heads.iter().zip(&payloads)) {
            let len = HEADER + head.len() + rest.len();
            // The obvious way: take buffers until it fits.
            let mut room = 0;
            let needed = offered.iter().take_while(|(_, places)| {
                let more = room < len;
                room += places.iter().map(|(_, len)| len).sum::<usize>();
                more
            }).count();
            let enough = offered.iter().take(needed).flat_map(|(_, places)| places).map(|(_, len)| len).sum::<usize>() >= len;
            let expected = match (enough, needed) {
                _ if full => Given::Full,
                (true, 1) => Given::Sent,
                (_, _) if !mergeable && !offered.is_empty() => Given::TooLong,
                (true, _) => Given::Sent,
                (false, _) => Given::Full,
            };
            prop_assert_eq!(given, expected);
            full = given == Given::Full;
            if given != Given::Sent {
                continue;
            }
            let mut got: Vec<u8> = Vec::new();
            prop_assert!(used.len() >= needed);
            for (id, written) in used.drain(..needed) {
                let (head, places) = offered.pop_front().unwrap();
                prop_assert_eq!(u32::from(head), id);
                let buffer: Vec<u8> = places.iter().flat_map(|(at, len)| driver.read(*at, *len)).collect();
                got.extend(&buffer[..written as usize]);
            }
            let mut wanted = vec![0xaa; HEADER - 2];
            wanted.extend((needed as u16).to_le_bytes());
            wanted.extend(head.iter());
            wanted.extend(rest.iter());
            prop_assert_eq!(got, wanted);
        }
        prop_assert_eq!(used.len(), 0);
    }

    /// The same with more frames than are looked up at once.
    #[test]
    fn more_frames_than_a_batch_arrive(
        base in prop_oneof![Just(0u16), Just(u16::MAX - 2), any::<u16>()],
        frames in 0usize..200,
        buffers in 0usize..200,
        known in 0usize..200,
    ) {
        let mut driver = Driver::new(256, base);
        let mut ring = driver.ring(true);
        let places: Vec<_> = (0..buffers).map(|_| driver.offer(&[HEADER + 60], true, false)).collect();
        let heads: Vec<[u8; 60]> = (0..frames).map(|number| [number as u8; 60]).collect();
        ring.prefetch(known);
        let contents = heads.iter().map(|head| ((), Content { header: HEADER_OF_AA, head, payload: None }));
        let mut given = Vec::new();
        ring.give(contents, |(), answer| given.push(answer)).unwrap();
        ring.publish();
        let sent = frames.min(buffers);
        prop_assert!(given[..sent].iter().all(|answer| *answer == Given::Sent));
        prop_assert!(given[sent..].iter().all(|answer| *answer == Given::Full));
        let used = driver.take_used();
        prop_assert_eq!(used.len(), sent);
        for (((head, parts), (id, len)), content) in places.iter().zip(used).zip(&heads) {
            prop_assert_eq!((u32::from(*head), (HEADER + 60) as u32), (id, len));
            let (at, len) = parts[0];
            prop_assert_eq!(&driver.read(at, len)[HEADER..], &content[..]);
        }
    }

    /// Rings full of rubbish are refused or read within the guest's memory, without a panic and without an end that does not come.
    #[test]
    fn rubbish_in_the_rings_harms_nobody(
        rubbish in prop::collection::vec(any::<u8>(), 0x3000..0x3001),
        near in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let driver = Driver::new(64, 0);
        let mut ring = driver.ring(true);
        driver.write(0, &rubbish);
        if near {
            // Addresses and numbers that are nearly right get further.
            for index in 0..64u64 {
                let mix = seed.wrapping_mul(index + 1);
                let addr = GUEST + (mix >> 20) % (MEMORY + 100);
                let flags = (mix % 8) as u16;
                driver.descriptor(DESCRIPTORS, index as u16, addr, (mix >> 40) as u32 % 5000, flags, (mix >> 8) as u16 % 70);
                driver.write(AVAILABLE + 4 + 2 * index, &((mix >> 4) as u16 % 66).to_le_bytes());
            }
            driver.write(AVAILABLE + 2, &((seed % 70) as u16).to_le_bytes());
        }
        let mut bytes = [0; 300];
        if let Ok(count) = ring.fetch(BATCH) {
            for index in 0..count {
                let mut payload = Payload::default();
                let _ = ring.copy(index, &mut bytes, Some(&mut payload));
                let _ = payload.copy_to(&mut [0; 70_000]);
            }
            ring.take(count);
            ring.use_taken();
        }
        ring.prefetch(BATCH);
        let content = Content { header: HEADER_OF_AA, head: &bytes, payload: None };
        let mut answers = 0;
        if ring.give([((), content); 10], |(), _| answers += 1).is_ok() {
            prop_assert_eq!(answers, 10);
        }
        ring.publish();
        let _ = ring.arm();
    }
}

#[test]
fn chains_that_break_the_rules_are_named() {
    type Spoil = fn(&mut Driver);
    let cases: [(&str, Broken, Spoil); 8] = [
        ("index", Broken::Index, |driver| {
            driver.write(AVAILABLE + 2, &65u16.to_le_bytes());
        }),
        ("head", Broken::Descriptor, |driver| driver.announce(64)),
        ("next", Broken::Descriptor, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST, 60, flag::NEXT, 64);
            driver.announce(0);
        }),
        ("loop", Broken::Loop, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST, 60, flag::NEXT, 1);
            driver.descriptor(DESCRIPTORS, 1, GUEST, 60, flag::NEXT, 0);
            driver.announce(0);
        }),
        ("address", Broken::Address, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST + MEMORY - 59, 60, 0, 0);
            driver.announce(0);
        }),
        ("direction", Broken::Direction, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST, 60, flag::WRITE, 0);
            driver.announce(0);
        }),
        ("table", Broken::Indirect, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST + TABLES, 17, flag::INDIRECT, 0);
            driver.announce(0);
        }),
        ("nested table", Broken::Indirect, |driver| {
            driver.descriptor(DESCRIPTORS, 0, GUEST + TABLES, 16, flag::INDIRECT, 0);
            driver.descriptor(TABLES, 0, GUEST + TABLES, 16, flag::INDIRECT, 0);
            driver.announce(0);
        }),
    ];
    for (name, wanted, spoil) in cases {
        let mut driver = Driver::new(64, 0);
        let mut ring = driver.ring(true);
        spoil(&mut driver);
        let got = ring.fetch(BATCH).and_then(|_| ring.copy(0, &mut [0; 400], None));
        assert_eq!(got, Err(wanted), "{name}");
    }
}

#[test]
fn rings_outside_of_the_memory_are_refused() {
    let driver = Driver::new(64, 0);
    let right = driver.layout(true);
    let wrong = [
        Layout { size: 63, ..right },
        Layout { size: 0, ..right },
        Layout {
            descriptors: USER + MEMORY - 16,
            ..right
        },
        Layout {
            available: USER + MEMORY - 6,
            ..right
        },
        Layout {
            used: USER - 4,
            ..right
        },
        Layout {
            used: USER + USED + 1,
            ..right
        },
        Layout {
            descriptors: u64::MAX - 8,
            ..right
        },
    ];
    for layout in wrong {
        assert!(Vring::new(driver.memory(), &layout, None).is_none(), "{layout:?}");
    }
}

#[test]
fn memory_that_is_taken_away_costs_only_its_ring() {
    let mut driver = Driver::new(64, 0);
    let mut ring = driver.ring(true);
    driver.offer(&[60], false, false);
    assert!(!ring.is_broken());
    driver.file.set_len(0).unwrap();
    // All of it reads as zeros: nothing is available.
    assert_eq!(ring.fetch(BATCH), Ok(0));
    assert!(ring.is_broken());
    // Another guest's is as it was.
    let mut other = Driver::new(64, 0);
    let mut other_ring = other.ring(true);
    other.offer(&[60], false, false);
    assert_eq!(other_ring.fetch(BATCH), Ok(1));
    assert!(!other_ring.is_broken());
}

#[test]
fn notifications_are_asked_for_and_sent_as_agreed() {
    for event_index in [false, true] {
        let mut driver = Driver::new(64, 0);
        let layout = Layout {
            event_index,
            ..driver.layout(true)
        };
        let call = crate::sys::unix::eventfd().unwrap();
        eventfd::adopt(&call).unwrap();
        let mut told = call.try_clone().unwrap();
        let mut ring = Vring::new(driver.memory(), &layout, Some(call)).unwrap();
        ring.disarm();
        assert!(!ring.arm(), "nothing waits");
        let (head, _) = driver.offer(&[60], false, false);
        driver.announce(head);
        assert!(ring.arm(), "something came before the guest was asked");
        if event_index {
            // Tell when the second buffer is used.
            driver.write(AVAILABLE + 4 + 2 * 64, &1u16.to_le_bytes());
        }
        let mut sum = 0;
        let mut calls = || {
            let mut count = [0; 8];
            // Fails when there were none.
            let _ = told.read(&mut count);
            sum += u64::from_ne_bytes(count);
            sum
        };
        for wanted in [u64::from(!event_index), if event_index { 1 } else { 2 }] {
            assert_eq!(ring.fetch(1), Ok(1));
            ring.take(1);
            ring.use_taken();
            assert_eq!(calls(), wanted, "event index: {event_index}");
        }
        // VIRTQ_AVAIL_F_NO_INTERRUPT
        driver.write(AVAILABLE, &1u16.to_le_bytes());
        driver.announce(head);
        ring.fetch(1).unwrap();
        ring.take(1);
        ring.use_taken();
        let wanted = if event_index { 1 } else { 2 };
        assert_eq!(calls(), wanted);
    }
}
