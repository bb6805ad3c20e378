//! A trained detector on its way into a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::eight_bits::InputRanges;
use serde_json::json;

use super::error::{CalibrationGap, ExportError, Result};
use super::format::Format;
use super::hugging_face::{Repository, decimals};
use super::onnx::evaluate::Evaluator;
use super::onnx::{self, DetectorGraph, InputRule, OnnxModel, Outputs, Precision, Preprocessing, Ranges};
use super::pictures::{Found, Pictures, data_hash};
use super::proof::OnnxOptions;
use super::proof::{Apart, Compared, Finding, ImagesFound, Proof, proved};
use super::torchvision;
use super::verify::{Difference, RawDifference, graph_detections, graph_input};
use crate::config::{Architecture, Config, Resize};
use crate::data::CategoryMap;
use crate::engine::EngineError;
use crate::engine::detect::build;
use crate::engine::detect::eight_bits::watched;
use crate::engine::detect::evaluate::detect_one;
use crate::engine::task::Settings;
use crate::fsx;
use crate::weights::card::{category_map, ranges_entry};
use crate::weights::file::write_safetensors;
use crate::weights::{ModelCard, WeightsFile};

/// A trained detector that can be written in any [`Format`].
#[derive(Debug)]
pub struct DetectorExport {
    detector: Detector,
    config: Config,
    card: ModelCard,
    data_root: Option<PathBuf>,
}

impl DetectorExport {
    /// The detector of `file`. `data_root` names the folder of its data instead of its configuration.
    ///
    /// # Errors
    /// If the file does not say how its network is built, or is not whole.
    pub fn of(file: &WeightsFile, data_root: Option<&Path>) -> Result<Self> {
        let card = ModelCard::of(file).map_err(EngineError::from)?;
        let detector = build::loaded(&card.config, card.categories.len(), file, &Device::Cpu)?;
        Ok(Self::new(detector, card.config.clone(), card, &file.hash, data_root))
    }

    /// `detector`, which was built by `config` and has the weights of a file with the BLAKE3 `hash`.
    pub fn new(
        detector: Detector,
        config: Config,
        mut card: ModelCard,
        hash: &str,
        data_root: Option<&Path>,
    ) -> Self {
        // The student is on its own from here.
        card.config = card.config.without_teacher();
        card.provenance.insert("exported_from_blake3".to_owned(), hash.to_owned());
        if let Some(hash) = data_hash(&config, data_root) {
            card.provenance.insert("data_blake3".to_owned(), hash);
        }
        Self { detector, config, card, data_root: data_root.map(Path::to_owned) }
    }

    /// Writes the detector to `path`; `report` hears of each finding.
    ///
    /// # Errors
    /// A file that cannot be written; a graph that is not the detector.
    pub fn write(&self, path: &Path, format: &Format, report: &mut dyn FnMut(&Finding)) -> Result<()> {
        let params = self.detector.params();
        match format {
            Format::Safetensors => {
                write_safetensors(path, &params.snapshot()?, &self.metadata()).map_err(EngineError::from)?;
            }
            &Format::SafetensorsWithRanges { images, max_loss } => {
                let mut metadata = self.metadata();
                metadata.extend([ranges_entry(&self.ranges(images, max_loss, report)?)]);
                write_safetensors(path, &params.snapshot()?, &metadata).map_err(EngineError::from)?;
            }
            Format::HuggingFace => {
                self.repository().write(path, &params.snapshot()?, &self.metadata())?;
            }
            Format::Torchvision => torchvision::write(path, &params.snapshot()?)?,
            Format::Onnx(options) => {
                let beside = self.box_head_beside(path, options)?;
                let graph = self.onnx(options, report)?;
                if let Some(beside) = beside {
                    fsx::write_atomic(&beside, &self.box_head(options, report)?)?;
                    report(&self.written(&beside));
                }
                fsx::write_atomic(path, &graph)?;
            }
        }
        report(&self.written(path));
        Ok(())
    }

