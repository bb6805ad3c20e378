//! The dictionary of named tensors in a pickle, and what stands beside it.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::pickle::{Node, Pickled, Value};
use super::stored::StoredTensor;

/// Where a checkpoint keeps its state dict, if it is not one itself.
const KEYS: [&str; 5] = ["state_dict", "model", "model_state_dict", "net", "blobs"];

/// What wrappers put before all names: DataParallel, torch.compile.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Named tensors, and what a checkpoint says about them.
#[derive(Debug, Default)]
pub(super) struct StateDict {
    pub(super) tensors: Vec<StoredTensor>,
    pub(super) remarks: Remarks,
}

/// What a checkpoint says about its tensors.
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
    /// What it divides by afterwards.
    pub pixel_std: Option<[f32; 3]>,
}

/// Collects what `load` makes of the entries of the state dict in `pickled`; it gives `None` for what is no tensor.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn read(
    pickled: &Pickled,
    mut load: impl FnMut(&str, Value) -> Result<Option<StoredTensor>, String>,
) -> Result<StateDict, String> {
    let mut tensors = Vec::new();
    for &(key, value) in find(pickled)? {
        let Some(name) = pickled.text(key) else { continue };
        tensors.extend(load(name, value)?);
    }
    let around_all = |tensors: &[StoredTensor]| {
        let is_around = |wrapper: &&&str| tensors.iter().all(|tensor| tensor.name.starts_with(**wrapper));
        WRAPPERS.iter().find(is_around).filter(|_| !tensors.is_empty()).map(|wrapper| wrapper.len())
    };
    while let Some(length) = around_all(&tensors) {
        tensors.iter_mut().for_each(|tensor| tensor.name.replace_range(..length, ""));
    }
    Ok(StateDict { tensors, remarks: remarks(pickled) })
}

/// The dictionary that names tensors: the file's own, or one level down.
fn find<'p>(pickled: &'p Pickled) -> Result<&'p [(Value, Value)], String> {
    let holds_tensors =
        |items: &[(Value, Value)]| items.iter().any(|&(_, value)| looks_like_a_tensor(pickled, value));
    let top = pickled.dict(pickled.root).ok_or_else(|| {
        "it holds no state dict; a whole model is saved again with torch.save(model.state_dict(), FILE)"
            .to_owned()
    })?;
    if holds_tensors(top) {
        return Ok(top);
    }
    let below =
        |key: &&str| pickled.dict(pickled.entry(pickled.root, key)?).filter(|items| holds_tensors(items));
    KEYS.iter().find_map(below).ok_or_else(|| {
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
        format!(
            "it holds no state dict (looked at its top and under {}; there is {}){calls}",
            KEYS.join(", "),
            there.join(", ")
        )
    })
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
