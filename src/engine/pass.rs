//! One batch: the teacher looks, the student learns.

use std::time::{Duration, Instant};

use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::Mode;
use ckd_detectors::taps::{Tap, Taps, UnknownName};
use ckd_detectors::{Detector, Losses};
use ckd_kernels::elementwise::{rows, weighted_sum};
use ckd_kernels::{Gradients, Value};
use rand::Rng;

use super::{EngineError, Result};
use crate::config::{self, CkdAt};
use crate::distill::{Ckd, Distiller, Kernel, Negatives, Rcka, RowNorm, Term};

/// A teacher and what is learned from it.
pub struct Distillation<M = Detector> {
    teacher: M,
    methods: Vec<Method>,
}

struct Method {
    distiller: Box<dyn Distiller>,
    warmup_steps: u64,
    anchors_per_image: Option<usize>,
}

impl<M> Distillation<M> {
    /// The methods of `entries` that are on, taught by `teacher`; `None` if all of them are off.
    pub fn new(entries: &[config::Distill], teacher: M) -> Result<Option<Self>> {
        let methods: Vec<Method> =
            entries.iter().filter(|entry| !entry.is_off()).map(Method::new).collect::<Result<_>>()?;
        Ok((!methods.is_empty()).then_some(Self { teacher, methods }))
    }

    /// The network that is learned from.
    pub fn teacher(&self) -> &M {
        &self.teacher
    }

    /// The terms of all methods at `step`: name, scalar and weight.
    pub(super) fn terms(
        &self,
        teacher: &Taps,
        student: &Taps,
        step: u64,
    ) -> Result<Vec<(String, Value, f64)>> {
        let mut terms = Vec::new();
        for method in &self.methods {
            let warm = match step < method.warmup_steps {
                true => (step + 1) as f64 / (method.warmup_steps + 1) as f64,
                false => 1.0,
            };
            let found = method.distiller.terms(teacher, student)?;
            terms.extend(found.into_iter().map(|Term { name, value, weight }| (name, value, weight * warm)));
        }
        Ok(terms)
    }

    fn wants(&self, tap: Tap) -> bool {
        self.methods.iter().any(|method| method.distiller.taps().contains(&tap))
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
        Ok(match (&self.teacher, regions) {
            (Detector::FasterRcnn(teacher), Regions::Rois { samples, .. }) if self.wants(Tap::RoiLogits) => {
                Some(teacher.roi_logits(pyramid, &samples.boxes)?)
            }
            (Detector::RetinaNet(teacher), Regions::Anchors { .. }) if self.anchors_per_image().is_some() => {
                Some(teacher.anchor_logits(pyramid)?)
            }
            _ => None,
        })
    }
}

