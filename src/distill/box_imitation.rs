//! Imitation of the teacher's boxes, weighted by its confidence: the general form behind the box terms of CrossKD (Wang et al.,
//! CVPR 2024, arXiv 2306.11369) and its kin.
//!
//! With s_i and t_i the deltas of student and teacher from the same region i (of FCOS's points, the distances of the four sides):
//!
//! ```text
//! w_i = mask_i conf_i                    conf_i: the teacher's probability of its likeliest class of objects
//! r_i = sum_4 |s_i - t_i|   |   sum_4 smooth L1(s_i - t_i)   |   1 - GIoU(box of s_i, box of t_i)
//! loss = sum_i w_i r_i / Z               Z = max(number of objects' regions, 1)   |   sum_i w_i
//! ```

use candle_core::Tensor;
use ckd_detectors::box_coder::RegionCoder;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::rows;
use ckd_kernels::losses::{Divisor, giou_loss, log_iou_loss, smooth_l1};
use ckd_kernels::memory::numbers;
use ckd_settings::{Check, choices, section};

use super::distiller::{DistillError, Distiller, box_rows};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::rows::paired;
use super::scalar::nothing;

const NAME: &str = "box_imitation";

choices! {
    /// Distance of the student's box from the teacher's.
    pub enum BoxDistance {
        /// 1 - GIoU of the boxes (Rezatofighi et al. 2019).
        Giou = "giou",
        /// Sum of the absolute differences of the deltas.
        L1 = "l1",
        /// Smooth L1 of the deltas.
        SmoothL1 = "smooth_l1",
    }
}

choices! {
    /// Regions whose boxes are imitated.
    pub enum Imitated {
        /// Regions that are an object's.
        Positives = "positives",
        /// All regions; the teacher's confidence selects.
        All = "all",
    }
}

choices! {
    /// Divisor of the weighted sum.
    pub enum Normalizer {
        /// Number of regions that are an object's, at least 1.
        Positives = "positives",
        /// Sum of the weights.
        Confidence = "confidence",
    }
}

section! {
    /// Imitation of the teacher's boxes: the distance of the student's box from the teacher's, from the same region, weighted by
    /// the teacher's confidence.
    pub struct BoxImitation with place: Rows {
        /// Weight in the total loss: 1 with "giou", and with "l1" on RetinaNet's deltas; 0.1 to 0.2 with "l1" on Faster R-CNN's,
        /// which are 5 to 10 times as long.
        pub weight: f32 = 1.0,
        /// Distance of two boxes.
        pub distance: BoxDistance = BoxDistance::Giou,
        /// With distance = "smooth_l1": below this difference it is squared.
        pub beta: f32 = 0.111_111_11,
        /// Regions whose boxes are imitated.
        pub regions: Imitated = Imitated::Positives,
        /// Divisor of the weighted sum.
        pub normalizer: Normalizer = Normalizer::Positives,
    }
}

impl BoxImitation {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("beta", self.beta.into());
    }

    fn measure(&self) -> BoxMeasure {
        match self.distance {
            BoxDistance::Giou => BoxMeasure::Giou,
            BoxDistance::L1 => BoxMeasure::SmoothL1(0.0),
            BoxDistance::SmoothL1 => BoxMeasure::SmoothL1(self.beta.into()),
        }
    }
}

impl Method for BoxImitation {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "general form; CrossKD's box term, Wang et al., arXiv 2306.11369";
    const ROWS: &'static [RowsAt] = RowsAt::BOXES;

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (measure, regions, normalizer) = (self.measure(), self.regions, self.normalizer);
        let rows = OnRows::new(NAME, &self.place);
        Ok(Box::new(rows.term(self.weight.into(), move |teacher, student, lesson| {
            let truth = box_rows(NAME, lesson)?;
            let counts = |target: &Option<[f32; 4]>| target.is_some() || regions == Imitated::All;
            let weights: Vec<f32> = (truth.targets.iter().zip(&truth.confidence))
                .map(|(target, confidence)| if counts(target) { *confidence } else { 0.0 })
                .collect();
            let divisor = match normalizer {
                Normalizer::Positives => truth.targets.iter().flatten().count().max(1) as f64,
                Normalizer::Confidence => sum_of_weights(&weights),
            };
            imitated(teacher, student, (truth.references.as_slice(), truth.coder), &weights, measure, divisor)
        })))
    }
}

/// Distance of two boxes as [`imitated`] takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BoxMeasure {
    /// Smooth L1 of the deltas with this beta; 0: their absolute differences.
    SmoothL1(f64),
    /// 1 - GIoU of the boxes.
    Giou,
    /// -ln IoU of the boxes.
    LogIou,
}

/// Sum of weights as a divisor, which is never 0.
pub fn sum_of_weights(weights: &[f32]) -> f64 {
    weights.iter().map(|weight| f64::from(*weight)).sum::<f64>().max(1e-12)
}

/// Weighted sum of the distances of the student's boxes from the teacher's, over `divisor`; exactly 0 where all weights are.
///
/// # Shapes
/// `teacher` and `student` (R, 4), deltas from R references; R `weights`; a scalar.
///
/// # Errors
/// Shapes that do not fit; a divisor that is not positive.
pub fn imitated(
    teacher: &Tensor,
    student: &Value,
    (references, coder): (&[Xyxy], RegionCoder),
    weights: &[f32],
    measure: BoxMeasure,
    divisor: f64,
) -> Result<Value, DistillError> {
    let (count, columns) = paired(NAME, teacher, student)?;
    let fits = count == weights.len() && count == references.len() && (count == 0 || columns == 4);
    if !fits {
        let (dims, regions) = (student.dims(), references.len());
        let reason = format!("deltas {dims:?} for {regions} regions and {} weights", weights.len());
        return Err(DistillError::invalid(NAME, reason));
    }
    let on: Vec<u32> = (0..).zip(weights).filter(|(_, weight)| **weight != 0.0).map(|(row, _)| row).collect();
    if on.is_empty() {
        return nothing(student);
    }
    let theirs = numbers(teacher)?;
    let (theirs, _) = theirs.as_chunks::<4>();
    let own = rows(student, &on)?;
    let each = on.iter().map(|&row| row as usize);
    // Each row is a part of its own: the divisor over its weight.
    let parts: Vec<(usize, f64)> = each.clone().map(|row| (1, divisor / f64::from(weights[row]))).collect();
    if let BoxMeasure::SmoothL1(beta) = measure {
        let wanted: Vec<[f32; 4]> = each.map(|row| theirs[row]).collect();
        return Ok(smooth_l1(&own, &wanted, beta, Divisor::Parts(&parts))?);
    }
    let wanted: Vec<Xyxy> = each.clone().map(|row| coder.decode(&theirs[row], &references[row])).collect();
    let references: Vec<Xyxy> = each.map(|row| references[row]).collect();
    let boxes = coder.decode_rows(&own, &references)?;
    let divisor = Divisor::Parts(&parts);
    Ok(match measure {
        BoxMeasure::LogIou => log_iou_loss(&boxes, &wanted, divisor)?,
        _ => giou_loss(&boxes, &wanted, divisor)?,
    })
}
