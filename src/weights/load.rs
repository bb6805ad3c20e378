//! Named tensors into a network.

use std::collections::BTreeMap;
use std::fmt::Write;

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;

use super::{WeightsError, WeightsFile};

/// The prefix of a detector's trunk.
pub const BODY: &str = "backbone.body.";

/// Loads every tensor of the network, and nothing else.
///
/// # Errors
/// Errors of [`check`].
pub fn strict(params: &ParamStore, file: &WeightsFile) -> Result<(), WeightsError> {
    check(params, file)?;
    for (name, _) in params.iter() {
        params.set(name, &file.tensors[&**name])?;
    }
    Ok(())
}

/// Checks that a file has the network's tensors and no others. The network may be an outline
/// ([`Builder::outline`](ckd_detectors::param::Builder::outline)).
///
/// # Errors
/// Lists every missing, unexpected and mis-shaped name. Batch norms' `num_batches_tracked` is not missed.
pub fn check(params: &ParamStore, file: &WeightsFile) -> Result<(), WeightsError> {
    let mut report = Report::default();
    for (name, param) in params.iter() {
        match file.tensors.get(&**name) {
            None => report.missing.push(name.to_string()),
            Some(tensor) => report.compare(name, param.value.dims(), tensor.dims(), file),
        }
    }
    let unknown = |name: &&String| params.get(name).is_none() && !name.ends_with("num_batches_tracked");
    report.unexpected.extend(file.tensors.keys().filter(unknown).cloned());
    report.finish(file)?;
    file.check_finite()
}

/// Loads the trunk, and whatever else fits: the start of a student.
///
/// Takes a classification network (`conv1.weight`, `layer1...` or `features.0.0.weight` ...; its `fc` or
/// `classifier` is left out) or a detector. The trunk must be whole. Returns the names that keep their random values,
/// which are the parts that the file lacks or has for other classes.
pub fn init(params: &ParamStore, file: &WeightsFile) -> Result<Vec<String>, WeightsError> {
    let is_detector = file.tensors.keys().any(|name| name.starts_with(BODY));
    let given: BTreeMap<String, &Tensor> = file
        .tensors
        .iter()
        .filter(|(name, _)| {
            let classifies = name.starts_with("fc.") || name.starts_with("classifier.");
            !name.ends_with("num_batches_tracked") && (is_detector || !classifies)
        })
        .map(|(name, tensor)| {
            let in_detector = || format!("{BODY}{}", name.strip_prefix("features.").unwrap_or(name));
            (if is_detector { name.clone() } else { in_detector() }, tensor)
        })
        .collect();
    let mut report = Report::default();
    let mut random = Vec::new();
    let mut fitting = Vec::new();
    for (name, param) in params.iter() {
        let in_body = name.starts_with(BODY);
        match given.get(&**name) {
            Some(tensor) if tensor.dims() == param.value.dims() => fitting.push((name, *tensor)),
            Some(tensor) if in_body => report.compare(name, param.value.dims(), tensor.dims(), file),
            None if in_body => report.missing.push(name.to_string()),
            Some(_) | None => random.push(name.to_string()),
        }
    }
    report.unexpected.extend(given.keys().filter(|name| params.get(name).is_none()).cloned());
    report.finish(file)?;
    file.check_finite()?;
    for (name, tensor) in fitting {
        params.set(name, tensor)?;
    }
    Ok(random)
}

#[derive(Default)]
struct Report {
    missing: Vec<String>,
    unexpected: Vec<String>,
    shapes: Vec<String>,
}

impl Report {
    fn compare(&mut self, name: &str, network: &[usize], tensor: &[usize], file: &WeightsFile) {
        if network != tensor {
            let origin = file.names.origins.get(name).map(|origin| format!(" as {origin}"));
            let origin = origin.unwrap_or_default();
            self.shapes.push(format!("{name}: {network:?} in the network, {tensor:?} in the file{origin}"));
        }
    }

    fn finish(self, file: &WeightsFile) -> Result<(), WeightsError> {
        let mut report = String::new();
        let parts = [
            ("missing from the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("of another shape", self.shapes),
        ];
        for (what, names) in parts {
            if !names.is_empty() {
                let _ = write!(report, "\n  {} {what}:\n    {}", names.len(), names.join("\n    "));
            }
        }
        match report.is_empty() {
            true => Ok(()),
            false => Err(WeightsError::Mismatch { path: file.path.clone(), report }),
        }
    }
}
