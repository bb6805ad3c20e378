//! Feature maps cut into square patches, channel by channel, and gradients put together again.
//!
//! A map whose sides are not whole patches is resized up to them (bilinear, as [`crate::resize`]) while it is
//! cut: the resized map is never written. A task takes some neighbouring channels, which share cache lines,
//! and gives each its own matrix, with patches along one side and the pixels of a patch (of all images) along
//! the other.

#[cfg(feature = "cuda")]
mod gpu;

use std::ops::Range;

use crate::memory::{prefetch, written_in_chunks};
use crate::resize::{Mix, mixes};
use crate::simd::for_each_level;
use crate::transpose::{TILE, transpose_tile};
use crate::{Error, Result};

/// Number of channels that a task takes: a cache line of a map.
pub const GROUP: usize = 16;

/// Grid of square patches over a batch of maps.
#[derive(Debug, Clone)]
pub struct Patches {
    /// (N, H, W, C) of the maps.
    map: (usize, usize, usize, usize),
    side: usize,
    across: usize,
    rows: Vec<Mix>,
    columns: Vec<Mix>,
}

/// Layout of a channel's matrix of pixels and patches. Fast if pixels or patches are neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    /// Between neighbouring pixels of a patch, and between the images' last and first ones.
    pub pixel: usize,
    /// Between neighbouring patches.
    pub patch: usize,
    /// Between the matrices of neighbouring channels.
    pub matrix: usize,
}

impl Patches {
    /// Makes a grid of patches of `side` by `side` pixels.
    ///
    /// # Shapes
    /// Maps (N, C, H, W).
    ///
    /// # Errors
    /// If a patch has no pixels.
    pub fn new((n, c, h, w): (usize, usize, usize, usize), side: usize) -> Result<Self> {
        if side == 0 {
            return Err(Error::invalid("patches", "a patch needs at least one cell"));
        }
        let (rows, columns) = (h.next_multiple_of(side), w.next_multiple_of(side));
        let (rows, columns) = (mixes(h, rows), mixes(w, columns));
        Ok(Self { map: (n, h, w, c), side, across: columns.len() / side, rows, columns })
    }

    /// Number of patches of an image.
    pub fn count(&self) -> usize {
        self.rows.len() / self.side * self.across
    }

    /// Number of pixels of a patch, in all images.
    pub fn pixels(&self) -> usize {
        self.map.0 * self.side * self.side
    }

    /// Number of elements of a channel of the maps, N·H·W.
    pub fn plane(&self) -> usize {
        let (n, h, w, _) = self.map;
        n * h * w
    }

    /// Writes the matrices of some channels of `map` (N, H, W, C), at most [`GROUP`] of them, to `out`.
    ///
    /// # Panics
    /// If `map` or `out` is too short.
    pub fn cut(&self, map: &[f32], channels: Range<usize>, strides: Strides, out: &mut [f32]) {
        let (n, h, w, c) = self.map;
        let width = channels.len();
        // Lines a whole pixel apart fall into few sets of a cache: each is read once, and kept side by side.
        let mut taken = [(usize::MAX, vec![0f32; w * width]), (usize::MAX, vec![0f32; w * width])];
        let mut resized = vec![0f32; self.columns.len() * width];
        for row in 0..n * self.rows.len() {
            let (image, oy) = (row / self.rows.len(), row % self.rows.len());
            let mix = self.rows[oy];
            for y in [image * h + mix.low, image * h + mix.high] {
                if taken.iter().all(|(kept, _)| *kept != y) {
                    // The row that comes first is not needed again.
                    let [a, b] = &mut taken;
                    let oldest = if a.0 == usize::MAX || b.0 != usize::MAX && a.0 < b.0 { a } else { b };
                    let next = &map[(y + 1).min(n * h - 1) * w * c..][..w * c];
                    take_channels(&map[y * w * c..][..w * c], next, c, channels.clone(), &mut oldest.1);
                    oldest.0 = y;
                }
            }
            let [low, high] = [mix.low, mix.high].map(|y| {
                let kept = taken.iter().find(|(kept, _)| *kept == image * h + y);
                &kept.expect("both rows were just taken").1[..]
            });
            mix_rows(&mut resized, low, high, mix.weights, &self.columns, width);
            self.tiles(image, oy, strides, |Tile { pixel, step, place, count }| {
                let from = &resized[pixel * width..];
                transpose_tile(from, step * width, (count, width), &mut out[place..], strides.matrix);
            });
        }
    }

