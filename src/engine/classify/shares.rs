//! Whose gradient moves a classifier: the length, over all its weights, of the gradient of each part of its loss alone.
//!
//! Its parts meet nowhere but in the weights (one method looks at a stage, another at the logits), so a measured step
//! walks through the network once for each. Running statistics, which those walks would move, stay: the step itself is as if
//! it had not been measured.

use std::collections::BTreeMap;
use std::iter::once;

use ckd_detectors::classifier::Classifier;
use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use ckd_kernels::deferred::collected;
use ckd_kernels::sgd::squared_norm;

use crate::engine::Result;
use crate::engine::distillation::Distillation;

/// Selection of the terms of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// All terms.
    All,
    /// The classification loss.
    Task,
    /// The terms of the method of this label.
    Method(&'a str),
}

/// The name of the loss of the true classes.
const CLASSIFICATION: &str = "classification";

/// The length of the gradient at the weights of `student` of each part's pass at `step`.
pub(super) fn gradient_norms(
    student: &ParamStore,
    lessons: &Distillation<Classifier>,
    step: u64,
    gradients_of: impl Fn(Part<'_>) -> Result<Gradients>,
) -> Result<BTreeMap<String, f64>> {
    let parts = once((CLASSIFICATION, Part::Task))
        .chain(lessons.labels(step).map(|label| (label, Part::Method(label))));
    let mut norms = BTreeMap::new();
    for (name, part) in parts {
        let (gradients, _unmade) = collected(|| gradients_of(part));
        let gradients = gradients?;
        let own: Vec<_> = student.trainable().filter_map(|(weight, _)| gradients.get(weight)).collect();
        norms.insert(name.to_owned(), squared_norm(&own)?.sqrt());
    }
    Ok(norms)
}
