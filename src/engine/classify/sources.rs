//! Files that an experiment on labelled images reads, found before anything is loaded.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{ClassifyConfig, LabelledKind, Loaded};
use crate::data::cifar::{Cifar, Split};
use crate::data::labelled_data::LabelledData;
use crate::data::{DataError, Labelled, image_folder, leakage, stl10};
use crate::engine::missing::{Beginning, places, refuse, weights};
use crate::engine::task::Gathered;
use crate::engine::{EngineError, Result};
use crate::weights::labelled_rows;

/// Both splits of a data set of labelled images.
#[derive(Debug)]
pub struct LabelledSets {
    /// Training images.
    pub train: Arc<Labelled>,
    /// Held-out images.
    pub val: Arc<Labelled>,
    /// The teacher's guess for each image of `val`, once computed.
    pub(super) teacher_guesses: OnceCell<Vec<u32>>,
}

impl LabelledSets {
    /// Both splits.
    ///
    /// # Errors
    /// If they have different numbers of classes; `origin` stands in the message.
    pub fn new(train: Labelled, val: Labelled, origin: &Path) -> Result<Self> {
        if train.classes != val.classes {
            let reason = format!(
                "its training images have {} classes, its held-out ones {}; both must have the same: {}",
                train.classes.len(),
                val.classes.len(),
                first_difference(&train.classes, &val.classes)
            );
            return Err(EngineError::Run { path: origin.to_owned(), reason });
        }
        Ok(Self { train: Arc::new(train), val: Arc::new(val), teacher_guesses: OnceCell::new() })
    }
}

/// The first class that one of two different lists lacks, or has elsewhere.
fn first_difference(train: &[String], val: &[String]) -> String {
    let lacks = |list: &[String], other: &[String]| list.iter().find(|class| !other.contains(class)).cloned();
    match (lacks(train, val), lacks(val, train)) {
        (Some(ours), Some(theirs)) => {
            format!("\"{ours}\" is among the training images only, \"{theirs}\" among the held-out ones only")
        }
        (Some(class), None) => format!("\"{class}\" is among the training images only"),
        (None, Some(class)) => format!("\"{class}\" is among the held-out images only"),
        (None, None) => {
            let apart = train.iter().zip(val).find(|(ours, theirs)| ours != theirs);
            let (ours, theirs) = apart.map_or(("", ""), |(ours, theirs)| (ours, theirs));
            format!("they come in another order, first \"{ours}\" and \"{theirs}\"")
        }
    }
}

/// Finds data and weights, then loads the data.
pub(super) fn gather(loaded: &Loaded<ClassifyConfig>) -> Result<Gathered<LabelledSets>> {
    let config = &loaded.config;
    let root = root(loaded);
    let mut missing = Vec::new();
    for split in [Split::Train, Split::Test] {
        missing.extend(missing_data(loaded, &root, split));
    }
    missing.dedup();
    let Beginning { init, teacher } = Beginning::find(loaded, &mut missing);
    refuse(missing)?;
    let train = load_split(config, &root, Split::Train)?;
    let val = load_split(config, &root, Split::Test)?;
    let mut notes = vec![format!(
        "{}: {} images to train on, {} held out, {} classes",
        root.display(),
        train.len(),
        val.len(),
        train.classes.len()
    )];
    if let Some(shared) = leakage::shared(train.paths(), val.paths(), leakage::CHEAP_BYTES)
        && let Some(&first) = shared.first()
    {
        let first = val.path(first);
        notes.push(format!(
            "{} held-out images have the content of a training image, first: {}",
            shared.len(),
            first.display()
        ));
    }
    notes.extend(left_out("training", &train));
    notes.extend(left_out("held-out", &val));
    let bad_images = [&train, &val].into_iter().flat_map(|set| set.left_out.clone()).collect();
    let task = LabelledSets::new(train, val, &root)?;
    Ok(Gathered { task, init, teacher, notes, bad_images })
}

/// Tells of images that were left out, if any were.
fn left_out(split: &str, set: &Labelled) -> Option<String> {
    let first = &set.left_out.first()?.reason;
    Some(format!("{} {split} images left out since they cannot be used, first: {first}", set.left_out.len()))
}

/// Loads a split of the data set of `config` in `root`, decoded if its images are small.
pub fn load_split(config: &ClassifyConfig, root: &Path, split: Split) -> Result<Labelled> {
    let set = read_split(&config.labelled.data, root, split)?;
    Ok(match config.labelled.data.kind {
        LabelledKind::TinyImagenet => {
            set.in_memory(config.labelled.input.side_px).map_err(DataError::from)?
        }
        _ => set,
    })
}