    /// Adds matrices of derivatives of `width` channels to `out` (N, H, W, `width`): the transpose of
    /// [`cut`](Self::cut).
    ///
    /// # Panics
    /// If `matrices` or `out` is too short.
    pub fn paste(&self, matrices: &[f32], width: usize, strides: Strides, out: &mut [f32]) {
        let (n, h, w, _) = self.map;
        let mut resized = vec![0f32; self.columns.len() * width];
        for row in 0..n * self.rows.len() {
            let (image, oy) = (row / self.rows.len(), row % self.rows.len());
            self.tiles(image, oy, strides, |Tile { pixel, step, place, count }| {
                let to = &mut resized[pixel * width..];
                transpose_tile(&matrices[place..], strides.matrix, (width, count), to, step * width);
            });
            let mix = self.rows[oy];
            for (y, weight) in [mix.low, mix.high].into_iter().zip(mix.weights) {
                if weight != 0.0 {
                    let out = &mut out[(image * h + y) * w * width..][..w * width];
                    spread_row(out, &resized, weight, &self.columns, width);
                }
            }
        }
    }

    /// Joins pasted groups of channels to a map (N, H, W, C), times `factor`.
    ///
    /// # Panics
    /// If `groups` are not those of all channels.
    pub fn join(&self, groups: &[Vec<f32>], factor: f32) -> Vec<f32> {
        const PIXELS_A_TASK: usize = 64;
        let (c, plane) = (self.map.3, self.plane());
        let widths = || (0..c).step_by(GROUP).map(|channel| GROUP.min(c - channel));
        assert!(widths().map(|width| width * plane).eq(groups.iter().map(Vec::len)), "patches: groups");
        written_in_chunks(plane * c, PIXELS_A_TASK * c, |task, out| {
            let first = task * PIXELS_A_TASK;
            for pixel in first..first + out.len() / c {
                for (width, group) in widths().zip(groups) {
                    out.extend(group[pixel * width..][..width].iter().map(|value| value * factor));
                }
            }
        })
    }

    /// The tiles that row `oy` of an image, resized, consists of.
    fn tiles(&self, image: usize, oy: usize, strides: Strides, mut f: impl FnMut(Tile)) {
        let &Self { side, across, .. } = self;
        let start = (image * side + oy % side) * side * strides.pixel + oy / side * across * strides.patch;
        let place = |pixel: usize, patch: usize| start + pixel * strides.pixel + patch * strides.patch;
        if strides.patch == 1 {
            for pixel in 0..side {
                for patch in (0..across).step_by(TILE) {
                    let count = TILE.min(across - patch);
                    f(Tile { pixel: patch * side + pixel, step: side, place: place(pixel, patch), count });
                }
            }
            return;
        }
        let longest = if strides.pixel == 1 { TILE } else { 1 };
        for patch in 0..across {
            for pixel in (0..side).step_by(longest) {
                let count = longest.min(side - pixel);
                f(Tile { pixel: patch * side + pixel, step: 1, place: place(pixel, patch), count });
            }
        }
    }
}

/// Pixels of a resized row that are neighbours in a channel's matrix: from `pixel` on, `step` apart, `count`
/// of them.
struct Tile {
    pixel: usize,
    step: usize,
    place: usize,
    count: usize,
}

for_each_level! {
    /// A resized row, `weights` of two rows. A neighbour without a share does not count: it may be infinite.
    fn mix_rows(
        out: &mut [f32],
        low: &[f32],
        high: &[f32],
        weights: [f32; 2],
        columns: &[Mix],
        width: usize,
    ) {
        // A width known beforehand is a vector, not a loop.
        match width {
            GROUP => mix_pixels(out, (low, high), weights, columns, GROUP),
            _ => mix_pixels(out, (low, high), weights, columns, width),
        }
    }

    /// Adds to a row what the resized row `g`, times `weight`, gives it.
    fn spread_row(row: &mut [f32], g: &[f32], weight: f32, columns: &[Mix], width: usize) {
        match width {
            GROUP => spread_pixels(row, g, weight, columns, GROUP),
            _ => spread_pixels(row, g, weight, columns, width),
        }
    }
}

#[inline(always)]
fn mix_pixels(
    out: &mut [f32],
    (low, high): (&[f32], &[f32]),
    weights: [f32; 2],
    columns: &[Mix],
    width: usize,
) {
    for (out, mix) in out.chunks_exact_mut(width).zip(columns) {
        let (near, far) = (mix.low * width..(mix.low + 1) * width, mix.high * width..(mix.high + 1) * width);
        let across = |a: f32, b: f32| match mix.weights[1] {
            0.0 => a,
            share => mix.weights[0] * a + share * b,
        };
        let pair = low[near.clone()].iter().zip(&low[far.clone()]);
        out.iter_mut().zip(pair).for_each(|(out, (a, b))| *out = across(*a, *b));
        if weights[1] != 0.0 {
            let below = high[near].iter().zip(&high[far]).map(|(a, b)| across(*a, *b));
            out.iter_mut().zip(below).for_each(|(out, below)| *out = weights[0] * *out + weights[1] * below);
        }
    }
}

