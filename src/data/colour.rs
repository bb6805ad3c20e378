//! Changes of colour, in PIL's arithmetic on 8 bits.

use image::{Rgb, RgbImage};

/// Every pixel changed by itself.
pub(super) fn mapped(mut image: RgbImage, change: impl Fn(u8) -> u8) -> RgbImage {
    image.pixels_mut().for_each(|Rgb(pixel)| *pixel = pixel.map(&change));
    image
}

/// `factor` of the way from a value to another, and beyond, cut to bytes as PIL does.
pub(super) fn blended(from: u8, to: u8, factor: f64) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    // In 32 bits, then towards zero, as a conversion to an integer in C.
    (from + factor as f32 * (to - from)).clamp(0.0, 255.0) as u8
}

/// PIL's luma, in 16 bits after the point.
fn grey(&Rgb([r, g, b]): &Rgb<u8>) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// 0 is black, 1 the image.
pub(super) fn brightness(image: RgbImage, factor: f64) -> RgbImage {
    mapped(image, |value| blended(0, value, factor))
}

/// 0 is the mean grey, 1 the image.
pub(super) fn contrast(image: RgbImage, factor: f64) -> RgbImage {
    let total: u64 = image.pixels().map(|pixel| u64::from(grey(pixel))).sum();
    let pixels = u64::from(image.width()) * u64::from(image.height());
    let mean = (total as f64 / pixels.max(1) as f64 + 0.5) as u8;
    mapped(image, |value| blended(mean, value, factor))
}

/// 0 is grey, 1 the image.
pub(super) fn saturation(mut image: RgbImage, factor: f64) -> RgbImage {
    for pixel in image.pixels_mut() {
        let grey = grey(pixel);
        pixel.0 = pixel.0.map(|value| blended(grey, value, factor));
    }
    image
}
