//! `ckd-det export`: the student alone, in the form that its user takes, and the proof that it is the student.

mod classifier;
mod images;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Device;
use ckd_detectors::DetectorConfig;
use clap::ValueEnum;
use serde_json::json;

use self::images::{Found, Pictures};
use super::model::{Model, ModelArgs};
use super::{Context, UsageError, say};
use crate::config::{Config, Resize};
use crate::engine::build;
use crate::engine::classify::ClassifierCard;
use crate::engine::evaluate::detect_one;
use crate::engine::experiment::without_teacher;
use crate::export::onnx::evaluate::Evaluator;
use crate::export::onnx::{
    self, DetectorGraph, InputRule, OnnxModel, Outputs, Precision, Preprocessing, Ranges,
};
use crate::export::verify::{self, Difference, graph_detections, graph_input};
use crate::export::{ExportError, torchvision};
use crate::fsx;
use crate::weights::file::write_safetensors;
use crate::weights::{ModelCard, WeightsFile};

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every file holds the student alone.

safetensors   tensors under torchvision's names; in the header the classes and their ids, normalisation, resizing,
              thresholds, where it comes from, and the whole configuration
torchvision   a state dict (.pth) that torchvision's FasterRCNN or RetinaNet loads with strict=True; labels are the
              classes in the order of the header above, counted from 1 (FasterRCNN) or 0 (RetinaNet)
onnx          a graph of operator set 17 with everything from pixels to boxes in it; the same texts as metadata

The ONNX graph takes N images of any size in one go:
  images  float32 (N, 3, H, W), RGB in 0..1, resized; normalisation and padding are in the graph
  sizes   int64 (N, 2), height and width of each image within the batch (smaller ones lie top left)
or, with --with-preprocess, photographs of one size as they are decoded, which are resized in the graph:
  images  uint8 (N, H, W, 3)
and gives, for all images together and possibly none:
  boxes (D, 4) x1 y1 x2 y2 in pixels of `images`; labels (D) category ids; scores (D); image (D), which of the N

Before it is written, the graph is run operator by operator on validation images beside the student itself; if
boxes differ by more than 0.1 pixels or scores by 0.001, nothing is written. That run uses this program's own
kernels: `tools/verify_export` asks onnxruntime, and torchvision, the same.

--int8 activations takes the ranges of activations from training images, so that the AP that is printed, of validation
images, is of images that the quantised graph has not seen.

A classifier's ONNX graph takes `images`, float32 (N, 3, H, W), RGB in 0..1, resized and not normalised, or, with
--with-preprocess, uint8 (N, H, W, 3), resized too, and gives `logits` (N, K) before the softmax and `embedding` (N, D);
it is compared on held-out images, or on noise where there are none. H and W are free, but for VGG's H, whose poolings
depend on it. Its .pth is a state dict under the names of RepDistiller or torchvision. --raw is for detectors.

Examples:
  ckd-det export --out student.safetensors                 the latest run
  ckd-det export --run runs/coco_r101_r18 --out student.onnx
  ckd-det export --out student.onnx --with-preprocess --half
  ckd-det export --out student.onnx --int8 activations --images 100
  ckd-det export --out student.pth
  ckd-det export --run runs/cifar10_r56_r20 --out classifier.onnx")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "student.safetensors")]
    out: PathBuf,
    /// The file's format [default: what its name ends in: .safetensors, .pth, .onnx]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// ONNX: what the heads say, without suppression: for runtimes that lack it
    #[arg(long)]
    raw: bool,
    /// ONNX: take u8 photographs and resize in the graph; of a classifier, take resized images in u8
    #[arg(long, conflicts_with = "raw")]
    with_preprocess: bool,
    /// ONNX: weights in f16
    #[arg(long, conflicts_with_all = ["int8", "raw"])]
    half: bool,
    /// ONNX: weights in int8, or activations too, their ranges taken from as many training images as it is compared on (or,
    /// where those are not there, from held-out images that it is not compared on)
    #[arg(long, value_name = "WHAT", num_args = 0..=1, default_missing_value = "weights", conflicts_with = "raw")]
    int8: Option<Int8>,
    /// ONNX: validation images that the graph is compared on; 0 compares nothing [default: 20; of a classifier 200]
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// ONNX: where the validation images are, instead of the experiment's data.root
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// ONNX with --half or --int8: the most AP, of a classifier top-1, in points, that it may lose on those images
    #[arg(long, value_name = "POINTS", default_value_t = 3.0)]
    max_ap_loss: f64,
}

