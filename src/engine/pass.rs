//! One batch: the teacher looks, the student learns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ckd_detectors::Detector;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::Mode;
use ckd_detectors::param::ParamStore;
use ckd_detectors::regions::Regions;
use ckd_detectors::taps::{Level, Tap, Taps};
use ckd_kernels::elementwise::{rows, weighted_sum};
use ckd_kernels::{Gradients, Value};
use rand::RngCore;

use super::distillers::{MethodSetting, distiller};
use super::shares::{DETECTION, Ledger};
use super::{EngineError, Result};
use crate::config::{Distill, Place, RowsAt, Timing};
use crate::distill::{Distiller, Lesson, Term};

/// A teacher and what is learned from it.
pub struct Distillation<M = Detector> {
    teacher: M,
    methods: Vec<Method>,
    share_steps: u64,
}

/// One of its methods.
pub(super) struct Method {
    /// What the report of shares calls it.
    label: String,
    distiller: Box<dyn Distiller>,
    timing: Timing,
    anchors_per_image: Option<usize>,
}

impl<M> Distillation<M> {
    /// The methods of `entries` that are on, taught by `teacher`; `None` if all of them are off.
    ///
    /// # Errors
    /// A method that needs what `setting` does not have.
    pub fn new(entries: &[Distill], teacher: M, setting: &MethodSetting<'_>) -> Result<Option<Self>> {
        let on = entries.iter().enumerate().filter(|(_, entry)| !entry.is_off());
        let methods: Vec<Method> =
            on.map(|(index, entry)| Method::new(index, entry, setting)).collect::<Result<_>>()?;
        let share_steps = setting.share_steps;
        Ok((!methods.is_empty()).then_some(Self { teacher, methods, share_steps }))
    }

    /// The network that is learned from.
    pub fn teacher(&self) -> &M {
        &self.teacher
    }

    /// What the methods train along with the student, and remember.
    pub fn params(&self) -> impl Iterator<Item = &ParamStore> {
        self.methods.iter().filter_map(|method| method.distiller.params())
    }

    /// Whether a method counts at `step`.
    pub(super) fn is_active(&self, step: u64) -> bool {
        self.methods.iter().any(|method| method.timing.factor(step) > 0.0)
    }

    /// Notes whose gradient is whose at `step`, if it is measured.
    fn ledger(&self, step: u64) -> Option<Ledger> {
        self.is_measured(step).then(Ledger::default)
    }

    /// Whether `step` is measured.
    pub(super) fn is_measured(&self, step: u64) -> bool {
        step < self.share_steps
    }

    /// What the report of shares calls the methods that count at `step`.
    pub(super) fn labels(&self, step: u64) -> impl Iterator<Item = &str> {
        let counting = self.methods.iter().filter(move |method| method.timing.factor(step) > 0.0);
        counting.map(|method| method.label.as_str())
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
        let found = method.distiller.terms(lesson)?;
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
                Some(own) => method.distiller.terms(&Lesson { student: &own, ..*lesson })?,
                None => method.distiller.terms(lesson)?,
            };
            terms
                .extend(found.into_iter().map(|Term { name, value, weight }| (name, value, weight * factor)));
        }
        Ok(terms)
    }

    fn wants(&self, tap: Tap) -> bool {
        self.methods.iter().any(|method| method.wants(tap))
    }
}

impl Distillation {
    fn wants_pyramid(&self) -> bool {
        self.teacher.levels().iter().any(|&level| self.wants(Tap::Fpn(level)))
    }

    fn anchors_per_image(&self) -> Option<usize> {
        self.methods.iter().filter_map(|method| method.anchors_per_image).max()
    }

    /// The teacher's logits of the student's regions (of all anchors), if a method compares them.
    fn teacher_logits(&self, pyramid: &[Value], regions: &Regions) -> Result<Option<Value>> {
        match self.wants(regions.tap()) {
            true => Ok(Some(self.teacher.logits_at(pyramid, regions)?)),
            false => Ok(None),
        }
    }
}

impl Method {
    fn new(index: usize, entry: &Distill, setting: &MethodSetting<'_>) -> Result<Self> {
        Ok(Self {
            label: format!("{} (distill.{index})", entry.method()),
            distiller: distiller(index, entry, setting)?,
            timing: entry.timing().clone(),
            anchors_per_image: match entry.place() {
                Place::Rows(rows) if rows.at == RowsAt::AnchorLogits => Some(rows.anchors_per_image),
                _ => None,
            },
        })
    }

