//! The known networks behind prefixes of unrecognised tensors, and the one that they are nearest to.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_detectors::backbone::Backbone;
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

/// Most prefixes that are tried.
const MOST_PREFIXES: usize = 64;

/// Names the prefixes, of one or two parts, behind which the names of a known network begin: a wrapper's, or those of
/// several networks in one file.
pub(super) fn below_prefixes(tensors: &BTreeMap<String, Tensor>) -> Option<String> {
    let parts = |name: &String| -> Vec<String> {
        let mut dots = name.match_indices('.').map(|(at, _)| name[..at].to_owned());
        [dots.next(), dots.next()].into_iter().flatten().collect()
    };
    let prefixes: BTreeSet<String> = tensors.keys().flat_map(parts).collect();
    if prefixes.len() > MOST_PREFIXES {
        return None;
    }
    let mut known: Vec<(String, String)> = Vec::new();
    for prefix in prefixes {
        // What a network has in it is no network of its own.
        if known.iter().any(|(outer, _)| prefix.starts_with(&format!("{outer}."))) {
            continue;
        }
        let within = |(name, tensor): (&String, &Tensor)| {
            let rest = name.strip_prefix(&prefix)?.strip_prefix('.')?;
            Some((rest.to_owned(), tensor.dims().to_vec()))
        };
        let shapes: Shapes = tensors.iter().filter_map(within).collect();
        known.extend(network(&shapes).map(|network| (prefix, network)));
    }
    let named: Vec<String> =
        known.iter().map(|(prefix, network)| format!("{network} behind {prefix}.")).collect();
    let options: Vec<String> = known.iter().map(|(prefix, _)| format!("--strip {prefix}")).collect();
    (!known.is_empty()).then(|| format!("there is {}: say {}", named.join(", and "), options.join(" or ")))
}

/// The network of these shapes, if it is known: a classifier or the trunk of a detector.
fn network(shapes: &Shapes) -> Option<String> {
    let body = |shapes: &Shapes| -> Shapes {
        let within = |(name, shape): (&String, &Vec<usize>)| {
            Some((name.strip_prefix("backbone.body.")?.to_owned(), shape.clone()))
        };
        shapes.iter().filter_map(within).collect()
    };
    if let Ok(Some((architecture, _))) = Architecture::of_small_images(|name| shapes.get(name).cloned()) {
        return Some(format!("a {architecture}"));
    }
    let trunk = |shapes: &Shapes| Some(Backbone::recognise(shapes).ok()??.backbone.name());
    let alone = trunk(shapes).map(|name| format!("a {name}"));
    alone.or_else(|| Some(format!("a detector on a {}", trunk(&body(shapes))?)))
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
