//! Whose gradient moves a classifier: the length, over all its weights, of the gradient of each part of its loss alone.
//!
//! Its parts meet nowhere but in the weights (one method looks at a stage, another at the logits), so a measured step
//! walks through the network once for each.

use std::collections::BTreeMap;
use std::iter::once;

use ckd_detectors::param::ParamStore;
use ckd_kernels::Gradients;
use ckd_kernels::sgd::squared_norm;

use super::network::to_device;
use super::pass::{Part, pass_of};
use super::sources::LabelledSets;
use crate::data::LabelledBatch;
use crate::engine::Result;
use crate::engine::task::Setting;

/// The name of the loss of the true classes.
const CLASSIFICATION: &str = "classification";

/// The length of the gradient at the student's weights of each part of the loss of `batch` at `step`.
pub(super) fn gradient_norms(
    setting: &Setting<'_, LabelledSets>,
    mut batch: LabelledBatch,
    step: u64,
) -> Result<BTreeMap<String, f64>> {
    let images = to_device(&mut batch, setting.device)?;
    let methods = setting.lessons.iter().flat_map(|lessons| lessons.counting(step));
    let parts =
        once((CLASSIFICATION, Part::Task)).chain(methods.map(|(label, _)| (label, Part::Method(label))));
    let mut norms = BTreeMap::new();
    for (name, part) in parts {
        let mut gradients = Gradients::new();
        pass_of(part, setting, (&images, &batch), step, &mut gradients)?;
        norms.insert(name.to_owned(), length_at(setting.student.params(), &gradients)?);
    }
    Ok(norms)
}

/// The length of `gradients` over all trained weights of a network.
pub(in crate::engine) fn length_at(network: &ParamStore, gradients: &Gradients) -> Result<f64> {
    let own: Vec<_> = network.trainable().filter_map(|(weight, _)| gradients.get(weight)).collect();
    Ok(squared_norm(&own)?.sqrt())
}
