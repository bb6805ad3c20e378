//! Labelled images that a classifier's graph is compared and calibrated on.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use ckd_detectors::images::Images;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::error::{CalibrationGap, ExportError, Result};
use super::proof::{ImagesFound, MadeUp};
use crate::config::{ClassifyConfig, Loaded};
use crate::data::{Labelled, LabelledBatch};
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, evaluation_batches, held_out, learned_from, to_device};

/// Images to compare or to calibrate on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Samples {
    /// Some of the held-out images.
    HeldOut {
        /// The chosen ones.
        set: Arc<Labelled>,
        /// The others.
        left: Labelled,
    },
    /// Some of the training images.
    Training(Arc<Labelled>),
    /// Noise, since there is no data.
    Noise {
        /// Reason why there is none.
        reason: String,
        /// Number of images.
        count: usize,
    },
}

/// `count` indices all over a set of `of`, since images often lie ordered by class.
fn spread(count: usize, of: usize) -> Vec<usize> {
    let count = count.min(of);
    (0..count).map(|index| index * of / count).collect()
}

impl Samples {
    /// `count` held-out images of `data`, which must have the classes of the weights at `path`; noise where
    /// there is no data, unless `must_be_there`.
    ///
    /// # Errors
    /// Data that is damaged, has other classes, or is missing where it must be there.
    pub fn find(
        card: &ClassifierCard,
        path: &Path,
        data: &Loaded<ClassifyConfig>,
        count: usize,
        must_be_there: bool,
    ) -> Result<Self> {
        match held_out(data) {
            Ok(set) => {
                card.check_classes(path, &set.classes)?;
                let chosen = spread(count, set.len());
                let others: Vec<usize> =
                    (0..set.len()).filter(|index| chosen.binary_search(index).is_err()).collect();
                Ok(Self::HeldOut { set: Arc::new(set.chosen(&chosen)), left: set.chosen(&others) })
            }
            Err(EngineError::Missing(reason)) if !must_be_there => Ok(Self::Noise { reason, count }),
            Err(error) => Err(error.into()),
        }
    }

    /// `count` other images than these as a calibration set, and their description. An int8 graph's loss is
    /// measured on images that it has not seen.
    ///
    /// # Errors
    /// [`ExportError::Calibration`] if there are no other images.
    pub fn for_calibration(&self, data: &Loaded<ClassifyConfig>, count: usize) -> Result<(Self, String)> {
        let (what, set) = match (learned_from(data)?, self) {
            (Some(set), _) if !set.is_empty() => ("training images", set),
            (_, Self::HeldOut { left, .. }) if !left.is_empty() => {
                ("held-out images that are not compared on", left.clone())
            }
            (_, Self::HeldOut { .. }) => {
                return Err(ExportError::Calibration(CalibrationGap::NoOtherImages));
            }
            _ => return Err(ExportError::Calibration(CalibrationGap::NoData)),
        };
        let set = set.chosen(&set.usable(spread(count, set.len())));
        if set.is_empty() {
            return Err(ExportError::Calibration(CalibrationGap::NoOtherImages));
        }
        let description = format!("{} {what}", set.len());
        Ok((Self::Training(Arc::new(set)), description))
    }

    /// Number and origin of the images.
    pub fn described(&self) -> ImagesFound {
        match self {
            Self::HeldOut { set, .. } => {
                ImagesFound { description: format!("{} held-out images", set.len()), made_up: None }
            }
            Self::Training(set) => {
                ImagesFound { description: format!("{} training images", set.len()), made_up: None }
            }
            Self::Noise { reason, count } => ImagesFound {
                description: format!("{count} images of noise, so without top-1"),
                made_up: Some(MadeUp { instead_of: "held-out images", reason: reason.clone() }),
            },
        }
    }

    pub(super) fn are_labelled(&self) -> bool {
        matches!(self, Self::HeldOut { .. })
    }

    /// Shows every image and its label, in batches; noise is all of class 0.
    pub(super) fn each(
        &self,
        config: &ClassifyConfig,
        mut show: impl FnMut(Images, &[u32]) -> Result<()>,
    ) -> Result<()> {
        let mut show = |mut batch: LabelledBatch| show(to_device(&mut batch, &Device::Cpu)?, &batch.labels);
        let side = config.labelled.input.side_px as usize;
        let row = 3 * side * side;
        match self {
            Self::HeldOut { set, .. } | Self::Training(set) => {
                let mut left = set.len();
                for batch in evaluation_batches(set, config).map_err(EngineError::from)? {
                    let batch = batch.map_err(EngineError::from)?;
                    left -= batch.labels.len();
                    show(batch)?;
                    // It would begin again.
                    if left == 0 {
                        break;
                    }
                }
            }
            Self::Noise { count, .. } => {
                let mut random = ChaCha8Rng::seed_from_u64(0);
                let mut left = *count;
                while left > 0 {
                    let images = left.min(config.run.eval.batch_size.max(1));
                    let values = (0..images * row).map(|_| f32::from(random.random::<u8>()) / 255.0);
                    let pixels = values.collect::<Vec<f32>>().into();
                    show(LabelledBatch { pixels, side, labels: vec![0; images], indices: vec![0; images] })?;
                    left -= images;
                }
            }
        }
        Ok(())
    }
}
