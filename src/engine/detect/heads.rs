//! Dense heads of teacher and student in one step: the teacher's go on from the student's features.

use std::fmt;

use ckd_detectors::Detector;
use ckd_detectors::box_coder::{PointCoder, RegionCoder};
use ckd_detectors::detector::HeadMaps;
use ckd_detectors::regions::{Regions, Regression};
use ckd_kernels::Value;

use super::shares::Ledger;
use crate::distill::{Crossing, DistillError, Heads, Predictions, aligned};

/// Both networks and what they see in a step.
pub(super) struct BothHeads<'a> {
    pub(super) student: &'a Detector,
    pub(super) teacher: &'a Detector,
    pub(super) pyramid: &'a [Value],
    pub(super) teacher_pyramid: &'a [Value],
    pub(super) regions: &'a Regions,
    /// The teacher's predictions for all anchors.
    pub(super) predicted: Predictions,
    /// In a measured step, where lengths of gradients are noted.
    pub(super) ledger: Option<&'a Ledger>,
}

impl fmt::Debug for BothHeads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BothHeads of {} levels", self.pyramid.len())
    }
}

impl Heads for BothHeads<'_> {
    fn crossed(&self, convs: usize, entry: &str) -> Result<Crossing, DistillError> {
        let (Regions::Anchors { ignored, regression, .. }, images) =
            (self.regions, self.pyramid.first().map_or(0, |level| level.dims()[0]))
        else {
            return Err(DistillError::Lacks { method: "cross_kd", what: "anchors" });
        };
        let theirs = self.teacher.head_maps(self.teacher_pyramid, convs)?;
        let ours = match self.ledger {
            None => self.student.head_maps(self.pyramid, convs)?,
            Some(ledger) => {
                let watched: Vec<Value> =
                    self.pyramid.iter().map(|level| ledger.watch(level, entry)).collect();
                self.student.head_maps(&watched, convs)?
            }
        };
        let of = |theirs: &[Value], ours: &[Value]| {
            let levels = theirs.iter().zip(ours);
            levels.map(|(theirs, ours)| aligned(theirs.tensor(), ours)).collect::<Result<Vec<_>, _>>()
        };
        let maps = HeadMaps {
            classification: of(&theirs.classification, &ours.classification)?,
            regression: of(&theirs.regression, &ours.regression)?,
        };
        let (logits, deltas) = self.teacher.head_outputs(&maps, convs)?;
        let mut counts = vec![true; regression.references.len() * images];
        ignored.iter().for_each(|&row| counts[row as usize] = false);
        Ok(Crossing {
            crossed: Predictions { logits, deltas },
            teacher: self.predicted.clone(),
            anchors: regression.references.repeat(images),
            coder: regression.coder,
            counts,
            divisor: divisor(regression),
        })
    }
}

/// Divisor of CrossKD's sums: positive anchors of the batch, an image counted at least once; of points the centerness of
/// the positive ones, or 1 where there is none.
fn divisor(regression: &Regression) -> f64 {
    match regression.coder {
        RegionCoder::Deltas(_) => regression.divisor,
        RegionCoder::Distances if regression.truths.is_empty() => 1.0,
        RegionCoder::Distances => {
            regression.truths.iter().map(|(_, truth)| f64::from(PointCoder.centerness(*truth))).sum()
        }
    }
}
