//! Detections as labels to train on: which are labels, which are to be ignored, and a COCO file that says so.
//!
//! ```text
//! label     score > threshold of the class, both sides > min_side_px, uncertainty < max_uncertainty
//! ignored   score > ignore_above, but no label
//! ```
//!
//! With `best_of_each` a label scores at least min(threshold, the image's best score), so that no image with a box goes
//! without a label (STAC, arXiv 2005.04757, as released).

use std::path::Path;

use crate::data::instances::{AnnotationEntry, CategoryEntry, ImageEntry};
use crate::data::pseudo_labels::{PseudoClass, PseudoLabels};
use crate::data::{CategoryId, CategoryMap, Instances};
use crate::eval::Detection;

/// Rules by which detections become labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRules {
    /// Score that a label of each class must exceed, and where that number is from.
    pub thresholds: Vec<(f64, &'static str)>,
    /// Score above which what is no label is to be ignored.
    pub ignore_above: f64,
    /// Sides that a box must exceed, in pixels.
    pub min_side_px: f64,
    /// Uncertainty that the detector must be below about a label's box, if that is asked ([`jitter`](crate::engine::detect::jitter)).
    pub max_uncertainty: Option<f64>,
    /// Whether the best box of an image is a label whatever it scores.
    pub best_of_each: bool,
    /// Whether images without labels are kept, as images without objects.
    pub keep_empty: bool,
}

/// Use of a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To be found.
    Label,
    /// Neither to be found nor background.
    Ignored,
    /// Nothing: background.
    Nothing,
}

/// A detection as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index of the class.
    pub class: usize,
    /// Confidence.
    pub score: f64,
    /// Width and height, in pixels.
    pub sides: [f64; 2],
    /// Uncertainty of the detector about the box; 0 where nobody asks.
    pub uncertainty: f64,
}

impl LabelRules {
    /// Uses of the detections of an image. A class without a threshold has no labels.
    pub fn uses(&self, found: &[Candidate]) -> Vec<Use> {
        let is_box = |found: &Candidate| found.sides.iter().all(|side| *side > self.min_side_px);
        let best = found.iter().filter(|found| is_box(found)).map(|found| found.score).fold(0.0, f64::max);
        let one = |found: &Candidate| {
            let threshold = self.thresholds.get(found.class).map_or(f64::INFINITY, |(score, _)| *score);
            let is_sure = self.max_uncertainty.is_none_or(|most| found.uncertainty < most);
            let is_label = match self.best_of_each {
                true => found.score >= threshold.min(best),
                false => found.score > threshold,
            };
            match (is_box(found), is_label && is_sure) {
                (false, _) => Use::Nothing,
                (true, true) => Use::Label,
                (true, false) if found.score > self.ignore_above => Use::Ignored,
                (true, false) => Use::Nothing,
            }
        };
        found.iter().map(one).collect()
    }
}

/// A COCO file of pseudo-labels, image by image.
#[derive(Debug)]
pub struct LabelFile<'a> {
    rules: LabelRules,
    categories: &'a CategoryMap,
    instances: Instances,
    record: PseudoLabels,
}

impl<'a> LabelFile<'a> {
    /// A file without images yet: of the weights file `teacher` with this BLAKE3, for images in `folder`.
    pub fn new(
        rules: LabelRules,
        categories: &'a CategoryMap,
        (teacher, blake3): (&str, &str),
        folder: &Path,
    ) -> Self {
        let entries = categories.iter().map(|(id, name)| CategoryEntry { id: id.0, name: name.to_owned() });
        let class = |((id, name), (threshold, chosen_by)): ((CategoryId, &str), &(f64, &str))| PseudoClass {
            id: id.0,
            name: name.to_owned(),
            threshold: *threshold,
            chosen_by: (*chosen_by).to_owned(),
            labels: 0,
            ignored: 0,
        };
        let record = PseudoLabels {
            teacher: teacher.to_owned(),
            teacher_blake3: blake3.to_owned(),
            folder: folder.to_owned(),
            ignore_above: rules.ignore_above,
            min_side_px: rules.min_side_px,
            max_uncertainty: rules.max_uncertainty,
            best_of_each: rules.best_of_each,
            images: 0,
            without_labels: 0,
            empty_kept: rules.keep_empty,
            classes: categories.iter().zip(&rules.thresholds).map(class).collect(),
        };
        let instances = Instances::new(Vec::new(), Vec::new(), entries.collect());
        Self { rules, categories, instances, record }
    }

    /// Adds an image of (width, height), called `name` in the folder, with all that the detector found and its `uncertainty`
    /// about each box; empty: 0.
    pub fn add(
        &mut self,
        (id, name): (u64, &str),
        (width, height): (u32, u32),
        found: &[Detection],
        uncertainty: &[f64],
    ) {
        let class = |category: u64| self.categories.class(CategoryId(category)).map(|class| class.0 as usize);
        let known: Vec<(Candidate, &Detection)> = found
            .iter()
            .enumerate()
            .filter_map(|(place, found)| {
                let [_, _, width, height] = found.bbox;
                let (class, score, sides) = (class(found.category_id)?, found.score, [width, height]);
                let uncertainty = uncertainty.get(place).copied().unwrap_or(0.0);
                Some((Candidate { class, score, sides, uncertainty }, found))
            })
            .collect();
        let candidates: Vec<Candidate> = known.iter().map(|(candidate, _)| *candidate).collect();
        let uses = self.rules.uses(&candidates);
        self.record.images += 1;
        if !uses.contains(&Use::Label) {
            self.record.without_labels += 1;
            if !self.rules.keep_empty {
                return;
            }
        }
        self.instances.images.push(ImageEntry { id, file_name: name.to_owned(), width, height });
        for ((candidate, found), used) in known.into_iter().zip(uses) {
            let record = &mut self.record.classes[candidate.class];
            match used {
                Use::Nothing => continue,
                Use::Label => record.labels += 1,
                Use::Ignored => record.ignored += 1,
            }
            self.instances.annotations.push(AnnotationEntry {
                id: self.instances.annotations.len() as u64 + 1,
                image_id: id,
                category_id: found.category_id,
                bbox: found.bbox,
                area: Some(found.bbox[2] * found.bbox[3]),
                iscrowd: false,
                ignore: used == Use::Ignored,
                score: Some(found.score),
            });
        }
    }

    /// The rules.
    pub fn rules(&self) -> &LabelRules {
        &self.rules
    }

    /// The counts so far.
    pub fn record(&self) -> &PseudoLabels {
        &self.record
    }

    /// The labels, with what is known of their origin.
    pub fn finish(mut self) -> Instances {
        self.instances.pseudo_labels = Some(self.record);
        self.instances
    }
}
