//! The data side: files to batches.

mod coco;
mod decode;
mod exporters;
mod formats;
mod images;
mod loader;
mod real;
mod synth;
mod voc;

use std::path::{Path, PathBuf};

/// A small image that is committed: left half red, right half blue, stored as 16x8.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}
