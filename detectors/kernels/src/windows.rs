//! Small windows cut out of a feature map, and their gradients put back.
//!
//! For heads whose loss looks at few places of a large map (256 anchors of an image's 268,000 in a proposal
//! network): what the head computes there, it computes from these windows, and nothing of the rest is kept
//! for the gradient.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc, zeros};
use crate::{Error, Result, Value};

/// Position of a pixel in a batch of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pixel {
    /// Index of the image.
    pub image: usize,
    /// Row.
    pub y: usize,
    /// Column.
    pub x: usize,
}

/// Cuts windows of `side` by `side` pixels around `centres`, zero outside the map.
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
    let centres = centres.to_vec();
    let map = nhwc(x.tensor())?;
    let out = dispatch::run(&map, Cut { map: &map, centres: &centres, side })?;
    Ok(Value::operation(&[x], out, move |g| {
        let put = PutBack { g: &nhwc(g)?, centres: &centres, side, shape: (n, h, w, c) };
        Ok(vec![Some(dispatch::run(g, put)?)])
    }))
}

/// A map (N, H, W, C), and the windows that are cut out of it.
struct Cut<'a> {
    map: &'a Tensor,
    centres: &'a [Pixel],
    side: usize,
}

impl Host for Cut<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { map, centres, side } = self;
        let (_, h, w, c) = map.dims4()?;
        let values = elements(map)?;
        let mut out = vec![0f32; centres.len() * side * side * c];
        for Run { window, map: at, pixels } in runs(centres, side, (h, w)) {
            out[window * c..][..pixels * c].copy_from_slice(&values[at * c..][..pixels * c]);
        }
        from_channels_last(out, (centres.len(), side, side, c), map)
    }
}

/// The gradient (P, `side`, `side`, C) of windows, to be added up in a map of `shape` (N, H, W, C).
struct PutBack<'a> {
    g: &'a Tensor,
    centres: &'a [Pixel],
    side: usize,
    shape: (usize, usize, usize, usize),
}

impl Host for PutBack<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, centres, side, shape } = self;
        let (n, h, w, c) = shape;
        let g = elements(like)?;
        let mut sums = zeros(n * h * w * c);
        for Run { window, map, pixels } in runs(centres, side, (h, w)) {
            let to = sums[map * c..][..pixels * c].iter_mut();
            to.zip(&g[window * c..]).for_each(|(to, g)| *to += g);
        }
        from_channels_last(sums, shape, like)
    }
}

/// The parts of the windows' rows that lie in maps of (h, w) pixels, window after window.
fn runs(centres: &[Pixel], side: usize, size: (usize, usize)) -> impl Iterator<Item = Run> {
    centres.iter().enumerate().flat_map(move |(index, &centre)| {
        (0..side).filter_map(move |row| Run::of(index * side + row, centre, row, side, size))
    })
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