/// Images that a detector is compared on, if the user does not say.
const COMPARED: usize = 20;

/// What a student can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Torchvision,
    Onnx,
}

/// What is stored in 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Int8 {
    /// Weights alone
    Weights,
    /// Weights, and what goes into each product
    Activations,
}

impl Args {
    fn format(&self) -> Result<Format, UsageError> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        match self.out.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("pth" | "pt") => Ok(Format::Torchvision),
            Some("onnx") => Ok(Format::Onnx),
            _ => Err(UsageError(format!(
                "the name {} does not tell the format: end it in .safetensors, .pth or .onnx, or say --format",
                self.out.display()
            ))),
        }
    }

    fn is_about_onnx_only(&self) -> Option<&'static str> {
        [
            (self.raw, "--raw"),
            (self.with_preprocess, "--with-preprocess"),
            (self.half, "--half"),
            (self.int8.is_some(), "--int8"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// Runs the verb.
///
/// # Errors
/// Missing weights; weights that do not name their classes; an export that is not the student.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let format = args.format()?;
    if let (true, Some(option)) = (format != Format::Onnx, args.is_about_onnx_only()) {
        return Err(UsageError(format!("{option} is for ONNX: end --out in .onnx")).into());
    }
    let no_classes =
        || UsageError("the weights do not name their classes; export the weights of a run".to_owned());
    let file = WeightsFile::read(&args.model.find()?)?;
    if let Some(card) = ClassifierCard::of(&file)? {
        return classifier::run(&args, format, &file, card);
    }
    let model = args.model.load(file, &context.device, |_| Err(no_classes().into()))?;
    let mut card: ModelCard = model.card.clone().ok_or_else(no_classes)?;
    // The student is on its own from here.
    card.config = without_teacher(&card.config);
    card.provenance.insert("exported_from_blake3".to_owned(), model.file.hash.clone());
    if let Some(hash) = images::data_hash(&model.config, args.data_root.as_deref()) {
        card.provenance.insert("data_blake3".to_owned(), hash);
    }
    let mut metadata = card.to_metadata();
    metadata.insert("ckd_det.postprocess".to_owned(), thresholds(&model.config));
    match format {
        Format::Safetensors => {
            write_safetensors(&args.out, &model.detector.params().snapshot()?, &metadata)?;
        }
        Format::Torchvision => torchvision::write(&args.out, &model.detector.params().snapshot()?)?,
        Format::Onnx => write_onnx(&args, &model, &metadata)?,
    }
    let numbers = model.detector.params().weight_count();
    Ok(say(format!(
        "{}: {:.2} M parameters, {} classes",
        args.out.display(),
        numbers as f64 / 1e6,
        model.categories.len()
    ))?)
}

/// What is done to the heads' outputs, for other programs.
fn thresholds(config: &Config) -> String {
    let detector = &config.detector;
    let (roi, retina) = (&detector.roi, &detector.retina);
    // As decimals: 0.05, not the f32 nearest to it.
    let exact = |value: f32| value.to_string().parse::<f64>().unwrap_or(value.into());
    match detector.architecture {
        crate::config::Architecture::FasterRcnn => json!({
            "architecture": "faster_rcnn",
            "score_threshold": exact(roi.score_threshold),
            "nms_threshold": exact(roi.nms_threshold),
            "detections_per_image": roi.detections_per_image,
            "rpn_pre_nms_top_n": detector.rpn.pre_nms_top_n_test,
            "rpn_post_nms_top_n": detector.rpn.post_nms_top_n_test,
            "rpn_nms_threshold": exact(detector.rpn.nms_threshold),
        }),
        crate::config::Architecture::RetinaNet => json!({
            "architecture": "retinanet",
            "score_threshold": exact(retina.score_threshold),
            "nms_threshold": exact(retina.nms_threshold),
            "detections_per_image": retina.detections_per_image,
            "topk_candidates": retina.topk_candidates,
        }),
    }
    .to_string()
}

/// A student about to become a graph.
struct Exporting<'a> {
    model: &'a Model,
    config: DetectorConfig,
    rule: InputRule,
    categories: Vec<u64>,
    metadata: &'a BTreeMap<String, String>,
    preprocessing: Preprocessing,
    outputs: Outputs,
}

