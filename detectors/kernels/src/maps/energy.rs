//! Where the squares of maps are.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use super::extents::{Compared, scalar};
use crate::dispatch::{self, Host};
use crate::memory::{elements, from_channels_last, nhwc};
use crate::reduce::dot;
use crate::scalar::{nothing, with_gradients};
use crate::{Error, Result, Value};

/// Mean squared difference, over images and cells, of the mean squares of a cell's channels, which are a unit vector over an
/// image's cells.
///
/// A map of zeros is a vector of zeros and gets no gradient.
///
/// # Shapes
/// `target` (N, C', H, W), `x` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn energy_difference(target: &Tensor, x: &Value) -> Result<Value> {
    const NAME: &str = "energy_difference";
    match (target.dims(), x.dims()) {
        ([n, _, h, w], [own_n, _, own_h, own_w]) if (n, h, w) == (own_n, own_h, own_w) => {}
        (target, x) => {
            let reason = format!("maps of the same images and cells expected, got {target:?} and {x:?}");
            return Err(Error::invalid(NAME, reason));
        }
    }
    if x.tensor().elem_count() == 0 {
        return nothing(x);
    }
    if target.elem_count() == 0 {
        return Err(Error::invalid(NAME, format!("a map {:?} has no channels", target.dims())));
    }
    let (target, map) = (nhwc(target)?, nhwc(x.tensor())?);
    let work = Energy { target: &target, x: &map, tracked: x.is_tracked() };
    let Compared { value, gradient } = dispatch::run(&map, work)?;
    Ok(with_gradients(&[x], value, vec![gradient]))
}

/// Two maps (N, H, W, C') and (N, H, W, C), and whether a gradient is asked for.
struct Energy<'a> {
    target: &'a Tensor,
    x: &'a Tensor,
    tracked: bool,
}

impl Host for Energy<'_> {
    type Output = Compared;

    fn on_host(self) -> Result<Compared> {
        let Self { target, x: like, tracked } = self;
        let (n, h, w, c) = like.dims4()?;
        let cells = h * w;
        let (t, x) = (units(target, cells)?, units(like, cells)?);
        let mut loss = 0.0;
        // Derivatives by the mean squares of the cells of x.
        let mut by_mean = vec![0f64; n * cells];
        for image in 0..n {
            let (t, x) = (&t[image], &x[image]);
            let by_unit: Vec<f64> =
                x.unit.iter().zip(&t.unit).map(|(x, t)| 2.0 * (x - t) / (n * cells) as f64).collect();
            loss += by_unit.iter().map(|d| d * d).sum::<f64>() * (n * cells) as f64 / 4.0;
            let along: f64 = by_unit.iter().zip(&x.unit).map(|(d, u)| d * u).sum();
            let scale = if x.length == 0.0 { 0.0 } else { x.length.recip() };
            let by_mean = by_mean[image * cells..][..cells].iter_mut();
            by_mean.zip(by_unit.iter().zip(&x.unit)).for_each(|(out, (d, u))| *out = (d - along * u) * scale);
        }
        let value = scalar(loss, like)?;
        if !tracked {
            return Ok(Compared { value, gradient: None });
        }
        let mut gradient = elements(like)?.to_vec();
        gradient.par_chunks_exact_mut(c).zip(&by_mean).for_each(|(values, by_mean)| {
            let factor = 2.0 * by_mean / c as f64;
            values.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        });
        let gradient = from_channels_last(gradient, (n, h, w, c), like)?;
        Ok(Compared { value, gradient: Some(gradient) })
    }
}

/// The mean squares of one image's cells as a unit vector, and the length that they had.
struct Unit {
    unit: Vec<f64>,
    length: f64,
}

/// Of each image of a map (N, H, W, C) with `cells` cells.
fn units(map: &Tensor, cells: usize) -> Result<Vec<Unit>> {
    let (_, _, _, c) = map.dims4()?;
    let values = elements(map)?;
    let means: Vec<f64> = values.par_chunks_exact(c).map(|x| dot(x, x) / c as f64).collect();
    let image = |means: &[f64]| {
        let length = means.iter().map(|m| m * m).sum::<f64>().sqrt();
        let scale = if length == 0.0 { 0.0 } else { length.recip() };
        Unit { unit: means.iter().map(|m| m * scale).collect(), length }
    };
    Ok(means.chunks_exact(cells).map(image).collect())
}
