//! `ckd-det export` of a classifier.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ckd_detectors::classifier::Classifier;
use ckd_detectors::images::{Images, Normalization};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Args, Format, Int8};
use crate::cli::{UsageError, say};
use crate::config::{ClassifyConfig, ConfigSource, Loaded};
use crate::data::{Labelled, LabelledBatch};
use crate::engine::EngineError;
use crate::engine::classify::{
    ClassifierCard, evaluation_batches, held_out, learned_from, logits, to_device,
};
use crate::engine::task::Settings;
use crate::eval::AccuracyMeter;
use crate::export::logits::LogitDifference;
use crate::export::onnx::evaluate::Evaluator;
use crate::export::onnx::{self, ClassifierGraph, OnnxModel, Precision, Preprocessing, Ranges};
use crate::export::{ExportError, torchvision};
use crate::fsx;
use crate::weights::WeightsFile;
use crate::weights::file::write_safetensors;

/// Images that a classifier is compared on, if the user does not say: they are small.
const COMPARED: usize = 200;

/// Writes the network of `file`, which `card` describes.
///
/// # Errors
/// What is for detectors only; an export that is not the network.
pub(super) fn run(
    args: &Args,
    format: Format,
    file: &WeightsFile,
    mut card: ClassifierCard,
) -> anyhow::Result<()> {
    if args.model.config.is_some() {
        let says = format!("{} says how its network is built: leave out --config", file.path.display());
        return Err(UsageError(says).into());
    }
    if args.raw {
        return Err(UsageError(format!(
            "--raw is for detectors, and {} is {}: its graph gives logits anyway; leave it out",
            file.path.display(),
            card.described()
        ))
        .into());
    }
    let network = card.network(file, &Device::Cpu)?;
    let data = loaded(&card, args.data_root.as_deref());
    // A network is exported where its data never was, too.
    if let Some(set) = learned_from(&data).ok().flatten() {
        card.provenance.insert("data_blake3".to_owned(), set.blake3());
    }
    // The network is on its own from here.
    card.config = card.config.without_teacher();
    card.config.normalization = Some(card.config.student_normalization());
    card.provenance.insert("exported_from_blake3".to_owned(), file.hash.clone());
    let metadata = card.to_metadata();
    match format {
        Format::Safetensors => write_safetensors(&args.out, &network.params().snapshot()?, &metadata)?,
        Format::Torchvision => torchvision::write(&args.out, &network.params().snapshot()?)?,
        Format::Onnx => {
            let preprocessing = match args.with_preprocess {
                true => Preprocessing::Inside,
                false => Preprocessing::Outside,
            };
            let exporting = Exporting { network: &network, card: &card, metadata: &metadata, preprocessing };
            fsx::write_atomic(&args.out, &exporting.bytes(args, file, &data)?)?;
        }
    }
    Ok(say(format!(
        "{}: {}, {:.2} M parameters, {} classes",
        args.out.display(),
        card.config.student.network,
        network.params().weight_count() as f64 / 1e6,
        card.classes.len()
    ))?)
}

/// A classifier about to become a graph.
struct Exporting<'a> {
    network: &'a Classifier,
    card: &'a ClassifierCard,
    metadata: &'a BTreeMap<String, String>,
    preprocessing: Preprocessing,
}

/// Network and graph on the same images.
struct Compared {
    difference: LogitDifference,
    images: usize,
    /// Images of which both guess the same class.
    same_guess: usize,
    /// Top-1 of the network and of the graph in points, where there are labels.
    top1: Option<[f64; 2]>,
}

