//! Batches of images with boxes: the input of one detector step.

use std::borrow::Borrow;

use ckd_kernels::upload::Values;
use image::RgbImage;

use super::box_augment::Sample;
use super::dataset::{Dataset, Image, ImageId};
use super::decode::DecodeError;
use super::transform::{Flip, Placement, Resize, ResizeRule};

/// Images of one step, resized and padded to a common size, with what is to be found in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// RGB in [0, 1], `batch` x `height` x `width` x 3, contiguous; 0 beyond an image's true size.
    ///
    /// The padding is 0 before normalisation. torchvision pads after it: a model that is to agree
    /// with torchvision normalises only the pixels within [`sizes`](Self::sizes).
    pub pixels: Values,
    /// Pixels for a teacher that resamples otherwise than the student: equal sizes, other values.
    pub teacher_pixels: Option<Values>,
    /// Images in the batch.
    pub batch: usize,
    /// Rows, a multiple of the size divisor.
    pub height: usize,
    /// Columns, a multiple of the size divisor.
    pub width: usize,
    /// (height, width) of each resized image, without padding.
    pub sizes: Vec<(usize, usize)>,
    /// (height, width) of each image before resizing.
    pub original_sizes: Vec<(u32, u32)>,
    /// Ids of the images.
    pub image_ids: Vec<ImageId>,
    /// Ground truth, image by image.
    pub targets: Vec<Target>,
}

/// The ground truth of one image of a batch; empty for an image with nothing on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `xyxy` in pixels of the resized image.
    pub boxes: Vec<[f32; 4]>,
    /// The class of each box, 0..K; there is no background.
    pub labels: Vec<u32>,
    /// Crowd and ignored boxes, `xyxy`: what lies in them is neither positive nor negative.
    pub ignored: Vec<[f32; 4]>,
    /// Weights of the boxes in the losses; 1 each if there are none.
    pub weights: Vec<f32>,
    /// Weight in the losses of what is matched with no box.
    pub background: f32,
}

impl Default for Target {
    /// An image with nothing on it, whose background counts wholly.
    fn default() -> Self {
        let (boxes, labels, ignored, weights) = Default::default();
        Self { boxes, labels, ignored, weights, background: 1.0 }
    }
}

/// Image of a batch to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) image: usize,
    pub(super) flip: Flip,
    pub(super) rule: ResizeRule,
    pub(super) teacher_resize: Option<Resize>,
}

impl Batch {
    /// Decodes and places the images of `items`.
    pub(super) fn load(dataset: &Dataset, items: &[Item], divisor: usize) -> Result<Self, DecodeError> {
        let placements: Vec<Placement> = items
            .iter()
            .map(|item| {
                let Image { width, height, .. } = dataset.images[item.image];
                placement(height, width, item.rule, item.flip)
            })
            .collect();
        let mut batch = Self::blank(&placements, divisor);
        if items.iter().any(|item| item.teacher_resize.is_some()) {
            batch.teacher_pixels = Some(Vec::with_capacity(batch.pixels.capacity()).into());
        }
        for (place, (item, placement)) in items.iter().zip(&placements).enumerate() {
            let sample = Sample::of(dataset, item.image)?;
            batch.fill(place, (item, placement), dataset.images[item.image].id, &sample);
        }
        Ok(batch)
    }

    /// Places images that are not as the data set has them, each with the item that it was made for.
    pub(super) fn of_samples(dataset: &Dataset, samples: &[(Item, Sample)], divisor: usize) -> Self {
        let placements: Vec<Placement> = samples
            .iter()
            .map(|(item, Sample { image, .. })| {
                placement(image.height(), image.width(), item.rule, item.flip)
            })
            .collect();
        let mut batch = Self::blank(&placements, divisor);
        if samples.iter().any(|(item, _)| item.teacher_resize.is_some()) {
            batch.teacher_pixels = Some(Vec::with_capacity(batch.pixels.capacity()).into());
        }
        for (place, ((item, sample), placement)) in samples.iter().zip(&placements).enumerate() {
            batch.fill(place, (item, placement), dataset.images[item.image].id, sample);
        }
        batch
    }

    /// The pixels and the ground truth of the next image.
    fn fill(&mut self, place: usize, (item, placement): (&Item, &Placement), id: ImageId, sample: &Sample) {
        self.append(placement, item.rule.resize, &sample.image);
        if let (Some(pixels), Some(resize)) = (&mut self.teacher_pixels, item.teacher_resize) {
            placement.render(&sample.image, resize, (self.height, self.width), pixels);
        }
        self.image_ids[place] = id;
        self.targets[place] = Target::of(sample, placement);
    }

    /// A batch of images without ground truth, for prediction; ids are 0, 1, ...
    ///
    /// # Panics
    /// When `size_divisor` is 0 or an image has no pixels.
    pub fn of_images<I: Borrow<RgbImage>>(images: &[I], rule: ResizeRule, size_divisor: usize) -> Self {
        let images = || images.iter().map(Borrow::borrow);
        let placements: Vec<Placement> =
            images().map(|image| placement(image.height(), image.width(), rule, Flip::None)).collect();
        let mut batch = Self::blank(&placements, size_divisor);
        for (place, (image, placement)) in images().zip(&placements).enumerate() {
            batch.append(placement, rule.resize, image);
            batch.image_ids[place] = ImageId(place as u64);
        }
        batch
    }

    /// A batch that lacks its pixels.
    fn blank(placements: &[Placement], divisor: usize) -> Self {
        let largest = |side: fn(&Placement) -> usize| {
            placements.iter().map(side).max().unwrap_or(0).next_multiple_of(divisor)
        };
        let (batch, height, width) = (
            placements.len(),
            largest(|placement| placement.resized.0),
            largest(|placement| placement.resized.1),
        );
        Self {
            pixels: Vec::with_capacity(batch * height * width * 3).into(),
            teacher_pixels: None,
            batch,
            height,
            width,
            sizes: placements.iter().map(|placement| placement.resized).collect(),
            original_sizes: placements.iter().map(|placement| placement.original).collect(),
            image_ids: vec![ImageId(0); batch],
            targets: vec![Target::default(); batch],
        }
    }

    /// The pixels of the next image.
    fn append(&mut self, placement: &Placement, resize: Resize, image: &RgbImage) {
        placement.render(image, resize, (self.height, self.width), &mut self.pixels);
    }
}

fn placement(height: u32, width: u32, rule: ResizeRule, flip: Flip) -> Placement {
    Placement { original: (height, width), resized: rule.resized(height, width), flip }
}

impl Target {
    fn of(sample: &Sample, placement: &Placement) -> Self {
        let mut target = Self { background: sample.background, ..Self::default() };
        for object in &sample.objects {
            let moved = placement.map_box(object.xyxy);
            if object.is_positive {
                target.boxes.push(moved);
                target.labels.push(object.class.0);
                target.weights.push(object.weight);
            } else {
                target.ignored.push(moved);
            }
        }
        if target.weights.iter().all(|weight| *weight == 1.0) {
            target.weights.clear();
        }
        target
    }
}
