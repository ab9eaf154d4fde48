//! Commands with made-up values, broken ones, and noise, through the decoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| asgard_tests::fuzz::stream(data));
