//! Feature pyramid network (Lin et al. 2017, arXiv 1612.03144), as in torchvision.

use ckd_kernels::Value;
use ckd_kernels::elementwise::relu;
use ckd_kernels::linear::Activation::Identity;
use ckd_kernels::pool::max_pool2d;
use ckd_kernels::upsample::upsample_nearest_add;
use ckd_settings::choices;

use crate::init::Init;
use crate::nn::{Conv2d, ConvBlock, HeadNorm, Mode};
use crate::param::Builder;
use crate::{Error, Result};

/// Levels above the backbone's last map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraLevels {
    /// A single level: every second pixel of the last (Faster R-CNN's P6).
    Subsample,
    /// Two levels: P6 by a strided convolution, P7 by one of relu(P6) (RetinaNet).
    P6P7(P6From),
}

choices! {
    /// Input of level p6 of a one-stage detector.
    pub enum P6From {
        /// The pyramid's level p5.
        P5 = "p5",
        /// The backbone's last map: torchvision's `retinanet_resnet50_fpn_v2`, Detectron2's `res5`.
        C5 = "c5",
    }
}

/// The neck: maps of equal width at all strides.
#[derive(Debug)]
pub struct Fpn {
    lateral: Vec<ConvBlock>,
    output: Vec<ConvBlock>,
    extra: Option<(P6From, [Conv2d; 2])>,
}

impl Fpn {
    /// A neck over maps of `inputs` channels (fine to coarse), `width` channels wide.
    ///
    /// # Errors
    /// If the width is 0.
    pub fn new(
        builder: &Builder,
        inputs: &[usize],
        width: usize,
        norm: HeadNorm,
        extra: ExtraLevels,
    ) -> Result<Self> {
        Error::unless_positive("pyramid", &[("width", width)])?;
        let weight = Init::KaimingUniformLinearGain;
        let conv = |builder: &Builder, inputs, kernel| {
            ConvBlock::new(builder, (inputs, width, kernel, 1), weight, norm)
        };
        let strided = |builder: &Builder, inputs| {
            Conv2d::new(builder, (inputs, width, 3, 2), weight, Init::Constant(0.0))
        };
        let levels = 0..inputs.len();
        Ok(Self {
            lateral: levels
                .clone()
                .map(|i| conv(&builder.within("inner_blocks").within(i), inputs[i], 1))
                .collect::<Result<_>>()?,
            output: levels
                .map(|i| conv(&builder.within("layer_blocks").within(i), width, 3))
                .collect::<Result<_>>()?,
            extra: match extra {
                ExtraLevels::Subsample => None,
                ExtraLevels::P6P7(from) => {
                    let within = builder.within("extra_blocks");
                    let channels = match (from, inputs.last()) {
                        (P6From::C5, Some(&channels)) => channels,
                        _ => width,
                    };
                    let convs =
                        [strided(&within.within("p6"), channels)?, strided(&within.within("p7"), width)?];
                    Some((from, convs))
                }
            },
        })
    }

    /// The pyramid, fine to coarse, extra levels last.
    ///
    /// The maps are large: each is freed, where no gradient needs it, as soon as its level is made.
    ///
    /// # Shapes
    /// Maps `(N, inputs[i], Hi, Wi)` to maps (N, width, Hi, Wi) and the extra ones.
    pub fn forward(&self, maps: Vec<Value>, mode: Mode) -> Result<Vec<Value>> {
        let mut levels = Vec::with_capacity(maps.len() + 2);
        let last = maps.last().cloned();
        let mut top: Option<Value> = None;
        for ((map, lateral), output) in maps.into_iter().zip(&self.lateral).zip(&self.output).rev() {
            let merged = match &top {
                Some(top) => merged(top, map, lateral, mode)?,
                None => lateral.forward(&map, mode, Identity)?,
            };
            levels.push(output.forward(&merged, mode, Identity)?);
            top = Some(merged);
        }
        levels.reverse();
        let (Some(coarsest), Some(last)) = (levels.last().cloned(), &last) else { return Ok(levels) };
        match &self.extra {
            None => levels.push(max_pool2d(&coarsest, 1, 2, 0)?),
            Some((from, [p6, p7])) => {
                let below = match from {
                    P6From::P5 => &coarsest,
                    P6From::C5 => last,
                };
                let p6 = p6.forward(below, Identity)?;
                let p7 = p7.forward(&relu(&p6)?, Identity)?;
                levels.extend([p6, p7]);
            }
        }
        Ok(levels)
    }
}

/// The coarser level's map and the backbone's own, at the latter's size. It is the largest thing that a detector would
/// keep for its gradient, and a 1x1 convolution makes it again.
fn merged(top: &Value, map: Value, lateral: &ConvBlock, mode: Mode) -> Result<Value> {
    let side = lateral.forward(&map, mode, Identity)?;
    let merged = upsample_nearest_add(top, &side)?;
    let (top, map, lateral) = (top.detach(), map.detach(), lateral.clone());
    Ok(merged.remade_by(move || -> Result<Value> {
        Ok(upsample_nearest_add(&top, &lateral.forward(&map, mode, Identity)?)?)
    }))
}
