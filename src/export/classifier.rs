//! A trained classifier on its way into a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ckd_detectors::classifier::Classifier;
use ckd_detectors::images::Normalization;
use serde_json::json;

use super::error::{ExportError, Result};
use super::format::Format;
use super::hugging_face::{Repository, decimals};
use super::logits::LogitDifference;
use super::onnx::evaluate::Evaluator;
use super::onnx::{self, ClassifierGraph, OnnxModel, Outputs, Precision, Preprocessing, Ranges};
use super::proof::OnnxOptions;
use super::proof::{Apart, Compared, Finding, ImagesFound, Proof, proved};
use super::samples::Samples;
use super::torchvision;
use crate::config::{ClassifyConfig, Loaded};
use crate::data::labelled_data::LabelledKind;
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, learned_from, logits};
use crate::engine::task::Settings;
use crate::eval::AccuracyMeter;
use crate::fsx;
use crate::weights::WeightsFile;
use crate::weights::file::write_safetensors;

/// A trained classifier that can be written in any [`Format`].
#[derive(Debug)]
pub struct ClassifierExport {
    network: Classifier,
    card: ClassifierCard,
    /// The weights file.
    path: PathBuf,
    data: Loaded<ClassifyConfig>,
    /// Whether the user named the folder of the data.
    is_data_named: bool,
}

impl ClassifierExport {
    /// The classifier of `file`, which `card` describes. `data_root` names the folder of its data instead of
    /// its configuration.
    ///
    /// # Errors
    /// If the file is not whole.
    pub fn new(file: &WeightsFile, mut card: ClassifierCard, data_root: Option<&Path>) -> Result<Self> {
        let network = card.network(file, &Device::Cpu)?;
        let mut config = card.config.clone();
        if let Some(root) = data_root {
            root.clone_into(&mut config.labelled.data.root);
        }
        let data = Loaded::of_weights(config);
        // A network is exported where its data never was, too.
        if let Some(set) = learned_from(&data).ok().flatten() {
            card.provenance.insert("data_blake3".to_owned(), set.blake3());
        }
        // The network is on its own from here.
        card.config = card.config.without_teacher();
        card.config.labelled.normalization = Some(card.config.student_normalization());
        card.provenance.insert("exported_from_blake3".to_owned(), file.hash.clone());
        Ok(Self { network, card, path: file.path.clone(), data, is_data_named: data_root.is_some() })
    }

    /// Writes the classifier to `path`; `report` hears of each finding.
    ///
    /// # Errors
    /// A file that cannot be written; a graph that is not the classifier.
    pub fn write(&self, path: &Path, format: &Format, report: &mut dyn FnMut(&Finding)) -> Result<()> {
        let params = self.network.params();
        match format {
            Format::Safetensors => {
                let metadata = self.card.to_metadata();
                write_safetensors(path, &params.snapshot()?, &metadata).map_err(EngineError::from)?;
            }
            Format::SafetensorsWithRanges { .. } => {
                let reason = "8 bits without ONNX are for detectors: write an .onnx file".to_owned();
                return Err(ExportError::Unsupported { reason });
            }
            Format::HuggingFace => {
                self.repository().write(path, &params.snapshot()?, &self.card.to_metadata())?;
            }
            Format::Torchvision => torchvision::write(path, &params.snapshot()?)?,
            Format::Onnx(options) => fsx::write_atomic(path, &self.onnx(options, report)?)?,
        }
        report(&Finding::Written {
            path: path.to_owned(),
            network: Some(self.card.config.student.network.to_string()),
            parameters: params.weight_count(),
            classes: self.card.classes.len(),
        });
        Ok(())
    }

    fn repository(&self) -> Repository<'_> {
        let config = &self.card.config;
        let (side, normalization) = (config.labelled.input.side_px, config.student_normalization());
        let data = &config.labelled.data;
        let mut preprocessor = json!({ "do_resize": true, "size": { "height": side, "width": side } });
        if let Some(short) = config.labelled.input.eval_resize_px {
            preprocessor["size"] = json!({ "shortest_edge": short });
            preprocessor["do_center_crop"] = true.into();
            preprocessor["crop_size"] = json!({ "height": side, "width": side });
        }
        for (key, value) in [
            ("resample", json!(2)),
            ("interpolation", json!("bilinear, antialiased")),
            ("do_rescale", json!(true)),
            ("rescale_factor", json!(1.0 / 255.0)),
            ("do_normalize", json!(true)),
            ("image_mean", json!(decimals(normalization.mean))),
            ("image_std", json!(decimals(normalization.std))),
        ] {
            preprocessor[key] = value;
        }
        let hub_data = match data.kind {
            LabelledKind::Cifar10 => Some("uoft-cs/cifar10"),
            LabelledKind::Cifar100 => Some("uoft-cs/cifar100"),
            _ => None,
        };
        let name = data.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Repository {
            task: "image-classification",
            name: &config.run.name,
            architecture: vec![("network", config.student.network.to_string())],
            labels: self.card.classes.iter().map(String::as_str).collect(),
            category_ids: None,
            preprocessor,
            data: (data.kind.to_string(), name),
            hub_data,
            quality: ("top1", "accuracy", "top-1 accuracy"),
        }
    }

    /// The content of an ONNX file, once it is shown to be the classifier.
    ///
    /// # Errors
    /// As [`proved`]; raw outputs, which are for detectors.
    pub fn onnx(&self, options: &OnnxOptions, report: &mut dyn FnMut(&Finding)) -> Result<Vec<u8>> {
        if options.outputs != Outputs::Detections {
            let reason = "raw outputs are for detectors; a classifier's graph gives logits anyway".to_owned();
            return Err(ExportError::Unsupported { reason });
        }
        let metadata = self.card.to_metadata();
        let proof =
            ClassifierProof { export: self, metadata: &metadata, preprocessing: options.preprocessing };
        proved(&proof, options, report)
    }
}

