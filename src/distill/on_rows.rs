//! The distiller of a method that is a formula over rows: one tap, and one term or a term of each kind.

use candle_core::Tensor;
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap};
use super::parts::NegativesFrom;
use super::place::Rows;
use super::prepared::Prepared;

type Loss = Box<dyn Fn(&Tensor, &Value, &Lesson<'_>) -> Result<Value, DistillError>>;

/// Terms over the rows at one tap.
pub(super) struct OnRows {
    name: &'static str,
    at: Tap,
    terms: Vec<(String, f64, Loss)>,
    from: NegativesFrom,
    prepared: Option<Prepared>,
}

impl OnRows {
    /// The method called `name` at the tap of `rows`, without terms yet.
    pub(super) fn new(name: &'static str, rows: &Rows) -> Self {
        Self { name, at: rows.at.tap(), terms: Vec::new(), from: NegativesFrom::Part, prepared: None }
    }

    /// Over the rows of the part at hand, or of all parts of the update.
    pub(super) fn over(mut self, from: NegativesFrom) -> Self {
        self.from = from;
        self
    }

    /// With the rows of both sides prepared first, if there is a way to.
    pub(super) fn prepared(mut self, prepared: Option<Prepared>) -> Self {
        self.prepared = prepared;
        self
    }

    /// With the one term `NAME/TAP`. The loss takes the rows of teacher and student, (B, C) each, and gives a
    /// scalar.
    pub(super) fn term(
        mut self,
        weight: f64,
        loss: impl Fn(&Tensor, &Value, &Lesson<'_>) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        self.terms.push((format!("{}/{}", self.name, self.at), weight, Box::new(loss)));
        self
    }

    /// With the term `NAME/TAP/KIND`, unless its weight is 0; the loss as in [`term`](Self::term).
    pub(super) fn kind(
        mut self,
        kind: &str,
        weight: f64,
        loss: impl Fn(&Tensor, &Value, &Lesson<'_>) -> Result<Value, DistillError> + 'static,
    ) -> Self {
        if weight != 0.0 {
            self.terms.push((format!("{}/{}/{kind}", self.name, self.at), weight, Box::new(loss)));
        }
        self
    }
}

impl Distiller for OnRows {
    fn name(&self) -> &str {
        self.name
    }

    fn taps(&self) -> Vec<Tap> {
        vec![self.at]
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let (teacher, student) = at_tap(self.at, lesson)?;
        let (teacher, student) = match self.from {
            NegativesFrom::Part => (teacher, student),
            NegativesFrom::Update => {
                let teacher = lesson.rows_of_update("teacher", &Value::constant(teacher))?;
                (teacher.tensor().clone(), lesson.rows_of_update("student", &student)?)
            }
        };
        let (teacher, student) = match self.prepared {
            None => (teacher, student),
            Some(prepared) => {
                let of = |rows: &Value| prepared.of(self.name, rows).map_err(|error| error.at(self.at));
                (of(&Value::constant(teacher))?.tensor().clone(), of(&student)?)
            }
        };
        let term = |(name, weight, loss): &(String, f64, Loss)| {
            let value = loss(&teacher, &student, lesson).map_err(|error| error.at(self.at))?;
            Ok(Term { name: name.clone(), value, weight: *weight })
        };
        self.terms.iter().map(term).collect()
    }

    fn looks_at_all_parts(&self) -> bool {
        self.from == NegativesFrom::Update
    }
}
