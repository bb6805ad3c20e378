//! `ckd-det export` of a classifier.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use ckd_detectors::classifier::Classifier;
use ckd_detectors::images::{Images, Normalization};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Args, Format, Int8};
use crate::cli::{UsageError, say};
use crate::config::{ClassifyConfig, ConfigSource, Loaded};
use crate::data::{Labelled, LabelledBatch};
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, evaluation_batches, held_out, logits, to_device};
use crate::engine::task::Settings;
use crate::eval::AccuracyMeter;
use crate::export::logits::LogitDifference;
use crate::export::onnx::evaluate::Evaluator;
use crate::export::onnx::{self, OnnxModel, Precision, Ranges};
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
    let detectors_only = [(args.raw, "--raw"), (args.with_preprocess, "--with-preprocess")];
    if let Some((_, option)) = detectors_only.into_iter().find(|(given, _)| *given) {
        return Err(UsageError(format!(
            "{option} is for detectors, and {} is {}: its graph takes resized images and gives logits; leave it out",
            file.path.display(),
            card.described()
        ))
        .into());
    }
    let network = card.network(file, &Device::Cpu)?;
    // The network is on its own from here.
    card.config = card.config.without_teacher();
    card.config.normalization = Some(card.config.student_normalization());
    card.provenance.insert("exported_from_blake3".to_owned(), file.hash.clone());
    let metadata = card.to_metadata();
    match format {
        Format::Safetensors => write_safetensors(&args.out, &network.params().snapshot()?, &metadata)?,
        Format::Torchvision => torchvision::write(&args.out, &network.params().snapshot()?)?,
        Format::Onnx => {
            let bytes =
                Exporting { network: &network, card: &card, metadata: &metadata }.bytes(args, file)?;
            fsx::write_atomic(&args.out, &bytes)?;
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
    fn bytes(&self, args: &Args, file: &WeightsFile) -> anyhow::Result<Vec<u8>> {
        let config = &self.card.config;
        if config.student.network.name().starts_with("vgg") && config.input.side_px == 64 {
            let reason = "a VGG of 64 pixels pools four times, its graph three times".to_owned();
            return Err(ExportError::Unsupported { reason }.into());
        }
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
        let samples = Samples::find(self.card, file, args.data_root.as_deref(), count)?;
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
                let ranges = self.ranges(&int8, &samples)?;
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
        let normalization = Normalization { mean, std };
        let model = onnx::classifier(self.network.params(), normalization, self.metadata, precision)?;
        OnnxModel::from_bytes(&model.to_bytes())
    }

    fn compare(&self, graph: &OnnxModel, samples: &Samples) -> anyhow::Result<Compared> {
        let evaluator = Evaluator::new(graph)?;
        let mut difference = LogitDifference::default();
        let mut meters = [(); 2].map(|()| AccuracyMeter::new(self.card.classes.len(), None));
        samples.each(&self.card.config, |images, labels| {
            let own = logits(self.network, &images)?;
            let outputs = evaluator.run(&[("images", images.pixels)])?;
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

    fn ranges(&self, graph: &OnnxModel, samples: &Samples) -> anyhow::Result<Ranges> {
        if !samples.are_labelled() {
            let says =
                "--int8 activations takes ranges from held-out images: name their folder with --data-root";
            return Err(UsageError(says.to_owned()).into());
        }
        let evaluator = Evaluator::new(graph)?;
        let mut ranges = Ranges::default();
        samples.each(&self.card.config, |images, _| {
            ranges.observe(&evaluator, &[("images", images.pixels)])?;
            Ok(())
        })?;
        Ok(ranges)
    }
}

/// Images to compare on.
enum Samples {
    /// The first of the held-out images.
    HeldOut { set: Arc<Labelled>, count: usize },
    /// Noise, since there is no data; why.
    Noise { reason: String, count: usize },
}

impl Samples {
    fn find(
        card: &ClassifierCard,
        file: &WeightsFile,
        data_root: Option<&Path>,
        count: usize,
    ) -> anyhow::Result<Self> {
        let mut config = card.config.clone();
        if let Some(root) = data_root {
            config.data.root = root.to_owned();
        }
        let source = ConfigSource::Embedded("the weights' own configuration");
        match held_out(&Loaded { config, source, teacher_experiment: None }) {
            Ok(set) => {
                card.check_classes(&file.path, &set.classes)?;
                let count = count.min(set.len());
                Ok(Self::HeldOut { set: Arc::new(set), count })
            }
            Err(EngineError::Missing(reason)) if data_root.is_none() => Ok(Self::Noise { reason, count }),
            Err(error) => Err(error.into()),
        }
    }

    fn say_where(&self) -> anyhow::Result<()> {
        let line = match self {
            Self::HeldOut { count, .. } => format!("compared on {count} held-out images"),
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
            Self::HeldOut { set, count } => {
                let mut left = *count;
                for batch in evaluation_batches(set, config)? {
                    let mut batch = batch?;
                    batch.labels.truncate(left);
                    batch.pixels.truncate(batch.labels.len() * row);
                    left -= batch.labels.len();
                    show(batch)?;
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
                    let pixels = (0..images * row).map(|_| random.random()).collect();
                    show(LabelledBatch { pixels, side, labels: vec![0; images], indices: vec![0; images] })?;
                    left -= images;
                }
            }
        }
        Ok(())
    }
}
