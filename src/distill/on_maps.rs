//! The distiller of a method that is a formula over feature maps: one term, or a term of each kind, at every
//! level.

use candle_core::Tensor;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, stored_student_at, stored_teacher_at};
use super::layers::Adapters;
use super::method::MethodSetting;
use super::place::Maps;
use super::projector::Projectors;

/// The maps of teacher and student at a level, (N, C, H, W) each: f32, or as they lie in memory for a method that takes both.
pub(super) struct Level<'l> {
    pub(super) tap: Tap,
    pub(super) teacher: &'l Tensor,
    pub(super) student: &'l Value,
    pub(super) lesson: &'l Lesson<'l>,
}

/// Brings the student's map to the teacher's form: once at each level, whatever terms follow.
type Bring = Box<dyn Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError>>;
type Loss = Box<dyn Fn(&Level<'_>) -> Result<Value, DistillError>>;

/// Terms over the maps of some levels, each on its own.
pub(super) struct OnMaps {
    name: &'static str,
    at: Vec<Tap>,
    bring: Option<Bring>,
    terms: Vec<(Option<&'static str>, f64, Loss)>,
    cosine: Option<Loss>,
    params: Option<ParamStore>,
    of_stored: bool,
}

impl OnMaps {
    /// The method called `name` at the levels of `maps`, without terms yet.
    ///
    /// # Errors
    /// A level that is no tap.
    pub(super) fn new(name: &'static str, maps: &Maps) -> Result<Self, DistillError> {
        Ok(Self {
            name,
            at: maps.taps()?,
            bring: None,
            terms: Vec::new(),
            cosine: None,
            params: None,
            of_stored: false,
        })
    }

    /// Of maps as they lie in memory, f32 or bf16.
    pub(super) fn of_stored(self) -> Self {
        Self { of_stored: true, ..self }
    }

    /// The levels.
    pub(super) fn at(&self) -> &[Tap] {
        &self.at
    }

    /// Of the student's maps through 1x1 convolutions that `builder` makes where widths differ.
    ///
    /// # Errors
    /// A tap without a known width.
    pub(super) fn adapted(
        mut self,
        setting: &MethodSetting<'_>,
        builder: &Builder,
    ) -> Result<Self, DistillError> {
        let adapters = Adapters::new(&self.at, &setting.widths, builder)?;
        self.bring = Some(Box::new(move |tap, _, student| adapters.forward(tap, student)));
        Ok(self)
    }

    /// Of the student's maps through projectors that `builder` makes, in the teacher's size.
    ///
    /// # Errors
    /// A tap without a known width.
    pub(super) fn projected(
        mut self,
        setting: &MethodSetting<'_>,
        builder: &Builder,
    ) -> Result<Self, DistillError> {
        let projectors = Projectors::new(&self.at, &setting.widths, builder)?;
        self.bring = Some(Box::new(move |tap, teacher, student| projectors.forward(tap, teacher, student)));
        Ok(self)
    }

    /// With the term `NAME/TAP` at every level; the loss gives a scalar.
    pub(super) fn term(
        mut self,
        weight: impl Into<f64>,
        loss: impl Fn(&Level<'_>) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.terms.push((None, weight.into(), Box::new(loss)));
        self
    }

    /// With the term `NAME/TAP/KIND` at every level; the loss gives a scalar.
    pub(super) fn kind(
        mut self,
        kind: &'static str,
        weight: impl Into<f64>,
        loss: impl Fn(&Level<'_>) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.terms.push((Some(kind), weight.into(), Box::new(loss)));
        self
    }

    /// With the mean cosine of teacher and student at a level, in the teacher's space.
    pub(super) fn likened(
        mut self,
        cosine: impl Fn(&Level<'_>) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.cosine = Some(Box::new(cosine));
        self
    }

    /// With what `builder` made, to be trained along with the student.
    pub(super) fn training(mut self, builder: Builder) -> Self {
        self.params = Some(builder.finish());
        self
    }

    /// Calls `work` at every level.
    fn each(
        &self,
        lesson: &Lesson<'_>,
        mut work: impl FnMut(&Level<'_>) -> Result<(), DistillError>,
    ) -> Result<(), DistillError> {
        for &tap in &self.at {
            let (teacher, student) = match self.of_stored {
                true => (
                    stored_teacher_at(tap, lesson)?.tensor().clone(),
                    stored_student_at(tap, lesson)?.clone(),
                ),
                false => at_tap(tap, lesson)?,
            };
            let mut level = || {
                let student = match &self.bring {
                    None => student.clone(),
                    Some(bring) => bring(tap, &teacher, &student)?,
                };
                work(&Level { tap, teacher: &teacher, student: &student, lesson })
            };
            level().map_err(|error| error.at(tap))?;
        }
        Ok(())
    }
}

impl Distiller for OnMaps {
    fn name(&self) -> &str {
        self.name
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let mut terms = Vec::new();
        self.each(lesson, |level| {
            for (kind, weight, loss) in &self.terms {
                let name = match kind {
                    Some(kind) => format!("{}/{}/{kind}", self.name, level.tap),
                    None => format!("{}/{}", self.name, level.tap),
                };
                terms.push(Term { name, value: loss(level)?, weight: *weight });
            }
            Ok(())
        })?;
        Ok(terms)
    }

    fn cosine(&self, lesson: &Lesson<'_>) -> Result<Option<f64>, DistillError> {
        let Some(cosine) = &self.cosine else { return Ok(None) };
        let mut sum = 0.0;
        self.each(lesson, |level| {
            sum += f64::from(cosine(level)?.item()?);
            Ok(())
        })?;
        Ok(Some(sum / self.at.len().max(1) as f64))
    }

    fn params(&self) -> Option<&ParamStore> {
        self.params.as_ref()
    }
}
