//! The images that an export is compared on, and what is on them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ckd_detectors::postprocess::Detections;
use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cli::{UsageError, say};
use crate::config::{Config, ConfigSource, Loaded};
use crate::data::{CategoryMap, Dataset, decode};
use crate::engine::EngineError;
use crate::engine::evaluate::{Evaluation, score, to_coco};
use crate::engine::sources::{DataPaths, SplitPaths};
use crate::eval::Detection;

/// Pictures that are drawn where there is no data: (height, width).
const DRAWN: [(u32, u32); 3] = [(480, 640), (500, 375), (90, 130)];

/// Images to compare on.
pub(super) enum Pictures {
    /// Some of the validation images.
    Validation { dataset: Arc<Dataset>, paths: SplitPaths, range: Range<usize> },
    /// Some of the training images.
    Training { dataset: Arc<Dataset>, paths: SplitPaths, range: Range<usize> },
    /// Rectangles, since there is no data; why.
    Drawn { reason: String, first: u64 },
}

impl Pictures {
    /// The first `count` validation images of `config`, or drawn pictures if its data is not there.
    pub(super) fn find(config: &Config, data_root: Option<&Path>, count: usize) -> anyhow::Result<Self> {
        match DataPaths::find_val(&loaded(config, data_root)) {
            Ok(paths) => {
                let dataset = paths.load()?.0;
                let range = 0..count.min(dataset.images.len());
                Ok(Self::Validation { dataset, paths, range })
            }
            Err(EngineError::Missing(reason)) if data_root.is_none() => Ok(Self::Drawn { reason, first: 0 }),
            Err(error) => Err(error.into()),
        }
    }

    /// `count` other images than these, to see the ranges of activations on: what an int8 graph loses is measured on images
    /// that it has not seen. Training images, or the validation images behind these where there are none.
    pub(super) fn for_calibration(
        &self,
        config: &Config,
        data_root: Option<&Path>,
        count: usize,
    ) -> anyhow::Result<Self> {
        let (dataset, paths, compared) = match self {
            Self::Validation { dataset, paths, range } | Self::Training { dataset, paths, range } => {
                (dataset, paths, range)
            }
            Self::Drawn { reason, .. } => {
                say("ranges of activations from other drawn pictures")?;
                return Ok(Self::Drawn { reason: reason.clone(), first: DRAWN.len() as u64 });
            }
        };
        let train = DataPaths::of(&loaded(config, data_root)).train;
        if train.annotations.exists() && train.images.exists() {
            let dataset = train.load()?.0;
            let range = 0..count.min(dataset.images.len());
            if !range.is_empty() {
                say(format!(
                    "ranges of activations from {} images of {}",
                    range.len(),
                    train.annotations.display()
                ))?;
                return Ok(Self::Training { dataset, paths: train, range });
            }
        }
        let range = compared.end..(compared.end + count).min(dataset.images.len());
        if range.is_empty() {
            let says = "--int8 activations takes its ranges from other images than it is compared on, and there are none: \
                        name a folder with training images with --data-root, or compare on fewer with --images";
            return Err(UsageError(says.to_owned()).into());
        }
        say(format!("ranges of activations from the next {} images there", range.len()))?;
        Ok(Self::Validation { dataset: dataset.clone(), paths: paths.clone(), range })
    }

    /// Tells the user what is compared on.
    pub(super) fn say_where(&self) -> anyhow::Result<()> {
        let line = match self {
            Self::Validation { paths, range, .. } | Self::Training { paths, range, .. } => {
                format!("compared on {} images of {}", range.len(), paths.annotations.display())
            }
            Self::Drawn { reason, .. } => {
                eprintln!("note: {reason}");
                "compared on drawn pictures, so without AP; --data-root FOLDER names validation images"
                    .to_owned()
            }
        };
        Ok(say(line)?)
    }

    /// Image ids and pixels.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = anyhow::Result<(u64, RgbImage)>> + '_> {
        match self {
            Self::Validation { dataset, range, .. } | Self::Training { dataset, range, .. } => {
                Box::new(dataset.images[range.clone()].iter().map(|image| {
                    Ok((image.id.0, decode::read_annotated(&image.path, image.width, image.height)?))
                }))
            }
            Self::Drawn { first, .. } => {
                Box::new((*first..).zip(DRAWN).map(|(id, size)| Ok((id, drawn(id, size)))))
            }
        }
    }

    /// AP in points of what was found on these images.
    pub(super) fn ap(&self, found: Found) -> anyhow::Result<Option<f64>> {
        let Self::Validation { paths, .. } = self else { return Ok(None) };
        let Found { detections, image_ids } = found;
        let evaluation = Evaluation { detections, image_ids, ms_per_image: 0.0, gflops: 0.0 };
        Ok(Some(100.0 * score(&evaluation, &paths.annotations)?.stats[0]))
    }
}

/// What was found on which images.
#[derive(Default)]
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
    let annotations = DataPaths::of(&loaded(config, data_root)).train.annotations;
    Some(blake3::hash(&std::fs::read(annotations).ok()?).to_hex().to_string())
}

fn loaded(config: &Config, data_root: Option<&Path>) -> Loaded {
    let mut config = config.clone();
    if let Some(root) = data_root {
        config.data.root = root.to_owned();
    }
    let source = ConfigSource::Embedded("the weights' own configuration");
    Loaded { config, source, teacher_experiment: None }
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
