//! `ckd-det export`: writes a trained network alone, in the format that its user takes.

use std::io;
use std::path::PathBuf;

use clap::ValueEnum;

use super::model::{Model, ModelArgs, check_data_root};
use super::output::Output;
use super::{Context, UsageError};
use crate::engine::EngineError;
use crate::engine::classify::ClassifierCard;
use crate::export::onnx::{Outputs, Preprocessing};
use crate::export::proof::{ImagesFound, MadeUp};
use crate::export::{
    CalibrationGap, ClassifierExport, DetectorExport, ExportError, Finding, Format, OnnxOptions, Storage,
};
use crate::fsx;
use crate::report::progress;
use crate::weights::WeightsFile;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every file holds the student alone.

safetensors: tensors under torchvision's names; in the header the classes and their ids, normalisation, resizing, \
thresholds, where it comes from, and the whole configuration.

torchvision: a state dict (.pth) that torchvision's FasterRCNN or RetinaNet loads with strict=True; labels are the \
classes in the order of the header above, counted from 1 (FasterRCNN) or 0 (RetinaNet).

hf: a folder with config.json, model.safetensors, preprocessor_config.json and a model card (README.md), as a \
repository of the Hugging Face Hub has them. `--weights FOLDER` of `eval`, `predict` and `export` reads it. The card \
states no licence: add it.

onnx: a graph of operator set 17 with everything from pixels to boxes in it; the same texts as metadata.

The ONNX graph takes N images of any size in one go:
  images  float32 (N, 3, H, W), RGB in 0..1, resized; it normalises and pads
  sizes   int64 (N, 2), height and width of each image in the batch, top left

or, with --with-preprocess, photographs of one size as they are decoded, which are resized in the graph:
  images  uint8 (N, H, W, 3)

and gives, for all images together and possibly none:
  boxes   (D, 4), x1 y1 x2 y2 in pixels of `images`
  labels  (D), category ids
  scores  (D)
  image   (D), which of the N

Before it is written, the graph is run operator by operator on validation images beside the student itself; if \
boxes differ by more than 0.1 pixels or scores by 0.001, nothing is written. That run uses this program's own \
kernels: `tools/verify_export` asks onnxruntime, and torchvision, the same.

--int8 activations with a .safetensors file keeps the weights in f32 and writes the ranges of activations beside them: \
`predict --int8`, `eval --int8` and the library's Student::in_8_bits compute by them, in about half the time of f32.

--int8 activations takes the ranges of activations from training images, so that the AP that is printed, of validation \
images, is of images that the quantised graph has not seen.

A classifier's ONNX graph takes `images`, float32 (N, 3, H, W), RGB in 0..1, resized and not normalised, or, with \
--with-preprocess, uint8 (N, H, W, 3), resized too, and gives `logits` (N, K) before the softmax and `embedding` (N, D); \
it is compared on held-out images, or on noise where there are none. H and W are free, but for VGG's H, whose poolings \
depend on it. Its .pth is a state dict under the names of RepDistiller or torchvision. --raw is for detectors.

Examples:
  ckd-det export --out student.safetensors     the latest run
  ckd-det export --run runs/coco_r101_r18 --out student.onnx
  ckd-det export --out student.onnx --with-preprocess --half
  ckd-det export --out student.onnx --int8 activations --images 100
  ckd-det export --out student.pth
  ckd-det export --run runs/my --format hf --out my-detector
  ckd-det export --run runs/cifar10_r56_r20 --out classifier.onnx
  ckd-det export --format onnx --out - | gzip > student.onnx.gz")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write, of hf the folder; - is standard output, with --format [default: student.safetensors]
    #[arg(long, value_name = "FILE", default_value = "student.safetensors", hide_default_value = true)]
    out: Output,
    /// The file's format [default: what its name ends in: .safetensors, .pth, .onnx]
    #[arg(long, value_name = "FORMAT")]
    format: Option<FileFormat>,
    /// ONNX: what the heads say, without suppression: for runtimes that lack it; of a Faster R-CNN, the box head is a
    /// second file, FILE.box_head.onnx without FILE's ending
    #[arg(long)]
    raw: bool,
    /// ONNX: take u8 photographs and resize in the graph; of a classifier, take resized images in u8
    #[arg(long, conflicts_with = "raw")]
    with_preprocess: bool,
    /// ONNX: weights in f16
    #[arg(long, conflicts_with_all = ["int8", "raw"])]
    half: bool,
    /// ONNX: weights in int8, or activations too: their ranges are calibrated on training images (or on
    /// held-out images that are not used for the comparison); safetensors: the ranges of activations
    #[arg(long, value_name = "WHAT", num_args = 0..=1, default_missing_value = "weights", conflicts_with = "raw")]
    int8: Option<Int8>,
    /// ONNX: validation images that the graph is compared on; 0 compares nothing [default: 20; of a
    /// classifier 200]
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// ONNX: where the validation images are, instead of the experiment's data.root
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// ONNX with --half or --int8: the most AP, of a classifier top-1, in points, that it may lose on those
    /// images
    #[arg(long, value_name = "POINTS", default_value_t = 3.0)]
    max_ap_loss: f64,
}

/// File formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    Safetensors,
    Torchvision,
    Onnx,
    /// A folder as a model repository of the Hugging Face Hub has it
    Hf,
}

/// Parts that are stored in 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Int8 {
    /// Weights alone
    Weights,
    /// Weights, and what goes into each product
    Activations,
}

