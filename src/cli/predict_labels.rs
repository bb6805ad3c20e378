//! `ckd-det predict --as-labels`: what a detector finds on images without labels, as labels to train on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ckd_detectors::postprocess::Detections;
use image::RgbImage;

use super::model::Model;
use super::output::Output;
use super::{Context, UsageError};
use crate::config::{Architecture, Loaded};
use crate::data::{CategoryId, CategoryMap, ClassIndex, coco};
use crate::engine::detect::evaluate::detect_all;
use crate::engine::detect::jitter::box_uncertainty;
use crate::engine::detect::sources::{DataPaths, LoadedSplit};
use crate::engine::{EngineError, classes};
use crate::eval::{Detection, Found, Verdict, by_precision, judged};
use crate::export::pseudo_labels::{LabelFile, LabelRules};
use crate::fsx;

/// Arguments of `predict` about labels to train on.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Labels to train on")]
pub(super) struct LabelArgs {
    /// Write what is found as labels to train on (data.unlabelled), a COCO file with scores
    #[arg(long, value_name = "FILE", conflicts_with = "benchmark")]
    pub(super) as_labels: Option<Output>,
    /// A label scores more than this; what scores less, but more than --ignore-above, is to be ignored
    #[arg(long, value_name = "S", default_value = "0.7", requires = "as_labels", value_parser = score)]
    label_score: f32,
    /// Thresholds of single classes, with commas between them
    #[arg(long, value_name = "CLASS=S", value_delimiter = ',', requires = "as_labels")]
    class_score: Vec<ClassScore>,
    /// Choose the score of each class on the validation images of the detector's experiment: the least with so many of the
    /// boxes right (IoU .50); --label-score where fewer than 20 are found
    #[arg(long, value_name = "P", requires = "as_labels", value_parser = score)]
    precision: Option<f32>,
    /// With --precision: where the validation images are, instead of the experiment's data.root
    #[arg(long, value_name = "DIR", requires = "precision")]
    data_root: Option<PathBuf>,
    /// Boxes that score no more than this are background
    #[arg(long, value_name = "S", default_value = "0.3", requires = "as_labels", value_parser = score)]
    ignore_above: f32,
    /// Sides of a box that is used are longer than this
    #[arg(long, value_name = "PIXELS", default_value = "0.01", requires = "as_labels", value_parser = pixels)]
    min_side: f64,
    /// A label's box is one that a Faster R-CNN is sure of: ten copies of it that are 6 % off, refined by the box head, deviate by
    /// less than this part of its sides (Soft Teacher: 0.02); others are to be ignored
    #[arg(long, value_name = "U", requires = "as_labels", value_parser = part)]
    box_uncertainty: Option<f64>,
    /// The best box of each image is a label, whatever it scores
    #[arg(long, requires = "as_labels")]
    best_of_each: bool,
    /// Keep images without a label, as images with nothing on them
    #[arg(long, requires = "as_labels")]
    keep_empty: bool,
}

/// A class's own score.
#[derive(Debug, Clone, PartialEq)]
struct ClassScore {
    class: String,
    score: f32,
}

impl FromStr for ClassScore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, number) = text.rsplit_once('=').ok_or_else(|| "CLASS=S, as in cat=0.8".to_owned())?;
        Ok(Self { class: class.trim().to_owned(), score: score(number.trim())? })
    }
}

/// Reads a score.
pub(super) fn score(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|score| (0.0..=1.0).contains(score))
        .ok_or_else(|| "a number from 0 to 1".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part: &f64| *part > 0.0 && part.is_finite());
    part.ok_or_else(|| "a number above 0".to_owned())
}

fn pixels(text: &str) -> Result<f64, String> {
    let pixels = text.parse().ok().filter(|pixels: &f64| *pixels >= 0.0 && pixels.is_finite());
    pixels.ok_or_else(|| "a number of pixels, 0 or more".to_owned())
}

/// The file of labels in the making.
pub(super) struct Labels<'a> {
    /// The labels so far.
    file: LabelFile<'a>,
    to: &'a Output,
}

