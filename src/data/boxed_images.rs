//! Batches of images with boxes: which images, how they are resized and changed, for training and for evaluation.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use ckd_kernels::upload::Values;

use super::batch::{Batch, Item};
use super::box_augment::{BoxAugment, Sample};
use super::dataset::{Dataset, Listed};
use super::draws::Draws;
use super::error::DataError;
use super::image_policy::{BadImage, Tolerance};
use super::loader::{Loader, Passes, Source, Workforce};
use super::position::Position;
use super::sampler::{Aspect, Grouping, ImageDraws, Order, Sampler};
use super::substitutes::{Place, Substitutes};
use super::transform::{Flip, Resize, ResizeRule};

/// Purpose of the batches: training or evaluation.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// Shuffled and augmented; epoch after epoch without end.
    Training {
        /// The seed of the run.
        seed: u64,
        /// Grouping of images that may share a batch.
        grouping: Grouping,
        /// Probability that an image is mirrored, in [0, 1].
        flip_probability: f64,
        /// Each image's short side is one of these, drawn evenly (multi-scale).
        short_sides_px: Vec<u32>,
        /// Other random changes.
        augment: BoxAugment,
    },
    /// Every image once, in the order of the data set, as it is.
    Evaluation {
        /// The short side of every image.
        short_side_px: u32,
    },
}

/// Configuration of the loader.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// For training or for evaluation.
    pub purpose: Purpose,
    /// Most pixels along an image's longer side.
    pub long_side_max_px: u32,
    /// Resampling of images, and rounding of their sizes.
    pub resize: Resize,
    /// Resampling for a teacher that resizes otherwise, at the same sizes; takes twice the memory.
    pub teacher_resize: Option<Resize>,
    /// Images in a batch.
    pub images_per_batch: usize,
    /// Height and width of a batch are multiples of this (32 for a feature pyramid).
    pub size_divisor: usize,
    /// Threads that decode.
    pub workers: usize,
    /// Batches built ahead of the trainer; each takes `images * height * width * 12` bytes.
    pub batches_ahead: usize,
}

impl Loader<BoxedImages> {
    /// Starts the workers over images with boxes. The first batch is the one at `start`, which a resumed run
    /// takes from [`position`](Self::position) of the interrupted one.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig, start: Position) -> Result<Self, DataError> {
        let workforce = Workforce { workers: config.workers, batches_ahead: config.batches_ahead };
        Self::over(BoxedImages::new(dataset, config)?, workforce, start)
    }
}

/// Refuses settings that make no sense, before any thread runs.
fn check(dataset: &Dataset, config: &LoaderConfig) -> Result<Sampler, DataError> {
    let refuse = |problem: &str| Err(DataError::Setting(problem.to_owned()));
    let Some(images_per_batch) = NonZeroUsize::new(config.images_per_batch) else {
        return refuse("images_per_batch must be at least 1");
    };
    let at_least_one = [
        (config.size_divisor, "size_divisor must be at least 1"),
        (config.long_side_max_px as usize, "long_side_max_px must be at least 1"),
        (dataset.images.len(), "the data set has no image"),
    ];
    if let Some((_, problem)) = at_least_one.iter().find(|(number, _)| *number == 0) {
        return refuse(problem);
    }
    let (order, short_sides) = match &config.purpose {
        Purpose::Training { seed, grouping, flip_probability, short_sides_px, .. } => {
            if !(0.0..=1.0).contains(flip_probability) {
                return refuse("flip_probability must lie in [0, 1]");
            }
            (Order::Shuffled { seed: *seed, grouping: *grouping }, short_sides_px.as_slice())
        }
        Purpose::Evaluation { short_side_px } => (Order::Sequential, std::slice::from_ref(short_side_px)),
    };
    if short_sides.is_empty() || short_sides.contains(&0) {
        return refuse("the short side must be given and be at least 1 pixel");
    }
    let usable = |image: usize| Aspect::of(dataset.images[image].width, dataset.images[image].height);
    let aspects = match (&config.purpose, dataset.listed()) {
        (Purpose::Training { .. }, Listed { usable: places, sizes }) if !places.is_empty() => {
            let annotated = sizes.iter().map(|&(width, height)| Aspect::of(width, height));
            places.iter().zip(annotated).map(|(place, annotated)| place.map_or(annotated, usable)).collect()
        }
        _ => (0..dataset.images.len()).map(usable).collect(),
    };
    Ok(Sampler::new(aspects, images_per_batch, order))
}

/// Images with boxes, resized and flipped.
#[derive(Debug)]
pub struct BoxedImages {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    sampler: Sampler,
    substitutes: Substitutes,
}

impl Source for BoxedImages {
    type Batch = Batch;

    fn pixels(batch: &mut Batch) -> Vec<&mut Values> {
        std::iter::once(&mut batch.pixels).chain(&mut batch.teacher_pixels).collect()
    }

    fn batches_per_epoch(&self) -> usize {
        self.sampler.batches_per_epoch()
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.sampler.batches(epoch)
    }

