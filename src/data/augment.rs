//! Random augmentation of labelled images: crop, flip, AutoAugment, colour jitter.
//!
//! In order: resize or crop, flip, AutoAugment, colour jitter; normalisation belongs to each network. Crops
//! beyond the image are black, as torchvision's `RandomCrop` and `Pad` make them before normalisation. Each
//! image draws from a stream of its own, so the order of its draws is all that counts.

use ckd_settings::{Check, choices, section};
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::auto_augment;
use super::colour;
use super::draws::Draws;

choices! {
    /// Crop of a training image to its size.
    pub enum Crop {
        /// Resized, surrounded by `pad_px` black pixels, cropped at random: CIFAR's.
        Pad = "pad",
        /// A random part, 8 to 100 % of the area, resized: ImageNet's.
        RandomResized = "random_resized",
        /// Resized.
        Resize = "resize",
    }
}

choices! {
    /// A policy of AutoAugment (Cubuk et al. 2019).
    pub enum Policy {
        /// None.
        None = "none",
        /// CIFAR-10's, 25 pairs of operations.
        Cifar10 = "cifar10",
    }
}

section! {
    /// Input of a classifier: size, crop, flip and colours of images.
    pub struct LabelledInput {
        /// Height and width of what the networks see, in pixels.
        pub side_px: u32 = 32,
        /// Crop of a training image to that size.
        pub crop: Crop = Crop::Pad,
        /// crop = "pad": black pixels on each side.
        pub pad_px: u32 = 4,
        /// Probability that a training image is mirrored.
        pub flip_probability: f64 = 0.5,
        /// A policy that is applied to training images after crop and flip.
        pub auto_augment: Policy = Policy::None,
        /// Brightness, contrast and saturation of training images change by up to these factors.
        pub jitter: Vec<f64> = vec![0.0, 0.0, 0.0],
        /// At evaluation the shorter side is resized to this many pixels, then the middle is taken. Default:
        /// the whole image is resized to side_px.
        pub eval_resize_px: Option<u32>,
    }
}

impl LabelledInput {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("side_px", self.side_px);
        check.fraction("flip_probability", self.flip_probability);
        let jitter = &self.jitter;
        check.that(
            jitter.len() == 3 && jitter.iter().all(|strength| *strength >= 0.0),
            "jitter",
            format!("is {jitter:?}"),
            "give three numbers of 0 or more: brightness, contrast, saturation; the ImageNet recipes' are 0.4",
        );
        check.that(
            self.eval_resize_px.is_none_or(|px| px >= self.side_px),
            "eval_resize_px",
            format!("is below side_px, {}", self.side_px),
            "the middle cannot be larger than the image; ImageNet's are 256 and 224",
        );
    }
}

/// Preparation of labelled images: [`LabelledInput`] for training or for evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    /// Height and width of the result, in pixels.
    pub side_px: u32,
    frame: Frame,
    /// Probability that an image is mirrored, in [0, 1].
    flip_probability: f64,
    policy: Policy,
    /// Brightness, contrast and saturation change by up to these factors; 0 leaves them.
    jitter: [f64; 3],
}

/// Size and place of the part of an image that is seen, with the numbers that belong to it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Frame {
    /// Resized to it, whatever its shape.
    Resize,
    /// Resized to it, surrounded by so many black pixels, and cropped at random.
    Pad(u32),
    /// A random part of the image (Szegedy et al. 2015), 8 to 100 % of it, 3:4 to 4:3, resized: torchvision's
    /// `RandomResizedCrop`.
    RandomResized,
    /// The shorter side resized to so many pixels, then the middle.
    Centre(u32),
}

impl LabelledInput {
    /// Preparation of training images.
    pub fn training(&self) -> Augmentation {
        Augmentation {
            side_px: self.side_px,
            frame: match self.crop {
                Crop::Pad => Frame::Pad(self.pad_px),
                Crop::RandomResized => Frame::RandomResized,
                Crop::Resize => Frame::Resize,
            },
            flip_probability: self.flip_probability,
            policy: self.auto_augment,
            // A validated configuration has three.
            jitter: std::array::from_fn(|index| self.jitter.get(index).copied().unwrap_or(0.0)),
        }
    }

