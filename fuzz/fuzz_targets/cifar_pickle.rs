//! `cargo +nightly fuzz run cifar_pickle --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ckd_fuzz::one("cifar_pickle", input));
