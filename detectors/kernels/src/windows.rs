//! Small windows cut out of a feature map, and their gradients put back.
//!
//! For heads whose loss looks at few places of a large map (256 anchors of an image's 268,000 in a proposal network):
//! what the head computes there, it computes from these windows, and nothing of the rest is kept for the gradient.

use crate::memory::{Place, channels_last, elements, from_channels_last, written_in_chunks};
use crate::{Error, Result, Value};

/// A pixel of a batch of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pixel {
    /// Which image.
    pub image: usize,
    /// Row.
    pub y: usize,
    /// Column.
    pub x: usize,
}

/// Numbers that a task clears.
const CHUNK: usize = 1 << 16;

/// The windows of `side` by `side` pixels around `centres`, zero outside the map.
///
/// # Shapes
/// `x` (N, C, H, W) to (P, C, `side`, `side`), in the order of the centres.
///
/// # Errors
/// If `side` is even, or a centre is not in the maps.
pub fn windows(x: &Value, centres: &[Pixel], side: usize) -> Result<Value> {
    let (n, c, h, w) = x.tensor().dims4()?;
    if side.is_multiple_of(2) {
        return Err(Error::invalid("windows", format!("a window of {side} pixels has no centre")));
    }
    let is_outside = |pixel: &&Pixel| pixel.image >= n || pixel.y >= h || pixel.x >= w;
    if let Some(pixel) = centres.iter().find(is_outside) {
        return Err(Error::invalid("windows", format!("{pixel:?} in maps {:?}", x.tensor().shape())));
    }
    let runs: Vec<Run> = centres
        .iter()
        .enumerate()
        .flat_map(|(index, &centre)| {
            (0..side).filter_map(move |row| Run::of(index * side + row, centre, row, side, (h, w)))
        })
        .collect();
    let mut out = vec![0f32; centres.len() * side * side * c];
    {
        let map = channels_last(x.tensor())?;
        let map = elements(&map)?;
        for &Run { window, map: at, pixels } in &runs {
            out[window * c..][..pixels * c].copy_from_slice(&map[at * c..][..pixels * c]);
        }
    }
    let out = from_channels_last(out, (centres.len(), side, side, c), x.tensor())?;
    Ok(Value::operation(&[x], out, move |gradient| {
        let host = channels_last(gradient)?;
        let g = elements(&host)?;
        // All zeros at first.
        let mut spread = written_in_chunks(n * h * w * c, CHUNK, |_, _: &mut Place<f32>| ());
        for Run { window, map, pixels } in runs {
            let to = spread[map * c..][..pixels * c].iter_mut();
            to.zip(&g[window * c..]).for_each(|(to, g)| *to += g);
        }
        Ok(vec![Some(from_channels_last(spread, (n, h, w, c), gradient)?)])
    }))
}

/// Neighbouring pixels of a window's row that lie in the map.
struct Run {
    /// The first one among the pixels of all windows.
    window: usize,
    /// The first one among the pixels of all maps.
    map: usize,
    pixels: usize,
}

impl Run {
    /// Row `row` of the window around `centre`; `flat` numbers the rows of all windows.
    fn of(flat: usize, centre: Pixel, row: usize, side: usize, (h, w): (usize, usize)) -> Option<Self> {
        let reach = side / 2;
        let y = (centre.y + row).checked_sub(reach).filter(|y| *y < h)?;
        let left = reach.saturating_sub(centre.x);
        let first = centre.x + left - reach;
        let pixels = (side - left).min(w - first);
        Some(Self { window: flat * side + left, map: (centre.image * h + y) * w + first, pixels })
    }
}
