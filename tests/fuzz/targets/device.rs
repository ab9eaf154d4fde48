//! A connection's messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| asgard_tests::fuzz::device(data));
