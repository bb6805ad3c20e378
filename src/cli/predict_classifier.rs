//! `ckd-det predict` with a classifier: the likeliest classes of each image.

use std::path::PathBuf;

use serde::Serialize;

use super::Context;
use super::image_files::for_each_image;
use super::output::Output;
use crate::data::decode;
use crate::engine::classify::ClassifierCard;
use crate::export::labeller::{Guess, Labeller};
use crate::export::results::JsonRows;
use crate::weights::WeightsFile;

/// Classes that are named for each image.
pub(super) const NAMED: usize = 5;

#[derive(Serialize)]
struct FileGuesses {
    file_name: String,
    guesses: Vec<Guess>,
}

/// Prints the likeliest classes of `images` and writes them to `json`.
///
/// # Errors
/// Weights that do not fit. An image that cannot be read is named at once and again at the end; the others
/// are done.
pub(super) fn run(
    images: &[PathBuf],
    json: &Output,
    (file, card): (&WeightsFile, ClassifierCard),
    context: &Context,
) -> anyhow::Result<()> {
    let labeller = Labeller::of(file, card, &context.device)?;
    let mut results = JsonRows::new(json.path());
    let unread = for_each_image(
        images,
        |_, path| decode::read(path),
        |_, file_name, image| {
            let guesses = labeller.likeliest(&image, NAMED)?;
            let told: Vec<String> =
                guesses.iter().map(|guess| format!("{} {:.3}", guess.class, guess.probability)).collect();
            json.say(format!("{file_name}: {}", told.join(", ")))?;
            Ok(results.push(&FileGuesses { file_name, guesses })?)
        },
    )?;
    unread.settle(&[json], || {
        let count = results.len();
        results.finish()?;
        Ok(json.say(format!("{count} images -> {}", json.told()))?)
    })
}
