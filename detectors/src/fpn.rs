//! Feature pyramid network (Lin et al. 2017, arXiv 1612.03144), as in torchvision.

use ckd_kernels::Value;
use ckd_kernels::elementwise::relu;
use ckd_kernels::linear::Activation::Identity;
use ckd_kernels::pool::max_pool2d;
use ckd_kernels::upsample::upsample_nearest_add;

use crate::init::Init;
use crate::nn::Conv2d;
use crate::param::Builder;
use crate::{Error, Result};

/// How levels above the backbone's last map are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraLevels {
    /// One level: every second pixel of the last (Faster R-CNN's P6).
    Subsample,
    /// Two levels: P6 by a strided convolution of P5, P7 of relu(P6) (RetinaNet).
    P6P7,
}

/// The neck: maps of equal width at all strides.
#[derive(Debug)]
pub struct Fpn {
    lateral: Vec<Conv2d>,
    output: Vec<Conv2d>,
    extra: Option<[Conv2d; 2]>,
}

impl Fpn {
    /// A neck over maps of `inputs` channels (fine to coarse), `width` channels wide.
    ///
    /// # Errors
    /// If the width is 0.
    pub fn new(builder: &Builder, inputs: &[usize], width: usize, extra: ExtraLevels) -> Result<Self> {
        Error::unless_positive("pyramid", &[("width", width)])?;
        let conv = |builder: &Builder, inputs, kernel, stride| {
            Conv2d::new(
                builder,
                (inputs, width, kernel, stride),
                Init::KaimingUniformLinearGain,
                Init::Constant(0.0),
            )
        };
        let levels = 0..inputs.len();
        Ok(Self {
            lateral: levels
                .clone()
                .map(|i| conv(&builder.within("inner_blocks").within(i).within(0), inputs[i], 1, 1))
                .collect::<Result<_>>()?,
            output: levels
                .map(|i| conv(&builder.within("layer_blocks").within(i).within(0), width, 3, 1))
                .collect::<Result<_>>()?,
            extra: match extra {
                ExtraLevels::Subsample => None,
                ExtraLevels::P6P7 => {
                    let within = builder.within("extra_blocks");
                    Some([conv(&within.within("p6"), width, 3, 2)?, conv(&within.within("p7"), width, 3, 2)?])
                }
            },
        })
    }

    /// The pyramid, fine to coarse, extra levels last.
    ///
    /// # Shapes
    /// Maps `(N, inputs[i], Hi, Wi)` to maps (N, width, Hi, Wi) and the extra ones.
    pub fn forward(&self, maps: &[Value]) -> Result<Vec<Value>> {
        let mut levels = Vec::with_capacity(maps.len() + 2);
        let mut top: Option<Value> = None;
        for ((map, lateral), output) in maps.iter().zip(&self.lateral).zip(&self.output).rev() {
            let lateral = lateral.forward(map, Identity)?;
            let merged = match &top {
                Some(top) => upsample_nearest_add(top, &lateral)?,
                None => lateral,
            };
            levels.push(output.forward(&merged, Identity)?);
            top = Some(merged);
        }
        levels.reverse();
        let Some(coarsest) = levels.last().cloned() else { return Ok(levels) };
        match &self.extra {
            None => levels.push(max_pool2d(&coarsest, 1, 2, 0)?),
            Some([p6, p7]) => {
                let p6 = p6.forward(&coarsest, Identity)?;
                let p7 = p7.forward(&relu(&p6)?, Identity)?;
                levels.extend([p6, p7]);
            }
        }
        Ok(levels)
    }
}
