//! Contrastive representation distillation (CRD; Tian et al., ICLR 2020, arXiv 1910.10699): contrast with a
//! memory of the features of all training samples.
//!
//! For unit rows u of the student and v of the teacher (trained linear heads), and o the likeness to a
//! remembered row:
//!
//! ```text
//! o_ik = exp(memory[idx_ik]·u_i / T) / Z        idx_i0: the sample itself; the others: samples of other classes
//! loss = -1/B sum_i [ log(o_i0 / (o_i0 + K/n)) + sum_k log((K/n) / (o_ik + K/n)) ]
//! ```
//!
//! u meets the teacher's memory and v the student's. Z is fixed by the first batch: the mean of the
//! exponentials times n. A sample's rows of the memory move towards its new features once it was seen.

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Linear;
use ckd_detectors::param::{Builder, ParamStore, write_in_place};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::bank::partition;
use ckd_kernels::linear::Activation;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::row_losses::{noise_contrast, weighted_mean};
use ckd_settings::{Check, section};

use super::bank::{ByClass, likeness, remember};
use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::method::{Method, MethodSetting};
use super::place::{Rows, RowsAt};
use super::scalar::{expect_positive, nothing};

const NAME: &str = "crd";

section! {
    /// Contrast with a memory of all training samples, in both directions, through a trained linear head on
    /// each side. Negatives are of other classes.
    pub struct Crd with place: Rows {
        /// Weight of both directions together.
        pub weight: f32 = 0.8,
        /// Negatives drawn for each sample.
        pub negatives: usize = 16384,
        /// Divides the cosines.
        pub temperature: f32 = 0.07,
        /// Share of the old memory when a sample is seen again.
        pub momentum: f32 = 0.5,
        /// Width of the heads and of the memory.
        pub width: usize = 128,
    }
}

impl Crd {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("negatives", self.negatives);
        check.at_least_one("width", self.width);
        check.positive("temperature", self.temperature.into());
        check.fraction("momentum", self.momentum.into());
    }
}

impl Method for Crd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Tian et al., ICLR 2020, arXiv 1910.10699";
    // A memory of samples: of images, not of regions.
    const ROWS: &'static [RowsAt] = &[RowsAt::Embedding];

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let classes = setting.classes.clone();
        if classes.is_empty() {
            return Err(DistillError::Lacks { method: NAME, what: "the class of every training image" });
        }
        let (widths, n) = (width_at(&setting.widths, self.place.at.tap())?, classes.len());
        let samples = ByClass::new(classes)?;
        let bound = Init::Uniform(1.0 / (self.width as f64 / 3.0).sqrt());
        let memory = |name: &str| -> Result<Memory, DistillError> {
            let builder = builder.within(name);
            Ok(Memory {
                rows: builder.buffer("rows", &[n, self.width], bound)?,
                normalizer: builder.buffer("normalizer", &[1], Init::Constant(0.0))?,
            })
        };
        Ok(Box::new(Contrast {
            keys: self.clone(),
            student: Linear::new(&builder.within("student"), widths.student, self.width)?,
            teacher: Linear::new(&builder.within("teacher"), widths.teacher, self.width)?,
            memories: [memory("students")?, memory("teachers")?],
            samples,
            params: builder.finish(),
        }))
    }
}

/// CRD at one tap, with its heads and memory banks.
#[derive(Debug)]
struct Contrast {
    keys: Crd,
    student: Linear,
    teacher: Linear,
    /// The memory banks of the student's rows and of the teacher's.
    memories: [Memory; 2],
    samples: ByClass,
    params: ParamStore,
}

impl Contrast {
    /// The unit rows that both heads make of a lesson, and the positions in the memories that they are
    /// compared with.
    fn compared(&self, lesson: &Lesson<'_>) -> Result<([Value; 2], Vec<u32>), DistillError> {
        let (teacher, student) = at_tap(self.keys.place.at.tap(), lesson)?;
        let unit = |head: &Linear, rows: &Value| -> Result<Value, DistillError> {
            Ok(l2_normalize_rows(&head.forward(rows, Activation::Identity)?, 1e-12)?)
        };
        let inside = || {
            let u = unit(&self.student, &student)?;
            let v = unit(&self.teacher, &Value::constant(teacher))?;
            let drawn = self.samples.negatives(lesson.samples, self.keys.negatives, lesson.seed)?;
            Ok(([u, v], drawn))
        };
        inside().map_err(|error: DistillError| error.at(self.keys.place.at.tap()))
    }
}

