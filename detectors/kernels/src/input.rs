//! What a network does to the pixels it is given.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::memory::{channels_last, elements, from_channels_last};
use crate::{Error, Result, Value};

/// (pixels − mean) / std within each image's true size, 0 in the padding.
///
/// # Shapes
/// `pixels` (N, C, H, W) and N true sizes (height, width) to (N, C, H, W).
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
    let host = channels_last(pixels)?;
    let mut out = vec![0f32; n * h * w * c];
    {
        let host = elements(&host)?;
        let row = (w * c).max(1);
        out.par_chunks_mut(row).zip(host.par_chunks(row)).enumerate().for_each(|(index, (out, row))| {
            let (height, width) = sizes[index / h];
            if index % h >= height {
                return;
            }
            for (out, pixel) in out.chunks_exact_mut(c).zip(row.chunks_exact(c)).take(width) {
                for channel in 0..c {
                    out[channel] = (pixel[channel] - mean[channel]) / std[channel];
                }
            }
        });
    }
    Ok(Value::constant(from_channels_last(out, (n, h, w, c), pixels)?))
}