    /// Preparation of images at evaluation: no chance.
    pub fn evaluation(&self) -> Augmentation {
        Augmentation {
            side_px: self.side_px,
            frame: self.eval_resize_px.map_or(Frame::Resize, Frame::Centre),
            flip_probability: 0.0,
            policy: Policy::None,
            jitter: [0.0; 3],
        }
    }
}

impl Augmentation {
    /// The image as the draws have it, `side_px` high and wide.
    pub fn apply(&self, image: RgbImage, draws: &mut Draws) -> RgbImage {
        let mut image = match self.frame {
            Frame::Resize => square(image, self.side_px),
            Frame::Pad(pad_px) => padded_crop(&square(image, self.side_px), pad_px, draws),
            Frame::RandomResized => random_resized_crop(&image, self.side_px, draws),
            Frame::Centre(resize_px) => centre_crop(&image, resize_px, self.side_px),
        };
        if draws.chance(self.flip_probability) {
            imageops::flip_horizontal_in_place(&mut image);
        }
        match self.policy {
            Policy::None => {}
            Policy::Cifar10 => image = auto_augment::cifar10(image, draws),
        }
        jitter(image, self.jitter, draws)
    }
}

/// The image resized to `side_px` both ways; as it is if it already has that size.
pub(super) fn square(image: RgbImage, side_px: u32) -> RgbImage {
    resized(image, side_px, side_px)
}

/// Bilinear over all pixels that an output pixel covers, as PIL's.
fn resized(image: RgbImage, width: u32, height: u32) -> RgbImage {
    match image.dimensions() == (width, height) {
        true => image,
        false => imageops::resize(&image, width, height, FilterType::Triangle),
    }
}

/// The part of its size of the image, at random within a frame of `pad_px` black pixels around it.
fn padded_crop(image: &RgbImage, pad_px: u32, draws: &mut Draws) -> RgbImage {
    let places = 2 * pad_px as usize + 1;
    let down = draws.below(places) as i64 - i64::from(pad_px);
    let across = draws.below(places) as i64 - i64::from(pad_px);
    let mut out = RgbImage::new(image.width(), image.height());
    imageops::replace(&mut out, image, -across, -down);
    out
}

/// Ten attempts at a part of random area and aspect that lies within; then the middle, as torchvision.
fn random_resized_crop(image: &RgbImage, side_px: u32, draws: &mut Draws) -> RgbImage {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let (narrowest, widest) = (3.0 / 4.0, 4.0 / 3.0);
    let mut chosen = None;
    for _ in 0..10 {
        let area = width * height * draws.between(0.08, 1.0);
        let ratio = draws.between(f64::ln(narrowest), f64::ln(widest)).exp();
        let (w, h) = ((area * ratio).sqrt().round(), (area / ratio).sqrt().round());
        if w >= 1.0 && h >= 1.0 && w <= width && h <= height {
            let top = draws.below((height - h) as usize + 1) as u32;
            let left = draws.below((width - w) as usize + 1) as u32;
            chosen = Some((left, top, w as u32, h as u32));
            break;
        }
    }
    let (left, top, w, h) = chosen.unwrap_or_else(|| {
        let ratio = width / height;
        let (w, h) = match ratio {
            ratio if ratio < narrowest => (width, (width / narrowest).round()),
            ratio if ratio > widest => ((height * widest).round(), height),
            _ => (width, height),
        };
        (((width - w) / 2.0) as u32, ((height - h) / 2.0) as u32, w as u32, h as u32)
    });
    resized(imageops::crop_imm(image, left, top, w.max(1), h.max(1)).to_image(), side_px, side_px)
}

/// torchvision's `Resize(resize_px)` and `CenterCrop(side_px)`.
fn centre_crop(image: &RgbImage, resize_px: u32, side_px: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let long = |long: u32, short: u32| (u64::from(resize_px) * u64::from(long) / u64::from(short)) as u32;
    let (w, h) = match width <= height {
        true => (resize_px, long(height, width.max(1))),
        false => (long(width, height.max(1)), resize_px),
    };
    let image = resized(image.clone(), w, h);
    let middle = |length: u32| ((f64::from(length) - f64::from(side_px)) / 2.0).round_ties_even() as i64;
    let mut out = RgbImage::new(side_px, side_px);
    imageops::replace(&mut out, &image, -middle(w), -middle(h));
    out
}

