//! Contrastive representation distillation (CRD; Tian et al., ICLR 2020, arXiv 1910.10699): contrast with a memory of
//! the features of all training samples.
//!
//! For unit rows u of the student and v of the teacher (trained linear heads), and o the likeness to a remembered row:
//!
//! ```text
//! o_ik = exp(memory[idx_ik]·u_i / T) / Z        idx_i0: the sample itself; the others: samples of other classes
//! loss = -1/B sum_i [ log(o_i0 / (o_i0 + K/n)) + sum_k log((K/n) / (o_ik + K/n)) ]
//! ```
//!
//! u meets the teacher's memory and v the student's. Z is fixed by the first batch: the mean of the exponentials times n.
//! A sample's rows of the memory move towards its new features once it was seen.

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Linear;
use ckd_detectors::param::{Builder, ParamStore, write_in_place};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::linear::Activation;
use ckd_kernels::memory::{elements, from_elements, on_host};
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::reduce::dot;
use rayon::prelude::*;

use super::bank::{ByClass, remember};
use super::{DistillError, Distiller, Lesson, Term, Widths, at_tap, nothing, scalar_of, width_at};

const NAME: &str = "crd";

/// Added to the denominators, as in the authors' code.
const EPS: f64 = 1e-7;

/// How CRD is set up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Where; its values are (B, D) features.
    pub at: Tap,
    /// The weight of both directions.
    pub weight: f64,
    /// Samples of other classes drawn for each sample.
    pub negatives: usize,
    /// What cosines are divided by.
    pub temperature: f64,
    /// The share of the old row when a sample is seen again.
    pub momentum: f64,
    /// The width of the heads and of the memory.
    pub width: usize,
}

/// CRD with its heads and memories.
#[derive(Debug)]
pub struct Crd {
    settings: Contrast,
    student: Linear,
    teacher: Linear,
    /// What is remembered of the students and of the teachers.
    memories: [Memory; 2],
    samples: ByClass,
    params: ParamStore,
}

/// A unit row for each training sample, and the Z of the likenesses to them.
#[derive(Debug)]
pub struct Memory {
    /// (n, D).
    pub rows: Tensor,
    /// One number; 0 until the first batch has set it.
    pub normalizer: Tensor,
}

impl Crd {
    /// CRD over training samples of these `classes`; heads and memories are made by `builder`.
    ///
    /// # Errors
    /// A tap whose width is not known; samples that are all of one class.
    pub fn new(
        settings: Contrast,
        classes: Vec<u32>,
        widths: &Widths,
        builder: Builder,
    ) -> Result<Self, DistillError> {
        let (width, n) = (width_at(widths, settings.at)?, classes.len());
        let samples = ByClass::new(classes)?;
        let bound = Init::Uniform(1.0 / (settings.width as f64 / 3.0).sqrt());
        let memory = |name: &str| -> Result<Memory, DistillError> {
            let builder = builder.within(name);
            Ok(Memory {
                rows: builder.buffer("rows", &[n, settings.width], bound)?,
                normalizer: builder.buffer("normalizer", &[1], Init::Constant(0.0))?,
            })
        };
        Ok(Self {
            settings,
            student: Linear::new(&builder.within("student"), width.student, settings.width)?,
            teacher: Linear::new(&builder.within("teacher"), width.teacher, settings.width)?,
            memories: [memory("students")?, memory("teachers")?],
            samples,
            params: builder.finish(),
        })
    }
}