impl Method {
    fn new(entry: &config::Distill) -> Result<Self> {
        Ok(match entry {
            config::Distill::Ckd(ckd) => Self {
                distiller: Box::new(Ckd {
                    at: match ckd.at {
                        CkdAt::RoiLogits => Tap::RoiLogits,
                        CkdAt::AnchorLogits => Tap::AnchorLogits,
                        CkdAt::Logits => Tap::Logits,
                    },
                    weight: f64::from(ckd.weight),
                    temperature: f64::from(ckd.temperature),
                    negatives: match ckd.negatives {
                        config::Negatives::Cross => Negatives::Cross,
                        config::Negatives::Student => Negatives::Student,
                    },
                }),
                warmup_steps: ckd.warmup_steps,
                anchors_per_image: (ckd.at == CkdAt::AnchorLogits).then_some(ckd.anchors_per_image),
            },
            config::Distill::Rcka(rcka) => Self {
                distiller: Box::new(Rcka {
                    levels: rcka
                        .levels
                        .iter()
                        .map(|level| level.parse())
                        .collect::<std::result::Result<_, UnknownName>>()?,
                    weight: f64::from(rcka.weight),
                    weight_inter: f64::from(rcka.weight_inter),
                    patch: rcka.patch,
                    kernel: Kernel {
                        center: rcka.center,
                        row_norm: if rcka.row_norm { RowNorm::Rows } else { RowNorm::Off },
                    },
                }),
                warmup_steps: rcka.warmup_steps,
                anchors_per_image: None,
            },
        })
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

/// Runs teacher and student on one batch at `step` and computes the gradients.
pub fn training_pass(
    student: &Detector,
    distillation: Option<&Distillation>,
    images: &Images,
    targets: &[Target],
    step: u64,
    random: &mut impl Rng,
) -> Result<Pass> {
    let started = Instant::now();
    let mut teaching = Duration::ZERO;
    // The teacher goes first: its activations are gone before the student's are kept.
    let teacher_pyramid = timed(&mut teaching, || {
        distillation.map(|d| d.teacher.pyramid(images, Mode::Inference)).transpose()
    })?;
    let pyramid = student.pyramid(images, Mode::Train)?;
    let (losses, regions) = regions(student, images, &pyramid, targets, random)?;
    let mut terms: Vec<(String, Value, f64)> =
        losses.into_iter().map(|(name, value)| (name.to_owned(), value, 1.0)).collect();
    if let (Some(distillation), Some(teacher_pyramid)) = (distillation, &teacher_pyramid) {
        let teacher_logits = timed(&mut teaching, || distillation.teacher_logits(teacher_pyramid, &regions))?;
        let (teacher, student) =
            paired_taps(distillation, teacher_pyramid, teacher_logits, &pyramid, &regions)?;
        terms.extend(distillation.terms(&teacher, &student, step)?);
    }
    drop((teacher_pyramid, pyramid, regions));
    walk_back(terms, step, started, teaching)
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
    Ok(Pass { terms, gradients, times })
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

/// The regions that the student's classification was judged on, and its logits there.
enum Regions {
    Rois { samples: ckd_detectors::roi_heads::RoiSamples, logits: Value },
    Anchors { logits: Value, positives: Vec<Vec<u32>> },
}

fn regions(
    student: &Detector,
    images: &Images,
    pyramid: &[Value],
    targets: &[Target],
    random: &mut impl Rng,
) -> Result<(Losses, Regions)> {
    Ok(match student {
        Detector::FasterRcnn(student) => {
            let pass = student.train(images, pyramid, targets, random)?;
            (pass.losses, Regions::Rois { samples: pass.samples, logits: pass.logits })
        }
        Detector::RetinaNet(student) => {
            let pass = student.train(images, pyramid, targets)?;
            (pass.losses, Regions::Anchors { logits: pass.logits, positives: pass.positives })
        }
    })
}

/// What both networks offer to the methods: the same levels, and logits of the same regions.
fn paired_taps(
    distillation: &Distillation,
    teacher_pyramid: &[Value],
    teacher_logits: Option<Value>,
    pyramid: &[Value],
    regions: &Regions,
) -> Result<(Taps, Taps)> {
    let (mut teacher_taps, mut student_taps) = (Taps::default(), Taps::default());
    if distillation.wants_pyramid() {
        let levels = distillation.teacher.levels();
        for (level, (theirs, ours)) in levels.iter().zip(teacher_pyramid.iter().zip(pyramid)) {
            teacher_taps.insert(Tap::Fpn(*level), theirs.clone());
            student_taps.insert(Tap::Fpn(*level), ours.clone());
        }
    }
    match (teacher_logits, regions) {
        (Some(theirs), Regions::Rois { logits, .. }) => {
            teacher_taps.insert(Tap::RoiLogits, theirs);
            student_taps.insert(Tap::RoiLogits, logits.clone());
        }
        (Some(theirs), Regions::Anchors { logits, positives }) => {
            let per_image = distillation.anchors_per_image().unwrap_or(0);
            let chosen = telling_anchors(&theirs, positives, per_image)?;
            teacher_taps.insert(Tap::AnchorLogits, rows(&theirs, &chosen)?);
            student_taps.insert(Tap::AnchorLogits, rows(logits, &chosen)?);
        }
        (None, _) => {}
    }
    Ok((teacher_taps, student_taps))
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
