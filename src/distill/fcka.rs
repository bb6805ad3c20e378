//! Kernel alignment of whole feature maps (FCKA; Zhou et al., IJCAI 2024, arXiv 2401.11824).
//!
//! A sample's map is one row of R (N, C·H·W), in each network's own size. The authors align the similarity matrices
//! G = R Rᵀ with rows of length 1, a kernel of kernels; their figure aligns R itself. 1 - ka is logged, -ka is theirs.

use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{permute, reshape};
use ckd_kernels::linear::{Accumulate, Form, product};
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::normalize::l2_normalize_rows;

use super::ka::{Kernel, misalignment};
use super::{DistillError, Distiller, Lesson, Term, term_at_each};

const NAME: &str = "fcka";

/// FCKA on feature maps.
#[derive(Debug, Clone, PartialEq)]
pub struct Fcka {
    /// The maps; teacher's and student's may differ in all but the number of samples.
    pub at: Vec<Tap>,
    /// The weight of each map's term.
    pub weight: f64,
    /// What is aligned.
    pub of: AlignmentOf,
    /// How rows are compared.
    pub kernel: Kernel,
}

/// What FCKA aligns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlignmentOf {
    /// The similarity matrices (the authors' code).
    #[default]
    Similarities,
    /// The features.
    Features,
}

impl Distiller for Fcka {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        term_at_each(NAME, &self.at, self.weight, lesson, |_, teacher, student| {
            let teacher = self.aligned(&Value::constant(teacher.clone()))?;
            misalignment(teacher.tensor(), &self.aligned(student)?, self.kernel)
        })
    }
}

impl Fcka {
    /// What is aligned of a map.
    fn aligned(&self, map: &Value) -> Result<Value, DistillError> {
        let rows = one_row_a_sample(map)?;
        Ok(match self.of {
            AlignmentOf::Features => rows,
            AlignmentOf::Similarities => l2_normalize_rows(&similarities(&rows)?, 1e-12)?,
        })
    }
}

/// (N, C, H, W) to (N, H·W·C): as the map lies in memory. The order of the columns does not matter.
fn one_row_a_sample(map: &Value) -> Result<Value, DistillError> {
    let &[n, c, h, w] = map.dims() else {
        return Err(DistillError::invalid(NAME, format!("(N, C, H, W) expected, got {:?}", map.dims())));
    };
    Ok(reshape(&permute(map, &[0, 2, 3, 1])?, &[n, h * w * c])?)
}

/// X Xᵀ of the rows X (N, P).
fn similarities(rows: &Value) -> Result<Value, DistillError> {
    let (n, p) = rows.tensor().dims2()?;
    let host = on_host(rows.tensor())?;
    let mut out = vec![0f32; n * n];
    {
        let x = elements(&host)?;
        product(&mut out, (n, n, p), &x, Form::Plain, &x, Form::Transposed, Accumulate::Replace);
    }
    let out = from_elements(out, (n, n), rows.tensor())?;
    Ok(Value::operation(&[rows], out, move |g| {
        let g_host = on_host(g)?;
        let (g, x) = (elements(&g_host)?, elements(&host)?);
        let mut gradient = vec![0f32; n * p];
        product(&mut gradient, (n, p, n), &g, Form::Plain, &x, Form::Plain, Accumulate::Replace);
        product(&mut gradient, (n, p, n), &g, Form::Transposed, &x, Form::Plain, Accumulate::Add);
        Ok(vec![Some(from_elements(gradient, (n, p), &g_host)?)])
    }))
}