#[inline(always)]
fn spread_pixels(row: &mut [f32], g: &[f32], weight: f32, columns: &[Mix], width: usize) {
    for (g, mix) in g.chunks_exact(width).zip(columns) {
        for (x, share) in [mix.low, mix.high].into_iter().zip(mix.weights) {
            if share != 0.0 {
                let share = weight * share;
                row[x * width..][..width].iter_mut().zip(g).for_each(|(to, g)| *to += share * g);
            }
        }
    }
}

/// Some channels of a row of a map, side by side; `next` is the row that will be wanted afterwards.
fn take_channels(row: &[f32], next: &[f32], c: usize, channels: Range<usize>, out: &mut [f32]) {
    let pixels = out.chunks_exact_mut(channels.len()).zip(row.chunks_exact(c).zip(next.chunks_exact(c)));
    for (out, (pixel, next)) in pixels {
        // Lines so far apart are not fetched ahead by themselves.
        prefetch(&next[channels.start]);
        let pixel = &pixel[channels.clone()];
        match (out.as_mut_array::<GROUP>(), pixel.as_array::<GROUP>()) {
            // Of known length, and so a single vector.
            (Some(out), Some(pixel)) => *out = *pixel,
            _ => out.copy_from_slice(pixel),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::memory::{channels_last, elements};
    use crate::resize::resize_bilinear;
    use crate::{Result, Value};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.5 - 1.0).collect()
    }

    /// Both directions of odd shapes: sides that are whole patches or not, any number of channels.
    #[test]
    fn cutting_is_resizing_and_pasting_is_its_transpose() -> Result<()> {
        for (n, c, h, w, side) in [
            (1, 1, 1, 1, 1),
            (2, 3, 5, 7, 2),
            (1, 16, 6, 8, 2),
            (2, 17, 4, 9, 4),
            (1, 40, 7, 3, 3),
            (1, 16, 2, 5, 8),
        ] {
            let patches = Patches::new((n, c, h, w), side)?;
            let (count, pixels) = (patches.count(), patches.pixels());
            let map = numbers(n * h * w * c, 1);
            let tensor = Tensor::from_slice(&map, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?;
            let (big_h, big_w) = (h.next_multiple_of(side), w.next_multiple_of(side));
            let patch_after_patch = Strides { pixel: count + 3, patch: 1, matrix: pixels * (count + 3) + 5 };
            let pixel_after_pixel = Strides { pixel: 1, patch: pixels + 2, matrix: count * (pixels + 2) };
            let neither = Strides { pixel: 2, patch: 2 * pixels, matrix: 2 * count * pixels };
            for strides in [patch_after_patch, pixel_after_pixel, neither] {
                let resized = resize_bilinear(&Value::leaf("map", tensor.clone()), (big_h, big_w))?;
                let resized_map = channels_last(resized.tensor())?;
                let resized_map = elements(&resized_map)?;
                let place = |image: usize, y: usize, x: usize| {
                    let pixel = (image * side + y % side) * side + x % side;
                    pixel * strides.pixel + (y / side * (big_w / side) + x / side) * strides.patch
                };
                let mut derivatives = vec![0f32; n * big_h * big_w * c];
                let mut groups = Vec::new();
                for first in (0..c).step_by(GROUP) {
                    let channels = first..(first + GROUP).min(c);
                    let mut matrices = vec![0f32; GROUP * strides.matrix];
                    patches.cut(&map, channels.clone(), strides, &mut matrices);
                    let of_matrices = numbers(matrices.len(), 2 + first);
                    for (cell, values) in resized_map.chunks_exact(c).enumerate() {
                        let (image, y, x) = (cell / big_w / big_h, cell / big_w % big_h, cell % big_w);
                        for channel in channels.clone() {
                            let at = (channel - first) * strides.matrix + place(image, y, x);
                            assert!(
                                (matrices[at] - values[channel]).abs() < 1e-6,
                                "{n}x{c}x{h}x{w} by {side}"
                            );
                            derivatives[cell * c + channel] = of_matrices[at];
                        }
                    }
                    let mut group = vec![0.0; patches.plane() * channels.len()];
                    patches.paste(&of_matrices, channels.len(), strides, &mut group);
                    groups.push(group);
                }
                let joined = patches.join(&groups, -2.0);
                let derivatives = Tensor::from_vec(derivatives, (n, big_h, big_w, c), &Device::Cpu)?;
                let gradients = resized.backward_from(&derivatives.permute((0, 3, 1, 2))?)?;
                let want = channels_last(&gradients["map"])?;
                for (got, want) in joined.iter().zip(elements(&want)?.iter()) {
                    assert!((got + 2.0 * want).abs() < 1e-5, "{n}x{c}x{h}x{w} by {side}: {got} {want}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_patch_without_pixels_is_an_error() {
        assert!(Patches::new((1, 1, 4, 4), 0).is_err());
    }
}
