//! `ckd-det data`: make, check, convert and show data sets.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rayon::prelude::*;

use super::output::{Output, folder};
use super::{Context, UsageError, check_labelled, data_preview, say};
use crate::data::labelled_data::LabelledKind;
use crate::data::report::Findings;
use crate::data::synth::{self, Outcome, Split, Synth};
use crate::data::{
    Annotation, ClassIndex, DataKind, Dataset, FindingKind, ImagePolicy, Instances, LoadReport, OnBadImage,
    SplitFiles, coco, leakage, voc,
};
use crate::engine::EngineError;
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
    /// Check a data set: what it holds, what is odd, what is broken
    Check(CheckArgs),
    /// Convert a data set to another format: COCO, YOLO, Pascal VOC
    Convert(ConvertArgs),
    /// Show training images as an experiment makes them, augmented, with their boxes
    Preview(data_preview::Args),
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "\
ckd-det data synth --out <DIR> --images-train <N> --images-val <N>
                          [OPTIONS]")]
struct SynthArgs {
    /// The folder to make it in
    #[arg(long, value_name = "DIR", value_parser = folder)]
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

/// A split of a data set on the disk.
#[derive(Debug, Clone, clap::Args)]
struct SourceArgs {
    /// coco: the instances_*.json
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,
    /// coco: the folder of the images
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// yolo, voc, labelled images: the folder of the data set (yolo: or its data.yaml)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["annotations", "images"])]
    root: Option<PathBuf>,
    /// yolo: a key of data.yaml; voc: a list ImageSets/Main/SPLIT.txt, or a folder; labelled images: train or
    /// val [default: both]
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    /// voc: class names in the order of their ids [default: labelmap.txt's, else all there are, sorted]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    classes: Option<Vec<String>>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det data check --annotations instances_val2017.json --images val2017
  ckd-det data check --format yolo --root coco8 --split val --decode
  ckd-det data check --format voc --root VOCdevkit/VOC2007 --split trainval
  ckd-det data check --annotations val.json --images val \\
    --against train.json --against-images train
  ckd-det data check --annotations export.json --images images --fix good.json
  ckd-det data check --format folder --root imagenet
  ckd-det data check --format cifar10 --root data/cifar10")]
struct CheckArgs {
    /// The format that is there
    #[arg(long, value_name = "FORMAT", default_value = "coco")]
    format: CheckFormat,
    #[command(flatten)]
    source: SourceArgs,
    /// Decode every image as well
    #[arg(long)]
    decode: bool,
    /// Find images that are in the training split too: coco: its annotations; yolo, voc: its name
    #[arg(long, value_name = "SPLIT")]
    against: Option<String>,
    /// coco: the folder of the images of --against [default: --images]
    #[arg(long, value_name = "DIR", requires = "against")]
    against_images: Option<PathBuf>,
    /// Write what is good as a COCO file: corrected sizes, ids and boxes, without images that cannot be used;
    /// - is standard output
    #[arg(long, value_name = "OUT.json")]
    fix: Option<Output>,
    /// Take images outside the folder of images too
    #[arg(long)]
    allow_outside: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det data convert --from voc --root VOC2007 --split train --out train.json
  ckd-det data convert --from coco --annotations val.json --images val \\
    --to yolo --split val --out yolo
  ckd-det data convert --from yolo --root coco8 --split train --to voc --out voc")]
struct ConvertArgs {
    /// The format that is there
    #[arg(long, value_name = "FORMAT")]
    from: Format,
    /// The format to write
    #[arg(long, value_name = "FORMAT", default_value = "coco")]
    to: Format,
    #[command(flatten)]
    source: SourceArgs,
    /// The COCO file to write (- is standard output), or the folder of the YOLO or VOC data set to add the
    /// split to
    #[arg(long, value_name = "PATH")]
    out: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// COCO: an instances_*.json and a folder of images
    Coco,
    /// YOLO: data.yaml, images, labels
    Yolo,
    /// Pascal VOC: Annotations, ImageSets/Main, JPEGImages; or XML files beside the images
    Voc,
}

/// A format of boxes, or of labelled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum CheckFormat {
    /// COCO: an instances_*.json and a folder of images
    Coco,
    /// YOLO: data.yaml, images, labels
    Yolo,
    /// Pascal VOC: Annotations, ImageSets/Main, JPEGImages; or XML files beside the images
    Voc,
    /// For classifiers: a folder for each class, in train and in val
    Folder,
    /// CIFAR-10, binary or python version
    Cifar10,
    /// CIFAR-100, binary or python version
    Cifar100,
    /// STL-10, binary version
    Stl10,
    /// Tiny-ImageNet-200
    TinyImagenet,
}

impl CheckFormat {
    fn parts(self) -> Result<Format, LabelledKind> {
        match self {
            Self::Coco => Ok(Format::Coco),
            Self::Yolo => Ok(Format::Yolo),
            Self::Voc => Ok(Format::Voc),
            Self::Folder => Err(LabelledKind::Folder),
            Self::Cifar10 => Err(LabelledKind::Cifar10),
            Self::Cifar100 => Err(LabelledKind::Cifar100),
            Self::Stl10 => Err(LabelledKind::Stl10),
            Self::TinyImagenet => Err(LabelledKind::TinyImagenet),
        }
    }
}

impl Format {
    fn kind(self) -> DataKind {
        match self {
            Self::Coco => DataKind::Coco,
            Self::Yolo => DataKind::Yolo,
            Self::Voc => DataKind::Voc,
        }
    }
}

impl SourceArgs {
    /// The files of the split; the error says which options are missing.
    fn files(&self, format: Format) -> anyhow::Result<SplitFiles> {
        let missing = |options: &str| {
            let word = format.kind().word();
            UsageError(format!("a data set of format {word} is named by {options}"))
        };
        if self.classes.is_some() && format != Format::Voc {
            return Err(UsageError(
                "--classes is for voc alone; the other formats name their classes".to_owned(),
            )
            .into());
        }
        match (format, &self.annotations, &self.images, &self.root, &self.split) {
            (Format::Coco, Some(annotations), Some(images), None, _) => {
                Ok(SplitFiles::coco(annotations, images))
            }
            (Format::Coco, ..) => Err(missing("--annotations FILE and --images DIR").into()),
            (Format::Yolo, None, None, Some(root), Some(split)) => Ok(SplitFiles::yolo(root, split)),
            (Format::Voc, None, None, Some(root), Some(split)) => {
                let classes = self.classes.clone().map_or(voc::Classes::Found, voc::Classes::Listed);
                Ok(SplitFiles::voc(root, split, classes))
            }
            _ => Err(missing("--root DIR and --split SPLIT").into()),
        }
    }
}

/// Does what is asked for.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.action {
        Action::Synth(args) => make(&args, context),
        Action::Check(args) => check(&args),
        Action::Convert(args) => convert(&args, context),
        Action::Preview(args) => data_preview::run(&args),
    }
}

