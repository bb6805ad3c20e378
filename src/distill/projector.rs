//! Projection of a student's map into the teacher's space, for methods without labels: a 1x1 convolution, then the
//! teacher's size.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{permute, reshape};
use ckd_kernels::linear::Activation::Identity;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::pool::global_avg_pool;
use ckd_kernels::resize::resize_bilinear;

use super::distiller::{DistillError, Width, Widths, width_at};
use super::layers::convolved;

/// The authors' deviation of the initial weights.
const STD: f64 = 0.02;

/// Trained linear map from the student's channels to the teacher's; no exported student has it.
#[derive(Debug)]
pub struct Projector(Conv2d);

impl Projector {
    /// The layer `projector` in `builder`'s layer: normal weights of deviation 0.02, no bias yet.
    ///
    /// # Errors
    /// If parameters of these names exist.
    pub fn new(builder: &Builder, Width { teacher, student }: Width) -> Result<Self, DistillError> {
        let layer = builder.within("projector");
        Ok(Self(Conv2d::new(&layer, (student, teacher, 1, 1), Init::Normal(STD), Init::Constant(0.0))?))
    }

    /// Projects a map and resizes it to `size`, bilinear.
    ///
    /// # Shapes
    /// (N, C_student, h, w); (N, C_teacher, `size`).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn at_size(&self, map: &Value, size: (usize, usize)) -> Result<Value, DistillError> {
        let projected = convolved(&self.0, map, Identity)?;
        match projected.dims() {
            &[_, _, h, w] if (h, w) == size => Ok(projected),
            _ => Ok(resize_bilinear(&projected, size)?),
        }
    }

    /// Projects the mean over a map's cells, to unit length.
    ///
    /// # Shapes
    /// (N, C_student, h, w); (N, C_teacher).
    ///
    /// # Errors
    /// Shapes that do not fit; a map without cells.
    pub fn pooled(&self, map: &Value) -> Result<Value, DistillError> {
        let pooled = global_avg_pool(map)?;
        let (n, c) = pooled.tensor().dims2()?;
        let projected = convolved(&self.0, &reshape(&pooled, &[n, c, 1, 1])?, Identity)?;
        let width = projected.dims()[1];
        unit(&reshape(&projected, &[n, width])?)
    }
}

/// Projectors of the maps at several taps.
pub(super) struct Projectors(BTreeMap<Tap, Projector>);

impl Projectors {
    /// The layers `TAP.projector` of the maps at `at`.
    pub(super) fn new(at: &[Tap], widths: &Widths, builder: &Builder) -> Result<Self, DistillError> {
        let one = |&tap: &Tap| Ok((tap, Projector::new(&builder.within(tap), width_at(widths, tap)?)?));
        Ok(Self(at.iter().map(one).collect::<Result<_, DistillError>>()?))
    }

    /// The student's map in the teacher's width and size.
    ///
    /// # Shapes
    /// `teacher` (N, C_teacher, H, W), `student` (N, C_student, h, w); (N, C_teacher, H, W).
    pub(super) fn forward(&self, tap: Tap, teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
        let (_, _, h, w) = teacher.dims4()?;
        self.0[&tap].at_size(student, (h, w))
    }
}

/// Unit rows; a row of zeros stays one.
///
/// # Shapes
/// (M, D), both.
pub(super) fn unit(rows: &Value) -> Result<Value, DistillError> {
    Ok(l2_normalize_rows(rows, 1e-12)?)
}

/// The cells of a map as unit rows, image after image.
///
/// # Shapes
/// (N, C, H, W); (N·H·W, C).
pub(super) fn unit_cells(map: &Value) -> Result<Value, DistillError> {
    let (n, c, h, w) = map.tensor().dims4()?;
    unit(&reshape(&permute(map, &[0, 2, 3, 1])?, &[n * h * w, c])?)
}
