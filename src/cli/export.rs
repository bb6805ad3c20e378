//! `ckd-det export`: the student alone, with what it needs to be used.

use std::path::PathBuf;

use super::model::ModelArgs;
use super::{Context, UsageError, say};
use crate::engine::experiment::without_teacher;
use crate::weights::ModelCard;
use crate::weights::file::write_safetensors;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file holds the student's tensors under torchvision's names; its header has the classes and their ids,
the normalisation, the input size and the whole configuration.

Examples:
  ckd-det export --out student.safetensors                 the latest run
  ckd-det export --run runs/coco_r101_r18 --out student.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "student.safetensors")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// Missing weights; weights that do not name their classes.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let no_classes =
        || UsageError("the weights do not name their classes; export the weights of a run".to_owned());
    let model = args.model.open(&context.device, |_| Err(no_classes().into()))?;
    let mut card: ModelCard = model.card.clone().ok_or_else(no_classes)?;
    // The student is on its own from here.
    card.config = without_teacher(&card.config);
    card.provenance.insert("exported_from_blake3".to_owned(), model.file.hash.clone());
    let tensors = model.detector.params().snapshot()?;
    write_safetensors(&args.out, &tensors, &card.to_metadata())?;
    let numbers = model.detector.params().weight_count();
    Ok(say(format!(
        "{}: {:.2} M parameters, {} classes",
        args.out.display(),
        numbers as f64 / 1e6,
        model.categories.len()
    ))?)
}
