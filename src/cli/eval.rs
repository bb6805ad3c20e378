//! `ckd-det eval`: COCO mAP of a detector or of a results file, accuracies of a classifier.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ArgGroup;

use super::eval_results::Summary;
use super::model::{ModelArgs, check_data_root};
use super::output::Output;
use super::{Context, UsageError, eval_classifier, eval_results, say};
use crate::config::{Experiment, Loaded};
use crate::data::{Dataset, Image, SplitFiles};
use crate::engine::classify::ClassifierCard;
use crate::engine::detect::evaluate::{Evaluation, detect_all, score};
use crate::engine::detect::sources::{DataPaths, LoadedSplit};
use crate::engine::{EngineError, classes};
use crate::eval::Detection;
use crate::export::results::{About, ImageNamesBelow, ImageResults, ResultsError, ResultsFormat};
use crate::report::progress::is_drawn_on;
use crate::weights::WeightsFile;
use crate::weights::card::categories_of;

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
#[command(
    group(ArgGroup::new("what").args(["coco_val", "gt"])),
    after_help = "\
A run, or a file of weights, says itself whether it is a detector or a classifier; --coco-val insists on a detector. \
--save writes a detector's boxes in any --format, and of a classifier a JSON array with a row an image: its label and the five \
likeliest classes.

Examples:
  ckd-det eval                                 the latest run, on its held-out images
  ckd-det eval --run runs/my
  ckd-det eval --weights resnet56.pth --config cifar10_r56_r20
  ckd-det eval --coco-val --run runs/coco_r101_r18 --data-root /data/coco
  ckd-det eval --coco-val --weights student.safetensors --json
  ckd-det eval --run runs/my --save found.json --format fiftyone
  ckd-det eval --gt instances_val2017.json --dt results.json --json
  ckd-det eval --gt val.json --dt results.json --summary pycocotools"
)]
pub struct Args {
    /// Refuse anything but a detector
    #[arg(long)]
    coco_val: bool,
    #[command(flatten)]
    model: ModelArgs,
    /// Where the data is, instead of the experiment's data.root
    #[arg(long, value_name = "DIR", conflicts_with = "gt")]
    data_root: Option<PathBuf>,
    /// Compute in 8 bits, by the ranges in a file of `export --int8 activations`
    #[arg(long, conflicts_with = "gt")]
    int8: bool,
    /// Only the first so many images
    #[arg(long, value_name = "N", conflicts_with = "gt")]
    max_images: Option<NonZeroUsize>,
    /// Write what was found on each image; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "gt")]
    save: Option<Output>,
    /// Format of a detector's boxes: a file, of yolo a folder
    #[arg(long, value_name = "FORMAT", default_value = "coco", requires = "save")]
    format: ResultsFormat,
    /// Ground truth: a COCO annotations file
    #[arg(long, value_name = "FILE", requires = "dt")]
    gt: Option<PathBuf>,
    /// Detections: a COCO results file
    #[arg(long, value_name = "FILE", requires = "gt")]
    dt: Option<PathBuf>,
    /// With --gt: the limits of detections an image and class that recalls are taken at; the last rules every
    /// AP [default: 1,10,100]
    #[arg(long, value_name = "N,N,N", requires = "gt", value_parser = limits)]
    max_dets: Option<[usize; 3]>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Extent of what is printed
    #[arg(long, value_name = "WHAT", default_value = "full", conflicts_with_all = ["json", "max_dets"])]
    summary: Summary,
}

/// Three limits, ascending; the last alone stands for 1, 10 and itself.
fn limits(text: &str) -> Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[few, more, most]) if 0 < few && few <= more && more <= most => Ok([few, more, most]),
        Some(&[most]) if most > 0 => Ok([1, most.min(10), most]),
        _ => {
            Err("give three numbers from 1 on, ascending, for example 1,10,300, or the last alone".to_owned())
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Missing weights or data; files that are not what they should be.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    check_data_root(args.data_root.as_deref())?;
    match (&args.gt, &args.dt) {
        (Some(gt), Some(dt)) => eval_results::run(gt, dt, args.max_dets, (args.json, args.summary)),
        _ => run_model(args, context),
    }
}

/// Weights say whether they are a classifier's, or the configuration that they come with does.
fn run_model(args: Args, context: &Context) -> anyhow::Result<()> {
    let file = WeightsFile::read(&args.model.find()?)?;
    if args.coco_val {
        return run_detector(args, file, context);
    }
    let asked = eval_classifier::Asked {
        data_root: args.data_root.as_deref(),
        max_images: args.max_images.map(NonZeroUsize::get),
        json: args.json,
        save: args.save.as_ref(),
    };
    if let Some(card) = ClassifierCard::of(&file)? {
        check_options(&args, &file, &card.described())?;
        return eval_classifier::run(&file, card, &asked, context);
    }
    if let Some(name) = &args.model.config
        && let Experiment::Classify(loaded) = Experiment::load(name, &[])?
    {
        check_options(&args, &file, "a classifier's")?;
        return eval_classifier::run_imported(&file, *loaded, &asked, context);
    }
    run_detector(args, file, context)
}