/// Reads a split of the data set in `root`, decoded only if it is stored so.
///
/// # Errors
/// Files that are missing or damaged; more bad images than the policy of `data` allows.
pub fn read_split(data: &LabelledData, root: &Path, split: Split) -> Result<Labelled> {
    let loaded = match data.kind {
        LabelledKind::Cifar10 => Cifar::Ten.load(&Cifar::Ten.find(root), split, unpickled),
        LabelledKind::Cifar100 => Cifar::Hundred.load(&Cifar::Hundred.find(root), split, unpickled),
        LabelledKind::Stl10 => stl10::load(root, split),
        LabelledKind::TinyImagenet => image_folder::load_tiny_imagenet(root, split),
        LabelledKind::Folder => {
            let below = root.join(match (split, &data.held_out) {
                (Split::Test, None) => &data.val,
                _ => &data.train,
            });
            let found = |path: &PathBuf| match root.join(path) {
                beside if beside.exists() => beside,
                _ => path.clone(),
            };
            let set = image_folder::load(&below, data.class_index.as_ref().map(found).as_deref());
            match &data.held_out {
                Some(list) => set.and_then(|set| image_folder::divided(&set, &below, &found(list), split)),
                None => set,
            }
        }
    };
    let checked = loaded.and_then(|set| set.with_good_headers(root, &data.image_policy()));
    Ok(checked.map_err(DataError::from)?)
}

/// The held-out images of an experiment.
///
/// # Errors
/// [`EngineError::Missing`] says what is not there and how to get it.
pub fn held_out(loaded: &Loaded<ClassifyConfig>) -> Result<Labelled> {
    let root = root(loaded);
    refuse(missing_data(loaded, &root, Split::Test).into_iter().collect())?;
    load_split(&loaded.config, &root, Split::Test)
}

/// The images that an experiment learns from, decoded only if they are stored so; `None` if they are not there.
///
/// # Errors
/// If they are damaged.
pub fn learned_from(loaded: &Loaded<ClassifyConfig>) -> Result<Option<Labelled>> {
    let root = root(loaded);
    match missing_data(loaded, &root, Split::Train) {
        Some(_) => Ok(None),
        None => read_split(&loaded.config.labelled.data, &root, Split::Train).map(Some),
    }
}

/// A file of CIFAR's python version.
fn unpickled(bytes: &[u8], labels: &str) -> std::result::Result<(Vec<u32>, Vec<u8>), String> {
    let rows = labelled_rows(bytes, labels)?;
    Ok((rows.labels, rows.bytes))
}

fn root(loaded: &Loaded<ClassifyConfig>) -> PathBuf {
    loaded.resolve(&loaded.config.labelled.data.root)
}

/// Missing parts of a split, and how to get them.
fn missing_data(loaded: &Loaded<ClassifyConfig>, root: &Path, split: Split) -> Option<String> {
    let data = &loaded.config.labelled.data;
    let folder_name = |train: &str, test: &str| match split {
        Split::Train => train.to_owned(),
        Split::Test => test.to_owned(),
    };
    let (path, help) = match data.kind {
        LabelledKind::Cifar10 => (
            Cifar::Ten.first_file(&Cifar::Ten.find(root), split),
            "The binary version of CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        LabelledKind::Cifar100 => (
            Cifar::Hundred.first_file(&Cifar::Hundred.find(root), split),
            "The binary version of CIFAR-100 is at https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        LabelledKind::Stl10 => (
            root.join(folder_name("train_X.bin", "test_X.bin")),
            "The binary version of STL-10 is at https://cs.stanford.edu/~acoates/stl10/",
        ),
        LabelledKind::TinyImagenet => (
            root.join(folder_name("train", "val/val_annotations.txt")),
            "Tiny-ImageNet-200 is at http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
        LabelledKind::Folder => (
            root.join(match (split, &data.held_out) {
                (Split::Test, None) => &data.val,
                _ => &data.train,
            }),
            "A folder of images for each class is needed there",
        ),
    };
    (!path.exists()).then(|| {
        format!(
            "data that {} needs is missing: {}\nlooked for data.root = {:?} at:\n{}\n{help}: unpack it and name its \
             folder with --set data.root=FOLDER",
            loaded.config.run.name,
            path.display(),
            data.root,
            places(loaded, &data.root),
        )
    })
}

/// The teacher's weights.
pub(super) fn teacher_weights(loaded: &Loaded<ClassifyConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let teacher = loaded.config.teacher.as_ref()?;
    let help = "Put the network's weights there, name another file with --set teacher.weights=FILE, or train the \
                teacher first by naming its experiment: --set teacher.train=EXPERIMENT.toml";
    let random = teacher.allow_random_weights;
    weights(loaded, ("teacher.weights", teacher.weights.as_ref()?), random, help, missing)
}

/// The student's initial weights.
pub(super) fn initial_weights(loaded: &Loaded<ClassifyConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let student = &loaded.config.student;
    let help = "Name another file with --set student.init=FILE";
    weights(loaded, ("student.init", student.init.as_ref()?), student.allow_random_weights, help, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_differs_is_named_with_its_side() {
        let difference = |train: &[&str], val: &[&str]| {
            let [train, val] =
                [train, val].map(|list| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
            first_difference(&train, &val)
        };
        assert_eq!(
            difference(&["ant", "bee", "cat"], &["ant", "cat"]),
            "\"bee\" is among the training images only"
        );
        assert_eq!(difference(&["ant"], &["ant", "cat"]), "\"cat\" is among the held-out images only");
        assert!(
            difference(&["Bee", "cat"], &["bee", "cat"])
                .contains("\"Bee\" is among the training images only, \"bee\"")
        );
        assert!(difference(&["a", "b"], &["b", "a"]).contains("another order, first \"a\" and \"b\""));
    }
}
