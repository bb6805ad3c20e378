//! One batch of a detector: the teacher looks, the student learns.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use ckd_detectors::Detector;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::Mode;
use ckd_detectors::regions::Regions;
use ckd_detectors::taps::{Tap, Taps};
use ckd_kernels::Value;
use ckd_kernels::elementwise::rows;
use ckd_kernels::ranking::{best, row_maxima};
use ckd_kernels::trace::spanned;
use rand::RngCore;

use super::box_rows::DeltaRows;
use super::heads::BothHeads;
use super::shares::{DETECTION, Ledger};
use crate::distill::{Heads, Lesson, Parts, Predictions};
use crate::engine::Result;
use crate::engine::distillation::Distillation;
use crate::engine::pass::{GradientSink, Pass, timed, walk_back};

/// The images of a batch as each network sees them: the same places, resampled by the same rule or not.
#[derive(Debug, Clone, Copy)]
pub struct Views<'a> {
    /// The student's.
    pub student: &'a Images,
    /// The teacher's.
    pub teacher: &'a Images,
}

/// Place of a pass in its run.
pub struct Moment<'a> {
    /// Updates before it.
    pub step: u64,
    /// Random numbers of the batch.
    pub random: &'a mut dyn RngCore,
    /// The other parts of the update, where a method looks at them.
    pub parts: Option<&'a dyn Parts>,
    /// Notes whose gradients come back, in a pass that is made to learn that.
    pub ledger: Option<&'a Ledger>,
}

/// Runs teacher and student on one batch and gives the gradients to `gradients`.
pub fn training_pass(
    student: &Detector,
    distillation: Option<&Distillation<Detector>>,
    Views { student: images, teacher: teacher_images }: Views,
    targets: &[Target],
    Moment { step, random, parts, ledger }: Moment<'_>,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let for_rows_alone = parts.is_some_and(Parts::is_for_rows_alone);
    let started = Instant::now();
    let mut teaching = Duration::ZERO;
    let distillation = distillation.filter(|distillation| distillation.is_active(step));
    // The teacher goes first: its activations are gone before the student's are kept.
    let device = images.pixels.device();
    let teacher_pyramid = timed(&mut teaching, || {
        let look = |d: &Distillation<Detector>| d.teacher().pyramid(teacher_images, Mode::Inference);
        spanned("teacher's pyramid", device, || distillation.map(look).transpose())
    })?;
    // A one-stage teacher's logits need no regions: their maps are gone by then, too.
    let dense_logits = match (distillation, &teacher_pyramid) {
        (Some(distillation), Some(pyramid))
            if wants_logits(distillation, Tap::AnchorLogits, Tap::AnchorBoxes) =>
        {
            let look = || distillation.teacher().dense_logits(pyramid);
            timed(&mut teaching, || spanned("teacher's logits", device, look))?
        }
        _ => None,
    };
    let pyramid = spanned("student's pyramid", device, || student.pyramid(images, Mode::Train))?;
    let watched = |name: &str| -> Vec<Value> {
        match ledger {
            Some(ledger) => pyramid.iter().map(|level| ledger.watch(level, name)).collect(),
            None => pyramid.clone(),
        }
    };
    let (losses, regions) = spanned("student's heads and losses", device, || {
        student.train(images, &watched(DETECTION), targets, random)
    })?;
    let mut terms: Vec<(String, Value, f64)> =
        losses.into_iter().map(|(name, value)| (name.to_owned(), value, 1.0)).collect();
    if let (Some(distillation), Some(teacher_pyramid)) = (distillation, &teacher_pyramid) {
        let teacher_logits = match dense_logits {
            None if wants_logits(distillation, regions.tap(), regions.box_tap()) => {
                let look = || distillation.teacher().logits_at(teacher_pyramid, &regions);
                Some(timed(&mut teaching, || spanned("teacher's logits", device, look))?)
            }
            known => known,
        };
        let compared = Compared::new(distillation, &regions, teacher_logits.as_ref())?;
        let teacher_deltas = timed(&mut teaching, || {
            let look = || distillation.teacher().deltas_at(teacher_pyramid, &regions);
            compared.deltas.is_some().then(look).transpose()
        })?;
        let theirs = (teacher_logits.as_ref(), teacher_deltas.as_ref());
        let teacher = compared.taps(distillation.teacher(), teacher_pyramid, theirs)?;
        let own_logits = teacher_logits.is_some().then(|| regions.logits());
        let own_deltas = &regions.regression().deltas;
        let shared = compared.taps(student, &pyramid, (own_logits, Some(own_deltas)))?;
        let both = match (&teacher_logits, &teacher_deltas) {
            (Some(logits), Some(deltas)) => Some(BothHeads {
                student,
                teacher: distillation.teacher(),
                pyramid: &pyramid,
                teacher_pyramid,
                regions: &regions,
                predicted: Predictions { logits: logits.clone(), deltas: deltas.clone() },
                ledger,
            }),
            _ => None,
        };
        let boxes: Vec<Vec<Xyxy>> = targets.iter().map(|target| target.boxes.clone()).collect();
        let lesson = Lesson {
            labels: regions.labels(),
            boxes: &boxes,
            heads: both.as_ref().map(|both| both as &dyn Heads),
            regression: compared.deltas.as_ref().map(|deltas| &deltas.truth),
            image_size: images.padded_size()?,
            seed: random.next_u64(),
            parts,
            ..Lesson::new(&teacher, &shared)
        };
        terms.extend(distillation.terms(&lesson, step, |method| {
            if ledger.is_none() {
                return Ok(None);
            }
            let pyramid = watched(method.label());
            let wants_logits = method.wants(regions.tap());
            let logits = wants_logits.then(|| student.logits_at(&pyramid, &regions)).transpose()?;
            let wants_deltas = method.wants(regions.box_tap());
            let deltas = wants_deltas.then(|| student.deltas_at(&pyramid, &regions)).transpose()?;
            compared.taps(student, &pyramid, (logits.as_ref(), deltas.as_ref())).map(Some)
        })?);
        if for_rows_alone {
            return Ok(Pass::for_rows_alone());
        }
        distillation.after_step(&lesson, step)?;
    }
    drop((teacher_pyramid, regions));
    drop(pyramid);
    spanned("gradients", device, || walk_back(terms, step, started, teaching, gradients))
}

