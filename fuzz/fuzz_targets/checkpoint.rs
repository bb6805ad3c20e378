//! `cargo +nightly fuzz run checkpoint --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("checkpoint", input));
