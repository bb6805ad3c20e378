//! Images that a detector's graph is compared and calibrated on.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ckd_detectors::postprocess::Detections;
use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::error::{CalibrationGap, ExportError, Result};
use super::proof::{ImagesFound, MadeUp};
use crate::config::{Config, Loaded};
use crate::data::{CategoryMap, DataError, Dataset, ImagePolicy, OnBadImage, SplitFiles};
use crate::engine::EngineError;
use crate::engine::detect::evaluate::{Evaluation, score, to_coco};
use crate::engine::detect::sources::{DataPaths, LoadedSplit};
use crate::eval::{Detection, GroundTruth};

/// Pictures that are drawn where there is no data: (height, width).
const DRAWN: [(u32, u32); 3] = [(480, 640), (500, 375), (90, 130)];

/// Images to compare or to calibrate on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pictures {
    /// Some of the validation images.
    Validation {
        /// Data set of all images.
        dataset: Arc<Dataset>,
        /// Ground truth of the images, for the evaluator.
        truth: Arc<GroundTruth>,
        /// Files of the split.
        paths: SplitFiles,
        /// The chosen ones.
        range: Range<usize>,
    },
    /// Some of the training images.
    Training {
        /// Data set of all images.
        dataset: Arc<Dataset>,
        /// The chosen ones.
        images: Vec<usize>,
    },
    /// Drawn rectangles, since there is no data.
    Drawn {
        /// Reason why there is none.
        reason: String,
        /// The first one's id.
        first: u64,
    },
}

impl Pictures {
    /// The first `count` validation images of `config`, or drawn pictures if its data is not there.
    ///
    /// # Errors
    /// Data that is damaged, or missing from `data_root`.
    pub fn find(config: &Config, data_root: Option<&Path>, count: usize) -> Result<Self> {
        match DataPaths::find_val(&loaded(config, data_root)) {
            Ok(paths) => {
                let LoadedSplit { dataset, truth, .. } = LoadedSplit::open(&paths)?;
                let range = 0..count.min(dataset.images.len());
                Ok(Self::Validation { dataset, truth, paths, range })
            }
            Err(EngineError::Missing(reason)) if data_root.is_none() => Ok(Self::Drawn { reason, first: 0 }),
            Err(error) => Err(error.into()),
        }
    }

    /// `count` other images than these as a calibration set, and their description. An int8 graph's loss is
    /// measured on images that it has not seen: these are training images, or the validation images behind
    /// the compared ones.
    ///
    /// # Errors
    /// [`ExportError::Calibration`] if there are no other images.
    pub fn for_calibration(
        &self,
        config: &Config,
        data_root: Option<&Path>,
        count: usize,
    ) -> Result<(Self, String)> {
        let (dataset, compared, policy) = match self {
            Self::Validation { dataset, range, paths, .. } => (dataset, range.end, &paths.policy),
            Self::Training { .. } => return Err(ExportError::Calibration(CalibrationGap::NoOtherImages)),
            Self::Drawn { reason, .. } => {
                let others = Self::Drawn { reason: reason.clone(), first: DRAWN.len() as u64 };
                return Ok((others, "other drawn pictures".to_owned()));
            }
        };
        let train = DataPaths::of(&loaded(config, data_root)).train;
        if train.exist() {
            let dataset = LoadedSplit::open(&train)?.dataset;
            let images = usable(&dataset, 0, count, &train.policy);
            if !images.is_empty() {
                let description = format!("{} images of {}", images.len(), train.annotations.display());
                return Ok((Self::Training { dataset, images }, description));
            }
        }
        let images = usable(dataset, compared, count, policy);
        if images.is_empty() {
            return Err(ExportError::Calibration(CalibrationGap::NoOtherImages));
        }
        let description = format!("the next {} images there", images.len());
        Ok((Self::Training { dataset: dataset.clone(), images }, description))
    }

    /// Number and origin of the images.
    pub fn described(&self) -> ImagesFound {
        match self {
            Self::Validation { paths, range, .. } => ImagesFound {
                description: format!("{} images of {}", range.len(), paths.annotations.display()),
                made_up: None,
            },
            Self::Training { images, .. } => {
                ImagesFound { description: format!("{} training images", images.len()), made_up: None }
            }
            Self::Drawn { reason, .. } => ImagesFound {
                description: "drawn pictures, so without AP".to_owned(),
                made_up: Some(MadeUp { instead_of: "validation images", reason: reason.clone() }),
            },
        }
    }

    /// Image ids and pixels.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Result<(u64, RgbImage)>> + '_> {
        let read = |dataset: &Dataset, index: usize| {
            let pixels = dataset.pixels(index).map_err(DataError::from).map_err(EngineError::from)?;
            Ok((dataset.images[index].id.0, pixels))
        };
        match self {
            Self::Validation { dataset, range, .. } => {
                Box::new(range.clone().map(move |index| read(dataset, index)))
            }
            Self::Training { dataset, images } => {
                Box::new(images.iter().map(move |&index| read(dataset, index)))
            }
            Self::Drawn { first, .. } => {
                Box::new((*first..).zip(DRAWN).map(|(id, size)| Ok((id, drawn(id, size)))))
            }
        }
    }

    /// AP in points of what was found on these images.
    pub(super) fn ap(&self, found: Found) -> Result<Option<f64>> {
        let Self::Validation { truth, .. } = self else { return Ok(None) };
        let Found { detections, image_ids } = found;
        let evaluation = Evaluation { detections, image_ids, ms_per_image: 0.0, gflops: 0.0 };
        Ok(Some(100.0 * score(&evaluation, truth)?.stats[0]))
    }
}

/// Indices of the first `count` images from `first` on that can be used. Where bad images are left out, those that do not
/// decode are none.
fn usable(dataset: &Dataset, first: usize, count: usize, policy: &ImagePolicy) -> Vec<usize> {
    let is_usable = |&index: &usize| policy.on_bad == OnBadImage::Stop || dataset.pixels(index).is_ok();
    (first..dataset.images.len()).filter(is_usable).take(count).collect()
}

/// Detections by image.
#[derive(Debug, Default)]
pub(super) struct Found {
    detections: Vec<Detection>,
    image_ids: Vec<u64>,
}

impl Found {
    pub(super) fn add(&mut self, id: u64, found: &Detections, map: &CategoryMap) {
        self.detections.extend(to_coco(found, id, map));
        self.image_ids.push(id);
    }
}

/// BLAKE3 of the training annotations, if they are there.
pub(super) fn data_hash(config: &Config, data_root: Option<&Path>) -> Option<String> {
    DataPaths::of(&loaded(config, data_root)).train.blake3()
}

fn loaded(config: &Config, data_root: Option<&Path>) -> Loaded<Config> {
    let mut config = config.clone();
    if let Some(root) = data_root {
        config.data.root = root.to_owned();
    }
    Loaded::of_weights(config)
}

/// Rectangles of random colours on a random ground.
fn drawn(seed: u64, (height, width): (u32, u32)) -> RgbImage {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut image = RgbImage::from_pixel(width, height, Rgb(random.random()));
    for _ in 0..12 {
        let colour = Rgb(random.random());
        let (left, top) = (random.random_range(0..width), random.random_range(0..height));
        let right = random.random_range(left..width) + 1;
        let bottom = random.random_range(top..height) + 1;
        for y in top..bottom {
            for x in left..right {
                image.put_pixel(x, y, colour);
            }
        }
    }
    image
}
