//! Channel-wise distillation (CWD; Shu et al., ICCV 2021, arXiv 2011.13256).
//!
//! ```text
//! loss = T²/(N C) sum_{n,c} KL( softmax_cells(t_nc / T) || softmax_cells(s_nc / T) )
//! ```

use candle_core::Tensor;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::reshape;

use super::layers::Adapters;
use super::maps::paired;
use super::rows::{softened_kl, sum_over_rows};
use super::{DistillError, Distiller, Lesson, Term, Widths, expect_positive, term_at_each};

const NAME: &str = "cwd";

/// CWD at some maps.
#[derive(Debug)]
pub struct Cwd {
    at: Vec<Tap>,
    weight: f64,
    temperature: f64,
    adapters: Adapters,
}

impl Cwd {
    /// CWD at `at`; `builder` makes adapters where teacher and student differ in width.
    ///
    /// # Errors
    /// A tap whose width is not known.
    pub fn new(
        at: Vec<Tap>,
        weight: f64,
        temperature: f64,
        widths: &Widths,
        builder: Builder,
    ) -> Result<Self, DistillError> {
        let adapters = Adapters::new(&at, widths, builder)?;
        Ok(Self { at, weight, temperature, adapters })
    }
}

impl Distiller for Cwd {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        term_at_each(NAME, &self.at, self.weight, lesson, |tap, teacher, student| {
            cwd(teacher, &self.adapters.forward(tap, student)?, self.temperature)
        })
    }

    fn params(&self) -> Option<&ParamStore> {
        self.adapters.params()
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
    let (n, c, h, w) = paired(NAME, teacher, student)?;
    let shape = [n * c, h * w];
    let (teacher, student) = (teacher.reshape(&shape)?, reshape(student, &shape)?);
    sum_over_rows(NAME, &teacher, &student, (n * c) as f64, |_, t, s, gradient| {
        softened_kl(t, s, temperature, gradient)
    })
}
