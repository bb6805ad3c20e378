//! Attention transfer (AT; Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).
//!
//! The attention of an image is mean_c f² over its cells, as a unit vector; the loss is the mean over images
//! and cells of the squared difference. The larger map is averaged down to the smaller first; channels may
//! differ.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::maps::energy_difference;
use ckd_settings::section;

use super::distiller::{DistillError, Distiller};
use super::maps::at_equal_sizes;
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;
use super::scalar::nothing;

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
        Ok(Box::new(maps.term(self.weight, |level| attention_transfer(level.teacher, level.student))))
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
    if teacher.dims().first() != student.dims().first() {
        let reason =
            format!("teacher {:?} and student {:?} show other images", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    Ok(energy_difference(&teacher, &student)?)
}
