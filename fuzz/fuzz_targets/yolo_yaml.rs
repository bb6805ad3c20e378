//! `cargo +nightly fuzz run yolo_yaml --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("yolo_yaml", input));
