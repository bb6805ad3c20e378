//! Kernel alignment of logits (LCKA; Zhou et al., IJCAI 2024, arXiv 2401.11824).
//!
//! intra = 1 - ka(T, S) between the samples, inter = 1 - ka(Tᵀ, Sᵀ) between the classes. The authors minimise
//! -ka: the gradient is the same. (DIST uses these two words the other way round.)

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::elementwise::permute;
use ckd_settings::section;

use super::distiller::{DistillError, Distiller};
use super::ka::{Kernel, RowNorm, misalignment};
use super::method::{Method, MethodSetting};
use super::on_rows::OnRows;
use super::place::{Rows, RowsAt};

section! {
    /// The logits' part of RCKA, LCKA: the similarities of the samples (intra), and those of the classes
    /// (inter), are to equal the teacher's.
    pub struct Lcka with place: Rows {
        /// Weight of the term between samples (intra). Default: 15, as published, for a classifier's logits, and 1 for a
        /// detector's.
        pub weight: Option<f32>,
        /// Weight of the term between classes (inter); 0 leaves it out. Default: as for `weight`.
        pub weight_inter: Option<f32>,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// Effect of the length of a row.
        pub row_norm: RowNorm = RowNorm::Rows,
    }
}

impl Method for Lcka {
    const WORD: &'static str = "lcka";
    const PAPER: &'static str = "Zhou et al., IJCAI 2024, arXiv 2401.11824";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.or_default(self.weight)), ("weight_inter", self.or_default(self.weight_inter))]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let kernel = Kernel { center: self.center, row_norm: self.row_norm };
        let rows = OnRows::new(Self::WORD, &self.place)
            .kind("intra", self.or_default(self.weight).into(), move |teacher, student, _| {
                misalignment(teacher, student, kernel)
            })
            .kind("inter", self.or_default(self.weight_inter).into(), move |teacher, student, _| {
                between_classes(teacher, student, kernel)
            });
        Ok(Box::new(rows))
    }
}

impl Lcka {
    /// The gradient of an alignment grows as logits get shorter. A detector's begin near 0 (a standard deviation of 0.01 in
    /// its last layer), where the published weight throws a network out of its course in a few steps.
    fn or_default(&self, weight: Option<f32>) -> f32 {
        weight.unwrap_or(match self.place.at {
            RowsAt::RoiLogits | RowsAt::AnchorLogits => 1.0,
            _ => 15.0,
        })
    }
}

fn between_classes(teacher: &Tensor, student: &Value, kernel: Kernel) -> Result<Value, DistillError> {
    misalignment(&teacher.t()?, &permute(student, &[1, 0])?, kernel)
}
