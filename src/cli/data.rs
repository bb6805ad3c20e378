//! `ckd-det data`: make, check and convert data sets.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use rayon::prelude::*;

use super::{Context, say};
use crate::data::synth::{self, Outcome, Split, SynthConfig};
use crate::data::voc;
use crate::data::{Annotation, ClassIndex, Dataset, MissingImages};
use crate::fsx;

/// Broken images named by `data check --decode`.
const NAMED: usize = 20;

/// Arguments of `data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Draw a synthetic data set in COCO format; does nothing where it is there already
    Synth(SynthArgs),
    /// Check a COCO data set: what it holds, what is odd, what is broken
    Check(CheckArgs),
    /// Convert another format to COCO's
    Convert(ConvertArgs),
}

#[derive(Debug, clap::Args)]
struct SynthArgs {
    /// The folder to make it in
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training images
    #[arg(long, value_name = "N")]
    images_train: usize,
    /// Validation images
    #[arg(long, value_name = "N")]
    images_val: usize,
    /// Width and height of every image in pixels
    #[arg(long, value_name = "PX", default_value_t = 160)]
    size: u32,
    /// Every pixel follows from it
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Classes of objects, at most 24
    #[arg(long, value_name = "K", default_value_t = 8)]
    classes: usize,
    /// Objects in the emptiest image
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_objects: usize,
    /// Objects in the fullest image
    #[arg(long, value_name = "N", default_value_t = 8)]
    max_objects: usize,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// COCO's instances_*.json
    #[arg(long, value_name = "FILE")]
    annotations: PathBuf,
    /// The folder of the images
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Decode every image as well
    #[arg(long)]
    decode: bool,
}

#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// The format that is there
    #[arg(long, value_name = "FORMAT")]
    from: Format,
    /// The folder of the data set
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The list to convert: ImageSets/Main/SPLIT.txt
    #[arg(long, value_name = "SPLIT")]
    split: String,
    /// The COCO file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Class names in the order of their ids [default: all there are, sorted]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    classes: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Pascal VOC: Annotations, ImageSets/Main, JPEGImages
    Voc,
}

/// Does what is asked for.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.action {
        Action::Synth(args) => make(&args, context),
        Action::Check(args) => check(&args),
        Action::Convert(args) => convert(&args, context),
    }
}

fn make(args: &SynthArgs, context: &Context) -> anyhow::Result<()> {
    let config = SynthConfig {
        images_train: args.images_train,
        images_val: args.images_val,
        image_size_px: args.size,
        classes: args.classes,
        min_objects: args.min_objects,
        max_objects: args.max_objects,
        seed: args.seed,
    };
    let outcome = synth::generate(&config, &args.out)?;
    if !context.quiet {
        let done = match outcome {
            Outcome::Made => "made",
            Outcome::AlreadyThere => "already there, unchanged",
        };
        say(format!("{}: {config}: {done}", args.out.display()))?;
        for split in [Split::Train, Split::Val] {
            let (annotations, images) = (split.annotations(&args.out), split.images(&args.out));
            say(format!("  {} with the images in {}", annotations.display(), images.display()))?;
        }
    }
    Ok(())
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let (dataset, report) = Dataset::load(&args.annotations, &args.images, MissingImages::Error)?;
    say(report.to_string())?;
    say_classes(&dataset)?;
    say_sizes(&dataset)?;
    if args.decode {
        decode_all(&dataset)?;
    }
    Ok(())
}

fn positives(dataset: &Dataset) -> impl Iterator<Item = (usize, &Annotation)> {
    (0..dataset.images.len())
        .flat_map(|image| dataset.annotations(image).iter().map(move |annotation| (image, annotation)))
        .filter(|(_, annotation)| annotation.is_positive())
}

fn say_classes(dataset: &Dataset) -> anyhow::Result<()> {
    let classes = dataset.categories.len();
    let (mut boxes, mut images, mut last) = (vec![0; classes], vec![0; classes], vec![None; classes]);
    for (image, annotation) in positives(dataset) {
        let ClassIndex(class) = annotation.category;
        let class = class as usize;
        boxes[class] += 1;
        images[class] += usize::from(last[class].replace(image) != Some(image));
    }
    say("\nclass   id   boxes  images  name")?;
    for (class, (id, name)) in dataset.categories.iter().enumerate() {
        say(format!("{class:>5} {:>4} {:>7} {:>7}  {name}", id.0, boxes[class], images[class]))?;
    }
    Ok(())
}

fn say_sizes(dataset: &Dataset) -> anyhow::Result<()> {
    let mut counts = [0usize; 3];
    for (_, annotation) in positives(dataset) {
        let size = match annotation.area {
            area if area < 32.0 * 32.0 => 0,
            area if area < 96.0 * 96.0 => 1,
            _ => 2,
        };
        counts[size] += 1;
    }
    let [small, medium, large] = counts;
    say(format!("\nboxes by area: {small} small (< 32x32), {medium} medium, {large} large (>= 96x96)"))?;
    Ok(())
}

fn decode_all(dataset: &Dataset) -> anyhow::Result<()> {
    let broken: Vec<String> = (0..dataset.images.len())
        .into_par_iter()
        .filter_map(|image| dataset.pixels(image).err())
        .map(|error| error.to_string())
        .collect();
    if broken.is_empty() {
        say(format!("all {} images decode", dataset.images.len()))?;
        return Ok(());
    }
    for problem in broken.iter().take(NAMED) {
        say(problem)?;
    }
    bail!("{} of {} images cannot be used", broken.len(), dataset.images.len())
}

fn convert(args: &ConvertArgs, context: &Context) -> anyhow::Result<()> {
    let classes = args.classes.clone().map_or(voc::Classes::Found, voc::Classes::Listed);
    let (instances, report) = match args.from {
        Format::Voc => voc::convert(&args.root, &args.split, &classes)?,
    };
    fsx::write_atomic(&args.out, &instances.to_json()).context("the conversion is done but not saved")?;
    if !context.quiet {
        say(format!("{}: {report}", args.out.display()))?;
    }
    Ok(())
}
