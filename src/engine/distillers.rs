//! From an entry of `[[distill]]` to its method: one arm a method.

use candle_core::Device;
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::param::{Builder, Role};
use ckd_detectors::taps::{Tap, UnknownName};

use super::Result;
use crate::config::{self, Distill, Maps, Rows, RowsAt};
use crate::distill::{
    AlignmentOf, At, Ckd, Contrast, Crd, Cwd, Direction, Dist, DistillError, Distiller, Dkd, Fcka, Fgd,
    FgdWeights, Fgfi, FitNet, Icd, IcdSettings, Kd, Kernel, Lcka, Negatives, Pkd, Probabilities, Rcka,
    Regressor, ReviewKd, Rkd, RowNorm, Std, Widths,
};

/// What methods must know of the networks and the data before the first step.
#[derive(Debug)]
pub struct MethodSetting<'a> {
    /// Initial values follow from it.
    pub seed: u64,
    /// Where parameters live.
    pub device: &'a Device,
    /// Channels or columns at each tap.
    pub widths: Widths,
    /// The anchors of a detector.
    pub anchors: Option<AnchorGenerator>,
    /// The class of each training image of a classifier.
    pub classes: Vec<u32>,
    /// Over so many first steps, each method's part of the gradient is measured.
    pub share_steps: u64,
}

/// The method of the entry at `index` of `[[distill]]`; what it trains is called `distill.INDEX...`.
///
/// # Errors
/// Taps that do not exist or have no known width; anchors or classes that a method needs and `setting` lacks.
pub fn distiller(index: usize, entry: &Distill, setting: &MethodSetting<'_>) -> Result<Box<dyn Distiller>> {
    let widths = &setting.widths;
    let builder = Builder::new(setting.seed, setting.device).within("distill").within(index);
    let lacks = |what: &str| {
        let reason = format!("it needs {what}, which these networks and data do not have");
        DistillError::Invalid { method: entry.method().word(), reason }
    };
    Ok(match entry {
        Distill::Ckd(ckd) => Box::new(Ckd {
            at: row_tap(&ckd.place),
            weight: ckd.weight.into(),
            temperature: ckd.temperature.into(),
            negatives: match ckd.negatives {
                config::Negatives::Cross => Negatives::Cross,
                config::Negatives::Student => Negatives::Student,
            },
        }),
        Distill::Rcka(rcka) => Box::new(Rcka {
            at: map_taps(&rcka.place)?,
            weight: rcka.weight.into(),
            weight_inter: rcka.weight_inter.into(),
            patch: rcka.patch,
            kernel: kernel(rcka.center, rcka.row_norm),
        }),
        Distill::Lcka(lcka) => Box::new(Lcka {
            at: row_tap(&lcka.place),
            weight: lcka.weight.into(),
            weight_inter: lcka.weight_inter.into(),
            kernel: kernel(lcka.center, lcka.row_norm),
        }),
        Distill::Fcka(fcka) => Box::new(Fcka {
            at: map_taps(&fcka.place)?,
            weight: fcka.weight.into(),
            of: match fcka.of {
                config::FckaOf::Similarities => AlignmentOf::Similarities,
                config::FckaOf::Features => AlignmentOf::Features,
            },
            kernel: kernel(fcka.center, fcka.row_norm),
        }),
        Distill::Icd(icd) => {
            let settings = IcdSettings {
                at: row_tap(&icd.place),
                weight: icd.weight.into(),
                alpha: icd.alpha.into(),
                width: icd.width,
                theta: icd.theta,
                scale: match icd.scale {
                    config::IcdScale::Trained => Role::Trainable,
                    config::IcdScale::Fixed => Role::Frozen,
                },
                direction: match icd.direction {
                    config::IcdDirection::TeacherAnchors => Direction::TeacherAnchors,
                    config::IcdDirection::StudentAnchors => Direction::StudentAnchors,
                },
            };
            Box::new(Icd::new(settings, widths, builder)?)
        }
        Distill::Kd(kd) => Box::new(Kd {
            at: row_tap(&kd.place),
            weight: kd.weight.into(),
            temperature: kd.temperature.into(),
        }),
        Distill::Dkd(dkd) => Box::new(Dkd {
            at: row_tap(&dkd.place),
            alpha: f64::from(dkd.weight) * f64::from(dkd.alpha),
            beta: f64::from(dkd.weight) * f64::from(dkd.beta),
            temperature: dkd.temperature.into(),
        }),
        Distill::Dist(dist) => Box::new(Dist {
            at: row_tap(&dist.place),
            weight: dist.weight.into(),
            weight_intra: dist.weight_intra.into(),
            temperature: dist.temperature.into(),
            probabilities: match dist.place.at {
                RowsAt::AnchorLogits => Probabilities::Sigmoid,
                _ => Probabilities::Softmax,
            },
        }),
        Distill::FitNet(fitnet) => {
            let (at, regressor) = (map_taps(&fitnet.place)?, regressor(fitnet.regressor));
            Box::new(FitNet::new("fitnet", at, fitnet.weight.into(), regressor, widths, builder)?)
        }
        Distill::Mimic(mimic) => {
            let (at, regressor) = (map_taps(&mimic.place)?, regressor(mimic.regressor));
            Box::new(FitNet::new("mimic", at, mimic.weight.into(), regressor, widths, builder)?)
        }
        Distill::At(at) => Box::new(At { at: map_taps(&at.place)?, weight: at.weight.into() }),
        Distill::Rkd(rkd) => Box::new(Rkd {
            at: row_tap(&rkd.place),
            weight: rkd.weight.into(),
            weight_angle: rkd.weight_angle.into(),
        }),
        Distill::Crd(crd) => {
            let settings = Contrast {
                at: row_tap(&crd.place),
                weight: crd.weight.into(),
                negatives: crd.negatives,
                temperature: crd.temperature.into(),
                momentum: crd.momentum.into(),
                width: crd.width,
            };
            let classes = setting.classes.clone();
            if classes.is_empty() {
                return Err(lacks("the class of every training image").into());
            }
            Box::new(Crd::new(settings, classes, widths, builder)?)
        }
        Distill::ReviewKd(review) => {
            let at = map_taps(&review.place)?;
            Box::new(ReviewKd::new(at, review.weight.into(), review.width, widths, builder)?)
        }
        Distill::Fgfi(fgfi) => {
            let anchors = setting.anchors.clone().ok_or_else(|| lacks("anchors"))?;
            let at = map_taps(&fgfi.place)?;
            let (weight, threshold) = (fgfi.weight.into(), fgfi.threshold.into());
            Box::new(Fgfi::new(at, weight, threshold, anchors, widths, builder)?)
        }
        Distill::Fgd(fgd) => {
            let weights = FgdWeights {
                foreground: fgd.weight.into(),
                background: fgd.weight_background.into(),
                attention: fgd.weight_attention.into(),
                context: fgd.weight_context.into(),
            };
            Box::new(Fgd::new(map_taps(&fgd.place)?, weights, fgd.temperature.into(), widths, builder)?)
        }
        Distill::Pkd(pkd) => {
            let std = match pkd.std {
                config::PkdStd::Population => Std::Population,
                config::PkdStd::Sample => Std::Sample,
            };
            Box::new(Pkd::new(map_taps(&pkd.place)?, pkd.weight.into(), std, widths, builder)?)
        }
        Distill::Cwd(cwd) => {
            let (weight, temperature) = (cwd.weight.into(), cwd.temperature.into());
            Box::new(Cwd::new(map_taps(&cwd.place)?, weight, temperature, widths, builder)?)
        }
    })
}