impl Distiller for Contrast {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.keys.place.at.tap()]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let at = self.keys.place.at.tap();
        let ([u, v], drawn) = self.compared(lesson)?;
        let [students, teachers] = &self.memories;
        let term = |(kind, rows, memory): (&str, &Value, &Memory)| {
            let value =
                crd(rows, memory, &drawn, self.keys.temperature.into()).map_err(|error| error.at(at))?;
            Ok(Term { name: format!("{NAME}/{at}/{kind}"), value, weight: self.keys.weight.into() })
        };
        [("student", &u, teachers), ("teacher", &v, students)].into_iter().map(term).collect()
    }

    fn after_step(&self, lesson: &Lesson<'_>) -> Result<(), DistillError> {
        let at = self.keys.place.at.tap();
        let ([u, v], drawn) = self.compared(lesson)?;
        let [students, teachers] = &self.memories;
        let remembered = || {
            for (rows, memory) in [(&u, teachers), (&v, students)] {
                memory.fix_normalizer(rows, &drawn, self.keys.temperature.into())?;
            }
            remember(&students.rows, lesson.samples, u.tensor(), self.keys.momentum.into())?;
            remember(&teachers.rows, lesson.samples, v.tensor(), self.keys.momentum.into())
        };
        remembered().map_err(|error: DistillError| error.at(at))
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// A unit row for each training sample, and the Z of the likenesses to them.
#[derive(Debug)]
pub struct Memory {
    /// (n, D).
    pub rows: Tensor,
    /// Normaliser, a single number; 0 until the first batch has set it.
    pub normalizer: Tensor,
}

impl Memory {
    /// Fixes Z by this batch, if it is the first.
    ///
    /// # Shapes
    /// `rows` (B, D), `drawn` B · (1 + K) positions in the memory.
    ///
    /// # Errors
    /// Shapes that do not fit; positions outside.
    pub fn fix_normalizer(&self, rows: &Value, drawn: &[u32], temperature: f64) -> Result<(), DistillError> {
        if rows.tensor().elem_count() == 0 {
            return Ok(());
        }
        let likeness = self.likeness(&rows.detach(), drawn, temperature)?;
        Ok(write_in_place(&self.normalizer, &self.z(&likeness)?)?)
    }

    /// Z: the stored one or, while none is stored, the one of these likenesses.
    ///
    /// # Shapes
    /// (1).
    fn z(&self, likeness: &Value) -> Result<Tensor, DistillError> {
        Ok(partition(likeness.tensor(), &self.normalizer, self.rows.dims2()?.0)?)
    }

    /// Exponents of the likenesses of each row to its positions.
    ///
    /// # Shapes
    /// `rows` (B, D), `drawn` B · (1 + K) positions in the memory; (B, 1 + K).
    fn likeness(&self, rows: &Value, drawn: &[u32], temperature: f64) -> Result<Value, DistillError> {
        let likeness = likeness(rows, &self.rows, drawn, temperature)?;
        match likeness.dims() {
            [_, 0] => Err(DistillError::invalid(NAME, format!("no positions for rows {:?}", rows.dims()))),
            _ => Ok(likeness),
        }
    }
}

/// The CRD loss of one side's unit rows against the other side's `memory`, with the Z of this batch if none
/// is fixed yet.
///
/// # Shapes
/// `rows` (B, D), `drawn` B · (1 + K) positions in the memory, each row's own first; a scalar.
///
/// # Errors
/// Shapes that do not fit; positions outside; a temperature that is not positive.
pub fn crd(rows: &Value, memory: &Memory, drawn: &[u32], temperature: f64) -> Result<Value, DistillError> {
    expect_positive(NAME, "temperature", temperature)?;
    let (n, d) = memory.rows.dims2()?;
    let &[b, _] = rows.dims() else {
        return Err(DistillError::invalid(NAME, format!("(B, D) expected, got {:?}", rows.dims())));
    };
    if b == 0 || d == 0 {
        return nothing(rows);
    }
    let likeness = memory.likeness(rows, drawn, temperature)?;
    let noise = (likeness.dims()[1] - 1) as f64 / n as f64;
    Ok(weighted_mean(&noise_contrast(&likeness, &memory.z(&likeness)?, noise)?, None)?)
}