/// Refuses options that only detectors have for a file that is what `is` says.
fn check_options(args: &Args, file: &WeightsFile, is: &str) -> Result<(), UsageError> {
    let detectors_only = [
        (args.int8, "--int8"),
        (args.summary == Summary::Pycocotools, "--summary pycocotools"),
        (args.format != ResultsFormat::Coco, "--format"),
    ];
    match detectors_only.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, option)) => {
            Err(UsageError(format!("{option} is for detectors, and {} is {is}", file.path.display())))
        }
    }
}

fn run_detector(args: Args, file: WeightsFile, context: &Context) -> anyhow::Result<()> {
    let say = |line: &str| match &args.save {
        Some(save) => save.say(line),
        None => say(line),
    };
    if let Some(save) = &args.save {
        Output::from(args.format.first_file(save.path())).check()?;
    }
    let mut found: Option<(LoadedSplit, SplitFiles)> = None;
    let paths_of = |config: &crate::config::Config| -> anyhow::Result<(LoadedSplit, SplitFiles)> {
        let mut config = config.clone();
        if let Some(root) = &args.data_root {
            config.data.root.clone_from(root);
        }
        let val = DataPaths::find_val(&Loaded::of_weights(config))?;
        Ok((LoadedSplit::of_truth(&val)?, val))
    };
    let model = args.model.load(file, &context.device, |config| {
        let (split, paths) = paths_of(config)?;
        let categories = categories_of(&split.dataset.categories);
        found = Some((split, paths));
        Ok(categories)
    })?;
    if args.int8 {
        model.round()?;
    }
    let (LoadedSplit { dataset, truth, .. }, paths) = match found {
        Some(found) => found,
        None => paths_of(&model.config)?,
    };
    let [what, other] = [&model.file.path, &paths.annotations].map(|path| path.display().to_string());
    classes::check_same((&what, &model.categories), (&other, &dataset.categories))
        .map_err(EngineError::Classes)?;
    let mut config = model.config.clone();
    config.run.eval.max_images = args.max_images.map(NonZeroUsize::get).or(config.run.eval.max_images);
    let bar = match context.quiet || !is_drawn_on() {
        true => indicatif::ProgressBar::hidden(),
        false => indicatif::ProgressBar::new(0).with_prefix("images"),
    };
    let evaluation = detect_all(&model.detector, &dataset, &config, &context.device, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(save) = &args.save {
        write(&evaluation, &dataset, (args.format, save), &what)?;
    }
    let metrics = score(&evaluation, &truth)?;
    if args.json {
        return Ok(say(&serde_json::to_string(&metrics)?)?);
    }
    if args.summary == Summary::Pycocotools {
        return Ok(say(metrics.summary().trim_end())?);
    }
    say(&format!("{} on {} images", model.file.path.display(), evaluation.image_ids.len()))?;
    say(metrics.to_string().trim_end())?;
    say("AP by class:")?;
    for class in &metrics.per_class {
        // -1 stands for a class that the images do not show.
        match class.ap < 0.0 {
            true => say(&format!("  {:<24}     -", class.name))?,
            false => say(&format!("  {:<24} {:5.1}", class.name, 100.0 * class.ap))?,
        }
    }
    Ok(say(&format!("{:.1} ms an image, {:.2} GFLOPs", evaluation.ms_per_image, evaluation.gflops))?)
}

/// Writes the detections of the images that were evaluated.
fn write(
    evaluation: &Evaluation,
    dataset: &Dataset,
    (format, to): (ResultsFormat, &Output),
    model: &str,
) -> Result<(), ResultsError> {
    let places: HashMap<u64, usize> =
        dataset.images.iter().enumerate().map(|(place, image)| (image.id.0, place)).collect();
    let images: Vec<&Image> = evaluation.image_ids.iter().map(|id| &dataset.images[places[id]]).collect();
    let names = ImageNamesBelow::of(&images.iter().map(|image| &image.path).collect::<Vec<_>>());
    let about = About { categories: &dataset.categories, model, names: &names, image_url: None };
    let mut writer = format.writer(to.path(), &about)?;
    let mut detections: HashMap<u64, Vec<Detection>> = HashMap::new();
    for detection in &evaluation.detections {
        detections.entry(detection.image_id).or_default().push(*detection);
    }
    for (index, image) in images.into_iter().enumerate() {
        let detections = detections.get(&image.id.0).map_or(&[][..], Vec::as_slice);
        let (image_id, size) = (image.id.0, (image.width, image.height));
        writer.add(&ImageResults { index, image_id, file_name: None, size, detections })?;
    }
    writer.finish()
}
