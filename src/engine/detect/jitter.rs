//! Uncertainty of a detector about its boxes: Soft Teacher's box jittering (Xu et al. 2021, arXiv 2106.09018).
//!
//! Copies of a box that are a little off are refined by the box head; a box whose copies end in different places is not to be
//! relied on.
//!
//! ```text
//! copy         every side of the box + normal noise of 0.06 of its width (height)
//! uncertainty  mean over the four sides of deviation (n - 1) / width (height) of the mean box, which counts as 1 at least
//! ```

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::boxes::Xyxy;
use ckd_detectors::nn::Mode;
use ckd_detectors::postprocess::Detections;
use ckd_kernels::graph::untracked;
use image::RgbImage;

use super::evaluate::images_of;
use crate::config::Config;
use crate::data::draws::Draws;
use crate::engine::Result;

/// Copies of each box.
pub const COPIES: usize = 10;

/// Deviation of a copy's side, in widths (heights) of the box.
const SPREAD: f64 = 0.06;

/// Uniform numbers whose sum, less half as many, has a deviation of 1 and is nearly normal; it needs no function that differs
/// from machine to machine.
const UNIFORM: usize = 12;

/// [`COPIES`] noisy copies of all `boxes`: the first of each, the second of each, ..
pub fn copies(boxes: &[Xyxy], draws: &mut Draws) -> Vec<Xyxy> {
    let mut noise = || (0..UNIFORM).map(|_| draws.unit()).sum::<f64>() - UNIFORM as f64 / 2.0;
    let mut copy = |own: &Xyxy| {
        let sides = [own[2] - own[0], own[3] - own[1]].map(f64::from);
        let moved = |side: usize| (f64::from(own[side]) + SPREAD * sides[side % 2] * noise()) as f32;
        [0, 1, 2, 3].map(moved)
    };
    (0..COPIES).flat_map(|_| boxes).map(&mut copy).collect()
}

/// Uncertainty about each of `count` boxes, of which `refined` are the copies in the order of [`copies`]; there are at least two of
/// each.
pub fn uncertainty(refined: &[Xyxy], count: usize) -> Vec<f64> {
    let copies = (refined.len() / count.max(1)) as f64;
    let of_box = |place: usize| {
        let side =
            |side: usize| refined.iter().skip(place).step_by(count).map(move |own| f64::from(own[side]));
        let means = [0, 1, 2, 3].map(|at| side(at).sum::<f64>() / copies);
        let sizes = [means[2] - means[0], means[3] - means[1]].map(|size| size.max(1.0));
        let deviation = |at: usize| {
            let squares: f64 = side(at).map(|value| (value - means[at]).powi(2)).sum();
            (squares / (copies - 1.0)).sqrt() / sizes[at % 2]
        };
        [0, 1, 2, 3].map(deviation).iter().sum::<f64>() / 4.0
    };
    (0..count).map(of_box).collect()
}

/// Uncertainty about each box of `found` in `image`, in pixels of which they are; the noise is the same for the same `place`.
///
/// # Errors
/// If the detector has no second stage, or a tensor operation fails.
pub fn box_uncertainty(
    detector: &Detector,
    (image, place): (&RgbImage, u64),
    found: &Detections,
    config: &Config,
    device: &Device,
) -> Result<Vec<f64>> {
    let images = images_of(&[image], config, device)?;
    let original = (image.height() as usize, image.width() as usize);
    let size = images.sizes.first().copied().unwrap_or(original);
    let seen = found.clone().resized(original, size).map_err(ckd_detectors::Error::from)?;
    let noisy = copies(&seen.boxes, &mut Draws::new(0, "box jitter", &[place]));
    let labels = seen.labels.repeat(COPIES);
    let refined =
        untracked(|| detector.refined(&detector.pyramid(&images, Mode::Inference)?, &[noisy], &labels))?;
    Ok(uncertainty(&refined, seen.boxes.len()))
}
