//! Fine-grained feature imitation (FGFI; Wang et al., CVPR 2019, arXiv 1906.03609): the student imitates the
//! teacher where anchors overlap objects.
//!
//! A cell counts if the IoU of one of its anchors with an object exceeds a share of the best that any anchor
//! has with this object; the loss is Σ over these cells of (adapt(s) - t)² / (2 · their number), adapt a
//! trained 3x3 convolution with ReLU. The authors compare one map; over several levels, the best anchor and
//! the number are those of all.

use candle_core::Tensor;
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::boxes::{Xyxy, iou};
use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::linear::Activation;
use ckd_kernels::maps::{Weights, squared_difference};
use ckd_kernels::memory::from_elements;
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::layers::convolved;
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::place::Maps;
use super::scalar::nothing;

const NAME: &str = "fgfi";

section! {
    /// Fine-grained feature imitation: squared differences where anchors overlap an object, the student's map
    /// through a trained 3x3 convolution and ReLU. The authors begin after 400 steps (`from_step`).
    pub struct Fgfi with place: Maps {
        /// Weight in the total loss.
        pub weight: f32 = 0.01,
        /// An anchor counts if its IoU with an object exceeds this share of the object's best.
        pub threshold: f32 = 0.5,
    }
}

impl Fgfi {
    fn check(&self, check: &mut Check<'_>) {
        check.fraction("threshold", self.threshold.into());
    }
}

impl Method for Fgfi {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Wang et al., CVPR 2019, arXiv 1906.03609";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let lacks = DistillError::Lacks { method: NAME, what: "anchors" };
        let anchors = setting.anchors.clone().ok_or(lacks)?;
        let at = self.place.taps()?;
        let adapter = |tap: &Tap| -> Result<Conv2d, DistillError> {
            let width = width_at(&setting.widths, *tap)?;
            let bias = Init::Uniform(1.0 / (9.0 * width.student.max(1) as f64).sqrt());
            let shape = (width.student, width.teacher, 3, 1);
            Ok(Conv2d::new(&builder.within(tap), shape, Init::TorchDefault, bias)?)
        };
        let adapters = at.iter().map(adapter).collect::<Result<_, _>>()?;
        let (weight, threshold) = (self.weight.into(), self.threshold);
        Ok(Box::new(Imitation { at, weight, threshold, anchors, adapters, params: builder.finish() }))
    }
}

/// FGFI on pyramid levels, with its trained convolutions.
#[derive(Debug)]
struct Imitation {
    at: Vec<Tap>,
    weight: f64,
    threshold: f32,
    anchors: AnchorGenerator,
    adapters: Vec<Conv2d>,
    params: ParamStore,
}

impl Imitation {
    /// Cells that count, of each level and all images.
    fn masks(&self, lesson: &Lesson<'_>) -> Result<Vec<Vec<bool>>, DistillError> {
        let pyramid: Vec<(Tap, (usize, usize))> = lesson
            .student
            .iter()
            .filter(|(tap, _)| matches!(tap, Tap::Fpn(_)))
            .map(|(tap, map)| Ok((tap, (map.tensor().dim(2)?, map.tensor().dim(3)?))))
            .collect::<Result<_, DistillError>>()?;
        let sizes: Vec<(usize, usize)> = pyramid.iter().map(|(_, size)| *size).collect();
        let anchors = self.anchors.generate(lesson.image_size, &sizes).map_err(ckd_detectors::Error::from)?;
        let per_cell = self.anchors.per_location();
        let mut levels = vec![(&[] as &[Xyxy], 1); self.at.len()];
        let mut first = 0;
        for ((tap, (h, w)), per_cell) in pyramid.iter().zip(per_cell) {
            let count = h * w * per_cell;
            if let Some(index) = self.at.iter().position(|at| at == tap) {
                levels[index] = (&anchors[first..first + count], per_cell);
            }
            first += count;
        }
        let mut masks = vec![Vec::new(); self.at.len()];
        for objects in lesson.boxes {
            for (all, mask) in masks.iter_mut().zip(imitation_mask(&levels, objects, self.threshold)) {
                all.extend(mask);
            }
        }
        Ok(masks)
    }
}

impl Distiller for Imitation {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let masks = self.masks(lesson)?;
        let count = masks.iter().flatten().filter(|&&on| on).count();
        let mut terms = Vec::new();
        for ((&tap, adapter), mask) in self.at.iter().zip(&self.adapters).zip(&masks) {
            let (teacher, student) = at_tap(tap, lesson)?;
            let value = convolved(adapter, &student, Activation::Relu)
                .and_then(|student| masked_imitation(&teacher, &student, mask, count))
                .map_err(|error| error.at(tap))?;
            terms.push(Term { name: format!("{NAME}/{tap}"), value, weight: self.weight });
        }
        Ok(terms)
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// The cells of each level (anchors cell by cell, and how many a cell has) whose anchors overlap one of
/// `objects` by more than `threshold` times the best overlap that any of these anchors has with it.
pub fn imitation_mask(levels: &[(&[Xyxy], usize)], objects: &[Xyxy], threshold: f32) -> Vec<Vec<bool>> {
    let best = |object: &Xyxy| {
        levels.iter().flat_map(|(anchors, _)| *anchors).map(|anchor| iou(anchor, object)).fold(0.0, f32::max)
    };
    let limits: Vec<f32> = objects.iter().map(|object| threshold * best(object)).collect();
    let overlaps =
        |anchor: &Xyxy| objects.iter().zip(&limits).any(|(object, &limit)| iou(anchor, object) > limit);
    levels
        .iter()
        .map(|(anchors, per_cell)| {
            anchors.chunks((*per_cell).max(1)).map(|cell| cell.iter().any(overlaps)).collect()
        })
        .collect()
}

/// Σ over the cells that are on of (student - teacher)² / (2 `count`); 0 if none is.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W), `mask` N·H·W; a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn masked_imitation(
    teacher: &Tensor,
    student: &Value,
    mask: &[bool],
    count: usize,
) -> Result<Value, DistillError> {
    let (n, _, h, w) = paired(NAME, teacher, student)?;
    if mask.len() != n * h * w {
        let reason = format!("{} cells of a mask for maps {:?}", mask.len(), student.dims());
        return Err(DistillError::invalid(NAME, reason));
    }
    if count == 0 {
        return nothing(student);
    }
    let cells = mask.iter().map(|&on| f32::from(u8::from(on))).collect();
    let cells = from_elements(cells, (n, h, w), student.tensor())?;
    let weights = Weights { cells: Some(cells), channels: None };
    Ok(squared_difference(teacher, student, weights, 2.0 * count as f64)?)
}
