//! Whose gradient moves a backbone: the length, over all its weights, of the gradient of each method alone.
//!
//! There is no loss of a task beside the methods; of one method there is nothing to compare.

use std::collections::BTreeMap;

use ckd_kernels::Gradients;

use super::pass::pass_of;
use super::sources::UnlabelledSets;
use crate::data::LabelledBatch;
use crate::engine::Result;
use crate::engine::classify::{length_at, to_device};
use crate::engine::task::Setting;

/// The length of the gradient at the student's weights of each method that counts at `step`, where there are several.
pub(super) fn gradient_norms(
    setting: &Setting<'_, UnlabelledSets>,
    mut batch: LabelledBatch,
    step: u64,
) -> Result<BTreeMap<String, f64>> {
    let methods = setting.lessons.iter().flat_map(|lessons| lessons.counting(step));
    let labels: Vec<&str> = methods.map(|(label, _)| label).collect();
    let mut norms = BTreeMap::new();
    if labels.len() < 2 {
        return Ok(norms);
    }
    let images = to_device(&mut batch, setting.device)?;
    for label in labels {
        let mut gradients = Gradients::new();
        pass_of(Some(label), setting, (&images, &batch), step, &mut gradients)?;
        norms.insert(label.to_owned(), length_at(setting.student.params(), &gradients)?);
    }
    Ok(norms)
}