impl Distiller for Crd {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.settings.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let Contrast { at, weight, negatives, temperature, momentum, .. } = self.settings;
        let (teacher, student) = at_tap(at, lesson)?;
        let unit = |head: &Linear, rows: &Value| -> Result<Value, DistillError> {
            Ok(l2_normalize_rows(&head.forward(rows, Activation::Identity)?, 1e-12)?)
        };
        let inside = || -> Result<Vec<Term>, DistillError> {
            let u = unit(&self.student, student)?;
            let v = unit(&self.teacher, &Value::constant(teacher.clone()))?;
            let drawn = self.samples.negatives(lesson.samples, negatives, lesson.seed)?;
            let [students, teachers] = &self.memories;
            let mut terms = Vec::new();
            for (kind, rows, memory) in [("student", &u, teachers), ("teacher", &v, students)] {
                let value = crd(rows, memory, &drawn, temperature)?;
                terms.push(Term { name: format!("{NAME}/{at}/{kind}"), value, weight });
            }
            remember(&students.rows, lesson.samples, u.tensor(), momentum)?;
            remember(&teachers.rows, lesson.samples, v.tensor(), momentum)?;
            Ok(terms)
        };
        inside().map_err(|error| error.at(at))
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// The CRD loss of one side's unit rows against the other side's `memory`, whose Z it sets if this is the first batch.
///
/// # Shapes
/// `rows` (B, D), `drawn` B · (1 + K) positions in the memory, each row's own first; a scalar.
///
/// # Errors
/// Shapes that do not fit; positions outside; a temperature that is not positive.
pub fn crd(rows: &Value, memory: &Memory, drawn: &[u32], temperature: f64) -> Result<Value, DistillError> {
    super::expect_positive(NAME, "temperature", temperature)?;
    let (n, d) = memory.rows.dims2()?;
    let &[b, width] = rows.dims() else {
        return Err(DistillError::invalid(NAME, format!("(B, D) expected, got {:?}", rows.dims())));
    };
    if b == 0 || d == 0 {
        return nothing(rows);
    }
    let fits = width == d && drawn.len().is_multiple_of(b) && drawn.iter().all(|&at| (at as usize) < n);
    let Some(negatives) = (drawn.len() / b).checked_sub(1).filter(|_| fits) else {
        let reason = format!("rows {:?}, {} positions, a memory {n} x {d}", rows.dims(), drawn.len());
        return Err(DistillError::invalid(NAME, reason));
    };
    let (host, remembered) = (on_host(rows.tensor())?, on_host(&memory.rows)?);
    let (u, bank) = (elements(&host)?, elements(&remembered)?);
    let (u, bank): (&[f32], &[f32]) = (&u, &bank);
    let row = |at: u32| &bank[at as usize * d..][..d];
    let mut likeness: Vec<f64> = drawn
        .par_chunks_exact(negatives + 1)
        .zip(u.par_chunks_exact(d))
        .flat_map_iter(|(drawn, u)| drawn.iter().map(move |&at| (dot(row(at), u) / temperature).exp()))
        .collect();
    let mut z = f64::from(memory.normalizer.to_vec1::<f32>()?[0]);
    if z == 0.0 {
        z = likeness.iter().sum::<f64>() / likeness.len() as f64 * n as f64;
        write_in_place(&memory.normalizer, &from_elements(vec![z as f32], 1, &host)?)?;
        // What a resumed run will read.
        z = f64::from(z as f32);
    }
    likeness.iter_mut().for_each(|o| *o /= z);

    let noise = negatives as f64 / n as f64;
    let share = (b as f64).recip();
    let parts: Vec<(f64, Vec<f32>)> = likeness
        .par_chunks_exact(negatives + 1)
        .zip(drawn.par_chunks_exact(negatives + 1))
        .map(|(likeness, drawn)| {
            let (mut loss, mut gradient) = (0.0, vec![0f64; d]);
            for (k, (&o, &at)) in likeness.iter().zip(drawn).enumerate() {
                let total = o + noise + EPS;
                let (log, by_o) = match k {
                    0 => ((o / total).ln(), o.recip() - total.recip()),
                    _ => ((noise / total).ln(), -total.recip()),
                };
                loss -= share * log;
                // do/du = o row / T.
                let factor = -share * by_o * o / temperature;
                gradient.iter_mut().zip(row(at)).for_each(|(g, x)| *g += factor * f64::from(*x));
            }
            (loss, gradient.into_iter().map(|g| g as f32).collect())
        })
        .collect();
    let (losses, gradients): (Vec<f64>, Vec<Vec<f32>>) = parts.into_iter().unzip();
    let gradient = rows.is_tracked().then(|| from_elements(gradients.concat(), (b, d), rows.tensor()));
    scalar_of(rows, losses.iter().sum(), gradient.transpose()?)
}
