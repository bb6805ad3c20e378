//! Channel-wise distillation (CWD; Shu et al., ICCV 2021, arXiv 2011.13256).
//!
//! ```text
//! loss = T²/(N C) sum_{n,c} KL( softmax_cells(t_nc / T) || softmax_cells(s_nc / T) )
//! ```

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::maps::channel_divergence;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::scalar::expect_positive;

const NAME: &str = "cwd";

section! {
    /// Channel-wise distillation: each channel as a distribution over the cells; KL divergence times the
    /// squared temperature.
    pub struct Cwd with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 5.0,
        /// Divides the activations.
        pub temperature: f32 = 1.0,
    }
}

impl Cwd {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for Cwd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Shu et al., ICCV 2021, arXiv 2011.13256";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (maps, temperature) = (OnMaps::new(NAME, &self.place)?, self.temperature.into());
        let maps = maps.adapted(setting, &builder)?;
        let maps = maps.term(self.weight, move |level| cwd(level.teacher, level.student, temperature));
        Ok(Box::new(maps.training(builder)))
    }
}

/// The CWD loss of a map; 0 for an empty one.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps; a temperature that is not positive.
pub fn cwd(teacher: &Tensor, student: &Value, temperature: f64) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    paired(NAME, teacher, student)?;
    Ok(channel_divergence(teacher, student, temperature)?)
}
