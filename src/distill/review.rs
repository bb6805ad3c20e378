//! Knowledge review (ReviewKD; Chen et al., CVPR 2021, arXiv 2104.09044).
//!
//! From the deepest level to the finest, the student's map is fused with what came from above (ABF,
//! attention-based fusion), brought to the size of the teacher's, and compared with it at several scales (HCL,
//! hierarchical context loss).

use candle_core::Tensor;
use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, reshape, weighted_sum};
use ckd_kernels::linear::Activation;
use ckd_kernels::maps::gated_sum;
use ckd_kernels::pool::adaptive_avg_pool2d;
use ckd_kernels::upsample::upsample_nearest;
use ckd_settings::{Check, choices, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, student_at, teacher_at, width_at};
use super::layers::{ConvBn, conv_1x1, convolved};
use super::maps::mean_squared_difference;
use super::method::{Method, MethodSetting};
use super::place::Maps;

const NAME: &str = "review_kd";

/// The widest fused map that is chosen by itself.
const WIDEST: usize = 512;

choices! {
    /// The teacher's maps that a review compares.
    pub enum TeacherMaps {
        /// Outputs of its stages, as of the student.
        Activated = "activated",
        /// Maps before the last ReLU of each stage, as the authors have it for classifiers.
        BeforeRelu = "before_relu",
    }
}

section! {
    /// Knowledge review: from the deepest level to the finest, the student's maps are fused by trained
    /// attention (ABF) and compared with the teacher's at several scales (HCL). Of classifiers, the deepest of `levels` may be
    /// "embedding", the pooled features.
    pub struct ReviewKd with place: Maps {
        /// Weight of all levels together: 1 to 2 for detectors, 0.6 to 8 on CIFAR-100.
        pub weight: f32 = 1.0,
        /// Width of the fused maps. Default: that of the student's deepest map, at most 512.
        pub width: Option<usize>,
        /// The teacher's maps; of a pooled embedding there is one.
        pub teacher_maps: TeacherMaps = TeacherMaps::Activated,
    }
}

impl ReviewKd {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("width", self.width.unwrap_or(1));
    }
}

impl Method for ReviewKd {
    const WORD: &'static str = NAME;
    const PAPER: &'static str = "Chen et al., CVPR 2021, arXiv 2104.09044";
    const POOLED: bool = true;

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (at, widths) = (self.place.taps()?, &setting.widths);
        let levels: Vec<Reviewed> = at.iter().map(|&tap| self.teacher_maps.reviewed(tap)).collect();
        let last = at.last().copied().map(|tap| width_at(widths, tap)).transpose()?;
        let width = self.width.unwrap_or_else(|| last.map_or(1, |last| last.student.min(WIDEST)));
        let fusion = |(index, level): (usize, &Reviewed)| {
            let (own, theirs) = (width_at(widths, level.student)?, width_at(widths, level.teacher)?);
            let depth = if index + 1 == at.len() { Depth::Deepest } else { Depth::Fused };
            Abf::new(&builder.within(level.student), (own.student, width, theirs.teacher), depth)
        };
        let fusions = levels.iter().enumerate().map(fusion).collect::<Result<_, _>>()?;
        Ok(Box::new(Review { levels, weight: self.weight.into(), fusions, params: builder.finish() }))
    }
}

/// Taps that are compared.
#[derive(Debug, Clone, Copy)]
struct Reviewed {
    student: Tap,
    teacher: Tap,
}

impl TeacherMaps {
    /// The taps of the level at `tap`.
    fn reviewed(self, tap: Tap) -> Reviewed {
        let teacher = match (self, tap) {
            (Self::BeforeRelu, Tap::Backbone(stage)) => Tap::PreActivation(stage),
            _ => tap,
        };
        Reviewed { student: tap, teacher }
    }
}

/// ReviewKD over some maps, finest first, with its fusions.
#[derive(Debug)]
struct Review {
    levels: Vec<Reviewed>,
    weight: f64,
    fusions: Vec<Abf>,
    params: ParamStore,
}

