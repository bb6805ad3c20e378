//! The input of a detector: padded images and what is drawn on them.

use candle_core::Tensor;
use ckd_kernels::Value;
use ckd_kernels::input::normalize;
use ckd_settings::{Check, section};

use crate::boxes::Xyxy;
use crate::{Error, Result};

/// A batch of images, padded to one size.
#[derive(Debug, Clone)]
pub struct Images {
    /// (N, 3, H, W), RGB in 0..1, channels-last in memory; the padding is 0.
    pub pixels: Tensor,
    /// True (height, width) of each image.
    pub sizes: Vec<(usize, usize)>,
}

/// Ground truth of a training image, in pixels of the padded image.
#[derive(Debug, Clone)]
pub struct Target {
    /// Boxes to be found.
    pub boxes: Vec<Xyxy>,
    /// The class of each box, 0..K.
    pub labels: Vec<u32>,
    /// Crowds and other regions where a detection is neither right nor wrong.
    pub ignored: Vec<Xyxy>,
    /// Weights of the boxes in the losses of what is matched with them; 1 each if there are none.
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

impl Target {
    /// Weight of a box.
    pub(crate) fn weight(&self, index: u32) -> f64 {
        self.weights.get(index as usize).map_or(1.0, |&weight| weight.into())
    }
}

section! {
    /// (pixel / 255 - mean) / std, in RGB order. Default: ImageNet's.
    pub struct Normalization {
        /// Red, green, blue.
        pub mean: [f32; 3] = [0.485, 0.456, 0.406],
        /// Red, green, blue.
        pub std: [f32; 3] = [0.229, 0.224, 0.225],
    }
}

impl Copy for Normalization {}

impl Normalization {
    fn check(&self, check: &mut Check<'_>) {
        check.that(
            self.std.iter().all(|std| *std > 0.0),
            "std",
            "divides the image and must be above 0",
            "ImageNet's is [0.229, 0.224, 0.225]",
        );
    }
}

impl Images {
    /// Padded (height, width).
    pub fn padded_size(&self) -> Result<(usize, usize)> {
        let (_, _, h, w) = self.pixels.dims4()?;
        Ok((h, w))
    }

    /// Whether `pyramid` was made of these images: maps of as many.
    pub(crate) fn check_pyramid(&self, pyramid: &[Value]) -> Result<()> {
        let images = self.sizes.len();
        match pyramid.iter().find(|level| level.dims().first() != Some(&images)) {
            None => Ok(()),
            Some(level) => Err(Error::Invalid {
                part: "pyramid",
                reason: format!("a map of shape {:?} for {images} images", level.dims()),
            }),
        }
    }

    /// Whether `targets` can be learned from: one an image, and for each box a class below `classes`.
    pub(crate) fn check_targets(&self, targets: &[Target], classes: usize) -> Result<()> {
        let refuse = |reason| Err(Error::Invalid { part: "targets", reason });
        if targets.len() != self.sizes.len() {
            return refuse(format!("{} of them for {} images", targets.len(), self.sizes.len()));
        }
        for (image, Target { boxes, labels, weights, background, .. }) in targets.iter().enumerate() {
            if boxes.len() != labels.len() {
                return refuse(format!(
                    "image {image} has {} boxes, but {} labels",
                    boxes.len(),
                    labels.len()
                ));
            }
            if !weights.is_empty() && weights.len() != boxes.len() {
                let (boxes, weights) = (boxes.len(), weights.len());
                return refuse(format!("image {image} has {boxes} boxes, but {weights} weights"));
            }
            let weighed = weights.iter().chain([background]);
            if let Some(weight) = weighed.into_iter().find(|weight| !(**weight >= 0.0 && weight.is_finite()))
            {
                return refuse(format!("image {image} has a weight of {weight}; weights are 0 or above"));
            }
            if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
                return refuse(format!("image {image} has a label {label}, but there are {classes} classes"));
            }
        }
        Ok(())
    }

    /// The network's input.
    pub fn normalized(&self, normalization: &Normalization) -> Result<Value> {
        Ok(normalize(&self.pixels, &self.sizes, &normalization.mean, &normalization.std)?)
    }
}
