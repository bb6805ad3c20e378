//! The distiller of a method that is a formula over feature maps: one term, or a term of each kind, at every
//! level.

use candle_core::Tensor;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap};
use super::layers::Adapters;
use super::method::MethodSetting;
use super::place::Maps;

type Loss = Box<dyn Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError>>;

/// Terms over the maps of some levels, each on its own.
pub(super) struct OnMaps {
    name: &'static str,
    at: Vec<Tap>,
    terms: Vec<(Option<&'static str>, f64, Loss)>,
    params: Option<ParamStore>,
    cosine: Option<Loss>,
}

impl OnMaps {
    /// The method called `name` at the levels of `maps`, without terms yet.
    ///
    /// # Errors
    /// A level that is no tap.
    pub(super) fn new(name: &'static str, maps: &Maps) -> Result<Self, DistillError> {
        Ok(Self { name, at: maps.taps()?, terms: Vec::new(), params: None, cosine: None })
    }

    /// With the term `NAME/TAP` at every level. The loss takes the level's tap and the maps of teacher and
    /// student, (N, C, H, W) each, and gives a scalar.
    pub(super) fn term(
        mut self,
        weight: f64,
        loss: impl Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.terms.push((None, weight, Box::new(loss)));
        self
    }

    /// With the term `NAME/TAP` at every level, of the student's map through a 1x1 convolution that `builder` makes where
    /// widths differ.
    ///
    /// # Errors
    /// A tap without a known width.
    pub(super) fn adapted(
        self,
        weight: f64,
        setting: &MethodSetting<'_>,
        builder: Builder,
        loss: impl Fn(&Tensor, &Value) -> Result<Value, DistillError> + 'static,
    ) -> Result<Self, DistillError> {
        let (adapters, params) = Adapters::new(&self.at, &setting.widths, builder)?;
        let maps =
            self.term(weight, move |tap, teacher, student| loss(teacher, &adapters.forward(tap, student)?));
        Ok(maps.training(params))
    }

    /// With the term `NAME/TAP/KIND` at every level; the loss as in [`term`](Self::term).
    pub(super) fn kind(
        mut self,
        kind: &'static str,
        weight: f64,
        loss: impl Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.terms.push((Some(kind), weight, Box::new(loss)));
        self
    }

    /// With the mean cosine of teacher and student at a level, in the teacher's space.
    pub(super) fn likened(
        mut self,
        cosine: impl Fn(Tap, &Tensor, &Value) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.cosine = Some(Box::new(cosine));
        self
    }

    /// With what it trains along with the student.
    pub(super) fn training(mut self, params: Option<ParamStore>) -> Self {
        self.params = params;
        self
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
        for &tap in &self.at {
            let (teacher, student) = at_tap(tap, lesson)?;
            for (kind, weight, loss) in &self.terms {
                let value = loss(tap, teacher, student).map_err(|error| error.at(tap))?;
                let name = match kind {
                    Some(kind) => format!("{}/{tap}/{kind}", self.name),
                    None => format!("{}/{tap}", self.name),
                };
                terms.push(Term { name, value, weight: *weight });
            }
        }
        Ok(terms)
    }

    fn cosine(&self, lesson: &Lesson<'_>) -> Result<Option<f64>, DistillError> {
        let Some(cosine) = &self.cosine else { return Ok(None) };
        let mut sum = 0.0;
        for &tap in &self.at {
            let (teacher, student) = at_tap(tap, lesson)?;
            let value = || Ok(f64::from(cosine(tap, teacher, student)?.item()?));
            sum += value().map_err(|error: DistillError| error.at(tap))?;
        }
        Ok(Some(sum / self.at.len().max(1) as f64))
    }

    fn params(&self) -> Option<&ParamStore> {
        self.params.as_ref()
    }
}
