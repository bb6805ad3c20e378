//! Hostile inputs for the readers of files from outside.
//!
//! | module | what lives there |
//! |---|---|
//! | `targets` | [`Target`]: a reader, and the inputs that mutation begins with |
//! | `mutate` | [`Mutator`]: changes of bytes, numbers, blocks and words |
//! | `clock` | [`Clock`]: processor time, which other work on the machine does not lengthen |
//! | `trial` | [`trial`]: one input read, and whatever is wrong with how that went |
//!
//! The driver (`cargo run --release -p ckd-fuzz -- all --minutes 5`) runs on stable Rust. `fuzz_targets` are the same for
//! `cargo +nightly fuzz run TARGET --features libfuzzer`. What either finds goes to `corpus/TARGET`, which ordinary tests
//! replay (`tests/fuzz.rs` of the program).

mod clock;
mod mutate;
mod targets;
mod trial;

pub use clock::Clock;
pub use mutate::Mutator;
pub use targets::{Target, corpus, targets};
pub use trial::{Fault, trial};

/// Has the target called `name` read `input`, for a fuzzer that waits for panics.
///
/// # Panics
/// If there is no such target, or its reader fails.
pub fn one(name: &str, input: &[u8]) {
    let target = targets().iter().find(|target| target.name == name).expect("a target of that name");
    let folder = tempfile::tempdir().expect("a folder for trials");
    if let Err(fault) = trial(target, folder.path(), input) {
        panic!("{name}: {fault:?}");
    }
}
