//! Differences between the detections of a student and of its export.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ckd_detectors::detector::SecondStage;
use ckd_detectors::images::Images;
use ckd_detectors::nn::Mode;
use ckd_detectors::postprocess::Detections;
use ckd_detectors::{Detector, boxes};
use ckd_kernels::Value;
use image::RgbImage;

use super::error::{ExportError, Result};
use super::onnx::evaluate::Evaluator;
use super::onnx::{InputRule, Preprocessing};
use crate::data::Batch;

/// Difference of two lists of detections.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    /// Images that were compared.
    pub images: usize,
    /// Detections of the student.
    pub detections: usize,
    /// Detections of either that the other lacks.
    pub unmatched: usize,
    /// The largest difference of a coordinate, in pixels of the original images.
    pub box_px: f32,
    /// The largest difference of a score.
    pub score: f32,
}

/// Two detections of one class whose coordinates differ by more are not the same one.
const SAME_PX: f32 = 1.0;

/// Two detections whose scores differ by more are not the same one.
const SAME_SCORE: f32 = 0.01;

impl Difference {
    /// Adds an image. Each detection of the student is paired with the nearest one of its class.
    pub fn add(&mut self, student: &Detections, export: &Detections) {
        self.images += 1;
        self.detections += student.len();
        let mut free: Vec<bool> = vec![true; export.len()];
        for i in 0..student.len() {
            let apart = |j: usize| {
                let corners = student.boxes[i].iter().zip(&export.boxes[j]);
                corners.fold(0f32, |most, (a, b)| most.max((a - b).abs()))
            };
            let score_apart = |j: usize| (student.scores[i] - export.scores[j]).abs();
            let nearest = (0..export.len())
                .filter(|&j| free[j] && export.labels[j] == student.labels[i])
                .filter(|&j| apart(j) <= SAME_PX && score_apart(j) <= SAME_SCORE)
                .min_by(|&a, &b| (apart(a) + score_apart(a)).total_cmp(&(apart(b) + score_apart(b))));
            match nearest {
                Some(j) => {
                    free[j] = false;
                    self.box_px = self.box_px.max(apart(j));
                    self.score = self.score.max(score_apart(j));
                }
                None => self.unmatched += 1,
            }
        }
        self.unmatched += free.into_iter().filter(|free| *free).count();
    }

