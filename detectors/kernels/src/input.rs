//! Input normalisation: pixels to what a network is given.

#[cfg(feature = "cuda")]
mod gpu;

use std::mem::MaybeUninit;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc};
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

/// Pixels of a block: with any number of channels it fills whole vectors.
const BLOCK: usize = 16;

/// Normalises a batch of images: (pixels − mean) / std within each true size, 0 in the padding.
///
/// # Shapes
/// `pixels` (N, C, H, W) and N true sizes (height, width) to (N, C, H, W); `mean` and `std` have C numbers.
///
/// # Errors
/// If counts do not fit, or a size is larger than the batch.
pub fn normalize(pixels: &Tensor, sizes: &[(usize, usize)], mean: &[f32], std: &[f32]) -> Result<Value> {
    let (n, c, h, w) = pixels.dims4()?;
    let fits = sizes.len() == n
        && mean.len() == c
        && std.len() == c
        && sizes.iter().all(|size| size.0 <= h && size.1 <= w);
    if !fits {
        let reason =
            format!("pixels {:?}, sizes {sizes:?}, {} means, {} stds", pixels.dims(), mean.len(), std.len());
        return Err(Error::invalid("normalize", reason));
    }
    let input = nhwc(pixels)?;
    let out = dispatch::run(&input, Normalize { pixels: &input, sizes, mean, std })?;
    Ok(Value::constant(out))
}

/// Pixels (N, H, W, C) of images of these true sizes.
struct Normalize<'a> {
    pixels: &'a Tensor,
    sizes: &'a [(usize, usize)],
    mean: &'a [f32],
    std: &'a [f32],
}

impl Host for Normalize<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { pixels, sizes, mean, std } = self;
        let (n, h, w, c) = pixels.dims4()?;
        let len = n * h * w * c;
        let mut out = Vec::with_capacity(len);
        {
            let host = elements(pixels)?;
            let row = (w * c).max(1);
            // Period c, as the pixels have it, over whole vectors.
            let (mean, std) = (mean.repeat(BLOCK), std.repeat(BLOCK));
            let spare = &mut out.spare_capacity_mut()[..len];
            spare.par_chunks_mut(row).zip(host.par_chunks(row)).enumerate().for_each(
                |(index, (out, row))| {
                    let (height, width) = sizes[index / h];
                    let inside = if index % h < height { width * c } else { 0 };
                    let (inner, padding) = out.split_at_mut(inside);
                    normalize_row(inner, &row[..inside], &mean, &std);
                    padding.fill(MaybeUninit::new(0.0));
                },
            );
        }
        // SAFETY: the rows are the whole of the `len` values, and each is written: its `inside` values, then
        // its padding.
        unsafe { out.set_len(len) };
        from_channels_last(out, (n, h, w, c), pixels)
    }
}

for_each_level! {
    /// `mean` and `std` repeat the channels' values; their length is a whole number of pixels.
    fn normalize_row(out: &mut [MaybeUninit<f32>], pixels: &[f32], mean: &[f32], std: &[f32]) {
        let period = mean.len().max(1);
        for (out, pixels) in out.chunks_mut(period).zip(pixels.chunks(period)) {
            for (out, (pixel, (mean, std))) in out.iter_mut().zip(pixels.iter().zip(mean.iter().zip(std))) {
                out.write((pixel - mean) / std);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::memory::channels_last;

    #[test]
    fn pixels_are_normalised_to_the_last_bit_and_the_padding_is_0() {
        for (c, h, w) in [(3, 5, 37usize), (1, 1, 1), (4, 3, 16), (3, 2, 96), (3, 0, 7), (3, 7, 0)] {
            let sizes = [(h, w), (h / 2, w.saturating_sub(5)), (0, 0)];
            let (n, len) = (sizes.len(), sizes.len() * h * w * c);
            let values: Vec<f32> = (0..len).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
            let (mean, std) = (&[0.485, 0.456, 0.406, 0.5][..c], &[0.229, 0.224, 0.225, 0.3][..c]);
            let pixels = Tensor::from_slice(&values, (n, h, w, c), &Device::Cpu).unwrap();
            let pixels = pixels.permute((0, 3, 1, 2)).unwrap();
            let out = normalize(&pixels, &sizes, mean, std).unwrap();
            assert_eq!(out.dims(), [n, c, h, w]);
            let out = channels_last(out.tensor()).unwrap();
            for (i, (got, value)) in elements(&out).unwrap().iter().zip(&values).enumerate() {
                let (channel, x, y, image) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
                let inside = y < sizes[image].0 && x < sizes[image].1;
                let expected = if inside { (value - mean[channel]) / std[channel] } else { 0.0 };
                assert_eq!(got.to_bits(), expected.to_bits(), "{c}x{h}x{w}: value {i}");
            }
        }
    }

    #[test]
    fn sizes_beyond_the_batch_are_refused() {
        let pixels = Tensor::zeros((1, 3, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (sizes, mean) in [(&[(5, 4)][..], &[0.0; 3][..]), (&[], &[0.0; 3]), (&[(4, 4)], &[0.0; 2])] {
            assert!(normalize(&pixels, sizes, mean, &[1.0; 3]).is_err());
        }
    }
}
