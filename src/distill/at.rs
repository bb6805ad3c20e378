//! Attention transfer (AT; Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).
//!
//! The attention of an image is mean_c f² over its cells, as a unit vector; the loss is the mean over images
//! and cells of the squared difference. The larger map is averaged down to the smaller first; channels may
//! differ.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use ckd_kernels::reduce::dot;
use ckd_settings::section;
use rayon::prelude::*;

use super::distiller::{DistillError, Distiller};
use super::maps::at_equal_sizes;
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::scalar::{nothing, scalar_of};

const NAME: &str = "at";

section! {
    /// Attention transfer: where the squared activations are, as a unit vector over the cells.
    pub struct At with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1000.0,
    }
}

impl Method for At {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let maps = OnMaps::new(NAME, &self.place)?;
        Ok(Box::new(
            maps.term(self.weight.into(), |_, teacher, student| attention_transfer(teacher, student)),
        ))
    }
}

/// The AT loss of a map; 0 for an empty one. A map of zeros attends to nothing and gets no gradient.
///
/// # Shapes
/// `teacher` (N, C', H', W'), `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Other ranks, or different numbers of images.
pub fn attention_transfer(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let (teacher, student) = at_equal_sizes(NAME, teacher, student)?;
    let (n, c, h, w) = student.tensor().dims4()?;
    if teacher.dims()[0] != n {
        let reason =
            format!("teacher {:?} and student {:?} show other images", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    let cells = h * w;
    let t = attention(&teacher, cells)?;
    let s = attention(student.tensor(), cells)?;
    let mut loss = 0.0;
    // Derivatives by the mean squares of the student's cells.
    let mut by_mean = vec![0f64; n * cells];
    for image in 0..n {
        let (t, s) = (&t[image], &s[image]);
        let by_unit: Vec<f64> =
            s.unit.iter().zip(&t.unit).map(|(s, t)| 2.0 * (s - t) / (n * cells) as f64).collect();
        loss += by_unit.iter().map(|d| d * d).sum::<f64>() * (n * cells) as f64 / 4.0;
        let along: f64 = by_unit.iter().zip(&s.unit).map(|(d, u)| d * u).sum();
        let scale = if s.length == 0.0 { 0.0 } else { s.length.recip() };
        let by_mean = by_mean[image * cells..][..cells].iter_mut();
        by_mean.zip(by_unit.iter().zip(&s.unit)).for_each(|(out, (d, u))| *out = (d - along * u) * scale);
    }
    if !student.is_tracked() {
        return scalar_of(&student, loss, None);
    }
    let host = channels_last(student.tensor())?;
    let mut gradient = elements(&host)?.to_vec();
    gradient.par_chunks_exact_mut(c).zip(&by_mean).for_each(|(values, by_mean)| {
        let factor = 2.0 * by_mean / c as f64;
        values.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    });
    let gradient = from_channels_last(gradient, (n, h, w, c), student.tensor())?;
    scalar_of(&student, loss, Some(gradient))
}

/// The attention of one image.
struct Attention {
    unit: Vec<f64>,
    length: f64,
}

fn attention(map: &Tensor, cells: usize) -> Result<Vec<Attention>, DistillError> {
    let c = map.dims4()?.1;
    let host = channels_last(map)?;
    let values = elements(&host)?;
    let means: Vec<f64> = values.par_chunks_exact(c).map(|x| dot(x, x) / c as f64).collect();
    let image = |means: &[f64]| {
        let length = means.iter().map(|m| m * m).sum::<f64>().sqrt();
        let scale = if length == 0.0 { 0.0 } else { length.recip() };
        Attention { unit: means.iter().map(|m| m * scale).collect(), length }
    };
    Ok(means.chunks_exact(cells).map(image).collect())
}
