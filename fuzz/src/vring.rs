//! Rings in shared memory under a coverage-guided fuzzer: octets are descriptors, indices and what is done with them. No octet around the guest's
//! memory may change.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    datapath::fuzzing::ring(octets);
});