/// A classifier and the graph that is asked for.
struct ClassifierProof<'a> {
    export: &'a ClassifierExport,
    metadata: &'a BTreeMap<String, String>,
    preprocessing: Preprocessing,
}

impl Proof for ClassifierProof<'_> {
    type Images = Samples;

    const NETWORK: &'static str = "network";
    const MEASURE: &'static str = "top-1";
    /// Many: they are small.
    const COMPARED: usize = 200;

    /// The graph as it will be read: through its bytes.
    fn graph(&self, precision: Precision) -> Result<OnnxModel> {
        let config = &self.export.card.config;
        let crate::config::Normalization { mean, std } = config.student_normalization();
        let about = ClassifierGraph {
            normalization: Normalization { mean, std },
            side_px: config.labelled.input.side_px as usize,
            metadata: self.metadata,
            precision,
            preprocessing: self.preprocessing,
        };
        let model = onnx::classifier(self.export.network.params(), &about)?;
        OnnxModel::from_bytes(&model.to_bytes())
    }

    fn held_out(&self, count: usize) -> Result<(Samples, ImagesFound)> {
        let ClassifierExport { card, path, data, is_data_named, .. } = self.export;
        let samples = Samples::find(card, path, data, count, *is_data_named)?;
        let found = samples.described();
        Ok((samples, found))
    }

    fn calibration(&self, compared: &Samples, count: usize) -> Result<(Samples, String)> {
        compared.for_calibration(&self.export.data, count)
    }

    fn compare(&self, graph: &OnnxModel, samples: &Samples) -> Result<Compared> {
        let evaluator = Evaluator::new(graph)?;
        let card = &self.export.card;
        let mut difference = LogitDifference::default();
        let mut meters = [(); 2].map(|()| AccuracyMeter::new(card.classes.len(), None));
        samples.each(&card.config, |images, labels| {
            let own = logits(&self.export.network, &images)?;
            let outputs = evaluator.run(&[("images", self.input(images.pixels)?)])?;
            let missing = || ExportError::Graph { reason: "it gives no logits".to_owned() };
            let theirs = outputs.get("logits").ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()?;
            difference.add(&own, &theirs)?;
            for (meter, logits) in meters.iter_mut().zip([own, theirs]) {
                meter.add(&logits, labels).map_err(EngineError::from)?;
            }
            Ok(())
        })?;
        let [own, theirs] = [0, 1].map(|index| meters[index].guesses());
        let same_guess = own.iter().zip(theirs).filter(|(own, theirs)| own == theirs).count();
        Ok(Compared {
            apart: Apart::Logits { difference, images: own.len(), same_guess },
            points: samples
                .are_labelled()
                .then(|| meters.each_ref().map(|meter| 100.0 * meter.accuracy().top1)),
        })
    }

    fn ranges(&self, graph: &OnnxModel, samples: &Samples) -> Result<Ranges> {
        let evaluator = Evaluator::new(graph)?;
        let mut ranges = Ranges::default();
        samples.each(&self.export.card.config, |images, _| {
            ranges.observe(&evaluator, &[("images", self.input(images.pixels)?)])?;
            Ok(())
        })?;
        Ok(ranges)
    }
}

impl ClassifierProof<'_> {
    /// Pixels (N, 3, H, W) in 0..1 as the graph takes them.
    fn input(&self, pixels: Tensor) -> Result<Tensor> {
        Ok(match self.preprocessing {
            Preprocessing::Outside => pixels,
            Preprocessing::Inside => {
                (pixels.permute((0, 2, 3, 1))? * 255.0)?.round()?.contiguous()?.to_dtype(DType::U8)?
            }
        })
    }
}
