//! Local distillation without labels: which cells of an image are alike (the local part of LightlyTrain's third method).
//!
//! ```text
//! rows_t = softmax(unit(t) unit(t)ᵀ / T), rows_p = softmax(unit(p) unit(p)ᵀ / T)     of the cells of one image, itself included
//! loss = mean over images and cells of KL(rows_t || rows_p)
//! ```
//!
//! Turning the whole space of features changes nothing: fine before a detector is trained on them, useless to see
//! whether the projection fits. An image of one cell gives 0. Memory grows with the square of the cells.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{rows, weighted_sum};
use ckd_kernels::row_losses::{softened_divergence, weighted_mean};
use ckd_kernels::similarity::similarities;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::projector::unit_cells;
use super::scalar::{expect_positive, nothing};

const NAME: &str = "local";

section! {
    /// Distillation without labels, inside each image: the student's cells are to be alike where the teacher's are.
    /// For small maps: its matrices have a row and a column for every cell.
    pub struct LocalFeatures with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// Divides the cosines.
        pub temperature: f32 = 0.07,
    }
}

impl LocalFeatures {
    fn check(&self, check: &mut Check<'_>) {
        check.positive("temperature", self.temperature.into());
    }
}

impl Method for LocalFeatures {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "LightlyTrain's distillationv3";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (maps, temperature) = (OnMaps::new(NAME, &self.place)?, self.temperature.into());
        let maps = maps.projected(setting, &builder)?;
        let maps = maps.term(self.weight, move |level| local(level.teacher, level.student, temperature));
        Ok(Box::new(maps.training(builder)))
    }
}

/// The local loss of a projected map; 0 for an empty one.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps; a temperature that is not positive.
pub fn local(teacher: &Tensor, student: &Value, temperature: f64) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    let (images, _, h, w) = paired(NAME, teacher, student)?;
    if student.tensor().elem_count() == 0 {
        return nothing(student);
    }
    let (target, cells) = (unit_cells(&Value::constant(teacher.clone()))?, unit_cells(student)?);
    let alike = |cells: &Value, image: usize| -> Result<Value, DistillError> {
        let own: Vec<u32> = (image * h * w..(image + 1) * h * w).map(|row| row as u32).collect();
        let own = rows(cells, &own)?;
        Ok(similarities(&own, &own, temperature.recip())?)
    };
    let one = |image: usize| -> Result<Value, DistillError> {
        let divergence = softened_divergence(alike(&target, image)?.tensor(), &alike(&cells, image)?, 1.0)?;
        Ok(weighted_mean(&divergence, None)?)
    };
    let losses: Vec<Value> = (0..images).map(one).collect::<Result<_, _>>()?;
    let shares: Vec<(&Value, f64)> = losses.iter().map(|loss| (loss, 1.0 / images as f64)).collect();
    Ok(weighted_sum(&shares)?)
}
