//! The forward product.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::gather::{Source, band_rows, gather_pixels, tile_pixels};
use super::geometry::Geometry;
use super::{Conv2dConfig, Epilogue};
use crate::elementwise::rectified;
use crate::linear::{Accumulate, Activation, Strides, strided_product};
use crate::memory::{channels_last, elements, from_channels_last, on_host};
use crate::{Error, Result};

pub(super) fn forward(
    geometry: &Geometry,
    x: &Tensor,
    weight: &Tensor,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let &Geometry { n, oh, ow, k, .. } = geometry;
    let residual = match epilogue.residual {
        Some(residual) if residual.dims() == [n, k, oh, ow] => Some(channels_last(residual.tensor())?),
        Some(residual) => {
            return Err(Error::invalid(
                "conv2d",
                format!("residual {:?}, result {:?}", residual.dims(), [n, k, oh, ow]),
            ));
        }
        None => None,
    };
    let shift = match epilogue.shift {
        Some(shift) if shift.dims() == [k] => Some(on_host(shift.tensor())?),
        Some(shift) => {
            return Err(Error::invalid("conv2d", format!("shift {:?}, {k} channels", shift.dims())));
        }
        None => None,
    };
    let (input, weight) = (channels_last(x)?, channels_last(weight)?);
    let mut out = vec![0f32; n * oh * ow * k];
    {
        let (input, weight) = (elements(&input)?, elements(&weight)?);
        let residual = residual.as_ref().map(elements).transpose()?;
        let shift = shift.as_ref().map(elements).transpose()?;
        let finish = |out: &mut [f32], first: usize| {
            let relu = epilogue.activation == Activation::Relu;
            finish_rows(
                out,
                k,
                shift.as_deref(),
                residual.as_deref().map(|r| &r[first..][..out.len()]),
                relu,
            );
        };
        forward_bands(geometry, &input, &weight, &mut out, finish);
    }
    from_channels_last(out, (n, oh, ow, k), x)
}

/// Adds shift and residual to rows of `k` channels and applies the ReLU.
fn finish_rows(out: &mut [f32], k: usize, shift: Option<&[f32]>, residual: Option<&[f32]>, relu: bool) {
    if let Some(shift) = shift {
        for row in out.chunks_exact_mut(k) {
            row.iter_mut().zip(shift).for_each(|(y, shift)| *y += shift);
        }
    }
    if let Some(residual) = residual {
        out.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
    }
    if relu {
        out.iter_mut().for_each(|y| *y = rectified(*y));
    }
}

fn forward_bands(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    out: &mut [f32],
    finish: impl Fn(&mut [f32], usize) + Sync,
) {
    let &Geometry { config, n, h, w, c, oh, ow, k, r, s } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let taps = geometry.forward_taps();
    let width = taps.len() * group_c;
    let row = ow * k;
    if out.is_empty() {
        return;
    }
    // A 1x1 convolution reads its input as it lies.
    let direct = r * s == 1 && config == Conv2dConfig { groups: config.groups, ..Conv2dConfig::default() };
    let band = band_rows(n * oh, ow, width);
    out.par_chunks_mut(band * row).enumerate().for_each_init(
        Vec::new,
        |tile: &mut Vec<f32>, (index, out)| {
            let first_pixel = index * band * ow;
            let pixels = out.len() / k;
            let step = tile_pixels(width);
            for group in 0..config.groups {
                let weight = &weight[group * group_k * width..][..group_k * width];
                let source = Source { values: input, h, w, c, first: group * group_c, channels: group_c };
                for start in (0..pixels).step_by(step) {
                    let count = step.min(pixels - start);
                    let (rows, row_stride): (&[f32], usize) = if direct {
                        (&input[(first_pixel + start) * c + source.first..], c)
                    } else {
                        tile.resize(step * width, 0.0);
                        gather_pixels(&source, &taps, first_pixel + start, count, geometry, tile);
                        (tile, width)
                    };
                    let strides = Strides { out_row: k, a: (row_stride, 1), b: (1, width) };
                    let to = &mut out[start * k + group * group_k..];
                    strided_product(
                        to,
                        (count, group_k, width),
                        rows,
                        weight,
                        strides,
                        Accumulate::Replace,
                        Parallelism::None,
                    );
                }
            }
            finish(out, first_pixel * k);
        },
    );
}
