//! Convolutions with other numbers of outputs than multiples of 16, as ones that have such: Winograd's form
//! takes whole vectors, and is worth a copy (RetinaNet's 9 · 90 logits, say).

use std::iter::repeat_n;

use candle_core::Tensor;

use super::config::Conv2dConfig;
use super::dense::convolve;
use super::epilogue::Epilogue;
use super::geometry::Geometry;
use super::winograd;
use crate::dispatch::Host;
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

/// Convolves as [`convolve`] does, with `outputs` output channels on the way.
pub(super) fn convolve_widened(
    x: &Value,
    weight: &Value,
    config: Conv2dConfig,
    epilogue: Epilogue,
    outputs: usize,
) -> Result<Value> {
    let (k, _, _, _) = weight.tensor().dims4()?;
    let rows = |of: &Tensor, rows: usize| WithRows { of, rows }.on_host();
    let wide = rows(weight.tensor(), outputs)?;
    let wide = Value::operation(&[weight], wide, move |g| Ok(vec![Some(rows(g, k)?)]));
    let shift = match epilogue.shift {
        Some(shift) => {
            let wide = rows(shift.tensor(), outputs)?;
            Some(Value::operation(&[shift], wide, move |g| Ok(vec![Some(rows(g, k)?)])))
        }
        None => None,
    };
    let scale = epilogue.scale.map(|scale| rows(scale, outputs)).transpose()?;
    let epilogue = Epilogue { scale: scale.as_ref(), shift: shift.as_ref(), ..epilogue };
    let out = convolve(x, &wide, config, epilogue)?;
    let channels = |map: &Tensor, channels: usize| WithChannels { map, channels }.on_host();
    let narrow = channels(out.tensor(), k)?;
    Ok(Value::operation(&[&out], narrow, move |g| Ok(vec![Some(channels(g, outputs)?)])))
}

/// The first `rows` of weights (K, C, R, S) or of a table (K), zeros where there are no more.
struct WithRows<'a> {
    of: &'a Tensor,
    rows: usize,
}

impl Host for WithRows<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { of, rows } = self;
        let resized = |host: &Tensor| -> Result<Vec<f32>> {
            let mut values = elements(host)?.to_vec();
            values.resize(rows * host.dims()[1..].iter().product::<usize>(), 0.0);
            Ok(values)
        };
        if of.rank() == 1 {
            return from_elements(resized(&on_host(of)?)?, rows, of);
        }
        let (_, c, r, s) = of.dims4()?;
        from_channels_last(resized(&channels_last(of)?)?, (rows, r, s, c), of)
    }
}

/// The first `channels` of a map (N, C, H, W), zeros where it has no more.
struct WithChannels<'a> {
    map: &'a Tensor,
    channels: usize,
}

impl Host for WithChannels<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        const PIXELS: usize = 256;
        let Self { map, channels } = self;
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
}
