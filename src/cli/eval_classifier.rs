//! `ckd-det eval` of a classifier: accuracies of a run's weights on its held-out images.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Context, say};
use crate::config::Loaded;
use crate::data::cifar::Split;
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, load_split, measure};
use crate::weights::WeightsFile;

/// Options of `eval` that apply to classifiers.
pub(super) struct Asked<'a> {
    /// Folder of the data instead of the configuration's.
    pub(super) data_root: Option<&'a Path>,
    /// Number of images, from the first.
    pub(super) max_images: Option<usize>,
    /// Print one JSON object.
    pub(super) json: bool,
}

/// Measures the network of `file`, which `card` describes.
///
/// # Errors
/// Data that is missing or has other classes.
pub(super) fn run(
    file: &WeightsFile,
    card: ClassifierCard,
    asked: &Asked<'_>,
    context: &Context,
) -> anyhow::Result<()> {
    let mut config = card.config.clone();
    if let Some(root) = asked.data_root {
        config.labelled.data.root = root.to_owned();
    }
    config.run.eval.max_images = asked.max_images.or(config.run.eval.max_images);
    let loaded = Loaded::of_weights(config);
    let root = loaded.resolve(&loaded.config.labelled.data.root);
    if !root.exists() {
        return Err(EngineError::Missing(format!(
            "the data that {} was trained on is not at {}: name its folder with --data-root",
            file.path.display(),
            root.display()
        ))
        .into());
    }
    let set = load_split(&loaded.config, &root, Split::Test)?;
    card.check_classes(&file.path, &set.classes)?;
    let model = card.network(file, &context.device)?;
    let measured =
        measure(&model, &Arc::new(set), &loaded.config, None, (&context.device, &AtomicBool::new(false)))?;
    let accuracy = &measured.accuracy;
    if asked.json {
        return Ok(say(serde_json::to_string(accuracy)?)?);
    }
    say(format!("{} on {} images", file.path.display(), accuracy.images))?;
    let [top1, top5, ece] = [accuracy.top1, accuracy.top5, accuracy.ece].map(|fraction| 100.0 * fraction);
    say(format!("top-1 {top1:.2}  top-5 {top5:.2}  ECE {ece:.2}  NLL {:.4}", accuracy.nll))?;
    Ok(say(format!("{:.2} ms an image, {:.3} GFLOPs", measured.ms_per_image, measured.gflops))?)
}