/// torchvision's `ColorJitter` without hue, in its fixed order (there it is random).
pub(super) fn jitter(image: RgbImage, strength: [f64; 3], draws: &mut Draws) -> RgbImage {
    let changes = [colour::brightness, colour::contrast, colour::saturation];
    strength.into_iter().zip(changes).fold(image, |image, (strength, change)| match strength > 0.0 {
        true => change(image, draws.between((1.0 - strength).max(0.0), 1.0 + strength)),
        false => image,
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8 + 1, y as u8 + 1, (x + y) as u8 + 1]))
    }

    fn plain(side_px: u32, frame: Frame) -> Augmentation {
        Augmentation { side_px, frame, flip_probability: 0.0, policy: Policy::None, jitter: [0.0; 3] }
    }

    fn draws(position: u64) -> Draws {
        Draws::new(1, "augment", &[0, position])
    }

    #[test]
    fn a_padded_crop_is_the_image_moved_with_black_beyond_its_edge() {
        let image = picture(8, 8);
        let mut seen = std::collections::BTreeSet::new();
        for position in 0..400 {
            let crop = plain(8, Frame::Pad(2)).apply(image.clone(), &mut draws(position));
            let inside = crop.enumerate_pixels().find(|(_, _, pixel)| pixel.0 != [0; 3]).expect("a pixel");
            let shift = (
                i64::from(inside.2.0[0]) - 1 - i64::from(inside.0),
                i64::from(inside.2.0[1]) - 1 - i64::from(inside.1),
            );
            seen.insert(shift);
            for (x, y, pixel) in crop.enumerate_pixels() {
                let (from_x, from_y) = (i64::from(x) + shift.0, i64::from(y) + shift.1);
                let within = (0..8).contains(&from_x) && (0..8).contains(&from_y);
                let expected =
                    if within { *image.get_pixel(from_x as u32, from_y as u32) } else { Rgb([0; 3]) };
                assert_eq!(*pixel, expected);
            }
        }
        assert_eq!(seen.len(), 25, "every place is drawn");
        assert!(seen.iter().all(|(x, y)| x.abs() <= 2 && y.abs() <= 2));
    }

    #[test]
    fn without_chance_an_image_of_the_right_size_stays_as_it_is() {
        let image = picture(8, 8);
        assert_eq!(plain(8, Frame::Resize).apply(image.clone(), &mut draws(0)), image);
        assert_eq!(plain(8, Frame::Centre(8)).apply(image.clone(), &mut draws(0)), image);
        assert_eq!(plain(8, Frame::Pad(0)).apply(image.clone(), &mut draws(0)), image);
        let always = Augmentation { flip_probability: 1.0, ..plain(8, Frame::Resize) };
        assert_eq!(always.apply(image.clone(), &mut draws(0)), imageops::flip_horizontal(&image));
    }

    #[test]
    fn every_crop_gives_the_size_it_should_from_any_image() {
        for (width, height) in [(1, 1), (3, 200), (200, 3), (64, 48), (31, 32)] {
            for crop in [Frame::Resize, Frame::Pad(4), Frame::RandomResized, Frame::Centre(36)] {
                let out = plain(32, crop).apply(picture(width, height), &mut draws(3));
                assert_eq!(out.dimensions(), (32, 32), "{crop:?} of {width}x{height}");
            }
        }
    }

    #[test]
    fn the_centre_crop_is_torchvisions() {
        // 6x4 resized to 4 (as it is), the middle 2x2: columns 2 and 3, rows 1 and 2.
        let out = plain(2, Frame::Centre(4)).apply(picture(6, 4), &mut draws(0));
        assert_eq!(out.get_pixel(0, 0).0, [3, 2, 4]);
        assert_eq!(out.get_pixel(1, 1).0, [4, 3, 6]);
    }

    #[test]
    fn random_crops_differ_by_position_and_repeat() {
        let augmentation = Augmentation {
            flip_probability: 0.5,
            policy: Policy::Cifar10,
            jitter: [0.4, 0.4, 0.4],
            ..plain(16, Frame::RandomResized)
        };
        let at = |position| augmentation.apply(picture(40, 30), &mut draws(position));
        assert_eq!(at(1), at(1));
        assert_ne!(at(1), at(2));
    }
}
