//! Convolutions with other numbers of outputs than multiples of 16, as ones that have such: Winograd's form takes whole
//! vectors, and is worth a copy (RetinaNet's 9 · 90 logits, say).

use std::iter::repeat_n;

use candle_core::Tensor;

use super::geometry::Geometry;
use super::{Conv2dConfig, Epilogue, convolve, winograd};
use crate::memory::{channels_last, elements, from_channels_last, from_elements, on_host, written_in_chunks};
use crate::{Result, Value};

/// Fewer outputs than this would not pay for the copies.
const LEAST: usize = 64;

/// The number of outputs that `geometry` should have instead, if that is worth it.
pub(super) fn outputs(geometry: &Geometry) -> Option<usize> {
    let k = geometry.k.next_multiple_of(16);
    let widened = Geometry { k, ..*geometry };
    (geometry.k >= LEAST && k > geometry.k && winograd::suits(&widened)).then_some(k)
}

/// As [`convolve`], with `outputs` of them on the way.
pub(super) fn convolve_widened(
    x: &Value,
    weight: &Value,
    config: Conv2dConfig,
    epilogue: Epilogue,
    outputs: usize,
) -> Result<Value> {
    let (k, c, r, s) = weight.tensor().dims4()?;
    let rows = move |of: &Tensor, rows: usize| -> Result<Tensor> {
        let mut values = elements(&channels_last(of)?)?.to_vec();
        values.resize(rows * r * s * c, 0.0);
        from_channels_last(values, (rows, r, s, c), of)
    };
    let wide = rows(weight.tensor(), outputs)?;
    let wide = Value::operation(&[weight], wide, move |g| Ok(vec![Some(rows(g, k)?)]));
    let table = |of: &Tensor, len: usize| -> Result<Tensor> {
        let mut values = elements(&on_host(of)?)?.to_vec();
        values.resize(len, 0.0);
        from_elements(values, len, of)
    };
    let shift = match epilogue.shift {
        Some(shift) => {
            let wide = table(shift.tensor(), outputs)?;
            Some(Value::operation(&[shift], wide, move |g| Ok(vec![Some(table(g, k)?)])))
        }
        None => None,
    };
    let scale = epilogue.scale.map(|scale| table(scale, outputs)).transpose()?;
    let epilogue = Epilogue { scale: scale.as_ref(), shift: shift.as_ref(), ..epilogue };
    let out = convolve(x, &wide, config, epilogue)?;
    let narrow = with_channels(out.tensor(), k)?;
    Ok(Value::operation(&[&out], narrow, move |g| Ok(vec![Some(with_channels(g, outputs)?)])))
}

/// The first `channels` of `map` (N, C, H, W), zeros where it has no more.
fn with_channels(map: &Tensor, channels: usize) -> Result<Tensor> {
    const PIXELS: usize = 256;
    let (n, c, h, w) = map.dims4()?;
    let host = channels_last(map)?;
    let values = elements(&host)?;
    let out = written_in_chunks(n * h * w * channels, PIXELS * channels, |index, out| {
        let pixels = values[index * PIXELS * c..].chunks_exact(c).take(PIXELS);
        for pixel in pixels {
            out.extend_from_slice(&pixel[..c.min(channels)]);
            out.extend(repeat_n(0.0, channels.saturating_sub(c)));
        }
    });
    from_channels_last(out, (n, h, w, channels), map)
}
