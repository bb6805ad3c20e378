//! Confidence of a difference in AP or in top-1: a paired bootstrap over images (B. Efron and R. J. Tibshirani, "An
//! Introduction to the Bootstrap", 1993, chapters 13 and 16; percentile intervals).
//!
//! Matching is done once. A resample draws images with replacement, and an image that is drawn n times counts n times:
//! its AP is that of a data set with n copies of the image.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::coco::{Options, prepared};
use super::{Detection, EvalError, GroundTruth};

/// Resamples of [`bootstrap`].
pub const RESAMPLES: usize = 1000;

/// Confidence of the interval.
const CONFIDENCE: f64 = 0.95;

/// Matches of one set of detections, by class, over boxes of all sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Matches {
    image_ids: Vec<u64>,
    classes: Vec<Class>,
    thresholds: usize,
    recalls: Vec<f64>,
}

/// Matches of a class.
#[derive(Debug, Clone, PartialEq, Default)]
struct Class {
    /// Boxes to find: place of the image, and their number.
    boxes: Vec<(u32, u32)>,
    /// Detections, the surest first.
    found: Vec<Found>,
}

/// A detection.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    score: f64,
    /// Place of its image.
    image: u32,
    /// A bit for each IoU threshold at which it has a box of its own.
    right: u16,
    /// A bit for each IoU threshold at which it does not count.
    ignored: u16,
}

/// A difference in AP or top-1 between two sets of answers on the same images, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedDifference {
    /// AP or top-1 that the second set has more than the first, over all images.
    pub difference: f64,
    /// Bounds of the middle 95 % of the resamples.
    pub interval: [f64; 2],
    /// Share of the resamples in which the second set has more.
    pub better: f64,
    /// Resamples that had a box to find.
    pub resamples: usize,
}

/// Matches `detections` to boxes as [`evaluate`](super::evaluate) does.
///
/// # Errors
/// Errors of [`evaluate`](super::evaluate).
pub fn matches(
    truth: &GroundTruth,
    detections: &[Detection],
    options: &Options,
) -> Result<Matches, EvalError> {
    let mut evaluation = prepared(truth, detections, options)?.evaluation;
    // Boxes of all sizes come first; the others would cost three times as much again.
    evaluation.params.area_ranges.truncate(1);
    evaluation.evaluate()?;
    let thresholds = evaluation.params.iou_thrs.len().min(u16::BITS as usize);
    let mut image_ids = options.image_ids.clone().unwrap_or_else(|| truth.image_ids().collect());
    image_ids.sort_unstable();
    image_ids.dedup();
    let categories: Vec<u64> = truth.categories.iter().map(|(id, _)| *id).collect();
    // Pooled classes are one.
    let pooled = !evaluation.params.use_cats;
    let mut classes = vec![Class::default(); if pooled { 1 } else { categories.len() }];
    for cell in evaluation.eval_imgs().iter().flatten() {
        let class = if pooled { Ok(0) } else { categories.binary_search(&cell.category_id) };
        let (Ok(class), Ok(image)) = (class, image_ids.binary_search(&cell.image_id)) else { continue };
        let image = u32::try_from(image).unwrap_or(u32::MAX);
        let boxes = cell.num_gt_in_denominator() as u32;
        if boxes > 0 {
            classes[class].boxes.push((image, boxes));
        }
        for (index, &score) in cell.dt_scores.iter().enumerate() {
            let bits = |is: &dyn Fn(usize) -> bool| {
                (0..thresholds).filter(|&t| is(t)).fold(0u16, |bits, t| bits | 1 << t)
            };
            classes[class].found.push(Found {
                score,
                image,
                right: bits(&|t| cell.dt_matched[(t, index)]),
                ignored: bits(&|t| cell.dt_ignore[(t, index)]),
            });
        }
    }
    for class in &mut classes {
        // Stable, images ascending: ties rank as in the evaluator.
        class.found.sort_by_key(|found| found.image);
        class.found.sort_by(|a, b| b.score.total_cmp(&a.score));
    }
    Ok(Matches { image_ids, classes, thresholds, recalls: evaluation.params.rec_thrs.clone() })
}

impl Matches {
    /// Ids of the images, ascending.
    pub fn image_ids(&self) -> &[u64] {
        &self.image_ids
    }

    /// AP where each image, ascending by id, counts so many times; `None` where there is no box to find.
    pub fn ap(&self, counts: &[u32]) -> Option<f64> {
        let count = |image: u32| counts.get(image as usize).copied().unwrap_or(0);
        let (mut sum, mut measured) = (0.0, 0usize);
        let (mut drawn, mut curve) = (Vec::new(), Vec::new());
        for class in &self.classes {
            let boxes: u64 = class.boxes.iter().map(|&(image, boxes)| u64::from(boxes * count(image))).sum();
            if boxes == 0 {
                continue;
            }
            // Once for all thresholds: a third of the images is in no resample, and looking up the others costs most.
            drawn.clear();
            drawn.extend(class.found.iter().filter_map(|&Found { image, right, ignored, .. }| {
                let times = count(image);
                (times > 0).then_some(Drawn { times, right, ignored })
            }));
            for threshold in 0..self.thresholds {
                fill_curve(&drawn, threshold, &mut curve);
                sum += self.area(&mut curve, boxes);
                measured += 1;
            }
        }
        (measured > 0).then(|| sum / measured as f64)
    }