fn write_onnx(args: &Args, model: &Model, metadata: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let input = &model.config.input;
    if args.with_preprocess && input.resize != Resize::Bilinear {
        let reason = format!(
            "input.resize is \"{}\", which no operator of the graph does: export without --with-preprocess",
            input.resize
        );
        return Err(ExportError::Unsupported { reason }.into());
    }
    let exporting = Exporting {
        model,
        config: build::student_settings(&model.config, model.categories.len())?,
        rule: InputRule::of(&model.config),
        categories: model.categories.iter().map(|category| category.id).collect(),
        metadata,
        preprocessing: if args.with_preprocess { Preprocessing::Inside } else { Preprocessing::Outside },
        outputs: if args.raw { Outputs::Raw } else { Outputs::Detections },
    };
    let full = exporting.graph(Precision::Full)?;
    let images = args.images.unwrap_or(COMPARED);
    if images == 0 {
        say("not compared with the student: --images 0")?;
        let chosen = match (args.half, args.int8) {
            (true, _) => exporting.graph(Precision::Half)?,
            (_, Some(Int8::Weights)) => exporting.graph(Precision::Int8)?,
            (_, Some(Int8::Activations)) => {
                return Err(
                    UsageError("--int8 activations needs --images to see the ranges".to_owned()).into()
                );
            }
            (false, None) => full,
        };
        return Ok(fsx::write_atomic(&args.out, &chosen.to_bytes())?);
    }
    let pictures = Pictures::find(&model.config, args.data_root.as_deref(), images)?;
    pictures.say_where()?;
    if args.raw {
        exporting.check_raw(&full, &pictures)?;
        return Ok(fsx::write_atomic(&args.out, &full.to_bytes())?);
    }
    let (difference, [student, graph]) = exporting.compare(&full, &pictures)?;
    say(format!("the graph beside the student: {difference}"))?;
    difference.check()?;
    let bytes = full.to_bytes();
    say(row("student", None, student))?;
    say(row("onnx f32", Some(bytes.len()), graph))?;
    let (name, smaller) = match (args.half, args.int8) {
        (true, _) => ("onnx f16", exporting.graph(Precision::Half)?),
        (_, Some(Int8::Weights)) => ("onnx int8 weights", exporting.graph(Precision::Int8)?),
        (_, Some(Int8::Activations)) => {
            let int8 = exporting.graph(Precision::Int8)?;
            let seen = pictures.for_calibration(&model.config, args.data_root.as_deref(), images)?;
            ("onnx int8", int8.with_activations_in_8_bits(&exporting.ranges(&int8, &seen)?))
        }
        (false, None) => return Ok(fsx::write_atomic(&args.out, &bytes)?),
    };
    let smaller_bytes = smaller.to_bytes();
    let (difference, [_, ap]) = exporting.compare(&smaller, &pictures)?;
    say(row(name, Some(smaller_bytes.len()), ap))?;
    say(format!("{name} beside the student: {difference}"))?;
    if let (Some(student), Some(ap)) = (student, ap)
        && student - ap > args.max_ap_loss
    {
        let reason = format!(
            "{name} loses {:.1} points of AP, more than --max-ap-loss {}",
            student - ap,
            args.max_ap_loss
        );
        return Err(ExportError::Drift { reason }.into());
    }
    Ok(fsx::write_atomic(&args.out, &smaller_bytes)?)
}

