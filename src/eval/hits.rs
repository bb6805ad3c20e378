//! Hits, false boxes and missed objects of an image, for people: at one IoU and from one score on.
//!
//! Metrics are hotcoco's; this says of each box what a picture shows of it.

use ckd_detectors::boxes::{Xyxy, coverage, iou};
use serde::Serialize;

use crate::data::{Annotation, ClassIndex};

/// Least IoU of a hit.
pub const HIT_IOU: f32 = 0.5;

/// A box that a detector found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// `[x, y, width, height]` in pixels of the image.
    pub bbox: [f64; 4],
    /// Class of the object.
    pub class: ClassIndex,
    /// Confidence.
    pub score: f64,
}

/// Verdict on a found box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It points at an object of its class that no box with a higher score points at.
    Hit,
    /// It points at no such object.
    False,
    /// It lies on a crowd, or on an object that is to be ignored: neither right nor wrong.
    Ignored,
}

/// Verdicts on what was found on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    /// On each found box.
    pub found: Vec<Verdict>,
    /// Indices of the objects that were missed.
    pub missed: Vec<usize>,
}

/// Numbers of hits, false boxes and missed objects of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Objects that were found.
    pub hits: usize,
    /// Boxes that are wrong.
    #[serde(rename = "false")]
    pub false_boxes: usize,
    /// Objects that were not found.
    pub missed: usize,
}

impl Tally {
    /// The F1 score: twice the hits over twice the hits, the false boxes and the missed objects; 1 where there is neither.
    pub fn f1(self) -> f64 {
        let (hits, errors) = (2 * self.hits, self.false_boxes + self.missed);
        if hits + errors == 0 { 1.0 } else { hits as f64 / (hits + errors) as f64 }
    }
}

impl Verdicts {
    /// The counts.
    pub fn tally(&self) -> Tally {
        let count = |verdict: Verdict| self.found.iter().filter(|&&own| own == verdict).count();
        Tally { hits: count(Verdict::Hit), false_boxes: count(Verdict::False), missed: self.missed.len() }
    }
}

/// Judges the boxes `found` on an image with these objects: as COCO's matching at an IoU of .50, the highest score first.
pub fn judged(objects: &[Annotation], found: &[Found]) -> Verdicts {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| found[b].score.total_cmp(&found[a].score));
    let mut is_taken = vec![false; objects.len()];
    let mut verdicts = vec![Verdict::False; found.len()];
    for index in order {
        let Found { bbox, class, .. } = &found[index];
        let overlap = |object: &Annotation| match object.crowd {
            true => coverage(&corners(*bbox), &corners(object.bbox)),
            false => iou(&corners(object.bbox), &corners(*bbox)),
        };
        let of_class = objects.iter().enumerate().filter(|(_, object)| object.category == *class);
        let near: Vec<(usize, f32)> = of_class
            .map(|(place, object)| (place, overlap(object)))
            .filter(|&(_, overlap)| overlap >= HIT_IOU)
            .collect();
        let free = near.iter().filter(|&&(place, _)| !is_taken[place] && objects[place].is_positive());
        if let Some(&(place, _)) = free.max_by(|a, b| a.1.total_cmp(&b.1)) {
            is_taken[place] = true;
            verdicts[index] = Verdict::Hit;
        } else if near.iter().any(|&(place, _)| !objects[place].is_positive()) {
            verdicts[index] = Verdict::Ignored;
        }
    }
    let missed = (0..objects.len()).filter(|&place| objects[place].is_positive() && !is_taken[place]);
    Verdicts { found: verdicts, missed: missed.collect() }
}

/// COCO's `[x, y, width, height]` as the corners that `boxes` takes.
fn corners([x, y, width, height]: [f64; 4]) -> Xyxy {
    [x, y, x + width, y + height].map(|at| at as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bbox: [f64; 4], class: u32, crowd: bool) -> Annotation {
        Annotation {
            id: 1,
            bbox,
            category: ClassIndex(class),
            area: bbox[2] * bbox[3],
            crowd,
            ignore: false,
            score: None,
            weight: 1.0,
        }
    }

    fn found(bbox: [f64; 4], class: u32, score: f64) -> Found {
        Found { bbox, class: ClassIndex(class), score }
    }

    #[test]
    fn the_best_score_hits_and_repeats_other_classes_and_far_boxes_are_false() {
        let objects = [object([0.0, 0.0, 10.0, 10.0], 0, false), object([50.0, 50.0, 10.0, 10.0], 1, false)];
        let boxes = [
            found([0.0, 0.0, 10.0, 9.0], 0, 0.5),
            found([0.0, 0.0, 10.0, 10.0], 0, 0.9),
            found([50.0, 50.0, 10.0, 10.0], 0, 0.8),
            // An IoU of 40 / 160.
            found([56.0, 50.0, 10.0, 10.0], 1, 0.8),
        ];
        let verdicts = judged(&objects, &boxes);
        assert_eq!(verdicts.found, [Verdict::False, Verdict::Hit, Verdict::False, Verdict::False]);
        assert_eq!(verdicts.missed, [1]);
        let tally = verdicts.tally();
        assert_eq!(tally, Tally { hits: 1, false_boxes: 3, missed: 1 });
        assert!((tally.f1() - 2.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn boxes_in_a_crowd_are_neither_right_nor_wrong_and_a_crowd_is_not_missed() {
        let objects = [object([0.0, 0.0, 100.0, 100.0], 0, true)];
        let verdicts = judged(&objects, &[found([10.0, 10.0, 5.0, 5.0], 0, 0.9)]);
        assert_eq!(verdicts.found, [Verdict::Ignored]);
        assert!(verdicts.missed.is_empty());
        assert_eq!(verdicts.tally().f1(), 1.0);
    }
}
