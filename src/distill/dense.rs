//! Dense distillation without labels: a student's map, projected, against the teacher's, cell by cell (the second of
//! LightlyTrain's three methods; Beyer et al., CVPR 2022, arXiv 2106.05237, for the same view of both and long schedules).
//!
//! ```text
//! p = resize(W s + b)              bilinear, to the teacher's size
//! cosine            mean over images and cells of 1 - cos(p, t)
//! mse               mean over images, cells and channels of (p - t)²
//! normalised_mse    the same of p / |p| and t / |t|: 2 / channels of the cosine's
//! ```

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{reshape, weighted_sum};
use ckd_kernels::maps::{Weights, squared_difference};
use ckd_kernels::row_losses::weighted_mean;
use ckd_kernels::similarity::row_products;
use ckd_settings::{choices, section};

use super::distiller::{DistillError, Distiller};
use super::maps::{mean_squared_difference, paired};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::projector::unit_cells;
use super::scalar::nothing;

const NAME: &str = "dense";

choices! {
    /// Difference of two cells' vectors.
    pub enum CellDistance {
        /// 1 minus the cosine: the teacher's scale does not matter.
        Cosine = "cosine",
        /// Mean squared difference of the vectors as they are.
        Mse = "mse",
        /// Mean squared difference of the vectors at unit length: 2 / channels of the cosine's.
        NormalisedMse = "normalised_mse",
    }
}

section! {
    /// Distillation without labels, cell by cell: the student's map through a trained 1x1 convolution, resized to the
    /// teacher's, is to point where the teacher's does.
    pub struct DenseFeatures with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// Difference of the vectors of a cell.
        pub distance: CellDistance = CellDistance::Cosine,
    }
}

impl Method for DenseFeatures {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "LightlyTrain's distillationv2; Beyer et al., CVPR 2022, arXiv 2106.05237";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (maps, distance) = (OnMaps::new(NAME, &self.place)?.projected(setting, &builder)?, self.distance);
        let maps = maps
            .term(self.weight, move |level| dense(level.teacher, level.student, distance))
            .likened(|level| mean_cosine(level.teacher, level.student));
        Ok(Box::new(maps.training(builder)))
    }
}

/// The dense loss of a projected map; 0 for an empty one. A teacher's cell of zeros has cosine 0 with everything.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps.
pub fn dense(teacher: &Tensor, student: &Value, distance: CellDistance) -> Result<Value, DistillError> {
    paired(NAME, teacher, student)?;
    let count = student.tensor().elem_count();
    if count == 0 {
        return nothing(student);
    }
    if distance == CellDistance::Mse {
        return mean_squared_difference(teacher, student);
    }
    if distance == CellDistance::NormalisedMse {
        let maps = |map: &Value| -> Result<Value, DistillError> {
            let cells = unit_cells(map)?;
            Ok(reshape(&cells, &[cells.dims()[0], cells.dims()[1], 1, 1])?)
        };
        let (target, cells) = (maps(&Value::constant(teacher.clone()))?, maps(student)?);
        return Ok(squared_difference(target.tensor(), &cells, Weights::default(), count as f64)?);
    }
    let cosine = mean_cosine(teacher, student)?;
    let one = Value::constant(Tensor::ones((), teacher.dtype(), teacher.device())?);
    Ok(weighted_sum(&[(&one, 1.0), (&cosine, -1.0)])?)
}

/// The mean cosine of the vectors of all cells.
///
/// # Shapes
/// (N, C, H, W), both; a scalar.
fn mean_cosine(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    let (target, cells) = (unit_cells(&Value::constant(teacher.clone()))?, unit_cells(student)?);
    Ok(weighted_mean(&row_products(&cells, &target)?, None)?)
}