    /// Fails if the export differs from the student by more than rounding. Summation order can flip ties of
    /// the suppression, so a few detections of a hundred may be unmatched.
    ///
    /// # Errors
    /// [`ExportError::Drift`] if more than 2 % (and more than one) of the detections have no partner, or
    /// partners differ by 0.1 pixels or 0.001 of score.
    pub fn check(&self) -> Result<()> {
        let few = self.unmatched <= 1.max(self.detections / 50);
        match few && self.box_px <= 0.1 && self.score <= 1e-3 {
            true => Ok(()),
            false => Err(ExportError::Drift { reason: self.to_string() }),
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { images, detections, unmatched, box_px, score } = self;
        write!(
            f,
            "{detections} detections on {images} images, boxes differ by at most {box_px:.5} px, scores by {score:.7}, \
             {unmatched} have no partner"
        )
    }
}

/// Input of a detector's graph for one image: tensors by name, and the (height, width) that its boxes refer
/// to.
pub type GraphInput = (Vec<(&'static str, Tensor)>, (usize, usize));

/// `image` as the graph takes it.
///
/// # Errors
/// If a tensor cannot be made.
pub fn graph_input(image: &RgbImage, rule: &InputRule, preprocessing: Preprocessing) -> Result<GraphInput> {
    let (height, width) = (image.height() as usize, image.width() as usize);
    match preprocessing {
        Preprocessing::Inside => {
            let pixels = Tensor::from_slice(image.as_raw(), (1, height, width, 3), &Device::Cpu)?;
            Ok((vec![("images", pixels)], (height, width)))
        }
        Preprocessing::Outside => {
            let resize = rule.resize_rule();
            // Without padding: that is in the graph.
            let batch = Batch::of_images(std::slice::from_ref(image), resize, 1);
            let (h, w) = batch.sizes[0];
            let shape = (1, batch.height, batch.width, 3);
            let pixels = Tensor::from_slice(&batch.pixels, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?;
            let sizes = Tensor::new(&[[h as i64, w as i64]], &Device::Cpu)?;
            Ok((vec![("images", pixels), ("sizes", sizes)], (h, w)))
        }
    }
}

/// The graph's detections on one image, in pixels of the image; labels are class indices.
///
/// # Errors
/// If the graph gives something else.
pub fn graph_detections(
    outputs: &BTreeMap<String, Tensor>,
    categories: &[u64],
    (from, to): ((usize, usize), (usize, usize)),
) -> Result<Detections> {
    let output = |name: &str| {
        let missing = || ExportError::Graph { reason: format!("it gives no {name}") };
        outputs.get(name).ok_or_else(missing)
    };
    let mut boxes: Vec<[f32; 4]> =
        output("boxes")?.flatten_all()?.to_vec1::<f32>()?.as_chunks::<4>().0.to_vec();
    boxes::resize(&mut boxes, from, to).map_err(ckd_detectors::Error::from)?;
    let class = |id: i64| {
        let found = categories.iter().position(|&category| i64::try_from(category) == Ok(id));
        let unknown = || ExportError::Graph { reason: format!("it gives the category {id}") };
        found.map(|class| class as u32).ok_or_else(unknown)
    };
    let labels = output("labels")?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    Ok(Detections {
        boxes,
        scores: output("scores")?.to_vec1()?,
        labels: labels.into_iter().map(class).collect::<Result<_>>()?,
    })
}

/// The largest difference between raw outputs of a graph and of the network, and the largest value among the network's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RawDifference {
    /// The largest difference.
    pub most: f32,
    /// The largest magnitude of the network's own.
    pub largest: f32,
}

impl RawDifference {
    /// Adds what both give on one image: RetinaNet's logits and deltas; FCOS's logits, distances and centerness; Faster
    /// R-CNN's objectness, deltas and pyramid.
    ///
    /// # Errors
    /// If either does not run, or gives other shapes.
    pub fn add_heads(
        &mut self,
        detector: &Detector,
        graph: &Evaluator,
        image: &RgbImage,
        rule: &InputRule,
    ) -> Result<()> {
        let (inputs, _) = graph_input(image, rule, Preprocessing::Outside)?;
        let images = network_input(image, rule)?;
        let pyramid = detector.pyramid(&images, Mode::Inference)?;
        self.add(&detector.raw_outputs(&images, &pyramid)?, &graph.run(&inputs)?)
    }

    /// Adds what a box head and the network's own say of the network's proposals on one image.
    ///
    /// # Errors
    /// As [`add_heads`](Self::add_heads); a detector without a second stage.
    pub fn add_box_head(
        &mut self,
        detector: &Detector,
        graph: &Evaluator,
        image: &RgbImage,
        rule: &InputRule,
    ) -> Result<()> {
        let images = network_input(image, rule)?;
        let pyramid = detector.pyramid(&images, Mode::Inference)?;
        let Some(SecondStage { proposals, output }) = detector.second_stage(&images, &pyramid)? else {
            let reason = "the detector has no second stage".to_owned();
            return Err(ExportError::Unsupported { reason });
        };
        let boxes = proposals.concat();
        let names: Vec<String> = detector.levels().iter().map(ToString::to_string).collect();
        let maps = names.iter().map(String::as_str).zip(pyramid.iter().map(|map| map.tensor().clone()));
        let mut inputs: Vec<(&str, Tensor)> = maps.collect();
        inputs.push(("boxes", Tensor::from_slice(boxes.as_flattened(), (boxes.len(), 4), &Device::Cpu)?));
        inputs.push(("image", Tensor::zeros(boxes.len(), DType::I64, &Device::Cpu)?));
        let own = [("logits".to_owned(), output.logits), ("deltas".to_owned(), output.deltas)];
        self.add(&own, &graph.run(&inputs)?)
    }

    fn add(&mut self, own: &[(String, Value)], theirs: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, own) in own {
            let missing = || ExportError::Graph { reason: format!("it gives no {name}") };
            let theirs = theirs.get(name).ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()?;
            let own = own.tensor().flatten_all()?.to_vec1::<f32>()?;
            if own.len() != theirs.len() {
                let reason = format!("its {name} has {} values, the student's {}", theirs.len(), own.len());
                return Err(ExportError::Graph { reason });
            }
            for (a, b) in own.iter().zip(&theirs) {
                let apart = (a - b).abs();
                // `max` alone passes over NaN.
                self.most = self.most.max(if apart.is_nan() { f32::INFINITY } else { apart });
                self.largest = self.largest.max(a.abs());
            }
        }
        Ok(())
    }
}

/// `image` as the network takes it: resized and padded.
fn network_input(image: &RgbImage, rule: &InputRule) -> Result<Images> {
    let batch = Batch::of_images(std::slice::from_ref(image), rule.resize_rule(), rule.size_divisor as usize);
    let shape = (1, batch.height, batch.width, 3);
    let pixels = Tensor::from_slice(&batch.pixels, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?;
    Ok(Images { pixels, sizes: batch.sizes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(xyxy: [f32; 4], score: f32, label: u32) -> Detections {
        Detections { boxes: vec![xyxy], scores: vec![score], labels: vec![label] }
    }

    #[test]
    fn equal_lists_agree_and_others_do_not() {
        let list = one([0.0, 0.0, 9.0, 9.0], 0.5, 1);
        let mut same = Difference::default();
        same.add(&list, &list);
        assert_eq!((same.unmatched, same.box_px, same.score), (0, 0.0, 0.0));
        assert!(same.check().is_ok());
        let moved = one([0.5, 0.0, 9.0, 9.0], 0.5, 1);
        let mut apart = Difference::default();
        apart.add(&list, &moved);
        assert_eq!((apart.unmatched, apart.box_px), (0, 0.5));
        assert!(apart.check().is_err());
        let mut other = Difference::default();
        other.add(&list, &one([0.0, 0.0, 9.0, 9.0], 0.5, 2));
        other.add(&list, &Detections::default());
        assert_eq!((other.unmatched, other.images), (3, 2));
        assert!(other.check().is_err());
    }
}
