//! `cargo +nightly fuzz run image --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("image", input));
