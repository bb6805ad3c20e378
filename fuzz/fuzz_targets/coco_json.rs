//! `cargo +nightly fuzz run coco_json --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("coco_json", input));
