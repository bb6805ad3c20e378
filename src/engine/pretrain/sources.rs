//! Images and weights that an experiment reads, found before anything is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Loaded, PretrainConfig};
use crate::data::cifar::Split;
use crate::data::labelled_data::{LabelledData, LabelledKind};
use crate::data::unlabelled_images::UnlabelledKind;
use crate::data::{DataError, Labelled, image_folder, stl10};
use crate::engine::classify::read_split;
use crate::engine::missing::{Beginning, places, refuse, weights};
use crate::engine::task::Gathered;
use crate::engine::{EngineError, Result};

/// Images without labels, divided.
#[derive(Debug)]
pub struct UnlabelledSets {
    /// Images to learn from; all are of one class.
    pub train: Arc<Labelled>,
    /// Held-out images.
    pub val: Arc<Labelled>,
}

/// Finds images and weights, then lists the images.
pub(super) fn gather(loaded: &Loaded<PretrainConfig>) -> Result<Gathered<UnlabelledSets>> {
    let mut missing = Vec::new();
    let root = loaded.resolve(&loaded.config.data.root);
    if !root.exists() {
        missing.push(format!(
            "images that {} needs are missing\nlooked for data.root = {:?} at:\n{}\nName their folder with --set \
             data.root=FOLDER",
            loaded.config.run.name,
            loaded.config.data.root,
            places(loaded, &loaded.config.data.root),
        ));
    }
    let Beginning { init, teacher } = Beginning::find(loaded, &mut missing);
    refuse(missing)?;
    let config = &loaded.config;
    let all = listed(config, &root)?;
    if all.len() < 2 {
        let reason = format!("it has {} images; some are to be learned from, and some held out", all.len());
        return Err(EngineError::Run { path: root, reason });
    }
    let bad_images = all.left_out.clone();
    let [train, val] = config.data.divided(&all, config.run.seed).map(Arc::new);
    let mut notes =
        vec![format!("{}: {} images to learn from, {} held out", root.display(), train.len(), val.len())];
    if let Some(first) = bad_images.first() {
        let (count, first) = (bad_images.len(), &first.reason);
        notes.push(format!("{count} images left out since they cannot be used, first: {first}"));
    }
    Ok(Gathered { task: UnlabelledSets { train, val }, init, teacher, notes, bad_images })
}

/// All images of the set, as images of one class.
fn listed(config: &PretrainConfig, root: &Path) -> Result<Labelled> {
    let kind = match config.data.kind {
        UnlabelledKind::Folder => {
            let files = image_folder::images_below(root).map_err(DataError::from)?;
            let files = files.into_iter().map(|path| (path, 0)).collect();
            let set = Labelled::files(vec![IMAGE.to_owned()], files, root.to_owned());
            let set = set.and_then(|set| set.with_good_headers(root, &config.data.image_policy()));
            return Ok(set.map_err(DataError::from)?);
        }
        UnlabelledKind::Stl10 => return Ok(stl10::unlabelled(root, IMAGE).map_err(DataError::from)?),
        UnlabelledKind::Cifar10 => LabelledKind::Cifar10,
        UnlabelledKind::Cifar100 => LabelledKind::Cifar100,
    };
    let mut set = read_split(&LabelledData::new(kind, root.to_owned()), root, Split::Train)?;
    set.labels.iter_mut().for_each(|label| *label = 0);
    set.classes = vec![IMAGE.to_owned()];
    Ok(set)
}

/// The one class.
const IMAGE: &str = "image";

/// The teacher's weights.
pub(super) fn teacher_weights(loaded: &Loaded<PretrainConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let teacher = &loaded.config.teacher;
    if loaded.config.distill.is_empty() {
        return None;
    }
    let help = "Put the network's weights there, or name another file with --set teacher.weights=FILE";
    let random = teacher.allow_random_weights;
    weights(loaded, ("teacher.weights", teacher.weights.as_ref()?), random, help, missing)
}

/// The student's initial weights.
pub(super) fn initial_weights(loaded: &Loaded<PretrainConfig>, missing: &mut Vec<String>) -> Option<PathBuf> {
    let student = &loaded.config.student;
    let help = "Name another file with --set student.init=FILE";
    weights(loaded, ("student.init", student.init.as_ref()?), student.allow_random_weights, help, missing)
}
