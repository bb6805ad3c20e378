//! `ckd-det eval --gt GT.json --dt RESULTS.json [--json]`: scores any COCO results file.

use std::io::Write;
use std::path::Path;

use crate::data::coco;
use crate::eval::{self, EvalError, GroundTruth, Results};

/// Scores the results file `dt` against the annotation file `gt` and prints pycocotools' twelve lines,
/// or, with `json`, one JSON object `{"stats": [the 12 numbers], ...}`. `max_dets` are the three limits of
/// detections an image and class. A row that names a file is on the image of that name.
///
/// # Errors
/// A file that cannot be read or is not what it should be; detections of images that `gt` does not list.
pub(super) fn run(gt: &Path, dt: &Path, max_dets: Option<[usize; 3]>, json: bool) -> anyhow::Result<()> {
    let instances = coco::read(gt).map_err(EvalError::from)?;
    let truth = GroundTruth::of(&instances)?;
    let detections = Results::read(dt)?.on(&instances)?;
    let mut options = eval::Options::default();
    options.max_dets = max_dets.unwrap_or(options.max_dets);
    let metrics = eval::evaluate(&truth, &detections, &options)?;
    // Not `print!`, which panics when the reader of a pipe has gone.
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&metrics)?)?;
    } else {
        write!(out, "{metrics}")?;
    }
    Ok(())
}
