//! Nearest-neighbour resizing to any size, alone and fused with the sum of a top-down path (FPN, Lin et al.
//! 2017).
//!
//! Output pixel i reads input pixel floor(i·in/out), in PyTorch's f32 arithmetic. So each input pixel is read
//! by one run of outputs, and its gradient is the sum over that run: tasks own rows of the input, no two
//! write the same place.

#[cfg(feature = "cuda")]
mod gpu;

use std::ops::Range;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{Place, elements, from_channels_last, nhwc, written_in_chunks};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Nearest-neighbour resizing of maps to `size` (height, width): pixels are repeated or left out.
///
/// # Shapes
/// (N, C, H, W) to (N, C, `size.0`, `size.1`).
///
/// # Errors
/// If `x` has no pixels and the result has.
pub fn upsample_nearest(x: &Value, size: (usize, usize)) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    check_size("upsample_nearest", (n, h, w, c), size)?;
    let input = nhwc(x.tensor())?;
    let out = dispatch::run(&input, Nearest { x: &input, to: size, lateral: None })?;
    Ok(Value::operation(&[x], out, move |g| {
        Ok(vec![Some(dispatch::run(g, NearestGradient { g: &nhwc(g)?, from: (h, w) })?)])
    }))
}

/// Top-down step of an FPN in one pass: `lateral` + `top` resized to `lateral`'s size (Lin et al. 2017).
///
/// # Shapes
/// `top` (N, C, h, w), `lateral` (N, C, H, W) to `lateral`'s shape.
///
/// # Errors
/// If images or channels differ, or `top` has no pixels and `lateral` has.
pub fn upsample_nearest_add(top: &Value, lateral: &Value) -> Result<Value> {
    let name = "upsample_nearest_add";
    let (n, c, h, w) = top.tensor().dims4()?;
    let (lateral_n, lateral_c, oh, ow) = lateral.tensor().dims4()?;
    if (n, c) != (lateral_n, lateral_c) {
        return Err(Error::invalid(name, format!("top {:?}, lateral {:?}", top.dims(), lateral.dims())));
    }
    check_size(name, (n, h, w, c), (oh, ow))?;
    let (input, side) = (nhwc(top.tensor())?, nhwc(lateral.tensor())?);
    let out = dispatch::run(&input, Nearest { x: &input, to: (oh, ow), lateral: Some(&side) })?;
    let tracked = top.is_tracked();
    Ok(Value::operation(&[top, lateral], out, move |g| {
        let of_top = || dispatch::run(g, NearestGradient { g: &nhwc(g)?, from: (h, w) });
        Ok(vec![tracked.then(of_top).transpose()?, Some(g.clone())])
    }))
}

fn check_size(
    name: &'static str,
    (n, h, w, c): (usize, usize, usize, usize),
    (oh, ow): (usize, usize),
) -> Result<()> {
    if (h == 0 || w == 0) && n * c * oh * ow > 0 {
        return Err(Error::invalid(name, format!("a map of {h}x{w} has nothing to fill {oh}x{ow} with")));
    }
    Ok(())
}

/// A map (N, H, W, C), the size (height, width) of the result, and a map of the result's shape that is added.
struct Nearest<'a> {
    x: &'a Tensor,
    to: (usize, usize),
    lateral: Option<&'a Tensor>,
}

impl Host for Nearest<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let ((n, h, w, c), (oh, ow)) = (self.x.dims4()?, self.to);
        let (rows, columns) = (sources(h, oh), sources(w, ow));
        let (input, side) = (elements(self.x)?, self.lateral.map(elements).transpose()?);
        let out = written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let source = &input[(row / oh * h + rows[row % oh]) * w * c..][..w * c];
            match &side {
                Some(side) => add_tops(out, &side[row * ow * c..][..ow * c], source, &columns, c),
                None => columns.iter().for_each(|&x| out.extend_from_slice(&source[x * c..][..c])),
            }
        });
        from_channels_last(out, (n, oh, ow, c), self.x)
    }
}

/// The gradient (N, OH, OW, C) of the result, and the size (height, width) of the input.
struct NearestGradient<'a> {
    g: &'a Tensor,
    from: (usize, usize),
}

impl Host for NearestGradient<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let ((n, oh, ow, c), (h, w)) = (self.g.dims4()?, self.from);
        let (rows, columns) = (sources(h, oh), sources(w, ow));
        let g = elements(self.g)?;
        let columns: Vec<Range<usize>> = (0..w).map(|x| readers(&columns, x)).collect();
        let sums = written_in_chunks(n * h * w * c, w * c, |row, sums| {
            let (image, y) = (row / h, row % h);
            let sums = sums.zeros();
            for oy in readers(&rows, y) {
                let g = &g[(image * oh + oy) * ow * c..][..ow * c];
                add_runs(g, &columns, c, sums);
            }
        });
        from_channels_last(sums, (n, h, w, c), self.g)
    }
}

for_each_level! {
    /// Each pixel of `side` plus the pixel of `source` that it reads.
    fn add_tops(out: &mut Place<f32>, side: &[f32], source: &[f32], columns: &[usize], c: usize) {
        for (side, &x) in side.chunks_exact(c).zip(columns) {
            out.extend(side.iter().zip(&source[x * c..][..c]).map(|(side, top)| side + top));
        }
    }

    /// Adds to each pixel of `sums` the run of pixels of `g` that read it.
    fn add_runs(g: &[f32], columns: &[Range<usize>], c: usize, sums: &mut [f32]) {
        for (sum, columns) in sums.chunks_exact_mut(c).zip(columns) {
            for g in g[columns.start * c..columns.end * c].chunks_exact(c) {
                sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
            }
        }
    }
}

/// The input pixel that each of `output` pixels reads, as PyTorch rounds it.
fn sources(input: usize, output: usize) -> Vec<usize> {
    let scale = input as f32 / output as f32;
    (0..output).map(|i| ((i as f32 * scale) as usize).min(input.saturating_sub(1))).collect()
}

/// The run of outputs that read input pixel `source`.
fn readers(sources: &[usize], source: usize) -> Range<usize> {
    sources.partition_point(|&s| s < source)..sources.partition_point(|&s| s <= source)
}