    fn wants(&self, tap: Tap) -> bool {
        self.distiller.taps().contains(&tap)
    }
}

/// One loss term as it enters the sum.
#[derive(Debug, Clone, PartialEq)]
pub struct LossTerm {
    /// torchvision's name of a detection loss, or `METHOD/TAP`.
    pub name: String,
    /// Its value times its weight.
    pub weighted: f64,
}

/// What one batch gave.
#[derive(Debug)]
pub struct Pass {
    /// Every term of the loss.
    pub terms: Vec<LossTerm>,
    /// The gradient of their sum.
    pub gradients: Gradients,
    /// The length of the gradient at the student's pyramid by what it comes from, if the step is measured.
    pub shares: BTreeMap<String, f64>,
    /// How long it took.
    pub times: PartTimes,
}

/// How long the parts of a pass took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartTimes {
    /// The teacher: its pyramid, and its logits of the student's regions.
    pub teacher: Duration,
    /// The student's forward pass and all losses.
    pub student_forward: Duration,
    /// The gradients.
    pub backward: Duration,
}

/// The images of a batch as each network sees them: the same places, resampled by the same rule or not.
#[derive(Debug, Clone, Copy)]
pub struct Views<'a> {
    /// The student's.
    pub student: &'a Images,
    /// The teacher's.
    pub teacher: &'a Images,
}

/// Runs teacher and student on one batch at `step` and computes the gradients.
pub fn training_pass(
    student: &Detector,
    distillation: Option<&Distillation>,
    Views { student: images, teacher: teacher_images }: Views,
    targets: &[Target],
    step: u64,
    random: &mut dyn RngCore,
) -> Result<Pass> {
    let started = Instant::now();
    let mut teaching = Duration::ZERO;
    let distillation = distillation.filter(|distillation| distillation.is_active(step));
    let ledger = distillation.and_then(|distillation| distillation.ledger(step));
    // The teacher goes first: its activations are gone before the student's are kept.
    let teacher_pyramid = timed(&mut teaching, || {
        distillation.map(|d| d.teacher.pyramid(teacher_images, Mode::Inference)).transpose()
    })?;
    let pyramid = student.pyramid(images, Mode::Train)?;
    let watched = |name: &str| -> Vec<Value> {
        match &ledger {
            Some(ledger) => pyramid.iter().map(|level| ledger.watch(level, name)).collect(),
            None => pyramid.clone(),
        }
    };
    let (losses, regions) = student.train(images, &watched(DETECTION), targets, random)?;
    let mut terms: Vec<(String, Value, f64)> =
        losses.into_iter().map(|(name, value)| (name.to_owned(), value, 1.0)).collect();
    if let (Some(distillation), Some(teacher_pyramid)) = (distillation, &teacher_pyramid) {
        let teacher_logits = timed(&mut teaching, || distillation.teacher_logits(teacher_pyramid, &regions))?;
        let compared = Compared::new(distillation, &regions, teacher_logits.as_ref())?;
        let teacher = compared.taps(teacher_pyramid, teacher_logits.as_ref())?;
        let own_logits = teacher_logits.is_some().then(|| regions.logits());
        let shared = compared.taps(&pyramid, own_logits)?;
        let boxes: Vec<Vec<Xyxy>> = targets.iter().map(|target| target.boxes.clone()).collect();
        let lesson = Lesson {
            labels: regions.labels(),
            boxes: &boxes,
            image_size: images.padded_size()?,
            seed: random.next_u64(),
            ..Lesson::new(&teacher, &shared)
        };
        terms.extend(distillation.terms(&lesson, step, |method| {
            if ledger.is_none() {
                return Ok(None);
            }
            let pyramid = watched(&method.label);
            let wants_logits = method.wants(regions.tap());
            let logits = wants_logits.then(|| student.logits_at(&pyramid, &regions)).transpose()?;
            compared.taps(&pyramid, logits.as_ref()).map(Some)
        })?);
    }
    drop((teacher_pyramid, regions));
    drop(pyramid);
    let pass = walk_back(terms, step, started, teaching)?;
    Ok(Pass { shares: ledger.map(|ledger| ledger.norms()).unwrap_or_default(), ..pass })
}

