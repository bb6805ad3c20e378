//! Errors of evaluations.

use std::path::PathBuf;

use crate::data::InstancesError;

/// Why detections could not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Logits that do not fit the labels.
    #[error("a classifier's results cannot be counted: {reason}")]
    Logits {
        /// The mismatch.
        reason: String,
    },
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The annotations are not a COCO data set.
    #[error(transparent)]
    Annotations(InstancesError),
    /// The results are not a JSON list.
    #[error(
        "{} is not a COCO results file, which is a list of {{image_id, category_id, bbox, score}}: {source}",
        path.display()
    )]
    Results {
        /// The file.
        path: PathBuf,
        /// The problem, with line and column.
        source: serde_json::Error,
    },
    /// Row of the results that is not a detection.
    #[error("{}: detection {index} (counted from 0): {source}", path.display())]
    ResultRow {
        /// The file.
        path: PathBuf,
        /// Position in the list, from 0.
        index: usize,
        /// The problem, with line and column.
        source: serde_json::Error,
    },
    /// Two entries of the ground truth carry one id.
    #[error("the ground truth lists {what} {id} twice")]
    Duplicate {
        /// `image`, `category` or `annotation`.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// A detection is on an image that the ground truth does not have.
    #[error(
        "detection {index} (counted from 0) is on image {image_id}, which the ground truth does not list; \
         do the results belong to another split? (`ckd-det predict --annotations GT` takes its ids)"
    )]
    UnknownImage {
        /// Position among the detections, from 0.
        index: usize,
        /// The image it names.
        image_id: u64,
    },
    /// A detection is on a file that the ground truth does not have.
    #[error(
        "detection {index} (counted from 0) is on the file {file_name:?}, which no one image of the ground truth is \
         named; do the results belong to another split? (`ckd-det predict --annotations GT` takes its ids)"
    )]
    UnknownFile {
        /// Position among the detections, from 0.
        index: usize,
        /// The file it names.
        file_name: String,
    },
    /// No detection is of a category that the ground truth has.
    #[error(
        "none of the {count} detections is of a category that the ground truth lists (the first has category_id \
         {first}); are these the results of a network with other classes?"
    )]
    UnknownCategories {
        /// Number of detections.
        count: usize,
        /// The first one's category.
        first: u64,
    },
    /// A subset was asked for with an image that the ground truth does not have.
    #[error("asked to score image {image_id}, which the ground truth does not list")]
    UnknownSubsetImage {
        /// The image asked for.
        image_id: u64,
    },
    /// A score or a coordinate is not a number to compute with.
    #[error("detection {index} (counted from 0, image {image_id}): {what} is {value}, not a finite number")]
    NotFinite {
        /// Position among the detections, from 0.
        index: usize,
        /// The image it is on.
        image_id: u64,
        /// `score` or `bbox`.
        what: &'static str,
        /// The offending value.
        value: f64,
    },
    /// hotcoco refused.
    #[error("the COCO evaluation failed: {0}")]
    Engine(#[from] hotcoco::Error),
}

impl From<InstancesError> for EvalError {
    fn from(error: InstancesError) -> Self {
        match error {
            InstancesError::Read { path, source } => Self::Read { path, source },
            other => Self::Annotations(other),
        }
    }
}
