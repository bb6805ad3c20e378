//! The transforms, 16 channels at a time.
//!
//! Matrices B, G and A for the points 0, ±a, ±b, infinity with a = 3/4 and b = 3/2.

use super::super::sweep::Map;
use super::{POINTS, point_stride};
use crate::simd::vectorized;

/// Channels that are transformed together.
pub(super) const LANES: usize = 16;
type Lanes = [f32; LANES];

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Bᵀd of one row or column of a tile.
#[inline(always)]
fn input_line(d: [&Lanes; 6]) -> [Lanes; 6] {
    let mut t = [[0f32; LANES]; 6];
    for l in 0..LANES {
        let even_a = d[4][l] - B2 * d[2][l];
        let odd_a = A * d[3][l] - (A * B2) * d[1][l];
        let even_b = d[4][l] - A2 * d[2][l];
        let odd_b = B * d[3][l] - (B * A2) * d[1][l];
        t[0][l] = (A2 * B2) * d[0][l] - (A2 + B2) * d[2][l] + d[4][l];
        t[1][l] = even_a + odd_a;
        t[2][l] = even_a - odd_a;
        t[3][l] = even_b + odd_b;
        t[4][l] = even_b - odd_b;
        t[5][l] = (A2 * B2) * d[1][l] - (A2 + B2) * d[3][l] + d[5][l];
    }
    t
}

/// Aᵀm of one row or column: 6 points to 4 outputs.
#[inline(always)]
fn output_line(m: [&Lanes; 6]) -> [Lanes; 4] {
    let mut y = [[0f32; LANES]; 4];
    for l in 0..LANES {
        let (sum_a, difference_a) = (m[1][l] + m[2][l], m[1][l] - m[2][l]);
        let (sum_b, difference_b) = (m[3][l] + m[4][l], m[3][l] - m[4][l]);
        y[0][l] = m[0][l] + sum_a + sum_b;
        y[1][l] = A * difference_a + B * difference_b;
        y[2][l] = A2 * sum_a + B2 * sum_b;
        y[3][l] = (A2 * A) * difference_a + (B2 * B) * difference_b + m[5][l];
    }
    y
}

/// A y of one row or column: 4 output gradients to 6 points.
#[inline(always)]
fn gradient_line(y: [&Lanes; 4]) -> [Lanes; 6] {
    let mut m = [[0f32; LANES]; 6];
    for l in 0..LANES {
        let even_a = y[0][l] + A2 * y[2][l];
        let odd_a = A * y[1][l] + (A2 * A) * y[3][l];
        let even_b = y[0][l] + B2 * y[2][l];
        let odd_b = B * y[1][l] + (B2 * B) * y[3][l];
        m[0][l] = y[0][l];
        m[1][l] = even_a + odd_a;
        m[2][l] = even_a - odd_a;
        m[3][l] = even_b + odd_b;
        m[4][l] = even_b - odd_b;
        m[5][l] = y[3][l];
    }
    m
}

const G0: f32 = 1.0 / (A2 * B2);
const GA: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const GB: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// G g of one row or column: 3 weights to 6 points.
#[inline(always)]
fn weight_line(g: [&Lanes; 3]) -> [Lanes; 6] {
    let mut u = [[0f32; LANES]; 6];
    for l in 0..LANES {
        let (even_a, odd_a) = (GA * (g[0][l] + A2 * g[2][l]), (GA * A) * g[1][l]);
        let (even_b, odd_b) = (GB * (g[0][l] + B2 * g[2][l]), (GB * B) * g[1][l]);
        u[0][l] = G0 * g[0][l];
        u[1][l] = even_a + odd_a;
        u[2][l] = even_a - odd_a;
        u[3][l] = even_b + odd_b;
        u[4][l] = even_b - odd_b;
        u[5][l] = g[2][l];
    }
    u
}

/// Gᵀu of one row or column: 6 points to 3 weight gradients.
#[inline(always)]
fn weight_gradient_line(u: [&Lanes; 6]) -> [Lanes; 3] {
    let mut g = [[0f32; LANES]; 3];
    for l in 0..LANES {
        let (sum_a, difference_a) = (GA * (u[1][l] + u[2][l]), GA * (u[1][l] - u[2][l]));
        let (sum_b, difference_b) = (GB * (u[3][l] + u[4][l]), GB * (u[3][l] - u[4][l]));
        g[0][l] = G0 * u[0][l] + sum_a + sum_b;
        g[1][l] = A * difference_a + B * difference_b;
        g[2][l] = A2 * sum_a + B2 * sum_b + u[5][l];
    }
    g
}

#[inline(always)]
fn lanes(values: &[f32]) -> &Lanes {
    values.first_chunk().expect("16 channels")
}

