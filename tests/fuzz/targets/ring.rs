//! A ring whose every word may change between two steps of its host.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| asgard_tests::fuzz::ring(data));
