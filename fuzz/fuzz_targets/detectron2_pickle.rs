//! `cargo +nightly fuzz run detectron2_pickle --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("detectron2_pickle", input));
