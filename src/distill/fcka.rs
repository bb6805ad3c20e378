//! Kernel alignment of whole feature maps (FCKA; Zhou et al., IJCAI 2024, arXiv 2401.11824).
//!
//! A sample's map is one row of R (N, C·H·W), in each network's own size. The authors align the similarity
//! matrices G = R Rᵀ with rows of length 1, a kernel of kernels; their figure aligns R itself. 1 - ka is
//! logged, -ka is theirs.

use ckd_detectors::param::Builder;
use ckd_kernels::elementwise::{permute, reshape};
use ckd_kernels::linear::{Activation, linear};
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::{Precision, Value};
use ckd_settings::{choices, section};

use super::distiller::{DistillError, Distiller};
use super::ka::{Kernel, RowNorm, misalignment};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;

const NAME: &str = "fcka";

choices! {
    /// Matrices that FCKA aligns.
    pub enum AlignmentOf {
        /// The matrices of similarities between samples, rows of length 1: a kernel of kernels (the authors'
        /// code).
        Similarities = "similarities",
        /// The features (the figure in their description).
        Features = "features",
    }
}

section! {
    /// The features' part of RCKA, FCKA: the similarities of the samples' whole maps are to equal the
    /// teacher's. With `lcka` it makes RCKA for classifiers. It needs no adapter: channels and sizes may
    /// differ.
    pub struct Fcka with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// Matrices that are aligned.
        pub of: AlignmentOf = AlignmentOf::Similarities,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// Effect of the length of a row.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

impl Method for Fcka {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Zhou et al., IJCAI 2024, arXiv 2401.11824";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (of, kernel) = (self.of, Kernel { center: self.center, row_norm: self.row_norm });
        let maps = OnMaps::new(NAME, &self.place)?;
        Ok(Box::new(maps.term(self.weight, move |level| {
            let teacher = of.matrix(&Value::constant(level.teacher.clone()))?;
            misalignment(teacher.tensor(), &of.matrix(level.student)?, kernel)
        })))
    }
}

impl AlignmentOf {
    /// The matrix of a map that is aligned.
    fn matrix(self, map: &Value) -> Result<Value, DistillError> {
        let rows = one_row_a_sample(map)?;
        Ok(match self {
            Self::Features => rows,
            Self::Similarities => l2_normalize_rows(&similarities(&rows)?, 1e-12)?,
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

/// X Xᵀ of the rows X (N, P), in f32.
fn similarities(rows: &Value) -> Result<Value, DistillError> {
    Ok(Precision::F32.scope(|| linear(rows, rows, None, Activation::Identity))?)
}
