//! Knowledge review (ReviewKD; Chen et al., CVPR 2021, arXiv 2104.09044).
//!
//! From the deepest level to the finest, the student's map is fused with what came from above (ABF,
//! attention-based fusion) and compared with the teacher's map at several scales (HCL, hierarchical context
//! loss).

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
use ckd_settings::{Check, section};

use super::distiller::{DistillError, Distiller, Lesson, Term, at_tap, width_at};
use super::layers::{ConvBn, conv_1x1};
use super::maps::mean_squared_difference;
use super::method::{Method, MethodSetting};
use super::place::Maps;

const NAME: &str = "review_kd";

/// The widest fused map that is chosen by itself.
const WIDEST: usize = 512;

section! {
    /// Knowledge review: from the deepest level to the finest, the student's maps are fused by trained
    /// attention (ABF) and compared with the teacher's at several scales (HCL).
    pub struct ReviewKd with place: Maps {
        /// Weight of all levels together: 1 to 2 for detectors, 0.6 to 8 on CIFAR-100.
        pub weight: f32 = 1.0,
        /// Width of the fused maps. Default: that of the student's deepest map, at most 512.
        pub width: Option<usize>,
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

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let (at, widths) = (self.place.taps()?, &setting.widths);
        let last = at.last().copied().map(|tap| width_at(widths, tap)).transpose()?;
        let width = self.width.unwrap_or_else(|| last.map_or(1, |last| last.student.min(WIDEST)));
        let fusion = |(index, tap): (usize, &Tap)| {
            let own = width_at(widths, *tap)?;
            let depth = if index + 1 == at.len() { Depth::Deepest } else { Depth::Fused };
            Abf::new(&builder.within(tap), (own.student, width, own.teacher), depth)
        };
        let fusions = at.iter().enumerate().map(fusion).collect::<Result<_, _>>()?;
        Ok(Box::new(Review { at, weight: self.weight.into(), fusions, params: builder.finish() }))
    }
}

/// ReviewKD over some maps, finest first, with its fusions.
#[derive(Debug)]
struct Review {
    at: Vec<Tap>,
    weight: f64,
    fusions: Vec<Abf>,
    params: ParamStore,
}

impl Distiller for Review {
    fn name(&self) -> &str {
        NAME
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let mut terms = Vec::new();
        let mut above: Option<Value> = None;
        for (&tap, fusion) in self.at.iter().zip(&self.fusions).rev() {
            let (teacher, student) = at_tap(tap, lesson)?;
            let (teacher, student) = (as_map(&Value::constant(teacher.clone()))?, as_map(student)?);
            let mut level = || -> Result<Value, DistillError> {
                let (compared, fused) = fusion.forward(&student, above.as_ref())?;
                above = Some(fused);
                hcl(teacher.tensor(), &to_size(&compared, &teacher)?)
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

    /// The map that is compared with the teacher, and the fused map for the next finer level.
    ///
    /// # Shapes
    /// `map` (N, C, H, W), `above` (N, width, H', W'); (N, C_teacher, H, W) and (N, width, H, W).
    fn forward(&self, map: &Value, above: Option<&Value>) -> Result<(Value, Value), DistillError> {
        let x = self.reduce.forward(map, Activation::Identity)?;
        let fused = match (&self.attention, above) {
            (Some(attention), Some(above)) => {
                let y = to_size(above, &x)?;
                let logits = concatenate(&[x.clone(), y.clone()], 1)?;
                Abf::fuse(&x, &y, &attention.forward(&logits, Activation::Identity)?)?
            }
            _ => x,
        };
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
