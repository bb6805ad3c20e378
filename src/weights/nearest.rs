//! The known network that unrecognised tensors are nearest to, and the layers in which they differ.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_detectors::classifier::Architecture;
use ckd_detectors::param::Builder;

/// Shapes of a network's tensors, by name.
type Shapes = BTreeMap<String, Vec<usize>>;

/// Describes the nearest known classifier to `tensors`, if more than half of the tensors of both are the same.
pub(super) fn nearest(tensors: &BTreeMap<String, Tensor>) -> Option<String> {
    let theirs: Shapes =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let (architecture, ours, shared) = Architecture::ALL
        .iter()
        .filter_map(|&architecture| {
            let ours = shapes(architecture)?;
            let shared = ours.iter().filter(|&(name, shape)| theirs.get(name) == Some(shape)).count();
            Some((architecture, ours, shared))
        })
        .max_by_key(|(_, ours, shared)| shared * 1000 / (ours.len() + theirs.len() - shared).max(1))?;
    if 2 * shared <= ours.len() + theirs.len() - shared {
        return None;
    }
    let (lacks, has) = (only_in(&ours, &theirs), only_in(&theirs, &ours));
    let mut described = format!("it is nearest to {architecture}");
    if !lacks.is_empty() {
        described += &format!(", of which it lacks {}", listed(&lacks));
    }
    if !has.is_empty() {
        described += &format!(", and has {} beside it", listed(&has));
    }
    if let Some(renames) = renames((&lacks, &ours), (&has, &theirs)) {
        described += &format!("; if these are the same layers, say --rename {renames}");
    }
    Some(described)
}

/// Shapes of `architecture` for ten classes.
fn shapes(architecture: Architecture) -> Option<Shapes> {
    let network = architecture.build(Builder::outline(), 10).ok()?;
    let shape = |(name, param): (&std::sync::Arc<str>, &ckd_detectors::param::Param)| {
        (name.to_string(), param.value.dims().to_vec())
    };
    Some(network.params().iter().map(shape).collect())
}

/// Layers with a tensor that `other` has not.
fn only_in(of: &Shapes, other: &Shapes) -> BTreeSet<String> {
    let layer = |name: &String| name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer).to_owned();
    of.keys().filter(|name| !other.contains_key(*name)).map(layer).collect()
}

fn listed(layers: &BTreeSet<String>) -> String {
    let mut some: Vec<&str> = layers.iter().take(6).map(String::as_str).collect();
    if layers.len() > some.len() {
        some.push("...");
    }
    some.join(", ")
}

/// The renaming of `has` to `lacks` as `--rename` takes it, if there is one: each layer has tensors of the same
/// names and shapes as one other alone. Rows of the last layer, one a class, may differ in number.
fn renames(
    (lacks, ours): (&BTreeSet<String>, &Shapes),
    (has, theirs): (&BTreeSet<String>, &Shapes),
) -> Option<String> {
    if lacks.is_empty() || lacks.len() != has.len() {
        return None;
    }
    let form = |layer: &String, shapes: &Shapes| -> Vec<(String, Vec<usize>)> {
        let within = format!("{layer}.");
        let tensor = |(name, shape): (&String, &Vec<usize>)| {
            let is_head = shapes.contains_key(&format!("{layer}.bias"))
                && shapes.get(&format!("{layer}.weight")).is_some_and(|weight| weight.len() == 2);
            let shape = if is_head { shape[1..].to_vec() } else { shape.clone() };
            Some((name.strip_prefix(&within)?.to_owned(), shape))
        };
        shapes.iter().filter_map(tensor).collect()
    };
    let pair = |theirs_of: &String| {
        let form_of = form(theirs_of, theirs);
        let mut same = lacks.iter().filter(|ours_of| form(ours_of, ours) == form_of);
        match (same.next(), same.next()) {
            (Some(one), None) => Some(format!("{theirs_of}={one}")),
            _ => None,
        }
    };
    Some(has.iter().map(pair).collect::<Option<Vec<_>>>()?.join(","))
}
