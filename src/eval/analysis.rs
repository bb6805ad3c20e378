//! Errors of a detector: precision over recall, errors by kind, classes taken for others.

use serde::Serialize;

use super::coco::{Options, prepared};
use super::{Detection, EvalError, GroundTruth};

/// Score from which a detection counts in the confusion matrix, as in Ultralytics' (0.25).
const SCORE: f64 = 0.25;

/// Least IoU of a detection that is right, and of one that is near.
const IOU: (f64, f64) = (0.5, 0.1);

/// Curves, errors and confusions of one set of detections, at an IoU of .50.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Precision of each class that has objects.
    pub curves: Vec<Curve>,
    /// Errors by kind.
    pub errors: Errors,
    /// Classes taken for others.
    pub confusion: Confusion,
}

/// Precision of a class at the recalls 0, 0.01, .., 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Name of the class.
    pub name: String,
    /// Precision at each recall.
    pub precision: Vec<f64>,
}

/// Errors by TIDE's kinds (Bolya et al. 2020, arXiv 2008.08115).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    /// The place is right, the class is another.
    pub class: Kind,
    /// The class is right, the place is not.
    pub place: Kind,
    /// Both are wrong.
    pub both: Kind,
    /// The object was found before, with a higher score.
    pub duplicate: Kind,
    /// Nothing is there.
    pub background: Kind,
    /// An object that nothing points at.
    pub missed: Kind,
}

/// Errors of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Kind {
    /// How many there are.
    pub count: u64,
    /// AP50 that would be won without them.
    pub ap50_lost: f64,
}

/// Counts of objects by what they were taken for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Confusion {
    /// Names of the classes.
    pub names: Vec<String>,
    /// Least score of a detection that counts.
    pub score: f64,
    /// A row for each class and one for the background, of what was found there: each class, and nothing.
    pub counts: Vec<Vec<u64>>,
}

/// Analyses `detections` as [`evaluate`](super::evaluate) measures them.
///
/// # Errors
/// Errors of [`evaluate`](super::evaluate).
pub fn analyse(
    truth: &GroundTruth,
    detections: &[Detection],
    options: &Options,
) -> Result<Analysis, EvalError> {
    let mut evaluation = prepared(truth, detections, options)?.evaluation;
    evaluation.evaluate()?;
    evaluation.accumulate();
    let tide = evaluation.tide_errors(IOU.0, IOU.1)?;
    let kind = |name: &str| Kind {
        count: tide.counts.get(name).copied().unwrap_or(0),
        ap50_lost: rounded(tide.delta_ap.get(name).copied().unwrap_or(0.0)),
    };
    let matrix = evaluation.confusion_matrix(IOU.0, None, Some(SCORE));
    let counts = matrix.matrix.chunks(matrix.num_cats + 1).map(<[u64]>::to_vec).collect();
    let mut curves = Vec::new();
    if let Some(found) = evaluation.accumulated() {
        let most = found.shape.m.saturating_sub(1);
        for (class, (_, name)) in truth.categories.iter().enumerate().take(found.shape.k) {
            let at = |recall| found.precision[found.shape.precision_idx(0, recall, class, 0, most)];
            let precision: Vec<f64> = (0..found.shape.r).map(at).map(rounded).collect();
            if precision.iter().all(|value| *value >= 0.0) {
                curves.push(Curve { name: name.clone(), precision });
            }
        }
    }
    Ok(Analysis {
        curves,
        errors: Errors {
            class: kind("Cls"),
            place: kind("Loc"),
            both: kind("Both"),
            duplicate: kind("Dupe"),
            background: kind("Bkg"),
            missed: kind("Miss"),
        },
        confusion: Confusion { names: matrix.cat_names, score: SCORE, counts },
    })
}

/// As many digits as a curve shows.
fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Instances;

    #[test]
    fn each_error_has_its_kind() {
        let mut instances = Instances::of_classes(["cat", "dog"]);
        let image_id = instances.push_image(
            "a.jpg",
            (400, 400),
            [
                (0, [10.0, 10.0, 50.0, 50.0]),
                (0, [100.0, 10.0, 50.0, 50.0]),
                (1, [200.0, 10.0, 50.0, 50.0]),
                (1, [10.0, 200.0, 50.0, 50.0]),
            ],
        );
        let truth = GroundTruth::of(&instances).unwrap();
        let found = |category_id, bbox, score| Detection { image_id, category_id, bbox, score };
        let detections = [
            found(1, [10.0, 10.0, 50.0, 50.0], 0.9),   // right
            found(1, [10.0, 10.0, 50.0, 48.0], 0.8),   // the same again
            found(1, [125.0, 10.0, 50.0, 50.0], 0.7),  // an IoU of a third
            found(1, [200.0, 10.0, 50.0, 50.0], 0.6),  // a dog
            found(1, [300.0, 300.0, 50.0, 50.0], 0.5), // nothing
        ];
        let Analysis { curves, errors, confusion } =
            analyse(&truth, &detections, &Options::default()).unwrap();
        let counts =
            [errors.class, errors.place, errors.both, errors.duplicate, errors.background, errors.missed];
        assert_eq!(counts.map(|kind| kind.count), [1, 1, 0, 1, 1, 1]);
        assert!(errors.class.ap50_lost > 0.0 && errors.both.ap50_lost == 0.0);
        assert_eq!(confusion.names, ["cat", "dog"]);
        // Of two cats one is found, one missed; a dog is taken for a cat, one is missed; three are found where nothing is.
        assert_eq!(confusion.counts, [vec![1, 0, 1], vec![1, 0, 1], vec![3, 0, 0]]);
        let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["cat", "dog"]);
        assert_eq!((curves[0].precision[0], curves[0].precision.len()), (1.0, 101));
        assert_eq!(curves[0].precision[60], 0.0, "half of the cats are found");
        assert!(curves[1].precision.iter().all(|value| *value == 0.0));
    }
}
