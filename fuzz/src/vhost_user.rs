//! The protocol of vhost-user under a coverage-guided fuzzer: octets are a front-end's messages and their descriptors. The device's thread must
//! come to its end, and a worker with it.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    datapath::fuzzing::protocol(octets);
});
