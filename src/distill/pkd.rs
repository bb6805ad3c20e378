//! Pearson distillation of features (PKD; Cao et al., NeurIPS 2022, arXiv 2207.02039).
//!
//! Each channel gets mean 0 and deviation 1 over all images and cells; the loss is half the mean squared
//! difference: the mean over channels of 1 - Pearson's r, up to the epsilon that is added to the deviations.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::maps::standardized_difference;
use ckd_settings::{choices, section};

use super::distiller::{DistillError, Distiller};
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;

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
        let (maps, std) = (OnMaps::new(NAME, &self.place)?.adapted(setting, &builder)?, self.std);
        let maps = maps.term(self.weight, move |level| pkd(level.teacher, level.student, std));
        Ok(Box::new(maps.training(builder)))
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
    let (n, _, h, w) = paired(NAME, teacher, student)?;
    let count = (n * h * w) as f64;
    let divisor = match std {
        Std::Population => count.max(1.0),
        Std::Sample => (count - 1.0).max(1.0),
    };
    Ok(standardized_difference(teacher, student, divisor, EPS)?)
}