impl Args {
    fn format(&self) -> Result<FileFormat, UsageError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        match self.out.path().extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(FileFormat::Safetensors),
            Some("pth" | "pt") => Ok(FileFormat::Torchvision),
            Some("onnx") => Ok(FileFormat::Onnx),
            _ => Err(UsageError(format!(
                "the name {} does not tell the format: end it in .safetensors, .pth or .onnx, or say --format",
                self.out.told()
            ))),
        }
    }

    /// The first option that a file of another `format` than ONNX does not take.
    fn is_about_onnx_only(&self, format: FileFormat) -> Option<&'static str> {
        let has_ranges = format == FileFormat::Safetensors && self.int8 == Some(Int8::Activations);
        let int8 = if self.int8 == Some(Int8::Activations) { "--int8 activations" } else { "--int8" };
        [
            (self.raw, "--raw"),
            (self.with_preprocess, "--with-preprocess"),
            (self.half, "--half"),
            (self.int8.is_some() && !has_ranges, int8),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }

    /// The format with its options.
    fn in_full(&self, format: FileFormat) -> Format {
        match format {
            FileFormat::Safetensors if self.int8.is_some() => {
                Format::SafetensorsWithRanges { images: self.images, max_loss: self.max_ap_loss }
            }
            FileFormat::Safetensors => Format::Safetensors,
            FileFormat::Torchvision => Format::Torchvision,
            FileFormat::Hf => Format::HuggingFace,
            FileFormat::Onnx => Format::Onnx(OnnxOptions {
                storage: match (self.half, self.int8) {
                    (true, _) => Storage::Half,
                    (_, Some(Int8::Weights)) => Storage::Int8Weights,
                    (_, Some(Int8::Activations)) => Storage::Int8Activations,
                    (false, None) => Storage::Full,
                },
                preprocessing: match self.with_preprocess {
                    true => Preprocessing::Inside,
                    false => Preprocessing::Outside,
                },
                outputs: if self.raw { Outputs::Raw } else { Outputs::Detections },
                images: self.images,
                max_loss: self.max_ap_loss,
            }),
        }
    }

    fn refuse_detectors_options(&self, file: &WeightsFile, card: &ClassifierCard) -> Result<(), UsageError> {
        let path = file.path.display();
        if self.model.config.is_some() {
            return Err(UsageError(format!("{path} says how its network is built: leave out --config")));
        }
        if self.raw {
            let card = card.described();
            return Err(UsageError(format!(
                "--raw is for detectors, and {path} is {card}: its graph gives logits anyway; leave it out"
            )));
        }
        Ok(())
    }
}

/// Runs the verb.
///
/// # Errors
/// Missing weights; weights that do not name their classes; an export that is not the student.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    check_data_root(args.data_root.as_deref())?;
    let format = args.format()?;
    if let (true, Some(option)) = (format != FileFormat::Onnx, args.is_about_onnx_only(format)) {
        return Err(UsageError(format!("{option} is for ONNX: end --out in .onnx")).into());
    }
    match format {
        FileFormat::Hf if fsx::is_stream(args.out.path()) => {
            return Err(UsageError("--format hf writes a folder: name it with --out".to_owned()).into());
        }
        FileFormat::Hf => Output::from(args.out.path().join("config.json")).check()?,
        _ => args.out.check()?,
    }
    let (format, data_root) = (args.in_full(format), args.data_root.as_deref());
    let file = WeightsFile::read(&args.model.find()?)?;
    let mut failed = None;
    let mut report = |finding: &Finding| failed = failed.take().or(tell(&args.out, finding).err());
    let written = match ClassifierCard::of(&file)? {
        Some(card) => {
            args.refuse_detectors_options(&file, &card)?;
            ClassifierExport::new(&file, card, data_root)?.write(args.out.path(), &format, &mut report)
        }
        None => {
            let no_classes = || {
                UsageError("the weights do not name their classes; export the weights of a run".to_owned())
            };
            let model = args.model.load(file, &context.device, |_| Err(no_classes().into()))?;
            let Model { detector, config, card, file, .. } = model;
            let export =
                DetectorExport::new(detector, config, card.ok_or_else(no_classes)?, &file.hash, data_root);
            export.write(args.out.path(), &format, &mut report)
        }
    };
    written.map_err(in_words)?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Prints a finding, with the option that it depends on.
fn tell(out: &Output, finding: &Finding) -> io::Result<()> {
    match finding {
        Finding::NotCompared { .. } => out.say(format!("{finding}: --images 0")),
        Finding::ComparedOn(ImagesFound { made_up: Some(MadeUp { instead_of, reason }), .. }) => {
            progress::tell(&format!("note: {reason}"));
            out.say(format!("{finding}; --data-root FOLDER names {instead_of}"))
        }
        _ => out.say(finding.to_string()),
    }
}

/// The error in terms of the options.
fn in_words(error: ExportError) -> anyhow::Error {
    let usage = |says: &str| UsageError(format!("--int8 activations {says}")).into();
    match error {
        ExportError::Calibration(CalibrationGap::NothingCompared) => {
            usage("needs --images to see the ranges")
        }
        ExportError::Calibration(CalibrationGap::NoOtherImages) => usage(
            "takes its ranges from other images than it is compared on, and there are none: name a folder with training \
             images with --data-root, or compare on fewer with --images",
        ),
        ExportError::Calibration(CalibrationGap::NoData) => {
            let missing = "--int8 activations takes its ranges from training images: name their folder with --data-root";
            EngineError::Missing(missing.to_owned()).into()
        }
        ExportError::Loss { name, measure, points, limit } => anyhow::anyhow!(
            "nothing was written, since the export is not the student: {name} loses {points:.1} points of {measure}, more \
             than --max-ap-loss {limit}"
        ),
        error => error.into(),
    }
}
