//! Which tensors of a file are meant, and their names: what a person can say where a file cannot.

use std::collections::BTreeSet;

use super::stored::StoredTensor;

/// Choice of a state dict within a file, and changes of its names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Key of the state dict in a pickled file, dotted where it is nested: `ema`, `student.state_dict`.
    pub under: Option<String>,
    /// Prefix of the tensors that are meant, which is taken off. Other tensors are left out.
    pub strip: Option<String>,
    /// Layers by their name in the file and their name here: (`conv`, `conv1`) makes `conv.weight` `conv1.weight`.
    pub rename: Vec<(String, String)>,
}

/// Prefixes that wrappers put before all names: DataParallel, torch.compile, Lightning and other trainers.
const WRAPPERS: [&str; 5] = ["module.", "_orig_mod.", "model.", "net.", "network."];

/// Counter that `torch.optim.swa_utils.AveragedModel` keeps beside its module.
const AVERAGED: &str = "n_averaged";

/// Prefix of the averages that MMDetection's EMA hook keeps beside the weights, their dots as underscores.
const EMA_BUFFER: &str = "ema_";

impl Selection {
    /// Applies the choice to `tensors`. Wrappers around all names are taken off unless a prefix is given.
    ///
    /// # Errors
    /// A prefix or a layer that no tensor has; two tensors that get one name.
    pub(super) fn apply(&self, tensors: &mut Vec<StoredTensor>) -> Result<(), String> {
        match &self.strip {
            Some(prefix) => strip(tensors, prefix)?,
            None => unwrap(tensors),
        }
        leave_out_averages(tensors);
        for (theirs, ours) in &self.rename {
            let mut found = false;
            for tensor in tensors.iter_mut() {
                let rest = tensor.name.strip_prefix(theirs).filter(|rest| rest.starts_with('.'));
                if let Some(rest) = rest {
                    tensor.name = format!("{ours}{rest}");
                    found = true;
                }
            }
            if !found {
                return Err(format!(
                    "no tensor is of a layer {theirs}, which --rename {theirs}={ours} wants"
                ));
            }
        }
        let mut names = BTreeSet::new();
        match tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            Some(twice) if !self.rename.is_empty() => {
                Err(format!("--rename gives two tensors the name {}", twice.name))
            }
            _ => Ok(()),
        }
    }
}

fn strip(tensors: &mut Vec<StoredTensor>, prefix: &str) -> Result<(), String> {
    let prefix = prefix.trim_end_matches('.');
    tensors.retain_mut(|tensor| {
        let rest = tensor.name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        let rest = rest.map(str::to_owned);
        rest.map(|rest| tensor.name = rest).is_some()
    });
    match tensors.is_empty() {
        true => Err(format!("no tensor's name begins with {prefix}., which --strip {prefix} wants")),
        false => Ok(()),
    }
}

fn unwrap(tensors: &mut Vec<StoredTensor>) {
    loop {
        let named = || tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| *name != AVERAGED);
        // The layers of MobileNetV1 are `model.0`, `model.1`, ...
        let goes_on = |rest: &str| !rest.starts_with(|first: char| first.is_ascii_digit());
        let is_around =
            |wrapper: &&&str| named().all(|name| name.strip_prefix(**wrapper).is_some_and(goes_on));
        let Some(wrapper) = WRAPPERS.iter().find(is_around).filter(|_| named().next().is_some()) else {
            return;
        };
        tensors.retain(|tensor| tensor.name != AVERAGED);
        tensors.iter_mut().for_each(|tensor| tensor.name.replace_range(..wrapper.len(), ""));
    }
}

fn leave_out_averages(tensors: &mut Vec<StoredTensor>) {
    if !tensors.iter().any(|tensor| tensor.name.starts_with(EMA_BUFFER)) {
        return;
    }
    let averaged: BTreeSet<String> =
        tensors.iter().map(|tensor| format!("{EMA_BUFFER}{}", tensor.name.replace('.', "_"))).collect();
    tensors.retain(|tensor| !averaged.contains(&tensor.name));
}

#[cfg(test)]
mod tests {
    use super::super::stored::{Entry, NumberType};
    use super::*;

    fn names_after(selection: &Selection, names: &[&str]) -> Result<Vec<String>, String> {
        let tensor = |name: &&str| StoredTensor {
            name: (*name).to_owned(),
            entry: Entry { number: NumberType::F32, shape: Vec::new() },
            values: None,
        };
        let mut tensors = names.iter().map(tensor).collect();
        selection.apply(&mut tensors)?;
        Ok(tensors.into_iter().map(|tensor| tensor.name).collect())
    }

    #[test]
    fn wrappers_around_all_names_are_taken_off_and_those_around_some_are_not() {
        let of = |names: &[&str]| names_after(&Selection::default(), names).unwrap();
        assert_eq!(of(&["module.model.conv1.weight", "module.model.fc.bias"]), ["conv1.weight", "fc.bias"]);
        assert_eq!(of(&["n_averaged", "module.conv1.weight"]), ["conv1.weight"]);
        assert_eq!(
            of(&["model.conv1.weight", "criterion.weight"]),
            ["model.conv1.weight", "criterion.weight"]
        );
        assert_eq!(of(&["model.0.0.weight", "model.1.0.weight"]), ["model.0.0.weight", "model.1.0.weight"]);
        assert_eq!(of(&["n_averaged"]), ["n_averaged"]);
    }

    #[test]
    fn averages_beside_the_weights_they_are_of_are_left_out() {
        let names = ["backbone.conv1.weight", "ema_backbone_conv1_weight", "ema_head.weight"];
        assert_eq!(
            names_after(&Selection::default(), &names).unwrap(),
            ["backbone.conv1.weight", "ema_head.weight"]
        );
    }

    #[test]
    fn a_prefix_chooses_tensors_and_layers_are_renamed_whole() {
        let names = ["student.conv.weight", "student.conv2.weight", "teacher.conv.weight"];
        let of = |strip: &str, rename: &[(&str, &str)]| {
            let rename = rename.iter().map(|&(theirs, ours)| (theirs.to_owned(), ours.to_owned())).collect();
            names_after(&Selection { under: None, strip: Some(strip.to_owned()), rename }, &names)
        };
        assert_eq!(of("student.", &[("conv", "conv1")]).unwrap(), ["conv1.weight", "conv2.weight"]);
        assert_eq!(of("teacher", &[]).unwrap(), ["conv.weight"]);
        assert!(of("pupil", &[]).unwrap_err().contains("--strip pupil"));
        assert!(of("student", &[("bn", "bn1")]).unwrap_err().contains("a layer bn,"));
        assert!(
            of("student", &[("conv", "conv2")]).unwrap_err().contains("two tensors the name conv2.weight")
        );
    }
}
