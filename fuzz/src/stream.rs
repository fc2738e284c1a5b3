//! The framing of stream ports under a coverage-guided fuzzer: octets are a stream and the pieces in which it comes. Whatever the pieces,
//! the same frames must come out as from its slow twin.

#![no_main]

#[path = "../../datapath/tests/framing/twin.rs"]
mod twin;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    twin::play(octets);
});