/// The 6x6 tile of `map` whose top-left pixel is (`y`, `x`), which may lie outside, to `to` (36, channels).
pub(super) fn input_tile(map: &Map, (image, y, x): (usize, isize, isize), to: &mut [f32]) {
    let c = map.c;
    let stride = point_stride(c);
    let zeros = [0f32; LANES];
    // Where each pixel's channels start; `None` outside the map.
    let mut starts = [[None; 6]; 6];
    for (i, row) in starts.iter_mut().enumerate() {
        let y = y + i as isize;
        for (j, start) in row.iter_mut().enumerate() {
            let x = x + j as isize;
            if y >= 0 && (y as usize) < map.h && x >= 0 && (x as usize) < map.w {
                *start = Some(((image * map.h + y as usize) * map.w + x as usize) * c);
            }
        }
    }
    let to = &mut to[..(POINTS - 1) * stride + c];
    vectorized(|| {
        for first in (0..c).step_by(LANES) {
            let pixel = |i: usize, j: usize| match starts[i][j] {
                Some(start) => lanes(&map.values[start + first..]),
                None => &zeros,
            };
            let mut columns = [[[0f32; LANES]; 6]; 6];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = input_line(std::array::from_fn(|i| pixel(i, j)));
            }
            for i in 0..6 {
                let row = input_line(std::array::from_fn(|j| &columns[j][i]));
                for (j, point) in row.iter().enumerate() {
                    to[(6 * i + j) * stride + first..][..LANES].copy_from_slice(point);
                }
            }
        }
    });
}

/// 16 channels, from `first` on, of a transformed output tile `from` (36, channels of `stride`): its 4x4 pixels.
#[inline(always)]
pub(super) fn output_tile(from: &[f32], stride: usize, first: usize) -> [[Lanes; 4]; 4] {
    let mut columns = [[[0f32; LANES]; 4]; 6];
    for (j, column) in columns.iter_mut().enumerate() {
        *column = output_line(std::array::from_fn(|i| lanes(&from[(6 * i + j) * stride + first..])));
    }
    std::array::from_fn(|i| output_line(std::array::from_fn(|j| &columns[j][i])))
}

/// The 4x4 tile of output gradients at (`y`, `x`), zero outside the map, to `to` (36, channels).
pub(super) fn gradient_tile(map: &Map, (image, y, x): (usize, usize, usize), to: &mut [f32]) {
    let c = map.c;
    let stride = point_stride(c);
    let zeros = [0f32; LANES];
    let to = &mut to[..(POINTS - 1) * stride + c];
    vectorized(|| {
        for first in (0..c).step_by(LANES) {
            let pixel = |i: usize, j: usize| match y + i < map.h && x + j < map.w {
                true => lanes(&map.values[((image * map.h + y + i) * map.w + x + j) * c + first..]),
                false => &zeros,
            };
            let mut columns = [[[0f32; LANES]; 6]; 4];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = gradient_line(std::array::from_fn(|i| pixel(i, j)));
            }
            for i in 0..6 {
                let row = gradient_line(std::array::from_fn(|j| &columns[j][i]));
                for (j, point) in row.iter().enumerate() {
                    to[(6 * i + j) * stride + first..][..LANES].copy_from_slice(point);
                }
            }
        }
    });
}

/// A panel of 3x3 weights (9 · inner, 32) to its 36 points (36, inner, 32).
pub(super) fn weight_panel(panel: &[f32], inner: usize, to: &mut [f32]) {
    let size = inner * 32;
    let (panel, to) = (&panel[..9 * size], &mut to[..POINTS * size]);
    vectorized(|| {
        for first in (0..size).step_by(LANES) {
            let mut columns = [[[0f32; LANES]; 6]; 3];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = weight_line(std::array::from_fn(|i| lanes(&panel[(3 * i + j) * size + first..])));
            }
            for i in 0..6 {
                let row = weight_line(std::array::from_fn(|j| &columns[j][i]));
                for (j, point) in row.iter().enumerate() {
                    to[(6 * i + j) * size + first..][..LANES].copy_from_slice(point);
                }
            }
        }
    });
}

/// One output channel's gradient at the 36 points, `channels` numbers at every `stride`, to its weights (9, channels).
pub(super) fn weight_gradient(from: &[f32], stride: usize, channels: usize, to: &mut [f32]) {
    vectorized(|| {
        for first in (0..channels).step_by(LANES) {
            let mut columns = [[[0f32; LANES]; 3]; 6];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = weight_gradient_line(std::array::from_fn(|i| {
                    lanes(&from[(6 * i + j) * stride + first..])
                }));
            }
            for i in 0..3 {
                let row = weight_gradient_line(std::array::from_fn(|j| &columns[j][i]));
                for (j, weights) in row.iter().enumerate() {
                    to[(3 * i + j) * channels + first..][..LANES].copy_from_slice(weights);
                }
            }
        }
    });
}
