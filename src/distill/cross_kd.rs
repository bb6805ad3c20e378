//! Cross-head knowledge distillation (CrossKD; Wang et al., CVPR 2024, arXiv 2306.11369): the teacher's frozen head goes on from
//! the student's features, and its predictions there, not the student's own, are to be the teacher's.
//!
//! For each head, level and channel, with h the result of convolution `reuse` before its ReLU, and mean and std over images and
//! cells (n - 1):
//!
//! ```text
//! a  = (h_s - mean_s) / std_s * std_t + mean_t                           gradient through mean_s and std_s
//! p  = the rest of the teacher's head, of relu(a)                        cross predictions; the teacher's weights are constants
//! class  = sum_j counts_j |sigmoid(p_j) - q_j|^beta BCE(p_j, q_j) / N    q = sigmoid(the teacher's logits), beta 1
//! boxes  = sum_j counts_j max_k q_jk (1 - GIoU(box of p_j, box of t_j)) / N
//! ```
//!
//! j runs over all anchors, counts_j is 0 for those between the matcher's thresholds, and N is the number of the batch's positive
//! anchors, an image counted at least once. Of FCOS j runs over all points (counts_j is 0 in ignored regions), -ln IoU stands for
//! 1 - GIoU, and N is the sum of the positive points' centerness. The student's own predictors learn from the task alone. A deviation
//! has 1e-6 under its root, so that a dead channel's gradient stays finite; the authors add 1e-6 to it.

use candle_core::{DType, Tensor};
use ckd_detectors::box_coder::RegionCoder;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::losses::quality_focal_loss;
use ckd_kernels::memory::numbers;
use ckd_kernels::norm::{NormEpilogue, batch_norm_train};
use ckd_kernels::ranking::row_maxima;
use ckd_settings::{Check, section};

use super::box_imitation::{BoxMeasure, imitated};
use super::distiller::{Crossing, DistillError, Distiller, Lesson, Term};
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::place::{Rows, RowsAt};

const NAME: &str = "cross_kd";

/// Under the root of a deviation.
const EPSILON: f64 = 1e-6;

section! {
    /// Cross-head distillation: the rest of the teacher's frozen heads goes on from the student's features, and what it predicts
    /// there is to be the teacher's own predictions. Teacher and student need heads of equal width.
    pub struct CrossKd with place: Rows {
        /// Weight of the term of classes; for FCOS its authors have 0.4.
        pub weight: f32 = 1.0,
        /// Weight of the term of boxes; 0 leaves it out. For FCOS its authors have 0.75.
        pub weight_boxes: f32 = 1.0,
        /// Convolutions of the student's heads that learn from it; the rest is the teacher's. 0: the pyramid alone learns. For FCOS
        /// its authors have 2.
        pub reuse: usize = 3,
        /// Exponent of the focus on classes that differ.
        pub beta: f32 = 1.0,
    }
}

impl CrossKd {
    fn check(&self, check: &mut Check<'_>) {
        check.not_negative("beta", self.beta.into());
    }
}

impl Method for CrossKd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Wang et al., CVPR 2024, arXiv 2306.11369";
    const ROWS: &'static [RowsAt] = &[RowsAt::AnchorBoxes];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_boxes", self.weight_boxes)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        Ok(Box::new(Crossed(self.clone())))
    }
}

#[derive(Debug)]
struct Crossed(CrossKd);

impl Distiller for Crossed {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.0.place.at.tap()]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let CrossKd { weight, weight_boxes, reuse, beta, .. } = self.0;
        let lacks = DistillError::Lacks { method: NAME, what: "dense heads of anchors" };
        let crossing = lesson.heads.ok_or(lacks)?.crossed(reuse, lesson.entry)?;
        let mut terms = Vec::new();
        if weight != 0.0 {
            let value = class_difference(&crossing, beta.into())?;
            terms.push(Term { name: format!("{NAME}/anchor_logits"), value, weight: weight.into() });
        }
        if weight_boxes != 0.0 {
            let value = box_difference(&crossing)?;
            terms.push(Term { name: format!("{NAME}/anchor_boxes"), value, weight: weight_boxes.into() });
        }
        Ok(terms)
    }
}

/// The student's map with the mean and deviation of the teacher's channels.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); the same.
///
/// # Errors
/// Shapes that differ.
pub fn aligned(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    let (n, c, h, w) = paired(NAME, teacher, student)?;
    let (zeros, ones) = (Tensor::zeros_like, Tensor::ones_like);
    let table = Tensor::zeros(c, DType::F32, teacher.device())?;
    let (gain, bias) = (Value::constant(ones(&table)?), Value::constant(zeros(&table)?));
    let constant = Value::constant(teacher.clone());
    let (_, own) = batch_norm_train(&constant, &gain, &bias, EPSILON, NormEpilogue::default())?;
    let values = (n * h * w).max(1) as f64;
    // Both deviations with n, whose ratio is that of those with n - 1.
    let biased = if values > 1.0 { (values - 1.0) / values } else { 1.0 };
    let deviation = Value::constant(own.unbiased_var.affine(biased, 0.0)?.sqrt()?);
    let mean = Value::constant(own.mean);
    Ok(batch_norm_train(student, &deviation, &mean, EPSILON, NormEpilogue::default())?.0)
}

/// The term of classes.
///
/// # Errors
/// Shapes that do not fit.
pub fn class_difference(crossing: &Crossing, beta: f64) -> Result<Value, DistillError> {
    let Crossing { crossed, teacher, counts, divisor, .. } = crossing;
    Ok(quality_focal_loss(&crossed.logits, teacher.logits.tensor(), counts, beta, *divisor)?)
}

/// The term of boxes.
///
/// # Errors
/// Shapes that do not fit.
pub fn box_difference(crossing: &Crossing) -> Result<Value, DistillError> {
    let Crossing { crossed, teacher, anchors, coder, counts, divisor } = crossing;
    let measure = match coder {
        RegionCoder::Deltas(_) => BoxMeasure::Giou,
        RegionCoder::Distances => BoxMeasure::LogIou,
    };
    let highest = numbers(&row_maxima(teacher.logits.tensor())?)?;
    let confidence = highest.iter().map(|logit| (1.0 + (-f64::from(*logit)).exp()).recip() as f32);
    let weights: Vec<f32> =
        confidence.zip(counts).map(|(confidence, counts)| if *counts { confidence } else { 0.0 }).collect();
    imitated(teacher.deltas.tensor(), &crossed.deltas, (anchors, *coder), &weights, measure, *divisor)
}