    /// Mean of the precision at the recalls; `curve` is the precision at each box that was found, in order.
    fn area(&self, curve: &mut [f64], boxes: u64) -> f64 {
        for index in (1..curve.len()).rev() {
            curve[index - 1] = curve[index - 1].max(curve[index]);
        }
        let mut found = 0;
        let mut sum = 0.0;
        for &recall in &self.recalls {
            while found < curve.len() && (((found + 1) as f64) / boxes as f64) < recall {
                found += 1;
            }
            match curve.get(found) {
                Some(precision) => sum += precision,
                None => break,
            }
        }
        sum / self.recalls.len() as f64
    }
}

/// A detection that counts so many times.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    times: u32,
    right: u16,
    ignored: u16,
}

/// Fills `curve` with the precision at each box that is found at an IoU threshold.
fn fill_curve(drawn: &[Drawn], threshold: usize, curve: &mut Vec<f64>) {
    curve.clear();
    let (mut right, mut wrong) = (0u64, 0u64);
    for found in drawn {
        if found.ignored >> threshold & 1 == 1 {
            continue;
        }
        if found.right >> threshold & 1 == 0 {
            wrong += u64::from(found.times);
            continue;
        }
        for _ in 0..found.times {
            right += 1;
            curve.push(right as f64 / (right + wrong) as f64);
        }
    }
}

/// Bootstraps the mean difference in AP over `pairs`, each the first and the second set of detections by one seed of
/// training: [`RESAMPLES`] resamples of the images, the same for all sets. Equal arguments give equal results, on any
/// number of threads.
///
/// `None` where the sets are not all of the same images, or where there is no box to find.
pub fn bootstrap(pairs: &[(Matches, Matches)], seed: u64) -> Option<PairedDifference> {
    let images = pairs.first()?.0.image_ids();
    let is_same = |matches: &Matches| matches.image_ids() == images;
    if images.is_empty() || !pairs.iter().all(|(first, second)| is_same(first) && is_same(second)) {
        return None;
    }
    let difference = |counts: &[u32]| {
        let each = pairs.iter().map(|(first, second)| Some(second.ap(counts)? - first.ap(counts)?));
        Some(each.sum::<Option<f64>>()? / pairs.len() as f64)
    };
    resampled(images.len(), seed, difference)
}

/// Bootstraps the mean difference in top-1 over `pairs`, each the first and the second run of one seed of training: on each
/// image 1 where a classifier is right and 0 where it is not, of several that trained together the share that is right.
/// Resamples are those of [`bootstrap`].
///
/// `None` where the runs are not all of as many images, or where there is no image.
///
/// ```
/// use ckd_det::eval::bootstrap_hits;
///
/// let (alone, pair) = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.5, 1.0]);
/// let found = bootstrap_hits(&[(alone.to_vec(), pair.to_vec())], 0).expect("as many images");
/// assert_eq!(found.difference, 0.375);
/// assert!(found.interval[0] >= 0.0 && found.interval[1] <= 1.0);
/// ```
pub fn bootstrap_hits(pairs: &[(Vec<f64>, Vec<f64>)], seed: u64) -> Option<PairedDifference> {
    let images = pairs.first()?.0.len();
    if images == 0 || pairs.iter().any(|(first, second)| [first.len(), second.len()] != [images; 2]) {
        return None;
    }
    // Gains of all pairs on each image.
    let gain =
        |image: usize| -> f64 { pairs.iter().map(|(first, second)| second[image] - first[image]).sum() };
    let gains: Vec<f64> = (0..images).map(gain).collect();
    resampled(images, seed, |counts| {
        let sum: f64 = gains.iter().zip(counts).map(|(gain, &count)| gain * f64::from(count)).sum();
        Some(sum / (images * pairs.len()) as f64)
    })
}

/// A difference over all of `images` and over resamples of them; `difference` takes how often each image counts.
fn resampled(
    images: usize,
    seed: u64,
    difference: impl Fn(&[u32]) -> Option<f64> + Sync,
) -> Option<PairedDifference> {
    let whole = difference(&vec![1; images])?;
    let mut resampled: Vec<f64> = (0..RESAMPLES as u64)
        .into_par_iter()
        .filter_map(|resample| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(resample);
            let mut counts = vec![0u32; images];
            (0..images).for_each(|_| counts[random.random_range(0..images)] += 1);
            difference(&counts)
        })
        .collect();
    if resampled.is_empty() {
        return None;
    }
    resampled.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let better = resampled.iter().filter(|&&value| value > 0.0).count();
    Some(PairedDifference {
        difference: whole,
        interval: [quantile(&resampled, tail), quantile(&resampled, 1.0 - tail)],
        better: better as f64 / resampled.len() as f64,
        resamples: resampled.len(),
    })
}

/// Quantile of ascending values, interpolated between neighbours.
fn quantile(ascending: &[f64], share: f64) -> f64 {
    let at = share * (ascending.len() - 1) as f64;
    let (below, above) = (ascending[at.floor() as usize], ascending[at.ceil() as usize]);
    below + (above - below) * at.fract()
}