    fn passes(&self) -> Passes {
        match self.config.purpose {
            Purpose::Training { .. } => Passes::Endless,
            Purpose::Evaluation { .. } => Passes::One,
        }
    }

    fn build(&self, epoch: u64, first: u64, images: &[usize]) -> Result<Batch, DataError> {
        let decode = |image| self.dataset.pixels(self.usable(image)).map(drop);
        let seed = match self.config.purpose {
            Purpose::Training { seed, .. } => seed,
            Purpose::Evaluation { .. } => 0,
        };
        self.substitutes.batch(images, Place { seed, epoch, first }, decode, |images| {
            let items: Vec<Item> = (first..)
                .zip(images)
                .map(|(position, &image)| self.item(epoch, position, self.usable(image)))
                .collect();
            match &self.config.purpose {
                Purpose::Training { augment, .. } if augment.is_on() => {
                    self.augmented(augment, (seed, epoch, first), items)
                }
                _ => Ok(Batch::load(&self.dataset, &items, self.config.size_divisor)?),
            }
        })
    }

    fn take_broken(&self) -> Vec<BadImage> {
        self.substitutes.take_broken(|image| self.path(image))
    }

    fn path(&self, image: usize) -> PathBuf {
        // One that was left out has no place among the images.
        self.dataset.images.get(self.usable(image)).map_or_else(PathBuf::new, |image| image.path.clone())
    }
}

impl BoxedImages {
    /// Batches of `dataset` as `config` has them.
    ///
    /// # Errors
    /// Without images, or if a setting makes no sense.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self, DataError> {
        let sampler = check(&dataset, &config)?;
        let substitutes = match config.purpose {
            Purpose::Training { .. } => {
                let listed = dataset.listed().usable.iter().enumerate();
                let left_out =
                    listed.filter(|(_, usable)| usable.is_none()).map(|(image, _)| image).collect();
                let images = dataset.listed().usable.len().max(dataset.images.len());
                Substitutes::of(images, left_out, dataset.tolerance())
            }
            // What is measured is measured whole.
            Purpose::Evaluation { .. } => {
                Substitutes::of(dataset.images.len(), BTreeSet::new(), Tolerance::default())
            }
        };
        Ok(Self { dataset, config, sampler, substitutes })
    }

    /// The data set's index of a training image, which is its place in the annotations.
    fn usable(&self, image: usize) -> usize {
        match self.config.purpose {
            // One that was left out is replaced before it is looked up.
            Purpose::Training { .. } => {
                self.dataset.listed().usable.get(image).copied().flatten().unwrap_or(image)
            }
            Purpose::Evaluation { .. } => image,
        }
    }

    /// The batch of `items` under `augment`.
    fn augmented(
        &self,
        augment: &BoxAugment,
        (seed, epoch, first): (u64, u64, u64),
        items: Vec<Item>,
    ) -> Result<Batch, DataError> {
        let mut samples = Vec::with_capacity(items.len());
        for (position, mut item) in (first..).zip(items) {
            let mut draws = Draws::new(seed, "augment", &[epoch, position]);
            let sample = Sample::of(&self.dataset, item.image)?;
            let other = |draws: &mut Draws| self.other(item.image, draws);
            let (sample, scale) =
                augment.apply(sample, (epoch, item.rule.short_side_px), &mut draws, other)?;
            item.rule = item.rule.scaled(scale);
            samples.push((item, sample));
        }
        Ok(Batch::of_samples(&self.dataset, &samples, self.config.size_divisor))
    }

    /// A random image to go together with the one at index `image`, which takes its place where that is bad.
    fn other(&self, image: usize, draws: &mut Draws) -> Result<Sample, DataError> {
        let listed = &self.dataset.listed().usable;
        let drawn = match listed.is_empty() {
            true => Some(draws.below(self.dataset.images.len())),
            // Among all that are listed: an image that breaks changes no other batch.
            false => listed[draws.below(listed.len())],
        };
        match Sample::of(&self.dataset, drawn.unwrap_or(image)) {
            Ok(sample) => Ok(sample),
            // It is told of in its own turn.
            Err(_) if self.dataset.tolerance().left > 0 => Ok(Sample::of(&self.dataset, image)?),
            Err(error) => Err(error.into()),
        }
    }

    fn item(&self, epoch: u64, position: u64, image: usize) -> Item {
        let LoaderConfig { long_side_max_px, resize, teacher_resize, .. } = self.config;
        let (flip, short_side_px) = match &self.config.purpose {
            Purpose::Evaluation { short_side_px } => (Flip::None, *short_side_px),
            Purpose::Training { seed, flip_probability, short_sides_px, .. } => {
                let draws = ImageDraws::at(*seed, epoch, position);
                let flip = if draws.flip < *flip_probability { Flip::Horizontal } else { Flip::None };
                let pick = (draws.short_side * short_sides_px.len() as f64) as usize;
                (flip, short_sides_px[pick.min(short_sides_px.len() - 1)])
            }
        };
        Item { image, flip, rule: ResizeRule { short_side_px, long_side_max_px, resize }, teacher_resize }
    }
}