/// A line of the table: what, MiB, AP in points.
fn row(name: &str, bytes: Option<usize>, ap: Option<f64>) -> String {
    named_row(name, bytes, "AP", ap)
}

/// As [`row`], of another measure.
fn named_row(name: &str, bytes: Option<usize>, measure: &str, points: Option<f64>) -> String {
    let size = bytes.map_or("-".to_owned(), |bytes| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)));
    let points = points.map_or("-".to_owned(), |points| format!("{points:.2}"));
    format!("  {name:<20} {size:>12}   {measure} {points:>6}")
}

impl Exporting<'_> {
    /// The graph as it will be read: through its bytes.
    fn graph(&self, precision: Precision) -> Result<OnnxModel, ExportError> {
        let about = DetectorGraph {
            config: &self.config,
            rule: self.rule,
            categories: &self.categories,
            metadata: self.metadata,
            precision,
            preprocessing: self.preprocessing,
            outputs: self.outputs,
        };
        OnnxModel::from_bytes(&onnx::detector(self.model.detector.params(), &about)?.to_bytes())
    }

    /// Student and graph on every picture; AP of both, in points, where there is a truth.
    fn compare(
        &self,
        graph: &OnnxModel,
        pictures: &Pictures,
    ) -> anyhow::Result<(Difference, [Option<f64>; 2])> {
        let evaluator = Evaluator::new(graph)?;
        let map = self.model.category_map()?;
        let mut difference = Difference::default();
        let mut found = [Found::default(), Found::default()];
        for picture in pictures.iter() {
            let (id, image) = picture?;
            let own = detect_one(&self.model.detector, &image, &self.model.config, &Device::Cpu)?;
            let (inputs, from) = graph_input(&image, &self.rule, self.preprocessing)?;
            let original = (image.height() as usize, image.width() as usize);
            let theirs = graph_detections(&evaluator.run(&inputs)?, &self.categories, (from, original))?;
            difference.add(&own, &theirs);
            found[0].add(id, &own, &map);
            found[1].add(id, &theirs, &map);
        }
        let [student, graph] = found;
        Ok((difference, [pictures.ap(student)?, pictures.ap(graph)?]))
    }

    fn ranges(&self, graph: &OnnxModel, pictures: &Pictures) -> anyhow::Result<Ranges> {
        let evaluator = Evaluator::new(graph)?;
        let mut ranges = Ranges::default();
        for picture in pictures.iter() {
            let (inputs, _) = graph_input(&picture?.1, &self.rule, self.preprocessing)?;
            ranges.observe(&evaluator, &inputs)?;
        }
        Ok(ranges)
    }

    fn check_raw(&self, graph: &OnnxModel, pictures: &Pictures) -> anyhow::Result<()> {
        let evaluator = Evaluator::new(graph)?;
        let (mut most, mut largest) = (0f32, 0f32);
        for picture in pictures.iter() {
            let (apart, size) =
                verify::raw_difference(&self.model.detector, &evaluator, &picture?.1, &self.rule)?;
            (most, largest) = (most.max(apart), largest.max(size));
        }
        let found = format!("raw outputs differ by at most {most:.2e}, the largest value being {largest:.3}");
        // False for NaN.
        match most <= 1e-3 * largest.max(1.0) {
            true => Ok(say(found)?),
            false => Err(ExportError::Drift { reason: found }.into()),
        }
    }
}