/// Whether a method compares a level of the pyramid.
fn wants_pyramid(distillation: &Distillation<Detector>) -> bool {
    distillation.teacher().levels().iter().any(|&level| distillation.wants(Tap::Fpn(level)))
}

/// Whether a method compares the logits of regions, or their deltas, which are told by the logits: a proposal's class, the
/// anchors worth comparing, the teacher's confidence.
fn wants_logits(distillation: &Distillation<Detector>, logits: Tap, deltas: Tap) -> bool {
    distillation.wants(logits) || distillation.wants(deltas)
}

/// Parts of the networks that the methods compare: the pyramid or not, and rows of the logits.
struct Compared {
    pyramid: bool,
    tap: Tap,
    /// Anchors worth comparing; `None`: all rows.
    chosen: Option<Vec<u32>>,
    /// Where the deltas are.
    box_tap: Tap,
    /// Rows of the deltas, if a method compares them.
    deltas: Option<DeltaRows>,
}

impl Compared {
    fn new(
        distillation: &Distillation<Detector>,
        regions: &Regions,
        teacher_logits: Option<&Value>,
    ) -> Result<Self> {
        let chosen = match (regions, teacher_logits) {
            (Regions::Anchors { positives, .. }, Some(logits)) => {
                let per_image = distillation.anchors_per_image().unwrap_or(0);
                Some(telling_anchors(logits, positives, per_image)?)
            }
            _ => None,
        };
        let deltas = match teacher_logits.filter(|_| distillation.wants(regions.box_tap())) {
            Some(logits) => Some(DeltaRows::of(regions, logits, chosen.as_deref())?),
            None => None,
        };
        let (tap, box_tap) = (regions.tap(), regions.box_tap());
        Ok(Self { pyramid: wants_pyramid(distillation), tap, chosen, box_tap, deltas })
    }

    /// Taps of `network` for the methods: its levels, and logits and deltas of the regions.
    fn taps(
        &self,
        network: &Detector,
        pyramid: &[Value],
        (logits, deltas): (Option<&Value>, Option<&Value>),
    ) -> Result<Taps> {
        let levels = if self.pyramid { network.levels() } else { &[] };
        let mut taps: Taps =
            levels.iter().zip(pyramid).map(|(&level, map)| (Tap::Fpn(level), map.clone())).collect();
        if let Some(logits) = logits {
            let logits = match &self.chosen {
                Some(chosen) => rows(logits, chosen)?,
                None => logits.clone(),
            };
            taps.insert(self.tap, logits);
        }
        if let (Some(rows), Some(deltas)) = (&self.deltas, deltas) {
            taps.insert(self.box_tap, rows.take(deltas)?);
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
    let best_of = |scores: &Tensor, segments: &[Range<usize>], most| {
        best(scores, scores, segments, most, f32::NEG_INFINITY)
    };
    let scores = row_maxima(logits.tensor())?;
    let anchors = scores.elem_count() / positives.len().max(1);
    let images: Vec<_> = (0..positives.len()).map(|image| image * anchors..(image + 1) * anchors).collect();
    // Enough of them where all positives are among the best.
    let most =
        per_image + positives.iter().map(Vec::len).filter(|&count| count <= per_image).max().unwrap_or(0);
    let ranked = best_of(&scores, &images, most)?;
    let mut chosen = Vec::with_capacity(per_image * positives.len());
    for ((positives, ranked), image) in positives.iter().zip(ranked).zip(images) {
        let mut kept = positives.clone();
        if kept.len() > per_image {
            let own = rows(&Value::constant(scores.clone()), positives)?;
            let whole = 0..positives.len();
            let places =
                best_of(own.tensor(), std::slice::from_ref(&whole), per_image)?.swap_remove(0).places;
            kept = places.into_iter().map(|place| positives[place as usize]).collect();
        } else {
            let others = ranked.places.iter().map(|place| image.start as u32 + place);
            let others = others.filter(|row| positives.binary_search(row).is_err());
            kept.extend(others.take(per_image - positives.len()));
        }
        kept.sort_unstable();
        chosen.extend(kept);
    }
    Ok(chosen)
}