fn row_tap(rows: &Rows) -> Tap {
    match rows.at {
        RowsAt::RoiLogits => Tap::RoiLogits,
        RowsAt::AnchorLogits => Tap::AnchorLogits,
        RowsAt::Logits => Tap::Logits,
        RowsAt::Embedding => Tap::Embedding,
    }
}

/// The maps, in the order of [`Tap`]: fine to coarse.
fn map_taps(maps: &Maps) -> Result<Vec<Tap>> {
    let mut taps = taps(&maps.levels)?;
    taps.sort_unstable();
    Ok(taps)
}

/// Taps by their names.
pub(super) fn taps(names: &[impl AsRef<str>]) -> Result<Vec<Tap>> {
    Ok(names.iter().map(|name| name.as_ref().parse()).collect::<std::result::Result<_, UnknownName>>()?)
}

fn kernel(center: bool, row_norm: config::RowNorm) -> Kernel {
    let row_norm = match row_norm {
        config::RowNorm::Off => RowNorm::Off,
        config::RowNorm::Rows => RowNorm::Rows,
        config::RowNorm::Cosine => RowNorm::Cosine,
    };
    Kernel { center, row_norm }
}

fn regressor(regressor: config::Regressor) -> Regressor {
    match regressor {
        config::Regressor::ConvBnRelu => Regressor::ConvBnRelu,
        config::Regressor::Conv => Regressor::Conv,
        config::Regressor::Identity => Regressor::Identity,
    }
}
