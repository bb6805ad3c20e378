//! `ckd-det data preview CONFIG --out F.png`: training images as a detector's experiment makes them, with their boxes.

use std::path::PathBuf;

use image::RgbImage;

use super::output::Output;
use super::say;
use crate::config::Experiment;
use crate::data::boxed_images::BoxedImages;
use crate::data::{Batch, CategoryMap, ClassIndex, Source};
use crate::engine::detect::batch::training_batches;
use crate::engine::detect::sources::Inputs;
use crate::report::draw::{DrawnBox, Mark, Panel, grid, save_png};

/// Images of a row of the picture.
const COLUMNS: usize = 4;

/// Arguments of `data preview`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det data preview quickstart.toml --out preview.png
  ckd-det data preview my.toml --out mosaic.png \\
    --set input.augment.mosaic_probability=1")]
pub(super) struct Args {
    /// A file, or the name of a configuration of a detector
    #[arg(value_name = "CONFIG")]
    config: String,
    /// Change a key: a.b=VALUE
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The picture to write
    #[arg(long, value_name = "F.png")]
    out: PathBuf,
    /// Images to show
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=64))]
    images: u16,
    /// The pass over the training images that they are taken from, counted from 0
    #[arg(long, value_name = "E", default_value_t = 0)]
    epoch: u64,
}

/// Runs the verb.
///
/// # Errors
/// A configuration of another task; data that are missing or cannot be used; a picture that cannot be written.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Experiment::Detect(loaded) = Experiment::load(&args.config, &args.sets)? else {
        return Err(super::UsageError(format!(
            "{} is no configuration of a detector: `data preview` shows images with boxes",
            args.config
        ))
        .into());
    };
    Output::from(args.out.clone()).check()?;
    let sets = Inputs::find(&loaded)?.data.load()?;
    let source = BoxedImages::new(sets.train.clone(), training_batches(&loaded.resolved()))?;
    let mut panels = Vec::new();
    let mut first = 0;
    for images in source.batches(args.epoch) {
        if panels.len() >= usize::from(args.images) {
            break;
        }
        let batch = source.build(args.epoch, first, &images)?;
        first += images.len() as u64;
        panels.extend((0..batch.batch).map(|place| panel(&batch, place, &sets.train.categories)));
    }
    panels.truncate(args.images.into());
    let shown = panels.len();
    let rows: Vec<Vec<Panel>> = panels.chunks(COLUMNS).map(<[Panel]>::to_vec).collect();
    save_png(&args.out, &grid(&rows, ""))?;
    Ok(say(format!("{shown} training images of pass {} -> {}", args.epoch, args.out.display()))?)
}

/// An image of a batch with its boxes; ignored ones are named so.
fn panel(batch: &Batch, place: usize, categories: &CategoryMap) -> Panel {
    let (height, width) = batch.sizes[place];
    let pixels = &batch.pixels[place * batch.height * batch.width * 3..];
    let image = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = (y as usize * batch.width + x as usize) * 3;
        // In [0, 1].
        image::Rgb([0, 1, 2].map(|channel| (pixels[at + channel] * 255.0).round() as u8))
    });
    let target = &batch.targets[place];
    let learned = target.boxes.iter().zip(&target.labels).map(|(&xyxy, &label)| DrawnBox {
        xyxy,
        class: label as usize,
        name: categories.name(ClassIndex(label)).unwrap_or_default().to_owned(),
        score: None,
        mark: Mark::Plain,
    });
    let ignored = target.ignored.iter().map(|&xyxy| DrawnBox {
        xyxy,
        class: categories.len(),
        name: "ignored".to_owned(),
        score: None,
        mark: Mark::Plain,
    });
    let title = format!("image {}, {width} x {height}", batch.image_ids[place].0);
    Panel { title, image, boxes: learned.chain(ignored).collect() }
}
