//! `cargo +nightly fuzz run safetensors --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("safetensors", input));
