//! Masked generative distillation (MGD; Yang et al., ECCV 2022, arXiv 2205.01529): from a student's map of which cells
//! were dropped, two trained convolutions generate the teacher's map.
//!
//! ```text
//! s' = align(s), a 1x1 convolution, where the widths differ                    align comes before the mask
//! m  ~ Bernoulli(1 - dropped), (N, 1, H, W) or, by channels, (N, C, 1, 1)      new each step
//! loss = 1/N sum_{n,c,h,w} ( conv(relu(conv(s' m))) - t )²                     over all cells, kept and dropped
//! ```
//!
//! Nothing is divided by the size of the map: the published weights are for images of 800 to 1333 pixels, and a weight for
//! maps of fewer cells is larger in proportion. The loss is not 0 at s = t, and the convolutions alone can lower it.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::init::{Init, stream};
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::channels::scale_channels;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::maps::{Weights, masked_cells, squared_difference};
use ckd_settings::{Check, choices, section};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::distiller::{DistillError, Distiller, width_at};
use super::layers::convolved;
use super::maps::paired;
use super::method::{Method, MethodSetting};
use super::on_maps::{Level, OnMaps};
use super::place::Maps;

const NAME: &str = "mgd";

choices! {
    /// Parts of a map that are dropped as a whole.
    pub enum Dropped {
        /// Cells, in all channels: the authors' code for detection.
        Cells = "cells",
        /// Channels, at all cells: their code for classification.
        Channels = "channels",
    }
}

section! {
    /// Masked generative distillation: from the student's map, of which a part is dropped at random, two trained
    /// convolutions are to generate the teacher's whole map. Published: as below for RetinaNet; weight 5e-7 and dropped
    /// 0.45 for Faster R-CNN; 7e-5, 0.15 and mask "channels" for classifiers.
    pub struct Mgd with place: Maps {
        /// Weight of each level's term, which is a sum over cells and channels: 2e-5 at images of 1333 x 800.
        pub weight: f32 = 2e-5,
        /// Share of the map that is dropped.
        pub dropped: f32 = 0.65,
        /// Parts that are dropped as a whole.
        pub mask: Dropped = Dropped::Cells,
    }
}

impl Mgd {
    fn check(&self, check: &mut Check<'_>) {
        check.fraction("dropped", self.dropped.into());
    }
}

impl Method for Mgd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Yang et al., ECCV 2022, arXiv 2205.01529";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let maps = OnMaps::new(NAME, &self.place)?.adapted(setting, &builder)?;
        let mut generations = BTreeMap::new();
        for &tap in maps.at() {
            let width = width_at(&setting.widths, tap)?.teacher;
            generations.insert(tap, Generation::new(&builder.within(tap), width)?);
        }
        let (of, dropped) = (self.mask, self.dropped);
        let maps = maps.term(self.weight, move |&Level { tap, teacher, student, lesson }| {
            let seed = stream(lesson.seed, &format!("{}/{NAME}/{tap}", lesson.entry));
            mgd(teacher, student, &mask_of(student, of, dropped, seed)?, &generations[&tap])
        });
        Ok(Box::new(maps.training(builder)))
    }
}

/// Two 3x3 convolutions with a ReLU between them, as wide as the teacher's map.
#[derive(Debug)]
pub struct Generation([Conv2d; 2]);

impl Generation {
    /// The layers `generation.0` and `generation.1` in `builder`'s layer.
    ///
    /// # Errors
    /// If parameters of these names exist.
    pub fn new(builder: &Builder, width: usize) -> Result<Self, DistillError> {
        let bias = Init::Uniform(1.0 / (9.0 * width.max(1) as f64).sqrt());
        let conv = |index: usize| {
            let builder = builder.within("generation").within(index);
            Conv2d::new(&builder, (width, width, 3, 1), Init::TorchDefault, bias)
        };
        Ok(Self([conv(0)?, conv(1)?]))
    }
}

/// A random mask of a map: 1 where it is kept, 0 where it is `dropped`.
///
/// # Shapes
/// `map` (N, C, H, W); (N, 1, H, W) of cells, (N, C, 1, 1) of channels.
fn mask_of(map: &Value, of: Dropped, dropped: f32, seed: u64) -> Result<Tensor, DistillError> {
    let (n, c, h, w) = map.tensor().dims4()?;
    let shape = match of {
        Dropped::Cells => (n, 1, h, w),
        Dropped::Channels => (n, c, 1, 1),
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let uniform: Vec<f32> = (0..count).map(|_| random.random()).collect();
    Ok(Tensor::from_vec(kept(&uniform, dropped), shape, map.tensor().device())?)
}

/// 1 for each of `uniform` numbers in [0, 1) that keeps its part, 0 for those that drop it, a share of `dropped`.
pub fn kept(uniform: &[f32], dropped: f32) -> Vec<f32> {
    uniform.iter().map(|u| if *u < 1.0 - dropped { 1.0 } else { 0.0 }).collect()
}

/// The MGD loss of a student's map that is as wide as the teacher's; 0 without images.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); `mask` (N, 1, H, W) or (N, C, 1, 1); a scalar.
///
/// # Errors
/// Shapes that do not fit.
pub fn mgd(
    teacher: &Tensor,
    student: &Value,
    mask: &Tensor,
    Generation([first, second]): &Generation,
) -> Result<Value, DistillError> {
    let (images, c, ..) = paired(NAME, teacher, student)?;
    let kept = match mask.dims() {
        &[_, channels, 1, 1] if channels == c => scale_channels(student, &Value::constant(mask.clone()))?,
        _ => masked_cells(student, mask)?,
    };
    let generated = convolved(second, &convolved(first, &kept, Relu)?, Identity)?;
    Ok(squared_difference(teacher, &generated, Weights::default(), images.max(1) as f64)?)
}