fn make(args: &SynthArgs, context: &Context) -> anyhow::Result<()> {
    let config = Synth {
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
    let format = match args.format.parts() {
        Ok(format) => format,
        Err(kind) => return check_labelled::run(&args.labelled(kind)?),
    };
    let files = args.source.files(format)?;
    if let Some(out) = &args.fix {
        out.check()?;
        if is_same_file(out.path(), &files.annotations) {
            return Err(
                UsageError("--fix names the annotations themselves; name a new file".to_owned()).into()
            );
        }
    }
    let say = |line: &str| match &args.fix {
        Some(out) => out.say(line),
        None => say(line),
    };
    let (dataset, mut report) = args.load(&files)?;
    if let Some(train) = args.training_split(format)? {
        let (train, _) = args.load(&train)?;
        leakage::find(&train, &dataset, &mut report, u64::MAX);
    }
    say(&report.to_string())?;
    say(&classes_in_words(&dataset))?;
    say(&sizes_in_words(&dataset))?;
    let unusable = report.count_of(FindingKind::BadImage) + report.count_of(FindingKind::MissingImage);
    let undecodable = if args.decode { undecodable(&dataset, say)? } else { BTreeSet::new() };
    let (bad, total) = (unusable + undecodable.len(), dataset.images.len() + unusable);
    if let Some(out) = &args.fix {
        let corrected = dataset.corrected(|image| !undecodable.contains(&image));
        fsx::write_atomic(out.path(), &coco::to_json(&corrected))?;
        let (images, boxes) = (corrected.images.len(), corrected.annotations.len());
        return Ok(say(&format!("{}: {images} images, {boxes} boxes, {bad} images left out", out.told()))?);
    }
    let unusable =
        format!("{bad} of {total} images cannot be used; --fix OUT.json writes a COCO file without them");
    match (bad, report.count_of(FindingKind::MissingImage)) {
        (0, _) => Ok(()),
        (_, 0) => bail!(unusable),
        (_, _) => Err(EngineError::Missing(unusable).into()),
    }
}

impl CheckArgs {
    /// The data set of labelled images; the error says which options are missing or do not apply.
    fn labelled(&self, kind: LabelledKind) -> Result<check_labelled::Asked<'_>, UsageError> {
        let boxes_only = [
            (self.source.annotations.is_some(), "--annotations"),
            (self.source.images.is_some(), "--images"),
            (self.source.classes.is_some(), "--classes"),
            (self.against.is_some(), "--against"),
            (self.fix.is_some(), "--fix"),
            (self.allow_outside, "--allow-outside"),
        ];
        if let Some((_, option)) = boxes_only.into_iter().find(|(given, _)| *given) {
            return Err(UsageError(format!(
                "{option} is for data sets with boxes, and {kind} has labels alone"
            )));
        }
        let Some(root) = &self.source.root else {
            return Err(UsageError(format!("a data set of format {kind} is named by --root DIR")));
        };
        Ok(check_labelled::Asked { kind, root, split: self.source.split.as_deref(), decode: self.decode })
    }

    /// The data set without images that cannot be used, which its report counts.
    fn load(&self, files: &SplitFiles) -> anyhow::Result<(Dataset, LoadReport)> {
        let (instances, images) = files.open()?;
        let policy = ImagePolicy {
            on_bad: OnBadImage::Skip,
            max_bad: 1.0,
            allow_outside: self.allow_outside,
            ..files.policy.clone()
        };
        Ok(Dataset::new(&instances, &images, &policy)?)
    }

    /// The files of the split that `--against` names.
    fn training_split(&self, format: Format) -> anyhow::Result<Option<SplitFiles>> {
        let Some(against) = &self.against else { return Ok(None) };
        let images = self.against_images.clone().or_else(|| self.source.images.clone());
        let source = match format {
            Format::Coco => SourceArgs { annotations: Some(against.into()), images, ..self.source.clone() },
            Format::Yolo | Format::Voc => SourceArgs { split: Some(against.clone()), ..self.source.clone() },
        };
        source.files(format).map(Some)
    }
}

