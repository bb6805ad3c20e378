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

/// Hue turned by `turn` of the circle, in [-0.5, 0.5]: torchvision's `adjust_hue` on a PIL image.
pub(super) fn hue(mut image: RgbImage, turn: f64) -> RgbImage {
    let turn = (turn * 255.0) as i32 as u8;
    for pixel in image.pixels_mut() {
        let [hue, saturation, value] = hsv(pixel.0);
        pixel.0 = rgb([hue.wrapping_add(turn), saturation, value]);
    }
    image
}

/// PIL's HSV: hue, saturation and value in 8 bits each.
fn hsv(rgb: [u8; 3]) -> [u8; 3] {
    let (most, least) = (rgb.into_iter().max().unwrap_or(0), rgb.into_iter().min().unwrap_or(0));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let [red, green, blue] = rgb.map(|channel| f32::from(most - channel) / range);
    let sixth = match rgb {
        [r, ..] if r == most => f64::from(blue - green),
        [_, g, _] if g == most => 2.0 + f64::from(red) - f64::from(blue),
        _ => 4.0 + f64::from(green) - f64::from(red),
    };
    // In 32 bits there, and towards zero.
    let hue = ((sixth as f32 as f64 / 6.0 + 1.0) % 1.0) as f32;
    let saturation = range / f32::from(most);
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, most]
}

/// RGB of PIL's HSV.
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let (sixths, share) = (f64::from(hue) * 6.0 / 255.0, (f64::from(saturation) / 255.0) as f32);
    let (sector, within) = (sixths.floor(), (sixths - sixths.floor()) as f32);
    let part = |missing: f64| (f64::from(value) * (1.0 - missing)).round().clamp(0.0, 255.0) as u8;
    // Products of two 32-bit numbers have 32 bits there, all others 64.
    let low = part(f64::from(share));
    let falling = part(f64::from(share * within));
    let rising = part(f64::from(share) * (1.0 - f64::from(within)));
    match sector as u8 % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

/// 0 is grey, 1 the image.
pub(super) fn saturation(mut image: RgbImage, factor: f64) -> RgbImage {
    for pixel in image.pixels_mut() {
        let grey = grey(pixel);
        pixel.0 = pixel.0.map(|value| blended(grey, value, factor));
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_are_turned_as_torchvision_turns_them() {
        // By torchvision 0.28's `adjust_hue` on PIL images.
        let colours = [
            [255, 0, 0],
            [10, 200, 30],
            [12, 34, 56],
            [200, 180, 160],
            [90, 90, 90],
            [1, 2, 3],
            [250, 128, 7],
            [33, 250, 251],
            [128, 0, 255],
        ];
        for (turn, expected) in [
            (
                0.1,
                [
                    [255, 150, 0],
                    [10, 200, 140],
                    [15, 12, 56],
                    [197, 200, 160],
                    [90, 90, 90],
                    [1, 1, 3],
                    [230, 250, 8],
                    [33, 126, 251],
                    [255, 0, 234],
                ],
            ),
            (
                -0.37,
                [
                    [0, 48, 255],
                    [200, 10, 28],
                    [44, 56, 12],
                    [172, 160, 200],
                    [90, 90, 90],
                    [2, 3, 1],
                    [82, 8, 250],
                    [251, 202, 33],
                    [0, 255, 72],
                ],
            ),
            (
                0.5,
                [
                    [0, 255, 252],
                    [200, 10, 184],
                    [56, 32, 12],
                    [160, 181, 200],
                    [90, 90, 90],
                    [3, 2, 1],
                    [8, 133, 250],
                    [251, 33, 39],
                    [138, 255, 0],
                ],
            ),
        ] {
            let image = RgbImage::from_fn(9, 1, |x, _| Rgb(colours[x as usize]));
            let turned: Vec<[u8; 3]> = hue(image, turn).pixels().map(|pixel| pixel.0).collect();
            assert_eq!(turned, expected, "{turn}");
        }
    }
}
