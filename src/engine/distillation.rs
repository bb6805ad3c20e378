//! A teacher and the methods by which a student learns from it, whatever the networks are.

use ckd_detectors::param::ParamStore;
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::Value;

use super::{Result, balance};
use crate::distill::{Distill, Distiller, Lesson, MethodSetting, Term, Timing};
use crate::report::shares::Shares;

/// Anchors of an image that a caller's own method compares: the default of `anchors_per_image`.
const ANCHORS_PER_IMAGE: usize = 512;

/// A teacher and what is learned from it.
pub struct Distillation<M> {
    teacher: M,
    methods: Vec<Method>,
}

/// Distillation method of a run.
pub(super) struct Method {
    /// Label in the report of shares.
    label: String,
    /// Keys of its weights in the configuration, with their values; none of a caller's own method.
    weights: Vec<(String, f32)>,
    distiller: Box<dyn Distiller>,
    timing: Timing,
    anchors_per_image: Option<usize>,
}

impl<M> Distillation<M> {
    /// The methods of `entries` that are on and the caller's `own`, taught by `teacher`; `None` if there are none.
    ///
    /// # Errors
    /// A method that needs what `setting` does not have.
    pub fn new(
        entries: &[Distill],
        own: Vec<Box<dyn Distiller>>,
        teacher: M,
        setting: &MethodSetting<'_>,
    ) -> Result<Option<Self>> {
        let on = entries.iter().enumerate().filter(|(_, entry)| !entry.is_off());
        let mut methods: Vec<Method> =
            on.map(|(index, entry)| Method::new(index, entry, setting)).collect::<Result<_>>()?;
        methods.extend(own.into_iter().map(Method::own));
        Ok((!methods.is_empty()).then_some(Self { teacher, methods }))
    }

    /// The network that is learned from.
    pub fn teacher(&self) -> &M {
        &self.teacher
    }

    /// Parameters and memory banks of the methods, trained along with the student.
    pub fn params(&self) -> impl Iterator<Item = &ParamStore> {
        self.methods.iter().filter_map(|method| method.distiller.params())
    }

    /// Whether a method counts at `step`.
    pub(super) fn is_active(&self, step: u64) -> bool {
        self.methods.iter().any(|method| method.timing.factor(step) > 0.0)
    }

    /// Whether a method that counts at `step` looks at rows of all parts of the update.
    pub(super) fn looks_at_all_parts(&self, step: u64) -> bool {
        let mut methods = self.methods.iter().filter(|method| method.timing.factor(step) > 0.0);
        methods.any(|method| method.distiller.looks_at_all_parts())
    }

    /// The methods that count at `step`: label in the report of shares, and the part of the weight that counts then.
    pub(super) fn counting(&self, step: u64) -> impl Iterator<Item = (&str, f64)> {
        let all = self.methods.iter().map(move |method| (method.label.as_str(), method.timing.factor(step)));
        all.filter(|(_, factor)| *factor > 0.0)
    }

    /// The terms of the method called `label`, as in [`terms`](Self::terms).
    pub(super) fn terms_of(
        &self,
        label: &str,
        lesson: &Lesson<'_>,
        step: u64,
    ) -> Result<Vec<(String, Value, f64)>> {
        let Some(method) = self.methods.iter().find(|method| method.label == label) else {
            return Ok(Vec::new());
        };
        let factor = method.timing.factor(step);
        let found = method.distiller.terms(&Lesson { entry: &method.label, ..*lesson })?;
        Ok(found.into_iter().map(|Term { name, value, weight }| (name, value, weight * factor)).collect())
    }

    /// The terms of all methods that count at `step`: name, scalar and weight. `student` gives what a method sees of the
    /// student, if that is not the lesson's.
    pub(super) fn terms(
        &self,
        lesson: &Lesson<'_>,
        step: u64,
        student: impl Fn(&Method) -> Result<Option<Taps>>,
    ) -> Result<Vec<(String, Value, f64)>> {
        let mut terms = Vec::new();
        for method in &self.methods {
            let factor = method.timing.factor(step);
            if factor == 0.0 {
                continue;
            }
            let found = match student(method)? {
                Some(own) => {
                    method.distiller.terms(&Lesson { student: &own, entry: &method.label, ..*lesson })?
                }
                None => method.distiller.terms(&Lesson { entry: &method.label, ..*lesson })?,
            };
            terms
                .extend(found.into_iter().map(|Term { name, value, weight }| (name, value, weight * factor)));
        }
        Ok(terms)
    }

