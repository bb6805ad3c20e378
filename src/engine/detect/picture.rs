//! `detections.png`: what the trained students find, beside the truth.

use std::path::Path;

use candle_core::Device;
use ckd_detectors::postprocess::Detections;
use image::RgbImage;

use super::build;
use super::evaluate::detect_one;
use crate::config::Config;
use crate::data::{CategoryId, ClassIndex, DataError, Dataset};
use crate::engine::Result;
use crate::eval::Detection;
use crate::report::draw::{DrawnBox, Panel, grid, save_png};
use crate::report::run_folder::RunFolder;
use crate::weights::{WeightsFile, load};

/// Images of the picture.
const SHOWN: usize = 4;
/// Scores below this are not drawn.
const DRAWN_SCORE: f32 = 0.3;

/// Writes to `path` the first images of `val` that have objects, a row each: with the truth, and with the detections of
/// each of the finished `students` of `config` (a label and the folder of a run).
pub(super) fn draw_detections(
    val: &Dataset,
    config: &Config,
    students: &[(&str, &RunFolder)],
    path: &Path,
    device: &Device,
) -> Result<()> {
    let mut models = Vec::new();
    for (label, folder) in students {
        let detector = build::frozen_student(config, val.categories.len(), device)?;
        load::strict(detector.params(), &WeightsFile::read(&folder.last())?)?;
        models.push((label, detector));
    }
    let mut rows = Vec::new();
    for index in shown_images(val) {
        let image = val.pixels(index).map_err(DataError::from)?;
        let panel = |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
        let mut row = vec![panel("ground truth", truth(val, index))];
        for (label, detector) in &models {
            let found = detect_one(detector, &image, config, device)?;
            row.push(panel(label, drawn(&found, val)));
        }
        rows.push(row);
    }
    Ok(save_png(path, &grid(&rows))?)
}

/// Indices of the images of a picture: the first that have objects.
fn shown_images(val: &Dataset) -> impl Iterator<Item = usize> + '_ {
    (0..val.images.len()).filter(|&index| !val.annotations(index).is_empty()).take(SHOWN)
}

/// The truth and `detections` on the images of a picture, a row each.
pub(super) fn evaluation_picture(val: &Dataset, detections: &[Detection]) -> Result<RgbImage> {
    let mut rows = Vec::new();
    for index in shown_images(val) {
        let image = val.pixels(index).map_err(DataError::from)?;
        let id = val.images[index].id.0;
        let own = detections.iter().filter(|found| found.image_id == id);
        let boxes = own.filter(|found| found.score >= f64::from(DRAWN_SCORE)).filter_map(|found| {
            let [x, y, w, h] = found.bbox.map(|value| value as f32);
            let class = val.categories.class(CategoryId(found.category_id))?;
            let name = val.categories.name(class).unwrap_or_default().to_owned();
            let score = Some(found.score as f32);
            Some(DrawnBox { xyxy: [x, y, x + w, y + h], class: class.0 as usize, name, score })
        });
        let panel = |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
        rows.push(vec![panel("ground truth", truth(val, index)), panel("found", boxes.collect())]);
    }
    Ok(grid(&rows))
}

/// The detections worth drawing.
fn drawn(found: &Detections, dataset: &Dataset) -> Vec<DrawnBox> {
    let name = |label: u32| dataset.categories.name(ClassIndex(label)).unwrap_or_default().to_owned();
    let all = found.boxes.iter().zip(&found.scores).zip(&found.labels);
    all.filter(|((_, score), _)| **score >= DRAWN_SCORE)
        .map(|((&xyxy, &score), &label)| DrawnBox {
            xyxy,
            class: label as usize,
            name: name(label),
            score: Some(score),
        })
        .collect()
}

/// The annotated boxes of an image, ready to draw.
fn truth(dataset: &Dataset, index: usize) -> Vec<DrawnBox> {
    dataset
        .annotations(index)
        .iter()
        .map(|annotation| {
            let [x, y, w, h] = annotation.bbox.map(|value| value as f32);
            DrawnBox {
                xyxy: [x, y, x + w, y + h],
                class: annotation.category.0 as usize,
                name: dataset.categories.name(annotation.category).unwrap_or_default().to_owned(),
                score: None,
            }
        })
        .collect()
}