impl Exporting<'_> {
    /// The content of the file, once the graph is seen to be the network.
    fn bytes(
        &self,
        args: &Args,
        file: &WeightsFile,
        data: &Loaded<ClassifyConfig>,
    ) -> anyhow::Result<Vec<u8>> {
        let precision = match (args.half, args.int8) {
            (true, _) => Precision::Half,
            (_, Some(_)) => Precision::Int8,
            (false, None) => Precision::Full,
        };
        let count = args.images.unwrap_or(COMPARED);
        if count == 0 {
            if args.int8 == Some(Int8::Activations) {
                let says = "--int8 activations needs --images to see the ranges";
                return Err(UsageError(says.to_owned()).into());
            }
            say("not compared with the network: --images 0")?;
            return Ok(self.graph(precision)?.to_bytes());
        }
        let samples = Samples::find(self.card, file, data, (count, args.data_root.as_deref()))?;
        samples.say_where()?;
        let full = self.graph(Precision::Full)?;
        let compared = self.compare(&full, &samples)?;
        say(format!("the graph beside the network: {}", compared.difference))?;
        compared.difference.check()?;
        let bytes = full.to_bytes();
        say(super::named_row("network", None, "top-1", compared.top1.map(|[network, _]| network)))?;
        let top1 = |compared: &Compared| compared.top1.map(|[_, graph]| graph);
        say(super::named_row("onnx f32", Some(bytes.len()), "top-1", top1(&compared)))?;
        let (name, smaller) = match (args.half, args.int8) {
            (true, _) => ("onnx f16", self.graph(precision)?),
            (_, Some(Int8::Weights)) => ("onnx int8 weights", self.graph(precision)?),
            (_, Some(Int8::Activations)) => {
                let int8 = self.graph(precision)?;
                let ranges = self.ranges(&int8, &samples.for_calibration(data, count)?)?;
                ("onnx int8", int8.with_activations_in_8_bits(&ranges))
            }
            (false, None) => return Ok(bytes),
        };
        let bytes = smaller.to_bytes();
        let compared = self.compare(&smaller, &samples)?;
        say(super::named_row(name, Some(bytes.len()), "top-1", top1(&compared)))?;
        let Compared { difference, images, same_guess, .. } = &compared;
        say(format!("{name} beside the network: {difference}; the same guess for {same_guess} of {images}"))?;
        difference.check_finite()?;
        if let Some([network, graph]) = compared.top1
            && network - graph > args.max_ap_loss
        {
            let reason = format!(
                "{name} loses {:.1} points of top-1, more than --max-ap-loss {}",
                network - graph,
                args.max_ap_loss
            );
            return Err(ExportError::Drift { reason }.into());
        }
        Ok(bytes)
    }

    /// The graph as it will be read: through its bytes.
    fn graph(&self, precision: Precision) -> Result<OnnxModel, ExportError> {
        let crate::config::Normalization { mean, std } = self.card.config.student_normalization();
        let about = ClassifierGraph {
            normalization: Normalization { mean, std },
            side_px: self.card.config.input.side_px as usize,
            metadata: self.metadata,
            precision,
            preprocessing: self.preprocessing,
        };
        let model = onnx::classifier(self.network.params(), &about)?;
        OnnxModel::from_bytes(&model.to_bytes())
    }

    fn compare(&self, graph: &OnnxModel, samples: &Samples) -> anyhow::Result<Compared> {
        let evaluator = Evaluator::new(graph)?;
        let mut difference = LogitDifference::default();
        let mut meters = [(); 2].map(|()| AccuracyMeter::new(self.card.classes.len(), None));
        samples.each(&self.card.config, |images, labels| {
            let own = logits(self.network, &images)?;
            let outputs = evaluator.run(&[("images", self.input(images.pixels)?)])?;
            let missing = || ExportError::Graph { reason: "it gives no logits".to_owned() };
            let theirs = outputs.get("logits").ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()?;
            difference.add(&own, &theirs)?;
            for (meter, logits) in meters.iter_mut().zip([own, theirs]) {
                meter.add(&logits, labels)?;
            }
            Ok(())
        })?;
        let [own, theirs] = [0, 1].map(|index| meters[index].guesses());
        Ok(Compared {
            difference,
            images: own.len(),
            same_guess: own.iter().zip(theirs).filter(|(own, theirs)| own == theirs).count(),
            top1: samples
                .are_labelled()
                .then(|| meters.each_ref().map(|meter| 100.0 * meter.accuracy().top1)),
        })
    }

    /// Pixels (N, 3, H, W) in 0..1 as the graph takes them.
    fn input(&self, pixels: Tensor) -> anyhow::Result<Tensor> {
        Ok(match self.preprocessing {
            Preprocessing::Outside => pixels,
            Preprocessing::Inside => {
                (pixels.permute((0, 2, 3, 1))? * 255.0)?.round()?.contiguous()?.to_dtype(DType::U8)?
            }
        })
    }

    fn ranges(&self, graph: &OnnxModel, samples: &Samples) -> anyhow::Result<Ranges> {
        let evaluator = Evaluator::new(graph)?;
        let mut ranges = Ranges::default();
        samples.each(&self.card.config, |images, _| {
            ranges.observe(&evaluator, &[("images", self.input(images.pixels)?)])?;
            Ok(())
        })?;
        Ok(ranges)
    }
}

