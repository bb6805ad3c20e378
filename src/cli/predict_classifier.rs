//! `ckd-det predict` with a classifier: the likeliest classes of each image.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::image_files::for_each_image;
use super::{Context, say};
use crate::engine::classify::{ClassifierCard, logits, seen_as};
use crate::fsx;
use crate::weights::WeightsFile;

/// Classes that are named for each image.
const NAMED: usize = 5;

#[derive(Serialize)]
struct FileGuesses {
    file_name: String,
    guesses: Vec<Guess>,
}

#[derive(Serialize)]
struct Guess {
    /// The index among the logits.
    index: usize,
    class: String,
    probability: f64,
}

/// Names what is on `images` and writes it to `json`.
///
/// # Errors
/// Weights that do not fit. An image that cannot be read is named at once and again at the end; the others
/// are done.
pub(super) fn run(
    images: &[PathBuf],
    json: &Path,
    (file, card): (&WeightsFile, &ClassifierCard),
    context: &Context,
) -> anyhow::Result<()> {
    let network = card.network(file, &context.device)?;
    let mut results = Vec::new();
    let unread = for_each_image(images, |_, file_name, image| {
        let logits = logits(&network, &seen_as(image, &card.config, &context.device)?)?;
        let guesses = likeliest(&logits, &card.classes);
        let told: Vec<String> =
            guesses.iter().map(|guess| format!("{} {:.3}", guess.class, guess.probability)).collect();
        say(format!("{file_name}: {}", told.join(", ")))?;
        results.push(FileGuesses { file_name, guesses });
        Ok(())
    })?;
    fsx::write_atomic(json, &serde_json::to_vec_pretty(&results)?)?;
    say(format!("{} images -> {}", results.len(), json.display()))?;
    unread.refuse(json)
}

/// The likeliest classes by the softmax of `logits`, the first of equals first.
fn likeliest(logits: &[f32], classes: &[String]) -> Vec<Guess> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |logit: f32| f64::from(logit - largest).exp();
    let sum: f64 = logits.iter().map(|&logit| exp(logit)).sum();
    let mut order: Vec<usize> = (0..logits.len().min(classes.len())).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let guess =
        |index: usize| Guess { index, class: classes[index].clone(), probability: exp(logits[index]) / sum };
    order.into_iter().take(NAMED).map(guess).collect()
}