    fn written(&self, path: &Path) -> Finding {
        Finding::Written {
            path: path.to_owned(),
            network: None,
            parameters: self.detector.params().weight_count(),
            classes: self.card.categories.len(),
        }
    }

    /// The file beside `path` of the graph that finishes the raw outputs of a Faster R-CNN: `student.box_head.onnx`.
    fn box_head_beside(&self, path: &Path, options: &OnnxOptions) -> Result<Option<PathBuf>> {
        if options.outputs != Outputs::Raw || self.config.detector.architecture != Architecture::FasterRcnn {
            return Ok(None);
        }
        if fsx::is_stdout(path) {
            let reason = "its raw outputs are two graphs, which need a file name".to_owned();
            return Err(ExportError::Unsupported { reason });
        }
        Ok(Some(path.with_extension("box_head.onnx")))
    }

    fn box_head(&self, options: &OnnxOptions, report: &mut dyn FnMut(&Finding)) -> Result<Vec<u8>> {
        let options = OnnxOptions { outputs: Outputs::BoxHead, ..options.clone() };
        // The images are those of the first graph.
        let mut difference = |finding: &Finding| {
            if matches!(finding, Finding::Graph { .. }) {
                report(finding);
            }
        };
        self.onnx(&options, &mut difference)
    }

    /// The content of an ONNX file, once it is shown to be the detector.
    ///
    /// # Errors
    /// As [`proved`].
    pub fn onnx(&self, options: &OnnxOptions, report: &mut dyn FnMut(&Finding)) -> Result<Vec<u8>> {
        let resize = self.config.input.resize;
        if options.preprocessing == Preprocessing::Inside && resize != Resize::Bilinear {
            let reason = format!(
                "input.resize is \"{resize}\", which no operator of the graph does: export without --with-preprocess"
            );
            return Err(ExportError::Unsupported { reason });
        }
        let proof = DetectorProof {
            export: self,
            settings: build::student_settings(&self.config, self.card.categories.len()),
            rule: InputRule::of(&self.config),
            ids: self.card.categories.iter().map(|category| category.id).collect(),
            categories: self.categories()?,
            metadata: self.metadata(),
            preprocessing: options.preprocessing,
            outputs: options.outputs,
        };
        proved(&proof, options, report)
    }

    /// Ranges of what goes into the detector's layers, once 8 bits by them are shown to lose at most `max_loss` points of AP
    /// on `count` validation images.
    fn ranges(
        &self,
        count: Option<usize>,
        max_loss: f64,
        report: &mut dyn FnMut(&Finding),
    ) -> Result<InputRanges> {
        let count = count.unwrap_or(DetectorProof::COMPARED);
        if count == 0 {
            return Err(ExportError::Calibration(CalibrationGap::NothingCompared));
        }
        let params = self.detector.params();
        // A network that cannot compute so is refused before anything is read.
        params.compute_in_8_bits(&InputRanges::new())?;
        let data_root = self.data_root.as_deref();
        let compared = Pictures::find(&self.config, data_root, count)?;
        report(&Finding::ComparedOn(compared.described()));
        let measured = |name, report: &mut dyn FnMut(&Finding)| -> Result<Option<f64>> {
            let points = compared.ap(self.found_on(&compared)?)?;
            report(&Finding::Size { name, bytes: None, measure: DetectorProof::MEASURE, points });
            Ok(points)
        };
        let own = measured("f32", report)?;
        let (seen, description) = compared.for_calibration(&self.config, data_root, count)?;
        report(&Finding::CalibratedOn(description));
        let ranges = watched(&self.detector, || self.found_on(&seen).map(drop))?;
        params.compute_in_8_bits(&ranges)?;
        match (own, measured(IN_8_BITS, report)?) {
            (Some(own), Some(points)) if own - points > max_loss => Err(ExportError::Loss {
                name: IN_8_BITS,
                measure: DetectorProof::MEASURE,
                points: own - points,
                limit: max_loss,
            }),
            _ => Ok(ranges),
        }
    }

