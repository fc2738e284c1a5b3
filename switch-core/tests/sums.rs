//! Over a million random frames, every frame is accounted for, and every reason of the core has occurred.

mod common;

use common::random::{Choices, Tally, World};
use switch_core::verdict::DropReason;

const FRAMES: u64 = 1_000_000;

/// A well-spread sequence of octets (SplitMix64, Steele et al., 2014).
struct Sequence(u64);

impl Sequence {
    fn octets(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31).to_le_bytes()
        })
        .take(len / 8)
        .flatten()
        .collect()
    }
}

#[test]
fn frames_and_copies_are_hops_and_drops() {
    let mut sequence = Sequence(2024);
    let mut tally = Tally::default();
    while tally.frames < FRAMES {
        let setup = sequence.octets(160);
        let mut world = World::new(&mut Choices::new(&setup), false);
        let octets = sequence.octets(1 << 17);
        let mut choices = Choices::new(&octets);
        while !choices.is_empty() {
            world.step(&mut choices, &mut tally);
        }
    }
    let drops: u64 = tally.drops.iter().sum();
    assert_eq!(tally.frames + tally.copies, tally.hops + drops);
    assert!(
        tally.copies > FRAMES / 20,
        "floods are among them: {} copies",
        tally.copies
    );
    let elsewhere = [
        DropReason::RxTruncated,
        DropReason::ForSwitch,
        DropReason::TxQueueFull,
        DropReason::WorkerQueueFull,
        DropReason::TxPortDown,
        DropReason::TxError,
        DropReason::TxOffload,
        DropReason::GuestSlow,
        DropReason::NoBuffer,
    ];
    for reason in DropReason::ALL {
        let count = tally.drops[reason.index()];
        assert_eq!(count == 0, elsewhere.contains(reason), "{reason}: {count}");
    }
}
