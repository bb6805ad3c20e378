//! Nearest-neighbour resizing to any size, alone and fused with the sum of a top-down path (FPN, Lin et al. 2017).
//!
//! Output pixel i reads input pixel floor(i·in/out), in PyTorch's f32 arithmetic. So each input pixel is read by one
//! run of outputs, and its gradient is the sum over that run: tasks own rows of the input, no two write the same place.

use std::ops::Range;

use crate::memory::{Place, channels_last, elements, from_channels_last, written_in_chunks};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// `x` resized to `size` (height, width) by repeating or leaving out pixels.
///
/// # Shapes
/// (N, C, H, W) to (N, C, `size.0`, `size.1`).
///
/// # Errors
/// If `x` has no pixels and the result has.
pub fn upsample_nearest(x: &Value, size: (usize, usize)) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    let resize = Resize::new("upsample_nearest", (n, h, w, c), size)?;
    let (oh, ow) = size;
    let input = channels_last(x.tensor())?;
    let out = {
        let input = elements(&input)?;
        written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let source = resize.source_row(&input, row);
            resize.columns.iter().for_each(|&x| out.extend_from_slice(&source[x * c..][..c]));
        })
    };
    let out = from_channels_last(out, (n, oh, ow, c), x.tensor())?;
    Ok(Value::operation(&[x], out, move |g| Ok(vec![Some(resize.gradient(g)?)])))
}

/// `lateral` + `top` resized to `lateral`'s size: one step of the FPN's top-down path in one pass.
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
    let resize = Resize::new(name, (n, h, w, c), (oh, ow))?;
    let (input, side) = (channels_last(top.tensor())?, channels_last(lateral.tensor())?);
    let out = {
        let (input, side) = (elements(&input)?, elements(&side)?);
        written_in_chunks(n * oh * ow * c, ow * c, |row, out| {
            let source = resize.source_row(&input, row);
            let side = &side[row * ow * c..][..ow * c];
            add_tops(out, side, source, &resize.columns, c);
        })
    };
    let out = from_channels_last(out, (n, oh, ow, c), lateral.tensor())?;
    let tracked = top.is_tracked();
    Ok(Value::operation(&[top, lateral], out, move |g| {
        let top = tracked.then(|| resize.gradient(g)).transpose()?;
        Ok(vec![top, Some(g.clone())])
    }))
}

/// Which input row and column each output row and column reads; both ascend.
struct Resize {
    input: (usize, usize, usize, usize),
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl Resize {
    fn new(
        name: &'static str,
        input @ (n, h, w, c): (usize, usize, usize, usize),
        (oh, ow): (usize, usize),
    ) -> Result<Self> {
        if (h == 0 || w == 0) && n * c * oh * ow > 0 {
            return Err(Error::invalid(name, format!("a map of {h}x{w} has nothing to fill {oh}x{ow} with")));
        }
        Ok(Self { input, rows: sources(h, oh), columns: sources(w, ow) })
    }

    /// The input row behind output row `row` (counted over all images).
    fn source_row<'a>(&self, input: &'a [f32], row: usize) -> &'a [f32] {
        let (_, h, w, c) = self.input;
        let (image, oy) = (row / self.rows.len(), row % self.rows.len());
        &input[(image * h + self.rows[oy]) * w * c..][..w * c]
    }

    fn gradient(&self, gradient: &candle_core::Tensor) -> Result<candle_core::Tensor> {
        let (n, h, w, c) = self.input;
        let (oh, ow) = (self.rows.len(), self.columns.len());
        let host = channels_last(gradient)?;
        let g = elements(&host)?;
        let columns: Vec<Range<usize>> = (0..w).map(|x| readers(&self.columns, x)).collect();
        let sums = written_in_chunks(n * h * w * c, w * c, |row, sums| {
            let (image, y) = (row / h, row % h);
            let sums = sums.zeros();
            for oy in readers(&self.rows, y) {
                let g = &g[(image * oh + oy) * ow * c..][..ow * c];
                add_runs(g, &columns, c, sums);
            }
        });
        from_channels_last(sums, (n, h, w, c), gradient)
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
