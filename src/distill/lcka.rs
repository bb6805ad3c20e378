//! Kernel alignment of logits (LCKA; Zhou et al., IJCAI 2024, arXiv 2401.11824).
//!
//! intra = 1 - ka(T, S) between the samples, inter = 1 - ka(Tᵀ, Sᵀ) between the classes. The authors minimise
//! -ka: the gradient is the same. (DIST uses these two words the other way round.)

use candle_core::Tensor;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::permute;

use super::ka::{Kernel, misalignment};
use super::{DistillError, Distiller, Lesson, Term, at_tap};

/// LCKA at one tap.
#[derive(Debug, Clone, PartialEq)]
pub struct Lcka {
    /// Where; its values are (B, C) logits or features.
    pub at: Tap,
    /// The weight of the term between samples.
    pub weight: f64,
    /// The weight of the term between classes; 0 leaves it out. Teacher and student need the same classes for it.
    pub weight_inter: f64,
    /// How rows are compared.
    pub kernel: Kernel,
}

impl Distiller for Lcka {
    fn name(&self) -> &str {
        "lcka"
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let (teacher, student) = at_tap(self.at, lesson)?;
        let mut terms = Vec::new();
        let mut add = |kind: &str, weight: f64, value: Result<Value, DistillError>| {
            let value = value.map_err(|error| error.at(self.at))?;
            terms.push(Term { name: format!("lcka/{}/{kind}", self.at), value, weight });
            Ok::<_, DistillError>(())
        };
        if self.weight != 0.0 {
            add("intra", self.weight, misalignment(teacher, student, self.kernel))?;
        }
        if self.weight_inter != 0.0 {
            add("inter", self.weight_inter, between_classes(teacher, student, self.kernel))?;
        }
        Ok(terms)
    }
}

fn between_classes(teacher: &Tensor, student: &Value, kernel: Kernel) -> Result<Value, DistillError> {
    misalignment(&teacher.t()?, &permute(student, &[1, 0])?, kernel)
}
