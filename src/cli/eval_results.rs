//! `ckd-det eval --gt GT.json --dt RESULTS.json [--json]`: scores any COCO results file.

use std::io::Write;
use std::path::Path;

use crate::eval::{self, GroundTruth};

/// Scores the results file `dt` against the annotation file `gt` and prints pycocotools' twelve lines,
/// or, with `json`, one JSON object `{"stats": [the 12 numbers], ...}`.
///
/// # Errors
/// A file that cannot be read or is not what it should be; detections of images that `gt` does not list.
pub(super) fn run(gt: &Path, dt: &Path, json: bool) -> anyhow::Result<()> {
    let truth = GroundTruth::load(gt)?;
    let detections = eval::read_detections(dt)?;
    let metrics = eval::evaluate(&truth, &detections, &eval::Options::default())?;
    // Not `print!`, which panics when the reader of a pipe has gone.
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&metrics)?)?;
    } else {
        write!(out, "{metrics}")?;
    }
    Ok(())
}
