//! Rows of box deltas that both networks have: of each proposal its class's, of anchors the compared ones.

use ckd_detectors::regions::{Regions, Regression};
use ckd_kernels::Value;
use ckd_kernels::elementwise::{reshape, rows};
use ckd_kernels::memory::numbers;

use crate::distill::BoxRows;
use crate::engine::Result;

/// Rows of the deltas of a detector's regions, and the ground truth beside them.
pub(super) struct DeltaRows {
    /// Rows of the deltas as (.., 4).
    taken: Vec<u32>,
    pub(super) truth: BoxRows,
}

impl DeltaRows {
    /// The rows at `regions`: of a proposal those of its class, or, of background, those of the teacher's likeliest class of
    /// objects; of anchors the `chosen` ones.
    ///
    /// # Shapes
    /// `teacher_logits` as of the regions.
    pub(super) fn of(regions: &Regions, teacher_logits: &Value, chosen: Option<&[u32]>) -> Result<Self> {
        let regression = regions.regression();
        let (coder, divisor) = (regression.coder, regression.divisor);
        Ok(match (regions, chosen) {
            (Regions::Anchors { .. }, Some(chosen)) => {
                let compared = rows(teacher_logits, chosen)?;
                let confidence = numbers(compared.tensor())?;
                let confidence = each_row(&confidence, &compared).map(|logits| {
                    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    (1.0 + (-f64::from(best)).exp()).recip() as f32
                });
                let count = regression.references.len().max(1);
                let references = chosen.iter().map(|&row| regression.references[row as usize % count]);
                Self {
                    taken: chosen.to_vec(),
                    truth: BoxRows {
                        references: references.collect(),
                        targets: targets(regression, chosen),
                        confidence: confidence.collect(),
                        divisor,
                        coder,
                    },
                }
            }
            _ => {
                let (values, labels) = (numbers(teacher_logits.tensor())?, regions.labels());
                let columns = teacher_logits.dims().last().copied().unwrap_or(0);
                let (mut taken, mut confidence) = (Vec::new(), Vec::new());
                for ((row, logits), &label) in (0..).zip(each_row(&values, teacher_logits)).zip(labels) {
                    let (likeliest, probability) = likeliest_object(logits);
                    let class = if label > 0 { label } else { likeliest };
                    taken.push(row * columns as u32 + class);
                    confidence.push(probability);
                }
                let all: Vec<u32> = (0..labels.len() as u32).collect();
                Self {
                    taken,
                    truth: BoxRows {
                        references: regression.references.clone(),
                        targets: targets(regression, &all),
                        confidence,
                        divisor,
                        coder,
                    },
                }
            }
        })
    }

    /// These rows of a detector's deltas.
    ///
    /// # Shapes
    /// (R, 4 (K + 1)) of proposals, (N·A, 4) of anchors; (R, 4).
    pub(super) fn take(&self, deltas: &Value) -> Result<Value> {
        let by_class = reshape(deltas, &[deltas.tensor().elem_count() / 4, 4])?;
        Ok(rows(&by_class, &self.taken)?)
    }
}

fn each_row<'a>(values: &'a [f32], matrix: &Value) -> impl Iterator<Item = &'a [f32]> {
    values.chunks_exact(matrix.dims().last().copied().unwrap_or(0).max(1))
}

/// Deltas to the true box of each of the ascending `rows`.
fn targets(regression: &Regression, rows: &[u32]) -> Vec<Option<[f32; 4]>> {
    let of = |row: &u32| {
        let found = regression.truths.binary_search_by_key(row, |(row, _)| *row);
        found.ok().map(|at| regression.truths[at].1)
    };
    rows.iter().map(of).collect()
}

/// The likeliest class of objects, and its probability, by logits with the background first.
fn likeliest_object(logits: &[f32]) -> (u32, f32) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = logits.iter().map(|logit| f64::from(logit - highest).exp());
    let total: f64 = exponentials.sum();
    let mut best = (1, f32::NEG_INFINITY);
    for (class, &logit) in (1..).zip(logits.iter().skip(1)) {
        if logit > best.1 {
            best = (class, logit);
        }
    }
    (best.0, (f64::from(best.1 - highest).exp() / total) as f32)
}