fn positives(dataset: &Dataset) -> impl Iterator<Item = (usize, &Annotation)> {
    (0..dataset.images.len())
        .flat_map(|image| dataset.annotations(image).iter().map(move |annotation| (image, annotation)))
        .filter(|(_, annotation)| annotation.is_positive())
}

/// Whether both paths lead to one file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A table of the classes: boxes and images of each.
pub(super) fn classes_in_words(dataset: &Dataset) -> String {
    let classes = dataset.categories.len();
    let (mut boxes, mut images, mut last) = (vec![0; classes], vec![0; classes], vec![None; classes]);
    for (image, annotation) in positives(dataset) {
        let ClassIndex(class) = annotation.category;
        let class = class as usize;
        boxes[class] += 1;
        images[class] += usize::from(last[class].replace(image) != Some(image));
    }
    let mut text = "\nclass   id   boxes  images  name".to_owned();
    for (class, (id, name)) in dataset.categories.iter().enumerate() {
        text += &format!("\n{class:>5} {:>4} {:>7} {:>7}  {name}", id.0, boxes[class], images[class]);
    }
    text
}

/// Numbers of small, medium and large boxes.
pub(super) fn sizes_in_words(dataset: &Dataset) -> String {
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
    format!("\nboxes by area: {small} small (< 32x32), {medium} medium, {large} large (>= 96x96)")
}

/// Decodes every image; the indices of those that cannot be decoded, the first of which are named.
fn undecodable(dataset: &Dataset, say: impl Fn(&str) -> io::Result<()>) -> anyhow::Result<BTreeSet<usize>> {
    let broken: Vec<(usize, String)> = (0..dataset.images.len())
        .into_par_iter()
        .filter_map(|image| Some((image, dataset.pixels(image).err()?.to_string())))
        .collect();
    if broken.is_empty() {
        say(&format!("all {} images decode", dataset.images.len()))?;
    }
    for (_, problem) in broken.iter().take(NAMED) {
        say(problem)?;
    }
    Ok(broken.into_iter().map(|(image, _)| image).collect())
}

fn convert(args: &ConvertArgs, context: &Context) -> anyhow::Result<()> {
    let ConvertArgs { source, to, out, .. } = args;
    match to {
        Format::Coco => out.check()?,
        Format::Yolo | Format::Voc if fsx::is_stdout(out.path()) => {
            let word = to.kind().word();
            return Err(
                UsageError(format!("a data set of format {word} is a folder: name it with --out")).into()
            );
        }
        Format::Yolo | Format::Voc => {}
    }
    let split = match (to, &source.split) {
        (Format::Coco, _) => "",
        (_, Some(split)) => split,
        (_, None) => return Err(UsageError("--split SPLIT names the split to write".to_owned()).into()),
    };
    let (instances, images) = source.files(args.from)?.open()?;
    let instances = match to {
        // A file without sizes is fine for COCO's readers; the others need them.
        Format::Coco => instances,
        Format::Yolo | Format::Voc => instances.with_sizes(&images)?,
    };
    let left_out = to
        .kind()
        .write(&instances, &images, out.path(), split)
        .context("the data set is read but not converted")?;
    if !context.quiet {
        out.say(told(&instances, left_out, out))?;
    }
    Ok(())
}

fn told(instances: &Instances, left_out: usize, out: &Output) -> String {
    let (images, boxes) = (instances.images.len(), instances.annotations.len());
    let ignored = instances.annotations.iter().filter(|row| row.ignore).count();
    let mut text = format!("{}: {images} images, {boxes} boxes", out.told());
    if ignored > 0 {
        text.push_str(&format!(", of which {ignored} to be ignored (VOC's difficult)"));
    }
    if left_out > 0 {
        text.push_str(&format!(
            "\n  {left_out} crowd regions and boxes to be ignored left out: the format has no form for them"
        ));
    }
    let findings: &Findings = instances.findings();
    text + &findings.to_string()
}
