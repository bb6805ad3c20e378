//! Pearson distillation of features (PKD; Cao et al., NeurIPS 2022, arXiv 2207.02039).
//!
//! Each channel gets mean 0 and deviation 1 over all images and cells; the loss is half the mean squared
//! difference: the mean over channels of 1 - Pearson's r, up to the epsilon that is added to the deviations.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::memory::{channels_last, elements, from_channels_last};
use ckd_settings::{choices, section};
use rayon::prelude::*;

use super::distiller::{DistillError, Distiller};
use super::layers::Adapters;
use super::maps::{image_sums, paired};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::scalar::{nothing, scalar_of};

const NAME: &str = "pkd";

/// Added to the deviations, as in the authors' code.
const EPS: f64 = 1e-6;

choices! {
    /// Divisor of a channel's variance.
    pub enum Std {
        /// n: the loss is 1 - Pearson's r.
        Population = "population",
        /// n - 1: the authors' code.
        Sample = "sample",
    }
}

section! {
    /// Half the mean squared difference of maps whose channels have mean 0 and deviation 1: 1 - Pearson's r.
    pub struct Pkd with place: Maps {
        /// Weight of each level's term: 6 for two-stage detectors, 10 for RetinaNet.
        pub weight: f32 = 6.0,
        /// Divisor of the variance.
        pub std: Std = Std::Population,
    }
}

impl Method for Pkd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Cao et al., NeurIPS 2022, arXiv 2207.02039";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let maps = OnMaps::new(NAME, &self.place)?;
        let (adapters, params) = Adapters::new(&self.place.taps()?, &setting.widths, builder)?;
        let std = self.std;
        let maps = maps.term(self.weight.into(), move |tap, teacher, student| {
            pkd(teacher, &adapters.forward(tap, student)?, std)
        });
        Ok(Box::new(maps.training(params)))
    }
}

/// The PKD loss of a map; 0 for an empty one. A constant channel counts as zeros and gets no gradient.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps.
pub fn pkd(teacher: &Tensor, student: &Value, std: Std) -> Result<Value, DistillError> {
    let (n, c, h, w) = paired(NAME, teacher, student)?;
    let count = n * h * w;
    if count * c == 0 {
        return nothing(student);
    }
    let (t_host, s_host) = (channels_last(teacher)?, channels_last(student.tensor())?);
    let (t, s) = (elements(&t_host)?, elements(&s_host)?);
    let (t, s): (&[f32], &[f32]) = (&t, &s);
    let mean = |x: &[f32]| -> Vec<f64> {
        image_sums(x, (1, c, count)).into_iter().map(|sum| sum / count as f64).collect()
    };
    let (mean_t, mean_s) = (mean(t), mean(s));
    let [tt, ss, ts] = centred_products((t, &mean_t), (s, &mean_s), c);

    let divisor = match std {
        Std::Population => count as f64,
        Std::Sample => (count as f64 - 1.0).max(1.0),
    };
    let all = (count * c) as f64;
    let mut loss = 0.0;
    // The derivatives are a (s - mean) + b (t - mean) in each channel.
    let (mut a, mut b) = (vec![0f64; c], vec![0f64; c]);
    for channel in 0..c {
        let (tt, ss, ts) = (tt[channel], ss[channel], ts[channel]);
        let (dev_t, dev_s) = ((tt / divisor).sqrt(), (ss / divisor).sqrt());
        let (size_t, size_s) = (dev_t + EPS, dev_s + EPS);
        loss +=
            (ss / (size_s * size_s) + tt / (size_t * size_t) - 2.0 * ts / (size_s * size_t)) / (2.0 * all);
        if dev_s > 0.0 {
            let along = (ss / size_s - ts / size_t) / (dev_s * size_s * divisor);
            a[channel] = (1.0 / size_s - along) / (size_s * all);
            b[channel] = -1.0 / (size_s * size_t * all);
        }
    }
    if !student.is_tracked() {
        return scalar_of(student, loss, None);
    }
    let mut gradient = vec![0f32; count * c];
    let cells = t.par_chunks_exact(c).zip(s.par_chunks_exact(c));
    gradient.par_chunks_exact_mut(c).zip(cells).for_each(|(gradient, (t, s))| {
        for k in 0..c {
            let (s, t) = (f64::from(s[k]) - mean_s[k], f64::from(t[k]) - mean_t[k]);
            gradient[k] = (a[k] * s + b[k] * t) as f32;
        }
    });
    let gradient = from_channels_last(gradient, (n, h, w, c), student.tensor())?;
    scalar_of(student, loss, Some(gradient))
}

/// Σ over all cells of the products of the centred channels: t t, s s, t s.
fn centred_products((t, mean_t): (&[f32], &[f64]), (s, mean_s): (&[f32], &[f64]), c: usize) -> [Vec<f64>; 3] {
    const PIECE: usize = 1024;
    let sum = |(t, s): (&[f32], &[f32])| {
        let mut sums = [vec![0f64; c], vec![0f64; c], vec![0f64; c]];
        for (t, s) in t.chunks_exact(c).zip(s.chunks_exact(c)) {
            for k in 0..c {
                let (t, s) = (f64::from(t[k]) - mean_t[k], f64::from(s[k]) - mean_s[k]);
                sums[0][k] += t * t;
                sums[1][k] += s * s;
                sums[2][k] += t * s;
            }
        }
        sums
    };
    let parts: Vec<[Vec<f64>; 3]> = t.par_chunks(PIECE * c).zip(s.par_chunks(PIECE * c)).map(sum).collect();
    let mut sums = [vec![0f64; c], vec![0f64; c], vec![0f64; c]];
    for part in parts {
        for (sums, part) in sums.iter_mut().zip(part) {
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    sums
}
