//! FitNet (Romero et al., ICLR 2015, arXiv 1412.6550) and its kin for detectors, mimicking (Li et al., CVPR 2017):
//! mean squared difference of feature maps, the student's through a trained regressor.

use ckd_detectors::init::Init;
use ckd_detectors::nn::Conv2d;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;
use ckd_kernels::linear::Activation;

use super::layers::{ConvBn, conv_1x1};
use super::maps::{at_equal_sizes, mean_squared_difference};
use super::{DistillError, Distiller, Lesson, Term, Widths, term_at_each, width_at};

/// FitNet at some maps.
#[derive(Debug)]
pub struct FitNet {
    name: &'static str,
    weight: f64,
    at: Vec<Tap>,
    regressors: Vec<Trained>,
    params: ParamStore,
}

/// What the student's map goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regressor {
    /// A 1x1 convolution, batch norm, ReLU.
    ConvBnRelu,
    /// A 1x1 convolution.
    Conv,
    /// Nothing.
    Identity,
}

#[derive(Debug)]
enum Trained {
    ConvBnRelu(ConvBn),
    Conv(Conv2d),
    Identity,
}

impl FitNet {
    /// A method called `name` with a regressor for each map of `at`, whose parameters are made by `builder`.
    ///
    /// # Errors
    /// A tap whose width is not known.
    pub fn new(
        name: &'static str,
        at: Vec<Tap>,
        weight: f64,
        regressor: Regressor,
        widths: &Widths,
        builder: Builder,
    ) -> Result<Self, DistillError> {
        let trained = |tap: &Tap| -> Result<Trained, DistillError> {
            let width = width_at(widths, *tap)?;
            let builder = builder.within(tap);
            Ok(match regressor {
                Regressor::ConvBnRelu => Trained::ConvBnRelu(ConvBn::new(
                    &builder,
                    (width.student, width.teacher, 1),
                    Init::TorchDefault,
                )?),
                Regressor::Conv => Trained::Conv(conv_1x1(&builder, (width.student, width.teacher))?),
                Regressor::Identity => Trained::Identity,
            })
        };
        let regressors = at.iter().map(trained).collect::<Result<_, _>>()?;
        Ok(Self { name, weight, at, regressors, params: builder.finish() })
    }
}

impl Distiller for FitNet {
    fn name(&self) -> &str {
        self.name
    }

    fn taps(&self) -> Vec<Tap> {
        self.at.clone()
    }

    fn terms(&self, lesson: &Lesson<'_>) -> Result<Vec<Term>, DistillError> {
        let regressor = |tap: Tap| self.at.iter().zip(&self.regressors).find(|(at, _)| **at == tap);
        term_at_each(self.name, &self.at, self.weight, lesson, |tap, teacher, student| {
            let (teacher, student) = at_equal_sizes("fitnet", teacher, student)?;
            let student =
                regressor(tap).map_or(Ok(student.clone()), |(_, trained)| trained.forward(&student))?;
            mean_squared_difference(&teacher, &student)
        })
    }

    fn params(&self) -> Option<&ParamStore> {
        Some(&self.params)
    }
}

impl Trained {
    fn forward(&self, map: &Value) -> Result<Value, DistillError> {
        Ok(match self {
            Self::ConvBnRelu(layer) => layer.forward(map, Activation::Relu)?,
            Self::Conv(layer) => layer.forward(map, Activation::Identity)?,
            Self::Identity => map.clone(),
        })
    }
}
