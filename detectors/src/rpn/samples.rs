//! The few anchors that the proposal network learns from, and the head at their cells alone.
//!
//! The loss sees some 256 anchors of an image's 268,000, so the gradient is 0 nearly everywhere. What the head says of
//! the sampled anchors is computed once more, from the 3x3 windows around their cells: the gradient needs no map of the
//! head, and costs a thousandth of one that walks back through whole maps.

use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, permute, reshape, rows};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::{bce_with_logits, smooth_l1};
use ckd_kernels::windows::{Pixel, windows};
use rand::Rng;

use super::{CODER, Grid, Rpn, RpnConfig};
use crate::Result;
use crate::boxes::Xyxy;
use crate::dense::per_anchor;
use crate::images::Target;
use crate::matcher::{Match, Matcher};
use crate::row_divisors::RowDivisors;
use crate::sampler::sample;

/// The anchors that the loss sees.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Among the anchors of all images.
    pub(super) anchors: Vec<u32>,
    /// 1 for an object, 0 for background.
    labels: Vec<f32>,
    /// Indices of the objects among the samples.
    positives: Vec<u32>,
    /// Regression targets (deltas) of the objects.
    regression: Vec<[f32; 4]>,
    /// Weight of each sample.
    weights: Vec<f64>,
}

impl Samples {
    /// A balanced sample of the `anchors` of each image.
    pub(super) fn draw(
        (matcher, config): (&Matcher, &RpnConfig),
        anchors: &[Xyxy],
        targets: &[Target],
        random: &mut impl Rng,
    ) -> Result<Self> {
        let mut samples = Self::default();
        for (image, target) in targets.iter().enumerate() {
            let matches = matcher.match_boxes(&target.boxes, &target.ignored, anchors);
            let chosen = sample(&matches, config.batch_per_image, config.positive_fraction, random)?;
            let flat = |anchor: usize| (image * anchors.len() + anchor) as u32;
            for anchor in chosen.positives {
                let Match::Gt(truth) = matches[anchor] else { continue };
                samples.positives.push(samples.anchors.len() as u32);
                samples.anchors.push(flat(anchor));
                samples.labels.push(1.0);
                samples.weights.push(target.weight(truth));
                samples.regression.push(CODER.encode(&target.boxes[truth as usize], &anchors[anchor]));
            }
            samples.anchors.extend(chosen.negatives.iter().map(|&anchor| flat(anchor)));
            samples.labels.resize(samples.anchors.len(), 0.0);
            samples.weights.resize(samples.anchors.len(), target.background.into());
        }
        Ok(samples)
    }

    /// The losses of what the head says of these anchors: `objectness` (S, 1) and `deltas` (S, 4), with smooth L1's `beta`.
    pub(super) fn losses(
        &self,
        objectness: &Value,
        deltas: &Value,
        beta: f64,
    ) -> Result<[(&'static str, Value); 2]> {
        let divisor = self.anchors.len().max(1) as f64;
        let (mut per_anchor, mut per_object) = (RowDivisors::default(), RowDivisors::default());
        per_anchor.extend_weighted(divisor, self.weights.iter().copied());
        per_object.extend_weighted(divisor, self.positives.iter().map(|&at| self.weights[at as usize]));
        let (chosen, per_object) = (rows(deltas, &self.positives)?, per_object.divisor());
        let boxes = smooth_l1(&chosen, &self.regression, beta, per_object)?;
        let objectness = bce_with_logits(objectness, &self.labels, per_anchor.divisor())?;
        Ok([("loss_objectness", objectness), ("loss_rpn_box_reg", boxes)])
    }
}

/// The cells of some anchors.
pub(super) struct Cells {
    /// Distinct cells of each level.
    levels: Vec<Vec<Pixel>>,
    /// Row of each anchor, where a cell has a row for each of its anchors.
    rows: Vec<u32>,
}

impl Cells {
    /// The cells of `anchors`, which are numbered through the images of `grid`.
    pub(super) fn of(anchors: &[u32], grid: &Grid, per_cell: usize) -> Self {
        let places: Vec<(usize, Pixel, usize)> = anchors
            .iter()
            .map(|&anchor| {
                let (image, mut within) =
                    (anchor as usize / grid.anchors.len(), anchor as usize % grid.anchors.len());
                let mut level = 0;
                while within >= grid.per_level[level] {
                    within -= grid.per_level[level];
                    level += 1;
                }
                let (cell, width) = (within / per_cell, grid.sizes[level].1);
                (level, Pixel { image, y: cell / width, x: cell % width }, within % per_cell)
            })
            .collect();
        let mut levels = vec![Vec::new(); grid.sizes.len()];
        for &(level, pixel, _) in &places {
            levels[level].push(pixel);
        }
        let mut firsts = Vec::with_capacity(levels.len());
        let mut count = 0;
        for level in &mut levels {
            level.sort_unstable();
            level.dedup();
            firsts.push(count);
            count += level.len();
        }
        let row = |&(level, pixel, anchor): &(usize, Pixel, usize)| {
            let cell = levels[level].partition_point(|other| *other < pixel);
            ((firsts[level] + cell) * per_cell + anchor) as u32
        };
        Self { rows: places.iter().map(row).collect(), levels }
    }

    /// Whether windows around the cells are less than the maps of `images` images.
    pub(super) fn are_few(&self, grid: &Grid, images: usize) -> bool {
        let cells: usize = self.levels.iter().map(Vec::len).sum();
        let pixels: usize = grid.sizes.iter().map(|(h, w)| images * h * w).sum();
        cells > 0 && 9 * cells < pixels
    }
}

impl Rpn {
    /// Returns the head's outputs at `cells`, a row for each anchor: objectness (S, 1) and deltas (S, 4).
    pub(super) fn at(&self, cells: &Cells, levels: &[Value]) -> Result<(Value, Value)> {
        let mut parts = Vec::with_capacity(levels.len());
        for (level, pixels) in levels.iter().zip(&cells.levels).filter(|(_, pixels)| !pixels.is_empty()) {
            parts.push(permute(&windows(level, pixels, 3)?, &[0, 2, 3, 1])?);
        }
        let hidden = permute(&concatenate(&parts, 0)?, &[0, 3, 1, 2])?;
        let hidden = self.hidden[0].forward_windows(&hidden, Relu)?;
        let of_anchors = |map: Value, width: usize| -> Result<Value> {
            let map = per_anchor(&map, width)?;
            let all = map.dims()[0] * map.dims()[1];
            Ok(rows(&reshape(&map, &[all, width])?, &cells.rows)?)
        };
        Ok((
            of_anchors(self.objectness.forward(&hidden, Identity)?, 1)?,
            of_anchors(self.deltas.forward(&hidden, Identity)?, 4)?,
        ))
    }
}
