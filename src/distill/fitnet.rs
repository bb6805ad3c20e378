//! FitNet (Romero et al., ICLR 2015, arXiv 1412.6550) and its kin for detectors, mimicking (Li et al., CVPR
//! 2017): mean squared difference of feature maps, the student's through a trained regressor.

use std::collections::BTreeMap;

use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::Builder;
use ckd_kernels::Value;
use ckd_kernels::linear::Activation;
use ckd_settings::{choices, section};

use super::distiller::{DistillError, Distiller, Width, Widths, width_at};
use super::layers::{ConvBn, conv_1x1, convolved};
use super::maps::{at_equal_sizes, mean_squared_difference};
use super::method::{Method, MethodSetting};
use super::on_maps::OnMaps;
use super::place::Maps;

choices! {
    /// Layers between the student's map and the comparison. Trained with the student, dropped afterwards.
    pub enum Regressor {
        /// A 1x1 convolution, batch norm, ReLU.
        ConvBnRelu = "conv_bn_relu",
        /// A 1x1 convolution.
        Conv = "conv",
        /// Nothing: both maps must have the same channels.
        Identity = "identity",
    }
}

section! {
    /// Mean squared difference of feature maps, the student's through a regressor. Maps of different size are
    /// compared at the smaller size.
    pub struct FitNet with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 100.0,
        /// Layers between the student's map and the comparison.
        pub regressor: Regressor = Regressor::ConvBnRelu,
    }
}

impl Method for FitNet {
    const WORD: &'static str = "fitnet";
    const PAPER: &'static str = "Romero et al., ICLR 2015, arXiv 1412.6550";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        regression(Self::WORD, &self.place, self.weight, self.regressor, &setting.widths, builder)
    }
}

section! {
    /// Mean squared difference of pyramid levels through a 1x1 convolution, as DIST's and PCKA's tables add
    /// it.
    pub struct Mimic with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// Layers between the student's map and the comparison.
        pub regressor: Regressor = Regressor::Conv,
    }
}

impl Method for Mimic {
    const WORD: &'static str = "mimic";
    const PAPER: &'static str = "Li et al., CVPR 2017";

    fn weights(&self) -> Vec<(&'static str, f32)> {
        vec![("weight", self.weight)]
    }

    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        regression(Self::WORD, &self.place, self.weight, self.regressor, &setting.widths, builder)
    }
}

/// Squared differences at each level, the student's map through a regressor that `builder` makes.
fn regression(
    name: &'static str,
    place: &Maps,
    weight: f32,
    regressor: Regressor,
    widths: &Widths,
    builder: Builder,
) -> Result<Box<dyn Distiller>, DistillError> {
    let mut regressors = BTreeMap::new();
    for tap in place.taps()? {
        regressors.insert(tap, Trained::new(regressor, width_at(widths, tap)?, &builder.within(tap))?);
    }
    let maps = OnMaps::new(name, place)?.term(weight, move |level| {
        let (teacher, student) = at_equal_sizes("fitnet", level.teacher, level.student)?;
        let regressor = regressors.get(&level.tap);
        let student = regressor.map_or(Ok(student.clone()), |trained| trained.forward(&student))?;
        mean_squared_difference(&teacher, &student)
    });
    Ok(Box::new(maps.training(builder)))
}

#[derive(Debug)]
enum Trained {
    ConvBnRelu(ConvBn),
    Conv(Conv2d),
    Identity,
}

impl Trained {
    fn new(regressor: Regressor, width: Width, builder: &Builder) -> Result<Self, DistillError> {
        Ok(match regressor {
            Regressor::ConvBnRelu => {
                Self::ConvBnRelu(ConvBn::new(builder, (width.student, width.teacher, 1), Init::TorchDefault)?)
            }
            Regressor::Conv => Self::Conv(conv_1x1(builder, (width.student, width.teacher))?),
            Regressor::Identity => Self::Identity,
        })
    }

    fn forward(&self, map: &Value) -> Result<Value, DistillError> {
        Ok(match self {
            Self::ConvBnRelu(layer) => layer.forward(map, Activation::Relu)?,
            Self::Conv(layer) => convolved(layer, map, Activation::Identity)?,
            Self::Identity => map.clone(),
        })
    }
}