fn loaded(card: &ClassifierCard, data_root: Option<&Path>) -> Loaded<ClassifyConfig> {
    let mut config = card.config.clone();
    if let Some(root) = data_root {
        config.data.root = root.to_owned();
    }
    let source = ConfigSource::Embedded("the weights' own configuration");
    Loaded { config, source, teacher_experiment: None }
}

/// Images to compare on, or to see the ranges of activations on.
enum Samples {
    /// Some of the held-out images, and those that are left.
    HeldOut { set: Arc<Labelled>, left: Labelled },
    /// Some of the training images.
    Training(Arc<Labelled>),
    /// Noise, since there is no data; why.
    Noise { reason: String, count: usize },
}

/// `count` indices all over a set of `of`, since images often lie ordered by class.
fn spread(count: usize, of: usize) -> Vec<usize> {
    let count = count.min(of);
    (0..count).map(|index| index * of / count).collect()
}

impl Samples {
    /// What network and graph are compared on.
    fn find(
        card: &ClassifierCard,
        file: &WeightsFile,
        data: &Loaded<ClassifyConfig>,
        (count, data_root): (usize, Option<&Path>),
    ) -> anyhow::Result<Self> {
        match held_out(data) {
            Ok(set) => {
                card.check_classes(&file.path, &set.classes)?;
                let chosen = spread(count, set.len());
                let others: Vec<usize> =
                    (0..set.len()).filter(|index| chosen.binary_search(index).is_err()).collect();
                Ok(Self::HeldOut { set: Arc::new(set.chosen(&chosen)), left: set.chosen(&others) })
            }
            Err(EngineError::Missing(reason)) if data_root.is_none() => Ok(Self::Noise { reason, count }),
            Err(error) => Err(error.into()),
        }
    }

    /// Other images than these: what an int8 graph loses is measured on images that it has not seen.
    fn for_calibration(&self, data: &Loaded<ClassifyConfig>, count: usize) -> anyhow::Result<Self> {
        let (what, set) = match (learned_from(data)?, self) {
            (Some(set), _) if !set.is_empty() => ("training images", set),
            (_, Self::HeldOut { left, .. }) if !left.is_empty() => {
                ("held-out images that are not compared on", left.clone())
            }
            (_, Self::HeldOut { .. }) => {
                let says = "--int8 activations takes its ranges from other images than it is compared on, and there are \
                            none: name a folder with training images with --data-root, or compare on fewer with --images";
                return Err(UsageError(says.to_owned()).into());
            }
            _ => {
                let says = "--int8 activations takes its ranges from training images: name their folder with --data-root";
                return Err(UsageError(says.to_owned()).into());
            }
        };
        let set = set.chosen(&spread(count, set.len()));
        say(format!("ranges of activations from {} {what}", set.len()))?;
        Ok(Self::Training(Arc::new(set)))
    }

    fn say_where(&self) -> anyhow::Result<()> {
        let line = match self {
            Self::HeldOut { set, .. } | Self::Training(set) => {
                format!("compared on {} held-out images", set.len())
            }
            Self::Noise { reason, count } => {
                eprintln!("note: {reason}");
                format!(
                    "compared on {count} images of noise, so without top-1; --data-root FOLDER names held-out images"
                )
            }
        };
        Ok(say(line)?)
    }

    fn are_labelled(&self) -> bool {
        matches!(self, Self::HeldOut { .. })
    }

    /// Shows every image and its label, in batches; noise is all of class 0.
    fn each(
        &self,
        config: &ClassifyConfig,
        mut show: impl FnMut(Images, &[u32]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut show = |mut batch: LabelledBatch| show(to_device(&mut batch, &Device::Cpu)?, &batch.labels);
        let side = config.input.side_px as usize;
        let row = 3 * side * side;
        match self {
            Self::HeldOut { set, .. } | Self::Training(set) => {
                let mut left = set.len();
                for batch in evaluation_batches(set, config)? {
                    let batch = batch?;
                    left -= batch.labels.len();
                    show(batch)?;
                    // It would begin again.
                    if left == 0 {
                        break;
                    }
                }
            }
            Self::Noise { count, .. } => {
                let mut random = ChaCha8Rng::seed_from_u64(0);
                let mut left = *count;
                while left > 0 {
                    let images = left.min(config.eval.batch_size.max(1));
                    let pixels =
                        (0..images * row).map(|_| f32::from(random.random::<u8>()) / 255.0).collect();
                    show(LabelledBatch { pixels, side, labels: vec![0; images], indices: vec![0; images] })?;
                    left -= images;
                }
            }
        }
        Ok(())
    }
}
