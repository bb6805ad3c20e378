//! Random augmentation of images with boxes: mosaic, crop, scale jitter, mix-up, colour jitter, vertical flip.
//!
//! In that order, in pixels of the original image; then [`Placement`](super::transform::Placement) mirrors and resizes. Each
//! training image draws from a stream of its own, so what it becomes depends on (seed, epoch, position) alone.
//!
//! An object whose box was cut is kept if at least the share `min_visible` of its area is left and both sides have
//! [`MIN_VISIBLE_PX`]; crowds and ignored objects are kept whatever is left of them, since nothing is to be learned there.

mod crop;
mod mix_up;
mod mosaic;
mod sample;

use ckd_settings::{Check, section};

use super::augment::jitter;
use super::colour;
use super::draws::Draws;
pub use sample::MIN_VISIBLE_PX;
pub(super) use sample::Sample;

section! {
    /// Random changes of a detector's training images, boxes moving along; each is off unless it is given.
    pub struct BoxAugment {
        /// Probability that an image becomes a mosaic: a square of it and three others, each with its longer side as long as
        /// the square's, around a random point. Ultralytics: 1.0.
        pub mosaic_probability: f64 = 0.0,
        /// Probability of a crop that keeps boxes: torchvision's `RandomIoUCrop` with its settings, which are SSD's.
        /// torchvision: 1.0, a seventh of which crops nothing.
        pub crop_probability: f64 = 0.0,
        /// Smallest and largest factor on an image's size after resizing (scale jitter): a larger image is cropped to the size
        /// that it had, a smaller one stays small. torchvision's and Detectron2's large-scale jitter: [0.1, 2.0].
        pub scale_jitter: Vec<f64> = vec![1.0, 1.0],
        /// Probability that another image is blended in, its boxes added (mix-up). Ultralytics' larger models: 0.15.
        pub mix_up_probability: f64 = 0.0,
        /// Brightness, contrast and saturation change by up to these factors, and hue by up to this share of the circle, in
        /// [0, 0.5]: torchvision's `ColorJitter`. Usual: [0.4, 0.4, 0.4, 0.1].
        pub jitter: Vec<f64> = vec![0.0, 0.0, 0.0, 0.0],
        /// Probability that an image is turned upside down. Ultralytics: 0; 0.5 suits images from above.
        pub vertical_flip_probability: f64 = 0.0,
        /// Passes over the images with mosaic and mix-up; later ones go without. Default: all. Ultralytics: all but the last 10.
        pub mix_epochs: Option<u64>,
        /// The share of a box's area that must stay visible, or its object is dropped. Ultralytics: 0.1.
        pub min_visible: f64 = 0.1,
    }
}

impl BoxAugment {
    fn check(&self, check: &mut Check<'_>) {
        check.fraction("mosaic_probability", self.mosaic_probability);
        check.fraction("crop_probability", self.crop_probability);
        check.fraction("mix_up_probability", self.mix_up_probability);
        check.fraction("vertical_flip_probability", self.vertical_flip_probability);
        check.fraction("min_visible", self.min_visible);
        let scale = &self.scale_jitter;
        check.that(
            matches!(scale[..], [least, most] if least > 0.0 && least <= most && most <= LARGEST_SCALE),
            "scale_jitter",
            format!("is {scale:?}"),
            format!(
                "give two factors above 0 and up to {LARGEST_SCALE}, the smaller first; large-scale jitter is [0.1, 2.0]"
            ),
        );
        let jitter = &self.jitter;
        check.that(
            matches!(jitter[..], [b, c, s, hue]
                if [b, c, s].iter().all(|part| *part >= 0.0 && part.is_finite()) && (0.0..=0.5).contains(&hue)),
            "jitter",
            format!("is {jitter:?}"),
            "give brightness, contrast and saturation of 0 or more, and hue from 0 to 0.5; usual is [0.4, 0.4, 0.4, 0.1]",
        );
    }

    /// Whether an image may become another one.
    pub(super) fn is_on(&self) -> bool {
        *self != Self { mix_epochs: self.mix_epochs, min_visible: self.min_visible, ..Self::default() }
    }

    /// Whether images are put together in `epoch`.
    fn mixes_in(&self, epoch: u64) -> bool {
        self.mix_epochs.is_none_or(|epochs| epoch < epochs)
    }

    /// The sample as the draws have it, to be resized to `short_side_px` times the factor that comes with it. `other` gives
    /// another image of the set.
    ///
    /// # Errors
    /// Errors of `other`.
    pub(super) fn apply<E>(
        &self,
        mut sample: Sample,
        (epoch, short_side_px): (u64, u32),
        draws: &mut Draws,
        mut other: impl FnMut(&mut Draws) -> Result<Sample, E>,
    ) -> Result<(Sample, f64), E> {
        let mixes = self.mixes_in(epoch);
        if draws.chance(self.mosaic_probability) && mixes {
            let others = [other(draws)?, other(draws)?, other(draws)?];
            sample = mosaic::mosaic(sample, others, short_side_px, self.min_visible, draws);
        }
        if draws.chance(self.crop_probability)
            && let Some(window) = crop::around_boxes(&sample, draws)
        {
            sample = sample.of_centres_in(window).cropped(window, self.min_visible);
        }
        let mut scale = 1.0;
        if let [least, most] = self.scale_jitter[..]
            && least < most
        {
            scale = draws.between(least, most);
        } else if let [factor, ..] = self.scale_jitter[..] {
            scale = factor;
        }
        if scale > 1.0 {
            // A part of the image at the whole image's size is the image enlarged, and cropped to its size.
            let window = crop::at_random(&sample, scale, draws);
            sample = sample.cropped(window, self.min_visible);
            scale = 1.0;
        }
        if draws.chance(self.mix_up_probability) && mixes {
            let guest = other(draws)?;
            sample = mix_up::mix_up(sample, guest, self.min_visible, draws);
        }
        sample.image = self.coloured(sample.image, draws);
        if draws.chance(self.vertical_flip_probability) {
            sample = sample.upside_down();
        }
        Ok((sample, scale))
    }

