//! Scores of places and classes together, as FCOS ranks them.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::{Error, Result};

/// Joint score √(sigmoid(`class`) · sigmoid(`place`)) of two logits.
#[inline]
pub fn joint_score(class: f32, place: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    (sigmoid(class) * sigmoid(place)).sqrt()
}

/// Joint scores √(sigmoid(class) · sigmoid(place)) of every class at every place; 0 where the class's logit is below
/// `floor` or not a number: most are, and cost no exponential.
///
/// # Shapes
/// `classes` (M, K) logits, `places` (M, 1) logits; (M, K).
///
/// # Errors
/// If the shapes do not fit.
pub fn joint_scores(classes: &Tensor, places: &Tensor, floor: f32) -> Result<Tensor> {
    let (rows, columns) = classes.dims2()?;
    if places.dims() != [rows, 1] {
        let reason = format!("(M, K) and (M, 1) expected, got {:?} and {:?}", classes.dims(), places.dims());
        return Err(Error::invalid("joint_scores", reason));
    }
    dispatch::run(classes, JointScores { classes, places, rows, columns, floor })
}

/// Logits of classes (rows, columns) and of places (rows).
pub(super) struct JointScores<'a> {
    pub(super) classes: &'a Tensor,
    pub(super) places: &'a Tensor,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) floor: f32,
}

impl Host for JointScores<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { classes: like, places, rows, columns, floor } = self;
        let (classes, places) = (on_host(like)?, on_host(places)?);
        let (classes, places) = (elements(&classes)?, elements(&places)?);
        let (classes, places): (&[f32], &[f32]) = (&classes, &places);
        let mut scores = vec![0f32; rows * columns];
        let lines = scores.par_chunks_exact_mut(columns.max(1)).zip(classes.par_chunks_exact(columns.max(1)));
        lines.zip(places).for_each(|((scores, classes), &place)| {
            for (score, &class) in scores.iter_mut().zip(classes).filter(|(_, class)| **class >= floor) {
                *score = joint_score(class, place);
            }
        });
        from_elements(scores, (rows, columns), like)
    }
}