    /// Detections on `pictures`.
    fn found_on(&self, pictures: &Pictures) -> Result<Found> {
        let categories = self.categories()?;
        let mut found = Found::default();
        for picture in pictures.iter() {
            let (id, image) = picture?;
            found.add(id, &detect_one(&self.detector, &image, &self.config, &Device::Cpu)?, &categories);
        }
        Ok(found)
    }

    fn categories(&self) -> Result<CategoryMap> {
        category_map(&self.card.categories).map_err(|id| ExportError::Unsupported {
            reason: format!("the weights list category {} twice", id.0),
        })
    }

    fn repository(&self) -> Repository<'_> {
        let Self { config, card, .. } = self;
        let (input, network) = (&config.input, &config.student.network);
        let mut architecture = vec![
            ("detector", config.detector.architecture.to_string()),
            ("backbone", network.backbone.to_string()),
        ];
        architecture.extend(network.width.map(|width| ("width", width.to_string())));
        let resample = match input.resize {
            Resize::Bilinear => "bilinear, half-pixel centres, no antialiasing",
            Resize::PilBilinear => "Pillow's bilinear, antialiased",
        };
        let name = config.data.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Repository {
            task: "object-detection",
            name: &config.run.name,
            architecture,
            labels: card.categories.iter().map(|category| category.name.as_str()).collect(),
            category_ids: Some(card.categories.iter().map(|category| category.id).collect()),
            preprocessor: json!({
                "do_resize": true,
                "size": { "shortest_edge": input.eval_short_side(), "longest_edge": input.long_side_px },
                "resample": 2,
                "interpolation": resample,
                "do_rescale": true,
                "rescale_factor": 1.0 / 255.0,
                "do_normalize": true,
                "image_mean": decimals(config.normalization.mean),
                "image_std": decimals(config.normalization.std),
                "do_pad": true,
                "size_divisor": input.size_divisor,
            }),
            data: (config.data.kind.to_string(), name),
            hub_data: None,
            quality: ("ap", "mean_average_precision", "AP (COCO, IoU .50 to .95)"),
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = self.card.to_metadata();
        metadata.insert("ckd_det.postprocess".to_owned(), thresholds(&self.config));
        metadata
    }
}

/// The word for a detector that computes in 8 bits.
const IN_8_BITS: &str = "in 8 bits";

/// Postprocessing of the heads' outputs, as JSON for other programs.
fn thresholds(config: &Config) -> String {
    let detector = &config.detector;
    let (roi, retina, fcos) = (&detector.roi, &detector.retina, &detector.fcos);
    match detector.architecture {
        Architecture::FasterRcnn => json!({
            "architecture": "faster_rcnn",
            "box_coder_weights": [10, 10, 5, 5],
            "score_threshold": roi.score_threshold,
            "nms_threshold": roi.nms_threshold,
            "detections_per_image": roi.detections_per_image,
            "rpn_pre_nms_top_n": detector.rpn.pre_nms_top_n_test,
            "rpn_post_nms_top_n": detector.rpn.post_nms_top_n_test,
            "rpn_nms_threshold": detector.rpn.nms_threshold,
            "rpn_min_size": detector.rpn.min_size,
            "rpn_score_threshold": detector.rpn.score_threshold,
        }),
        Architecture::RetinaNet => json!({
            "architecture": "retinanet",
            "score_threshold": retina.score_threshold,
            "nms_threshold": retina.nms_threshold,
            "detections_per_image": retina.detections_per_image,
            "topk_candidates": retina.topk_candidates,
        }),
        Architecture::Fcos => json!({
            "architecture": "fcos",
            "score_threshold": fcos.score_threshold,
            "nms_threshold": fcos.nms_threshold,
            "detections_per_image": fcos.detections_per_image,
            "topk_candidates": fcos.topk_candidates,
        }),
    }
    .to_string()
}