    fn coloured(&self, image: image::RgbImage, draws: &mut Draws) -> image::RgbImage {
        // A validated configuration has four.
        let [brightness, contrast, saturation, hue] = self.jitter[..] else { return image };
        let image = jitter(image, [brightness, contrast, saturation], draws);
        if hue > 0.0 { colour::hue(image, draws.between(-hue, hue)) } else { image }
    }
}

/// The largest factor on an image's size that makes sense.
const LARGEST_SCALE: f64 = 10.0;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ckd_settings::read;

    use super::sample::tests::{assert_painted, painted};
    use super::*;

    fn draws(position: u64) -> Draws {
        Draws::new(1, "augment", &[0, position])
    }

    /// Samples of painted boxes under `augment`, with the factors that come with them.
    fn augmented(augment: &BoxAugment, epoch: u64, position: u64) -> (Sample, f64) {
        let mut next = 1;
        let other = |draws: &mut Draws| -> Result<Sample, Infallible> {
            next += 1;
            Ok(painted(40 + 8 * draws.below(4) as u32, 56, &[[4.0, 8.0, 20.0, 30.0]], next))
        };
        let sample = painted(64, 48, &[[8.0, 4.0, 24.0, 20.0], [30.0, 10.0, 60.0, 44.0]], 1);
        let Ok(made) = augment.apply(sample, (epoch, 64), &mut draws(position), other);
        made
    }

    fn all() -> BoxAugment {
        BoxAugment {
            mosaic_probability: 0.5,
            crop_probability: 0.5,
            scale_jitter: vec![0.5, 2.0],
            vertical_flip_probability: 0.5,
            ..BoxAugment::default()
        }
    }

    #[test]
    fn without_settings_nothing_changes() {
        let plain = BoxAugment::default();
        assert!(!plain.is_on() && all().is_on());
        assert!(!BoxAugment { mix_epochs: Some(3), min_visible: 0.5, ..plain.clone() }.is_on());
        let (sample, scale) = augmented(&plain, 0, 0);
        assert_eq!(scale, 1.0);
        assert_eq!(sample, painted(64, 48, &[[8.0, 4.0, 24.0, 20.0], [30.0, 10.0, 60.0, 44.0]], 1));
    }

    #[test]
    fn boxes_follow_their_pixels_through_everything_that_moves_them() {
        let mut kept = 0;
        for position in 0..300 {
            let (sample, scale) = augmented(&all(), 0, position);
            assert!((0.5..=1.0).contains(&scale));
            kept += assert_painted(&sample);
        }
        assert!(kept > 300, "{kept} boxes");
    }

    #[test]
    fn a_sample_is_a_function_of_its_stream() {
        let everything = BoxAugment { mix_up_probability: 0.5, jitter: vec![0.4, 0.4, 0.4, 0.1], ..all() };
        for position in 0..20 {
            assert_eq!(augmented(&everything, 0, position), augmented(&everything, 0, position));
        }
        assert_ne!(augmented(&everything, 0, 1), augmented(&everything, 0, 2));
    }

    #[test]
    fn mosaic_and_mix_up_end_with_their_epochs() {
        let mixed = BoxAugment {
            mosaic_probability: 1.0,
            mix_up_probability: 1.0,
            mix_epochs: Some(2),
            ..BoxAugment::default()
        };
        let classes = |epoch| -> Vec<u32> {
            let mut classes: Vec<u32> =
                augmented(&mixed, epoch, 5).0.objects.iter().map(|object| object.class.0).collect();
            classes.dedup();
            classes
        };
        assert!(classes(0).len() > 1 && classes(1).len() > 1);
        assert_eq!(classes(2), [1]);
        assert_eq!(augmented(&mixed, 2, 5).0, augmented(&BoxAugment::default(), 2, 5).0);
    }

    #[test]
    fn settings_out_of_range_are_named_with_what_to_write() {
        for (text, key, help) in [
            ("mosaic_probability = 1.5", "mosaic_probability", "1"),
            ("mix_up_probability = -0.1", "mix_up_probability", "0"),
            ("crop_probability = nan", "crop_probability", "finite"),
            ("vertical_flip_probability = 2", "vertical_flip_probability", "1"),
            ("min_visible = 1.1", "min_visible", "1"),
            ("scale_jitter = [2.0, 0.1]", "scale_jitter", "[0.1, 2.0]"),
            ("scale_jitter = [0.0, 1.0]", "scale_jitter", "[0.1, 2.0]"),
            ("scale_jitter = [0.5]", "scale_jitter", "[0.1, 2.0]"),
            ("scale_jitter = [0.5, 11.0]", "scale_jitter", "[0.1, 2.0]"),
            ("scale_jitter = [0.5, inf]", "scale_jitter", "finite"),
            ("jitter = [0.4, 0.4, 0.4]", "jitter", "[0.4, 0.4, 0.4, 0.1]"),
            ("jitter = [0.4, -0.4, 0.4, 0.1]", "jitter", "[0.4, 0.4, 0.4, 0.1]"),
            ("jitter = [0.4, 0.4, 0.4, 0.6]", "jitter", "[0.4, 0.4, 0.4, 0.1]"),
            ("mix_epochs = -1", "mix_epochs", ""),
            ("mosaic = 1.0", "mosaic", "mosaic_probability"),
        ] {
            let error = read::<BoxAugment>(text, "augment.toml").unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(help), "{text}: {error}");
        }
    }
}
