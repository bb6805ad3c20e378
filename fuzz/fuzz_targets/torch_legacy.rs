//! `cargo +nightly fuzz run torch_legacy --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("torch_legacy", input));