    /// Lets the methods that count at `step` remember what their terms saw. Called once a pass.
    pub(super) fn after_step(&self, lesson: &Lesson<'_>, step: u64) -> Result<()> {
        for method in self.methods.iter().filter(|method| method.timing.factor(step) > 0.0) {
            method.distiller.after_step(lesson)?;
        }
        Ok(())
    }

    /// A warning for each method whose part of the gradient, of those measured, is far from the task's; where the task has no
    /// losses of its own, from the first method's.
    pub(super) fn unbalanced(&self, shares: &Shares) -> Vec<String> {
        let norms = &shares.gradient_norms;
        let is_method = |name: &&String| self.methods.iter().any(|method| method.label == **name);
        let task = norms.iter().find(|(name, _)| !is_method(name));
        let task = task.map(|(name, length)| (format!("the {name} losses"), *length));
        let first = || {
            let mut methods = self.methods.iter();
            methods.find_map(|method| Some((method.label.clone(), *norms.get(&method.label)?)))
        };
        let Some((beside, own)) = task.or_else(first) else { return Vec::new() };
        let of = |method: &Method| {
            balance::warning(&method.label, &method.weights, *norms.get(&method.label)?, (&beside, own))
        };
        self.methods.iter().filter_map(of).collect()
    }

    /// The mean cosine of the teacher's vectors with the student's over the methods that project these; `None` if none does.
    pub(super) fn cosine(&self, lesson: &Lesson<'_>) -> Result<Option<f64>> {
        let mut cosines = Vec::new();
        for method in &self.methods {
            cosines.extend(method.distiller.cosine(lesson)?);
        }
        let count = cosines.len();
        Ok((count > 0).then(|| cosines.into_iter().sum::<f64>() / count as f64))
    }

    /// Whether a method compares what is at `tap`.
    pub(super) fn wants(&self, tap: Tap) -> bool {
        self.methods.iter().any(|method| method.wants(tap))
    }

    /// Whether a method compares the teacher's pre-activations.
    pub(super) fn wants_preactivations(&self) -> bool {
        let is_one = |tap: &Tap| matches!(tap, Tap::PreActivation(_));
        self.methods.iter().any(|method| method.distiller.taps().iter().any(is_one))
    }

    /// The most anchors that a method compares per image; `None` if none compares anchors.
    pub(super) fn anchors_per_image(&self) -> Option<usize> {
        self.methods.iter().filter_map(|method| method.anchors_per_image).max()
    }
}

impl Method {
    fn new(index: usize, entry: &Distill, setting: &MethodSetting<'_>) -> Result<Self> {
        let key = |(key, weight)| (format!("distill.{index}.{key}"), weight);
        Ok(Self {
            label: format!("{} (distill.{index})", entry.word()),
            weights: entry.weights().into_iter().map(key).collect(),
            distiller: entry.distiller(index, setting)?,
            timing: entry.timing().clone(),
            anchors_per_image: entry.anchors_per_image(),
        })
    }

    /// A method that no configuration names; it counts at every step.
    fn own(distiller: Box<dyn Distiller>) -> Self {
        let taps = distiller.taps();
        let anchors = taps.contains(&Tap::AnchorLogits) || taps.contains(&Tap::AnchorBoxes);
        Self {
            label: distiller.name().to_owned(),
            weights: Vec::new(),
            timing: Timing::default(),
            anchors_per_image: anchors.then_some(ANCHORS_PER_IMAGE),
            distiller,
        }
    }

    /// Label in the report of shares.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Whether it compares what is at `tap`.
    pub(super) fn wants(&self, tap: Tap) -> bool {
        self.distiller.taps().contains(&tap)
    }
}
