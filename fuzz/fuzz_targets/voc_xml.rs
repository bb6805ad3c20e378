//! `cargo +nightly fuzz run voc_xml --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("voc_xml", input));