impl LabelArgs {
    /// Refuses a file that cannot be written, before any work is done.
    ///
    /// # Errors
    /// Bad usage.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        self.as_labels.as_ref().map_or(Ok(()), Output::check)
    }

    /// The labels that `model` gives to images in `folder`, if they are asked for; thresholds are chosen first.
    ///
    /// # Errors
    /// A class that the detector does not know; validation images that are missing.
    pub(super) fn begin<'a>(
        &'a self,
        model: &Model,
        categories: &'a CategoryMap,
        folder: &std::path::Path,
        context: &Context,
    ) -> anyhow::Result<Option<Labels<'a>>> {
        let Some(to) = &self.as_labels else { return Ok(None) };
        let architecture = model.config.detector.architecture;
        if self.box_uncertainty.is_some() && architecture != Architecture::FasterRcnn {
            return Err(UsageError(format!(
                "--box-uncertainty asks the box head of a Faster R-CNN, and {} is a {architecture}",
                model.file.path.display()
            ))
            .into());
        }
        let mut thresholds = vec![(f64::from(self.label_score), "given"); categories.len()];
        if let Some(precision) = self.precision {
            let chosen = self.chosen(model, precision.into(), context)?;
            for (threshold, chosen) in thresholds.iter_mut().zip(chosen) {
                *threshold = chosen.map_or(*threshold, |chosen| (chosen, "precision"));
            }
        }
        for ClassScore { class, score } in &self.class_score {
            let place = categories.iter().position(|(_, name)| name == class).ok_or_else(|| {
                let known: Vec<&str> = categories.iter().map(|(_, name)| name).collect();
                UsageError(format!(
                    "--class-score: \"{class}\" is no class of the detector; it knows {}",
                    known.join(", ")
                ))
            })?;
            thresholds[place] = (f64::from(*score), "given");
        }
        let rules = LabelRules {
            thresholds,
            ignore_above: self.ignore_above.into(),
            min_side_px: self.min_side,
            max_uncertainty: self.box_uncertainty,
            best_of_each: self.best_of_each,
            keep_empty: self.keep_empty,
        };
        let teacher = model.file.path.display().to_string();
        Ok(Some(Labels { file: LabelFile::new(rules, categories, (&teacher, &model.file.hash), folder), to }))
    }

    /// The threshold of each class on labelled validation images.
    fn chosen(&self, model: &Model, precision: f64, context: &Context) -> anyhow::Result<Vec<Option<f64>>> {
        let mut config = model.config.clone();
        if let Some(root) = &self.data_root {
            config.data.root.clone_from(root);
        }
        let val = DataPaths::find_val(&Loaded::of_weights(config.clone()))?;
        let LoadedSplit { dataset, .. } = LoadedSplit::of_truth(&val)?;
        let [what, other] = [&model.file.path, &val.annotations].map(|path| path.display().to_string());
        classes::check_same((&what, &model.categories), (&other, &dataset.categories))
            .map_err(EngineError::Classes)?;
        let dataset = Arc::clone(&dataset);
        let evaluation = detect_all(&model.detector, &dataset, &config, &context.device, |_, _| Ok(()))?;
        let places: HashMap<u64, usize> =
            dataset.images.iter().enumerate().map(|(place, image)| (image.id.0, place)).collect();
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); dataset.images.len()];
        for detection in &evaluation.detections {
            let class = dataset.categories.class(CategoryId(detection.category_id));
            if let (Some(&place), Some(class)) = (places.get(&detection.image_id), class) {
                found[place].push(Found { bbox: detection.bbox, class, score: detection.score });
            }
        }
        let mut boxes: Vec<(usize, f64, Verdict)> = Vec::new();
        for (place, found) in found.iter().enumerate() {
            let verdicts = judged(dataset.annotations(place), found).found;
            let box_of = |(Found { class: ClassIndex(class), score, .. }, verdict): (&Found, _)| {
                (*class as usize, *score, verdict)
            };
            boxes.extend(found.iter().zip(verdicts).map(box_of));
        }
        Ok(by_precision(boxes, dataset.categories.len(), precision))
    }
}

impl Labels<'_> {
    /// Adds an image with all that `model` found on it.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub(super) fn add(
        &mut self,
        model: &Model,
        (id, name): (u64, &str),
        image: &RgbImage,
        (found, detections): (&Detections, &[Detection]),
        context: &Context,
    ) -> anyhow::Result<()> {
        let uncertainty = match self.file.rules().max_uncertainty {
            Some(_) => box_uncertainty(&model.detector, (image, id), found, &model.config, &context.device)?,
            None => Vec::new(),
        };
        self.file.add((id, name), image.dimensions(), detections, &uncertainty);
        Ok(())
    }

    /// Writes the file; gives what it holds, in lines.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(self) -> anyhow::Result<Vec<String>> {
        let set = self.file.finish();
        fsx::write_atomic(self.to.path(), &coco::to_json(&set))?;
        let record = set.pseudo_labels.as_ref();
        let mut lines = Vec::new();
        for class in record.iter().flat_map(|record| &record.classes) {
            lines.push(format!(
                "  {:<24} {:6} labels, {:6} to be ignored   score > {:.3} ({})",
                class.name, class.labels, class.ignored, class.threshold, class.chosen_by
            ));
        }
        let (images, without) = record.map_or((0, 0), |record| (record.images, record.without_labels));
        let told = self.to.told();
        lines.push(format!("labels of {} of {images} images -> {told}", images - without));
        Ok(lines)
    }
}