/// A detector and the graph that is asked for.
struct DetectorProof<'a> {
    export: &'a DetectorExport,
    settings: ckd_detectors::DetectorConfig,
    rule: InputRule,
    ids: Vec<u64>,
    categories: CategoryMap,
    metadata: BTreeMap<String, String>,
    preprocessing: Preprocessing,
    outputs: Outputs,
}

impl Proof for DetectorProof<'_> {
    type Images = Pictures;

    const NETWORK: &'static str = "student";
    const MEASURE: &'static str = "AP";
    const COMPARED: usize = 20;

    /// The graph as it will be read: through its bytes.
    fn graph(&self, precision: Precision) -> Result<OnnxModel> {
        let about = DetectorGraph {
            config: &self.settings,
            rule: self.rule,
            categories: &self.ids,
            metadata: &self.metadata,
            precision,
            preprocessing: self.preprocessing,
            outputs: self.outputs,
        };
        OnnxModel::from_bytes(&onnx::detector(self.export.detector.params(), &about)?.to_bytes())
    }

    fn held_out(&self, count: usize) -> Result<(Pictures, ImagesFound)> {
        let pictures = Pictures::find(&self.export.config, self.export.data_root.as_deref(), count)?;
        let found = pictures.described();
        Ok((pictures, found))
    }

    fn calibration(&self, compared: &Pictures, count: usize) -> Result<(Pictures, String)> {
        compared.for_calibration(&self.export.config, self.export.data_root.as_deref(), count)
    }

    fn compare(&self, graph: &OnnxModel, pictures: &Pictures) -> Result<Compared> {
        let evaluator = Evaluator::new(graph)?;
        if self.outputs != Outputs::Detections {
            return self.compare_raw(&evaluator, pictures);
        }
        let mut difference = Difference::default();
        let mut found = [Found::default(), Found::default()];
        for picture in pictures.iter() {
            let (id, image) = picture?;
            let own = detect_one(&self.export.detector, &image, &self.export.config, &Device::Cpu)?;
            let (inputs, from) = graph_input(&image, &self.rule, self.preprocessing)?;
            let original = (image.height() as usize, image.width() as usize);
            let theirs = graph_detections(&evaluator.run(&inputs)?, &self.ids, (from, original))?;
            difference.add(&own, &theirs);
            found[0].add(id, &own, &self.categories);
            found[1].add(id, &theirs, &self.categories);
        }
        let [own, theirs] = found;
        let points = match (pictures.ap(own)?, pictures.ap(theirs)?) {
            (Some(own), Some(theirs)) => Some([own, theirs]),
            _ => None,
        };
        Ok(Compared { apart: Apart::Boxes(difference), points })
    }

    fn ranges(&self, graph: &OnnxModel, pictures: &Pictures) -> Result<Ranges> {
        let evaluator = Evaluator::new(graph)?;
        let mut ranges = Ranges::default();
        for picture in pictures.iter() {
            let (inputs, _) = graph_input(&picture?.1, &self.rule, self.preprocessing)?;
            ranges.observe(&evaluator, &inputs)?;
        }
        Ok(ranges)
    }
}

impl DetectorProof<'_> {
    fn compare_raw(&self, evaluator: &Evaluator, pictures: &Pictures) -> Result<Compared> {
        let (detector, mut difference) = (&self.export.detector, RawDifference::default());
        let (of, add): (_, fn(&mut RawDifference, &_, &_, &_, &_) -> _) = match self.outputs {
            Outputs::BoxHead => ("the box head's outputs", RawDifference::add_box_head),
            Outputs::Raw | Outputs::Detections => ("raw outputs", RawDifference::add_heads),
        };
        for picture in pictures.iter() {
            add(&mut difference, detector, evaluator, &picture?.1, &self.rule)?;
        }
        Ok(Compared { apart: Apart::Raw { of, difference }, points: None })
    }
}
