//! `cargo +nightly fuzz run configuration --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("configuration", input));
