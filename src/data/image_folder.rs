//! Folders of images, one a class (ImageNet's `train/WNID/*.JPEG`), and Tiny-ImageNet-200's own layout.
//!
//! Classes are the folders in alphabetical order, and a class's images are all in its folder and in folders
//! below it, as in torchvision's `ImageFolder`; hidden folders and files are none. A class without an image
//! is an error. A class index (JSON, torchvision's and Keras' `imagenet_class_index.json`: `{"0":
//! ["n01440764", "tench"], ...}`) gives the order and the names instead; a folder that it does not list is an
//! error, a class without a folder is not: a sample of ImageNet keeps ImageNet's labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::cifar::Split;
use super::entries::{EXTENSIONS, is_hidden, is_image};
use super::error::LabelledError;
use super::labelled::Labelled;

/// The images in the folders below `root`.
///
/// # Errors
/// Folders that cannot be read, without any image in one of them, or that `class_index` does not list.
pub fn load(root: &Path, class_index: Option<&Path>) -> Result<Labelled, LabelledError> {
    let folders = folders_in(root)?;
    let (classes, label_of) = match class_index {
        Some(path) => read_class_index(path)?,
        None => by_number(&folders),
    };
    let (mut files, mut bare) = (Vec::new(), Vec::new());
    for folder in &folders {
        let Some(&label) = label_of.get(folder) else {
            let index = class_index.map(|path| path.display().to_string()).unwrap_or_default();
            let reason =
                format!("the folder {folder} is no class of {index}; name the index of these images");
            return Err(LabelledError::Format { path: root.to_owned(), reason });
        };
        let images = images_below(&root.join(folder))?;
        if images.is_empty() {
            bare.push(folder.as_str());
        }
        files.extend(images.into_iter().map(|path| (path, label)));
    }
    found_some(root, &files)?;
    if !bare.is_empty() {
        let reason = format!(
            "no image ({}) is in the folder{} of {} class{}: {}; put images there, or remove what is no class",
            EXTENSIONS.map(|extension| format!(".{extension}")).join(", "),
            if bare.len() > 1 { "s" } else { "" },
            bare.len(),
            if bare.len() > 1 { "es" } else { "" },
            bare.join(", "),
        );
        return Err(LabelledError::Format { path: root.to_owned(), reason });
    }
    Labelled::files(classes, files, root.to_owned())
}

/// The split of the images below `root` that the file `held_out` divides: it has a line for each held-out image, its
/// path from `root`.
///
/// # Errors
/// A file that cannot be read, or with a line that is no image of `set`.
pub fn divided(
    set: &Labelled,
    root: &Path,
    held_out: &Path,
    split: Split,
) -> Result<Labelled, LabelledError> {
    let text = fs::read_to_string(held_out)
        .map_err(|source| LabelledError::Read { path: held_out.to_owned(), source })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    let mut listed: BTreeSet<String> = lines.map(|line| line.replace('\\', "/")).collect();
    let is_listed = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        listed.remove(&name)
    };
    let is_held_out: Vec<bool> = set.paths().iter().map(is_listed).collect();
    if let Some(unknown) = listed.first() {
        let reason = format!("{unknown} is no image below {}; remove the line", root.display());
        return Err(LabelledError::Format { path: held_out.to_owned(), reason });
    }
    let wanted = split == Split::Test;
    let chosen: Vec<usize> = (0..is_held_out.len()).filter(|&index| is_held_out[index] == wanted).collect();
    Ok(set.chosen(&chosen))
}

