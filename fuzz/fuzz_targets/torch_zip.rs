//! `cargo +nightly fuzz run torch_zip --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("torch_zip", input));
