//! The dictionary of named tensors in a pickle, and what stands beside it.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::pickle::{Node, Pickled, Value};
use super::stored::StoredTensor;

/// Keys of the state dict in a checkpoint that is not one itself, the likeliest first.
const KEYS: [&str; 12] = [
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "blobs",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
];

/// Named tensors, and what a checkpoint says about them.
#[derive(Debug, Default)]
pub(super) struct StateDict {
    pub(super) tensors: Vec<StoredTensor>,
    pub(super) remarks: Remarks,
}

/// Remarks of a checkpoint on its tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remarks {
    /// Detectron2's `__author__`: who trained it, and so by which conventions.
    pub author: Option<String>,
    /// MMDetection's class names.
    pub classes: Vec<String>,
    /// MMDetection's configuration, a Python text.
    pub config: Option<String>,
    /// Detectron2's mean of pixels, from 0 to 255, in the order of its colours.
    pub pixel_mean: Option<[f32; 3]>,
    /// Detectron2's divisor of pixels after the mean is subtracted.
    pub pixel_std: Option<[f32; 3]>,
}

/// Collects what `load` makes of the entries of the state dict in `pickled`; it gives `None` for what is no tensor.
/// `under` names the state dict's key, where a checkpoint has several.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn read(
    pickled: &Pickled,
    under: Option<&str>,
    mut load: impl FnMut(&str, Value) -> Result<Option<StoredTensor>, String>,
) -> Result<StateDict, String> {
    let mut tensors = Vec::new();
    for &(key, value) in find(pickled, under)? {
        let Some(name) = pickled.text(key) else { continue };
        tensors.extend(load(name, value)?);
    }
    Ok(StateDict { tensors, remarks: remarks(pickled) })
}

/// A dictionary with tensors in it.
struct Candidate<'p> {
    /// Dotted key of the dictionary; empty for the file's own.
    path: String,
    items: &'p [(Value, Value)],
    tensors: usize,
}

/// The dictionary that names tensors: the file's own, or one up to three levels down.
///
/// A checkpoint may keep a number as a tensor beside the state dict, so a dictionary further down counts where it has
/// more tensors: one under a known key, else the one that has by far the most. Numbers may even be more than those under a
/// known key (logged losses), though not many times more.
fn find<'p>(pickled: &'p Pickled, under: Option<&str>) -> Result<&'p [(Value, Value)], String> {
    let top = pickled.dict(pickled.root).ok_or_else(|| {
        "it holds no state dict; a whole model is saved again with torch.save(model.state_dict(), FILE)"
            .to_owned()
    })?;
    let own = count(pickled, top);
    let mut candidates = Vec::new();
    below(pickled, top, "", 3, &mut candidates);
    if let Some(under) = under {
        let meant = candidates.iter().find(|candidate| candidate.path == under);
        return meant
            .map(|meant| meant.items)
            .ok_or_else(|| format!("it has no state dict under {under}; there {}", listed(&candidates)));
    }
    let is_large = |candidate: &&Candidate<'_>| candidate.tensors > 1 && 10 * candidate.tensors > own;
    let known = |key: &&str| candidates.iter().filter(is_large).find(|candidate| candidate.path == **key);
    if let Some(known) = KEYS.iter().find_map(known) {
        return Ok(known.items);
    }
    candidates.retain(|candidate| candidate.tensors > own);
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.tensors));
    match candidates.as_slice() {
        [] if own > 0 => Ok(top),
        [] => Err(nothing_in(pickled, top)),
        [only] => Ok(only.items),
        [most, next, ..] if most.tensors > 2 * next.tensors => Ok(most.items),
        several => {
            Err(format!("it has several state dicts: there {}; say which with --under KEY", listed(several)))
        }
    }
}

/// The dictionaries with tensors in `items`, down to `depth` levels.
fn below<'p>(
    pickled: &'p Pickled,
    items: &'p [(Value, Value)],
    path: &str,
    depth: usize,
    found: &mut Vec<Candidate<'p>>,
) {
    for &(key, value) in items {
        let (Some(key), Some(items)) = (pickled.text(key), pickled.dict(value)) else { continue };
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let tensors = count(pickled, items);
        if depth > 1 && tensors == 0 {
            below(pickled, items, &path, depth - 1, found);
        } else if tensors > 0 {
            found.push(Candidate { path, items, tensors });
        }
    }
}

fn count(pickled: &Pickled, items: &[(Value, Value)]) -> usize {
    items.iter().filter(|&&(_, value)| looks_like_a_tensor(pickled, value)).count()
}

fn listed(candidates: &[Candidate<'_>]) -> String {
    let described = |candidate: &Candidate<'_>| format!("{} ({} tensors)", candidate.path, candidate.tensors);
    match candidates {
        [] => "is none".to_owned(),
        _ => format!("are {}", candidates.iter().map(described).collect::<Vec<_>>().join(", ")),
    }
}

/// The error of a file without a state dict, with what there is instead.
fn nothing_in(pickled: &Pickled, top: &[(Value, Value)]) -> String {
    let there: Vec<&str> = top.iter().take(8).filter_map(|&(key, _)| pickled.text(key)).collect();
    let called: BTreeSet<String> = pickled
        .nodes()
        .iter()
        .filter_map(|node| match *node {
            Node::Call { function, .. } => pickled.global(function),
            _ => None,
        })
        .map(|(module, name)| format!("{module}.{name}"))
        .collect();
    let calls = match called.len() {
        0 => String::new(),
        _ => {
            let some: Vec<&str> = called.iter().take(4).map(String::as_str).collect();
            format!("; it asks for calls of {}, and nothing in a file is called here", some.join(", "))
        }
    };
    format!("it holds no state dict, at its top or below (there is {}){calls}", there.join(", "))
}

/// Whether the value is made by one of the functions that make tensors and arrays; whether it is whole is seen later.
fn looks_like_a_tensor(pickled: &Pickled, value: Value) -> bool {
    let function = pickled.call(value).map(|(function, ..)| function);
    function.is_some_and(|(module, name)| match module {
        "torch._utils" => name.starts_with("_rebuild_tensor") || name.starts_with("_rebuild_parameter"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => name == "_reconstruct",
        "numpy.core.numeric" | "numpy._core.numeric" => name == "_frombuffer",
        _ => false,
    })
}

fn remarks(pickled: &Pickled) -> Remarks {
    let text = |value: Option<Value>| value.and_then(|value| pickled.text(value)).map(str::to_owned);
    let author = text(pickled.entry(pickled.root, "__author__"));
    let Some(meta) = pickled.entry(pickled.root, "meta") else {
        return Remarks { author, ..Remarks::default() };
    };
    // MMDetection 2 and 3.
    let of_data = pickled.entry(meta, "dataset_meta").unwrap_or(meta);
    let classes = ["CLASSES", "classes"].iter().find_map(|key| pickled.items(pickled.entry(of_data, key)?));
    let names = |items: &[Value]| items.iter().map(|&item| Some(pickled.text(item)?.to_owned())).collect();
    Remarks {
        author,
        classes: classes.and_then(names).unwrap_or_default(),
        config: text(pickled.entry(meta, "config").or_else(|| pickled.entry(meta, "cfg"))),
        ..Remarks::default()
    }
}

/// Mean or deviation of a pixel, which Detectron2 keeps beside the weights.
pub(super) fn pixel_values(tensors: &BTreeMap<String, Tensor>, name: &str) -> Option<[f32; 3]> {
    let values = tensors.get(name)?.flatten_all().ok()?.to_vec1::<f32>().ok()?;
    values.try_into().ok()
}
