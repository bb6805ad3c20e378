//! Relational knowledge distillation (RKD; Park et al., CVPR 2019, arXiv 1904.05068).
//!
//! ```text
//! distance = mean_ij  H( |s_i - s_j| / mean_s  -  |t_i - t_j| / mean_t )        mean: of all positive distances
//! angle    = mean_ijk H( cos(s_j - s_i, s_k - s_i) - cos(t_j - t_i, t_k - t_i) )
//! ```
//!
//! H is Huber's function with its corner at 1; both means are over all entries, B² and B³, as in the authors'
//! code.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::relations::{angles, relative_distances};
use ckd_settings::section;

use super::distiller::{DistillError, Distiller};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};
use super::scalar::nothing;

const NAME: &str = "rkd";

section! {
    /// Relations between the samples of a batch: distances, relative to their mean, and angles of triples.
    pub struct Rkd with place: Rows {
        /// Weight of the distances.
        pub weight: f32 = 25.0,
        /// Weight of the angles; 0 leaves them out. Their cost grows with the cube of the rows.
        pub weight_angle: f32 = 50.0,
    }
}

impl Method for Rkd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Park et al., CVPR 2019, arXiv 1904.05068";
    // Relations of triples: of images, not of regions.
    const ROWS: &'static [RowsAt] = &[RowsAt::Logits, RowsAt::Embedding];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_angle", self.weight_angle)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let relations = [
            ("distance", RkdRelation::Distance, self.weight),
            ("angle", RkdRelation::Angle, self.weight_angle),
        ];
        let mut rows = OnRows::new(NAME, &self.place);
        for (kind, relation, weight) in relations {
            rows = rows.kind(kind, weight.into(), move |teacher, student, _| rkd(teacher, student, relation));
        }
        Ok(Box::new(rows))
    }
}

/// Relation of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RkdRelation {
    /// Distances of pairs, relative to their mean.
    Distance,
    /// Angles of triples.
    Angle,
}

/// A term of RKD; 0 without rows. Equal samples get no gradient from each other.
///
/// # Shapes
/// `teacher` (B, P), `student` (B, Q); a scalar.
///
/// # Errors
/// Other ranks, or different numbers of rows.
pub fn rkd(teacher: &Tensor, student: &Value, relation: RkdRelation) -> Result<Value, DistillError> {
    let (&[b, p], &[rows, q]) = (teacher.dims(), student.dims()) else {
        let reason = format!("matrices expected, got {:?} and {:?}", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    };
    if b != rows {
        let reason =
            format!("teacher {:?} and student {:?} need the same rows", teacher.dims(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    if b == 0 || p == 0 || q == 0 {
        return nothing(student);
    }
    Ok(match relation {
        RkdRelation::Distance => relative_distances(teacher, student)?,
        RkdRelation::Angle => angles(teacher, student)?,
    })
}
