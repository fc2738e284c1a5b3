//! The pipeline under a coverage-guided fuzzer.
//!
//! Octets are read as a switch (ports, VLANs, policies) and what happens to it: frames with the offload headers that a
//! guest may write, time, flushes, static entries. Each frame goes through the pipeline dry and live and through its slow
//! twin; verdicts, hops, tags and tables must agree, and sums must add up.

#![no_main]

#[path = "../../switch-core/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    common::random::play(octets);
});
