//! The framing of stream ports beside its slow twin.

#[path = "framing/twin.rs"]
mod twin;

use std::path::Path;

use datapath::io::stream::framing::LONGEST;
use proptest::prelude::*;

fn lengths() -> impl Strategy<Value = Vec<(u32, bool)>> {
    let length = prop_oneof![
        6 => 1u32..200,
        3 => 1400u32..1600,
        1 => (LONGEST as u32 - 2)..=(LONGEST as u32 + 1),
        1 => Just(0),
    ];
    proptest::collection::vec((length, proptest::bool::weighted(0.97)), 0..40)
}

proptest! {
    /// However the stream is cut, the same frames come out, up to the same bad length.
    #[test]
    fn the_pieces_of_a_stream_don_t_matter(
        lengths in lengths(),
        pieces in proptest::collection::vec(prop_oneof![1usize..8, 1usize..3000, Just(1 << 20)], 1..10),
    ) {
        let mut octets = Vec::new();
        for (index, (length, whole)) in lengths.into_iter().enumerate() {
            octets.extend(length.to_be_bytes());
            if length as usize <= LONGEST {
                // A frame cut short makes the next length part of it.
                let len = if whole { length } else { length / 2 };
                octets.extend((0..len).map(|at| (at as usize + index) as u8));
            }
        }
        prop_assert_eq!(twin::in_pieces(&octets, &pieces), twin::frames_of(&octets));
    }

    /// Any octets at all.
    #[test]
    fn any_stream_is_survived(
        octets in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..4, 1 => any::<u8>()], 0..600),
    ) {
        twin::play(&octets);
    }
}

/// What the fuzzer has found worth keeping (`fuzz/README.md`).
#[test]
fn the_corpus_is_read_alike() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/stream");
    let mut played = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        twin::play(&std::fs::read(file.unwrap().path()).unwrap());
        played += 1;
    }
    assert!(played > 10, "{played} inputs");
}
