//! How good a network is: COCO box metrics of detections, accuracy of classifiers.
//!
//! | File | What lives there |
//! |---|---|
//! | [`ground_truth`](GroundTruth) | a COCO `instances_*.json` as the metric sees it |
//! | [`detections`](read_detections) | a COCO results file, read with errors that name the row |
//! | [`image_names`](ImageNames) | ids of images by the names of their files |
//! | [`accuracy`](AccuracyMeter) | top-1, top-5, calibration and agreement of a classifier |
//! | [`analysis`](analyse) | curves, errors by kind, classes taken for others |
//! | [`hits`](judged) | hits, false boxes and missed objects of an image |
//! | [`paired`](bootstrap) | whether a difference in AP or top-1 is more than chance of the images |
//! | [`thresholds`](by_precision) | scores above which boxes are right so often |
//! | [`coco`](evaluate) | average precision and recall, and their twelve-line summary |
//!
//! Matching and the precision-recall curves are hotcoco's; the numbers equal pycocotools'
//! (`tests/eval_coco.rs` holds both to it).

mod accuracy;
mod analysis;
mod coco;
mod detections;
mod error;
mod ground_truth;
mod hit_lines;
mod hits;
mod image_names;
mod paired;
mod thresholds;

pub use accuracy::{Accuracy, AccuracyMeter};
pub use analysis::{Analysis, Confusion, Curve, Errors, Kind, analyse};
pub use coco::{BoxMetrics, Categories, ClassAp, LeftOut, Options, STAT_NAMES, evaluate};
pub use detections::{Detection, Results, read_detections};
pub use error::EvalError;
pub use ground_truth::GroundTruth;
pub(crate) use hit_lines::{hit_lines, shares_right};
pub use hits::{Found, HIT_IOU, Tally, Verdict, Verdicts, judged};
pub use image_names::ImageNames;
pub use paired::{Matches, PairedDifference, RESAMPLES, bootstrap, bootstrap_hits, matches};
pub use thresholds::{FEWEST, by_precision};
