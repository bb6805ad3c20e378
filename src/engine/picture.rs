//! `detections.png`: what the trained students find, beside the truth.

use std::path::Path;

use ckd_detectors::postprocess::Detections;

use super::evaluate::detect_one;
use super::job::{Job, Surroundings};
use super::{Result, build};
use crate::data::{ClassIndex, DataError, Dataset, decode};
use crate::report::draw::{DrawnBox, Panel, grid, save_png};
use crate::weights::{WeightsFile, load};

/// Images of the picture.
const SHOWN: usize = 4;
/// Scores below this are not drawn.
const DRAWN_SCORE: f32 = 0.3;

/// Writes to `path` the first validation images that have objects, a row each: with the truth, and with what each
/// of the finished `students` found.
pub(super) fn draw_detections(students: &[&Job], path: &Path, around: &Surroundings) -> Result<()> {
    let val = &around.data.val;
    let mut models = Vec::new();
    for job in students {
        let detector = build::frozen_student(job.config, val.categories.len(), around.device)?;
        load::strict(detector.params(), &WeightsFile::read(&job.weights())?)?;
        models.push((job, detector));
    }
    let mut rows = Vec::new();
    let with_objects = (0..val.images.len()).filter(|&index| !val.annotations(index).is_empty());
    for index in with_objects.take(SHOWN) {
        let image = decode::read(&val.images[index].path).map_err(DataError::from)?;
        let panel = |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
        let mut row = vec![panel("ground truth", truth(val, index))];
        for (job, detector) in &models {
            let found = detect_one(detector, &image, job.config, around.device)?;
            row.push(panel(&job.label, drawn(&found, val)));
        }
        rows.push(row);
    }
    Ok(save_png(path, &grid(&rows))?)
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
