//! Kernel alignment of feature maps, patch by patch (RCKA's form for detection, called PCKA;
//! Zhou et al., arXiv 2401.11824).
//!
//! The loss is the mean over channels of 1 - ka(X_c of the teacher, X_c of the student), see
//! [`patch_misalignment`]. The authors minimise -ka: the gradient is the same.

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::alignment::{PatchRows, patch_misalignment};
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller};
use super::ka::{Kernel, RowNorm};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;

const NAME: &str = "rcka";

section! {
    /// Relaxed centred kernel alignment in its patch form, PCKA: per level and
    /// channel, the similarities between the patches of the student are to equal the teacher's.
    pub struct Rcka with place: Maps {
        /// Weight of the term between patches (intra).
        pub weight: f32 = 10.0,
        /// Weight of the term between pixels of a patch (inter); 0 leaves it out. A weight of its own: in the
        /// authors' code it only switches the term on.
        pub weight_inter: f32 = 0.0,
        /// Height and width of a patch in cells of the level.
        pub patch: usize = 16,
        /// Centre the kernels. The authors' code does not, in spite of the name.
        pub center: bool = false,
        /// Effect of the length of a row. The authors' detection configurations leave it alone.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

impl Rcka {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("patch", self.patch);
    }
}

impl Method for Rcka {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Zhou et al., IJCAI 2024, arXiv 2401.11824";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight), ("weight_inter", self.weight_inter)]
    }

    fn build(&self, _: &MethodSetting<'_>, _: Builder) -> Result<Box<dyn Distiller>, DistillError> {
        let (patch, kernel) = (self.patch, Kernel { center: self.center, row_norm: self.row_norm });
        let mut maps = OnMaps::new(NAME, &self.place)?.of_stored();
        let kinds =
            [("intra", PatchRows::Patches, self.weight), ("inter", PatchRows::Pixels, self.weight_inter)];
        for (kind, rows, weight) in
            kinds.into_iter().filter(|(kind, _, weight)| *kind == "intra" || *weight != 0.0)
        {
            maps = maps.kind(kind, weight, move |level| {
                patch_cka(level.teacher, level.student, rows, patch, kernel)
            });
        }
        Ok(Box::new(maps))
    }
}

/// The mean over channels of 1 - ka of two feature maps, patch by patch.
///
/// 0 if the map is a single patch or empty. A channel that is zero in either map counts 1, without a
/// gradient.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar in [0, 1].
///
/// # Errors
/// Shapes that differ or are not maps; patches without pixels.
pub fn patch_cka(
    teacher: &Tensor,
    student: &Value,
    rows: PatchRows,
    patch: usize,
    kernel: Kernel,
) -> Result<Value, DistillError> {
    check(teacher, student, patch)?;
    Ok(patch_misalignment(teacher, student, rows, patch, kernel.into())?)
}

fn check(teacher: &Tensor, student: &Value, patch: usize) -> Result<(), DistillError> {
    let (&[n, c, h, w], &[teacher_n, teacher_c, teacher_h, teacher_w]) = (student.dims(), teacher.dims())
    else {
        let reason = format!(
            "maps (N, C, H, W) expected, got teacher {:?} and student {:?}",
            teacher.dims(),
            student.dims()
        );
        return Err(DistillError::invalid(NAME, reason));
    };
    let shapes = || format!("teacher {:?}, student {:?}", teacher.dims(), student.dims());
    if teacher_c != c {
        let reason =
            format!("both maps need the same channels: {}; give both pyramids the same width", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if (teacher_n, teacher_h, teacher_w) != (n, h, w) {
        let reason = format!("both maps need the same images and sizes: {}", shapes());
        return Err(DistillError::invalid(NAME, reason));
    }
    if patch == 0 {
        return Err(DistillError::invalid(NAME, "a patch needs at least one cell"));
    }
    Ok(())
}