/// A split of Tiny-ImageNet-200 in its own layout: `wnids.txt`, `train/WNID/images/`, `val/images/` with
/// `val/val_annotations.txt`. Classes are in the order of the sorted wnids, named after `words.txt`.
///
/// # Errors
/// Files that are missing or do not fit each other.
pub fn load_tiny_imagenet(root: &Path, split: Split) -> Result<Labelled, LabelledError> {
    let text = |file: &str| {
        let path = root.join(file);
        let text = fs::read_to_string(&path).map_err(|source| LabelledError::Read { path, source })?;
        Ok::<String, LabelledError>(text.trim_start_matches('\u{feff}').to_owned())
    };
    let mut wnids: Vec<String> = text("wnids.txt")?.split_whitespace().map(str::to_owned).collect();
    wnids.sort();
    let (_, label_of) = by_number(&wnids);
    let words: BTreeMap<String, String> = match root.join("words.txt").exists() {
        true => text("words.txt")?.lines().filter_map(|line| line.split_once('\t')).map(owned).collect(),
        false => BTreeMap::new(),
    };
    let mut files = Vec::new();
    match split {
        Split::Train => {
            for wnid in &wnids {
                let images = images_in(&root.join("train").join(wnid).join("images"))?;
                files.extend(images.into_iter().map(|path| (path, label_of[wnid])));
            }
        }
        Split::Test => {
            let file = "val/val_annotations.txt";
            for (number, line) in text(file)?.lines().enumerate() {
                let mut parts = line.split('\t');
                let (image, label) = match (parts.next(), parts.next().and_then(|wnid| label_of.get(wnid))) {
                    (Some(image), Some(&label)) if !image.contains(['/', '\\']) => (image, label),
                    _ => {
                        let reason =
                            format!("line {} is not an image's name and a class of wnids.txt", number + 1);
                        return Err(LabelledError::Format { path: root.join(file), reason });
                    }
                };
                files.push((root.join("val/images").join(image), label));
            }
        }
    }
    found_some(root, &files)?;
    let classes = wnids.iter().map(|wnid| words.get(wnid).unwrap_or(wnid).clone()).collect();
    Labelled::files(classes, files, root.to_owned())
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.trim().to_owned(), value.trim().to_owned())
}

fn found_some(root: &Path, files: &[(PathBuf, u32)]) -> Result<(), LabelledError> {
    if files.is_empty() {
        let known = EXTENSIONS.map(|extension| format!(".{extension}")).join(", ");
        let reason = format!("no image ({known}) in any folder of a class");
        return Err(LabelledError::Format { path: root.to_owned(), reason });
    }
    Ok(())
}

/// Classes called as their folders, in order.
fn by_number(folders: &[String]) -> (Vec<String>, BTreeMap<String, u32>) {
    (folders.to_vec(), folders.iter().cloned().zip(0..).collect())
}

/// Names of the folders in `root`, in alphabetical order.
fn folders_in(root: &Path) -> Result<Vec<String>, LabelledError> {
    let names = entries(root)?.into_iter().filter(|path| path.is_dir());
    Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

/// The images in `folder`, in alphabetical order.
fn images_in(folder: &Path) -> Result<Vec<PathBuf>, LabelledError> {
    Ok(entries(folder)?.into_iter().filter(|path| is_image(path)).collect())
}

/// The images in `folder` and in all folders below it: sorted by folder, then by name. A folder that links
/// lead to again is entered once.
///
/// # Errors
/// A folder that cannot be read.
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>, LabelledError> {
    let (mut open, mut entered) = (vec![folder.to_owned()], BTreeSet::new());
    let mut images = BTreeMap::new();
    while let Some(folder) = open.pop() {
        if !folder.canonicalize().is_ok_and(|place| entered.insert(place)) {
            continue;
        }
        let (folders, files): (Vec<_>, Vec<_>) =
            entries(&folder)?.into_iter().partition(|path| path.is_dir());
        open.extend(folders.into_iter().rev());
        images.insert(folder, files.into_iter().filter(|path| is_image(path)).collect::<Vec<_>>());
    }
    Ok(images.into_values().flatten().collect())
}

/// Entries of a folder but hidden ones, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, LabelledError> {
    let failed = |source| LabelledError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        found.push(entry.map_err(failed)?.path());
    }
    found.retain(|path| !is_hidden(path));
    found.sort();
    Ok(found)
}

/// Class names in order, and the label of each folder.
fn read_class_index(path: &Path) -> Result<(Vec<String>, BTreeMap<String, u32>), LabelledError> {
    let format = |reason: String| LabelledError::Format { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|source| LabelledError::Read { path: path.to_owned(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let index: BTreeMap<String, [String; 2]> = serde_json::from_slice(bytes)
        .map_err(|error| format(format!("it is no class index ({{\"0\": [FOLDER, NAME], ...}}): {error}")))?;
    let mut classes = vec![None; index.len()];
    let mut label_of = BTreeMap::new();
    for (number, [folder, name]) in index {
        let place = number.parse::<usize>().ok().and_then(|number| Some((number, classes.get_mut(number)?)));
        let (label, place) = place.ok_or_else(|| {
            format(format!("the class numbers must run from 0 without gaps, not to {number}"))
        })?;
        if label_of.insert(folder.clone(), label as u32).is_some() || place.replace(name).is_some() {
            return Err(format(format!("class {number} ({folder}) is listed twice")));
        }
    }
    Ok((classes.into_iter().flatten().collect(), label_of))
}