/// The gradient of the weighted terms' sum, of a pass that was `started` then and spent `teaching` on the teacher.
pub(super) fn walk_back(
    terms: Vec<(String, Value, f64)>,
    step: u64,
    started: Instant,
    teaching: Duration,
) -> Result<Pass> {
    let total = weighted_sum(&terms.iter().map(|(_, value, weight)| (value, *weight)).collect::<Vec<_>>())?;
    let terms: Vec<LossTerm> = terms
        .into_iter()
        .map(|(name, value, weight)| Ok(LossTerm { name, weighted: f64::from(value.item()?) * weight }))
        .collect::<Result<_>>()?;
    check_finite(&terms, step)?;
    let forward = started.elapsed();
    let gradients = total.backward()?;
    let backward = started.elapsed() - forward;
    let times = PartTimes { teacher: teaching, student_forward: forward - teaching, backward };
    Ok(Pass { terms, gradients, shares: BTreeMap::new(), times })
}

/// Runs `work` and adds the time it took to `total`.
pub(super) fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total += started.elapsed();
    result
}

fn check_finite(terms: &[LossTerm], step: u64) -> Result<()> {
    match terms.iter().find(|term| !term.weighted.is_finite()) {
        Some(bad) => {
            Err(EngineError::non_finite(step, &format!("the loss {}", bad.name), bad.weighted, terms))
        }
        None => Ok(()),
    }
}

/// What is compared: levels, and which rows of the logits.
struct Compared {
    levels: Vec<Level>,
    tap: Tap,
    /// Anchors worth comparing; `None`: all rows.
    chosen: Option<Vec<u32>>,
}

impl Compared {
    fn new(distillation: &Distillation, regions: &Regions, teacher_logits: Option<&Value>) -> Result<Self> {
        let levels = match distillation.wants_pyramid() {
            true => distillation.teacher.levels().to_vec(),
            false => Vec::new(),
        };
        let chosen = match (regions, teacher_logits) {
            (Regions::Anchors { positives, .. }, Some(logits)) => {
                let per_image = distillation.anchors_per_image().unwrap_or(0);
                Some(telling_anchors(logits, positives, per_image)?)
            }
            _ => None,
        };
        Ok(Self { levels, tap: regions.tap(), chosen })
    }

    /// What a network offers to the methods: the levels, and logits of the regions.
    fn taps(&self, pyramid: &[Value], logits: Option<&Value>) -> Result<Taps> {
        let mut taps: Taps =
            self.levels.iter().zip(pyramid).map(|(&level, map)| (Tap::Fpn(level), map.clone())).collect();
        if let Some(logits) = logits {
            let logits = match &self.chosen {
                Some(chosen) => rows(logits, chosen)?,
                None => logits.clone(),
            };
            taps.insert(self.tap, logits);
        }
        Ok(taps)
    }
}

/// The anchors worth comparing, ascending: those that the matcher marked positive, then the teacher's
/// highest-scoring ones (equal scores: lower index first), `per_image` of each image.
///
/// # Shapes
/// `logits` (N·A, K); `positives` are rows of it, per image.
fn telling_anchors(logits: &Value, positives: &[Vec<u32>], per_image: usize) -> Result<Vec<u32>> {
    let (count, classes) = logits.tensor().dims2()?;
    let values = logits.tensor().flatten_all()?.to_vec1::<f32>()?;
    let anchors = count / positives.len().max(1);
    let scores: Vec<f32> = values
        .chunks_exact(classes.max(1))
        .map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max))
        .collect();
    let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    let mut chosen = Vec::with_capacity(per_image * positives.len());
    for (image, positives) in positives.iter().enumerate() {
        let first = (image * anchors) as u32;
        let mut kept: Vec<u32> = positives.clone();
        if kept.len() > per_image {
            kept.sort_by(by_score);
            kept.truncate(per_image);
        } else {
            let mut others: Vec<u32> =
                (first..first + anchors as u32).filter(|row| positives.binary_search(row).is_err()).collect();
            let wanted = (per_image - kept.len()).min(others.len());
            if wanted > 0 && wanted < others.len() {
                others.select_nth_unstable_by(wanted - 1, by_score);
            }
            kept.extend(&others[..wanted]);
        }
        kept.sort_unstable();
        chosen.extend(kept);
    }
    Ok(chosen)
}