impl Distiller for Review {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        let mut taps: Vec<Tap> =
            self.levels.iter().flat_map(|level| [level.student, level.teacher]).collect();
        taps.dedup();
        taps
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let mut terms = Vec::new();
        let mut above: Option<Value> = None;
        for (level, fusion) in self.levels.iter().zip(&self.fusions).rev() {
            let tap = level.student;
            let (teacher, student) = (teacher_at(level.teacher, lesson)?, student_at(tap, lesson)?);
            let (teacher, student) = (as_map(&Value::constant(teacher))?, as_map(&student)?);
            let mut level = || -> Result<Value, DistillError> {
                let (compared, fused) = fusion.forward(&student, above.as_ref(), &teacher)?;
                above = Some(fused);
                hcl(teacher.tensor(), &compared)
            };
            let value = level().map_err(|error| error.at(tap))?;
            terms.push(Term { name: format!("{NAME}/{tap}"), value, weight: self.weight });
        }
        terms.reverse();
        Ok(terms)
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

/// Pooled features (N, D) are maps of one cell.
fn as_map(value: &Value) -> Result<Value, DistillError> {
    Ok(match *value.dims() {
        [n, d] => reshape(value, &[n, d, 1, 1])?,
        _ => value.clone(),
    })
}

/// `map` in the height and width of `like`, by nearest neighbours.
fn to_size(map: &Value, like: &Value) -> Result<Value, DistillError> {
    let (&[_, _, h, w], &[_, _, like_h, like_w]) = (map.dims(), like.dims()) else {
        let reason = format!("maps (N, C, H, W) expected, got {:?} and {:?}", map.dims(), like.dims());
        return Err(DistillError::invalid(NAME, reason));
    };
    Ok(if (h, w) == (like_h, like_w) { map.clone() } else { upsample_nearest(map, (like_h, like_w))? })
}

/// The HCL of one map: mean squared differences of the maps and of their averages over 4 x 4, 2 x 2 and 1 x 1
/// bins (those finer than the height of the map allows), weighted 1, 1/2, 1/4, 1/8 by what there is.
///
/// # Shapes
/// `teacher` and `student` (N, C, H, W); a scalar.
///
/// # Errors
/// Shapes that differ or are no maps.
pub fn hcl(teacher: &Tensor, student: &Value) -> Result<Value, DistillError> {
    let whole = mean_squared_difference(teacher, student)?;
    let height = student.dims()[2];
    let mut parts = vec![(whole, 1.0)];
    if student.tensor().elem_count() > 0 {
        let teacher = Value::constant(teacher.clone());
        let (mut weight, mut total) = (1.0, 1.0);
        for bins in [4, 2, 1].into_iter().filter(|&bins| bins < height) {
            weight *= 0.5;
            total += weight;
            let pooled = |map: &Value| adaptive_avg_pool2d(map, (bins, bins));
            parts.push((mean_squared_difference(pooled(&teacher)?.tensor(), &pooled(student)?)?, weight));
        }
        parts.iter_mut().for_each(|(_, weight)| *weight /= total);
    }
    Ok(weighted_sum(&parts.iter().map(|(part, weight)| (part, *weight)).collect::<Vec<_>>())?)
}

/// One attention-based fusion.
#[derive(Debug)]
pub struct Abf {
    reduce: ConvBn,
    attention: Option<Conv2d>,
    expand: ConvBn,
}

/// Place of a level in the pyramid: the deepest gets nothing from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Fused,
    Deepest,
}

impl Abf {
    /// `reduce` (1x1), `attention` (1x1) and `expand` (3x3) in `builder`'s layer.
    fn new(
        builder: &Builder,
        (inputs, width, outputs): (usize, usize, usize),
        depth: Depth,
    ) -> Result<Self, DistillError> {
        let init = Init::KaimingUniformLinearGain;
        let attention = || conv_1x1(&builder.within("attention"), (2 * width, 2));
        Ok(Self {
            reduce: ConvBn::new(&builder.within("reduce"), (inputs, width, 1), init)?,
            attention: (depth == Depth::Fused).then(attention).transpose()?,
            expand: ConvBn::new(&builder.within("expand"), (width, outputs, 3), init)?,
        })
    }

    /// The map that is compared with the teacher's, and the fused map for the next finer level, both of the teacher's size.
    ///
    /// # Shapes
    /// `map` (N, C, H, W), `above` (N, width, H', W'), `teacher` (N, D, H'', W''); (N, D, H'', W'') and (N, width, H'', W'').
    fn forward(
        &self,
        map: &Value,
        above: Option<&Value>,
        teacher: &Value,
    ) -> Result<(Value, Value), DistillError> {
        let x = self.reduce.forward(map, Activation::Identity)?;
        let fused = match (&self.attention, above) {
            (Some(attention), Some(above)) => {
                let y = to_size(above, &x)?;
                let logits = concatenate(&[x.clone(), y.clone()], 1)?;
                Abf::fuse(&x, &y, &convolved(attention, &logits, Activation::Identity)?)?
            }
            _ => x,
        };
        let fused = to_size(&fused, teacher)?;
        Ok((self.expand.forward(&fused, Activation::Identity)?, fused))
    }

    /// σ(a_0) x + σ(a_1) y.
    ///
    /// # Shapes
    /// `x` and `y` (N, C, H, W), `a` (N, 2, H, W); as `x`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn fuse(x: &Value, y: &Value, a: &Value) -> Result<Value, DistillError> {
        Ok(gated_sum(x, y, a)?)
    }
}
