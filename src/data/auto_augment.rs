//! AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019, arXiv 1805.09501, table 7), as in torchvision.
//!
//! One of 25 sub-policies is drawn; each of its two operations happens with its own probability, geometric
//! and colour ones towards either side. Operations are PIL's on 8 bits. Where the image moves, black comes
//! in.

use image::{Rgb, RgbImage};

use super::colour::{blended, brightness, contrast, mapped, saturation};
use super::draws::Draws;

/// An operation with its magnitude, 0 to 9 (paper, table 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    ShearY(u8),
    TranslateX(u8),
    TranslateY(u8),
    Rotate(u8),
    Brightness(u8),
    Color(u8),
    Contrast(u8),
    Sharpness(u8),
    Posterize(u8),
    Solarize(u8),
    AutoContrast,
    Equalize,
    Invert,
}

use Operation::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness, ShearY,
    Solarize, TranslateX, TranslateY,
};

/// Two operations, each with its probability.
type SubPolicy = [(Operation, f64); 2];

const CIFAR10: [SubPolicy; 25] = [
    [(Invert, 0.1), (Contrast(6), 0.2)],
    [(Rotate(2), 0.7), (TranslateX(9), 0.3)],
    [(Sharpness(1), 0.8), (Sharpness(3), 0.9)],
    [(ShearY(8), 0.5), (TranslateY(9), 0.7)],
    [(AutoContrast, 0.5), (Equalize, 0.9)],
    [(ShearY(7), 0.2), (Posterize(7), 0.3)],
    [(Color(3), 0.4), (Brightness(7), 0.6)],
    [(Sharpness(9), 0.3), (Brightness(9), 0.7)],
    [(Equalize, 0.6), (Equalize, 0.5)],
    [(Contrast(7), 0.6), (Sharpness(5), 0.6)],
    [(Color(7), 0.7), (TranslateX(8), 0.5)],
    [(Equalize, 0.3), (AutoContrast, 0.4)],
    [(TranslateY(3), 0.4), (Sharpness(6), 0.2)],
    [(Brightness(6), 0.9), (Color(8), 0.2)],
    [(Solarize(2), 0.5), (Invert, 0.0)],
    [(Equalize, 0.2), (AutoContrast, 0.6)],
    [(Equalize, 0.2), (Equalize, 0.6)],
    [(Color(9), 0.9), (Equalize, 0.6)],
    [(AutoContrast, 0.8), (Solarize(8), 0.2)],
    [(Brightness(3), 0.1), (Color(0), 0.7)],
    [(Solarize(5), 0.4), (AutoContrast, 0.9)],
    [(TranslateY(9), 0.9), (TranslateY(9), 0.7)],
    [(AutoContrast, 0.9), (Solarize(3), 0.8)],
    [(Equalize, 0.8), (Invert, 0.1)],
    [(TranslateY(9), 0.7), (AutoContrast, 0.9)],
];

/// The image after a sub-policy of CIFAR-10's that `draws` picks.
pub(super) fn cifar10(image: RgbImage, draws: &mut Draws) -> RgbImage {
    let chosen = CIFAR10[draws.below(CIFAR10.len())];
    chosen.into_iter().fold(image, |image, (operation, probability)| {
        let (happens, negative) = (draws.chance(probability), draws.chance(0.5));
        if happens { operation.apply(image, if negative { -1.0 } else { 1.0 }) } else { image }
    })
}

impl Operation {
    fn apply(self, image: RgbImage, sign: f64) -> RgbImage {
        let of = |magnitude: u8, largest: f64| f64::from(tenth(magnitude, largest as f32));
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        match self {
            ShearY(m) => moved(&image, [1.0, 0.0, 0.0, sign * of(m, 0.3), 1.0, 0.0]),
            TranslateX(m) => {
                moved(&image, [1.0, 0.0, -(sign * of(m, 150.0 / 331.0 * width)).trunc(), 0.0, 1.0, 0.0])
            }
            TranslateY(m) => {
                moved(&image, [1.0, 0.0, 0.0, 0.0, 1.0, -(sign * of(m, 150.0 / 331.0 * height)).trunc()])
            }
            Rotate(m) => {
                let (sin, cos) = (-sign * of(m, 30.0)).to_radians().sin_cos();
                let (x, y) = (width / 2.0, height / 2.0);
                moved(&image, [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y])
            }
            Brightness(m) => brightness(image, 1.0 + sign * of(m, 0.9)),
            Color(m) => saturation(image, 1.0 + sign * of(m, 0.9)),
            Contrast(m) => contrast(image, 1.0 + sign * of(m, 0.9)),
            Sharpness(m) => sharpness(image, 1.0 + sign * of(m, 0.9)),
            Posterize(m) => {
                // 9 steps over 4 bits.
                let bits = 8 - (f64::from(m) * 4.0 / 9.0).round_ties_even() as u32;
                let mask = !((1u32 << (8 - bits)) - 1) as u8;
                mapped(image, |value| value & mask)
            }
            Solarize(m) => {
                let threshold = 255.0 - of(m, 255.0);
                mapped(image, |value| if f64::from(value) < threshold { value } else { 255 - value })
            }
            AutoContrast => through_tables(image, stretched),
            Equalize => through_tables(image, equalized),
            Invert => mapped(image, |value| 255 - value),
        }
    }
}

/// The magnitude of 0 to 9 on the way to `largest`, to the last bit of `torch.linspace(0, largest, 10)`.
fn tenth(magnitude: u8, largest: f32) -> f32 {
    let step = largest / 9.0;
    match magnitude {
        0..5 => step * f32::from(magnitude),
        _ => largest - step * f32::from(9 - magnitude.min(9)),
    }
}

/// Output pixel (x, y) shows what is at (a x + b y + c, d x + e y + f), measured at pixels' centres; the
/// nearest.
fn moved(image: &RgbImage, [a, b, c, d, e, f]: [f64; 6]) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
        let (from_x, from_y) = ((a * x + b * y + c).floor(), (d * x + e * y + f).floor());
        let within = from_x >= 0.0
            && from_y >= 0.0
            && from_x < f64::from(image.width())
            && from_y < f64::from(image.height());
        if within { *image.get_pixel(from_x as u32, from_y as u32) } else { Rgb([0; 3]) }
    })
}

/// 0 is smoothed (PIL's `SMOOTH`, the edge as it is), 1 the image.
fn sharpness(image: RgbImage, factor: f64) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let own = image.get_pixel(x, y).0;
        if x == 0 || y == 0 || x + 1 == width || y + 1 == height {
            return Rgb(own);
        }
        Rgb(std::array::from_fn(|channel| {
            let around = (y - 1..=y + 1).flat_map(|row| (x - 1..=x + 1).map(move |column| (column, row)));
            let sum: u32 = around.map(|(x, y)| u32::from(image.get_pixel(x, y).0[channel])).sum();
            let smooth = (sum + 4 * u32::from(own[channel])) as f32 / 13.0 + 0.5;
            blended(smooth as u8, own[channel], factor)
        }))
    })
}

/// Each channel through the table that its histogram gives.
fn through_tables(mut image: RgbImage, table: fn(&[u32; 256]) -> [u8; 256]) -> RgbImage {
    let mut histograms = [[0u32; 256]; 3];
    for Rgb(pixel) in image.pixels() {
        (0..3).for_each(|channel| histograms[channel][usize::from(pixel[channel])] += 1);
    }
    let tables = histograms.map(|histogram| table(&histogram));
    for Rgb(pixel) in image.pixels_mut() {
        (0..3).for_each(|channel| pixel[channel] = tables[channel][usize::from(pixel[channel])]);
    }
    image
}

/// The darkest value to 0, the lightest to 255.
fn stretched(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    std::array::from_fn(|value| (value as f64 * scale - low as f64 * scale).clamp(0.0, 255.0) as u8)
}

/// Values spread so that all come about equally often.
fn equalized(histogram: &[u32; 256]) -> [u8; 256] {
    let total: u32 = histogram.iter().sum();
    let last = histogram.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
    let step = (total - last) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let spread = (sum / step).min(255) as u8;
        sum += histogram[value];
        spread
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8x8 pixels with every channel another ramp.
    fn picture() -> RgbImage {
        RgbImage::from_fn(8, 8, |x, y| {
            Rgb([(x * 30 + y) as u8, (200 - y * 20 + x) as u8, ((x * y * 37) % 256) as u8])
        })
    }

    /// BLAKE3 would say less: the sum of bytes, and of bytes times their place.
    fn digest(image: &RgbImage) -> (u64, u64) {
        let bytes = image.as_raw().iter().map(|&byte| u64::from(byte));
        (bytes.clone().sum(), bytes.zip(1u64..).map(|(byte, place)| byte * place).sum())
    }

    #[test]
    fn operations_are_those_of_pil() {
        // tools/golden/auto_augment_cases.py, Pillow and torchvision on the same picture.
        for (operation, sign, expected) in PIL {
            assert_eq!(digest(&operation.apply(picture(), sign)), expected, "{operation:?} {sign}");
        }
    }

    const PIL: [(Operation, f64, (u64, u64)); 38] = [
        (ShearY(8), 1.0, (17405, 1334773)),
        (ShearY(8), -1.0, (18467, 2000467)),
        (ShearY(7), 1.0, (17405, 1334773)),
        (ShearY(7), -1.0, (18467, 2000467)),
        (TranslateX(9), 1.0, (11012, 1052264)),
        (TranslateX(9), -1.0, (14912, 1268936)),
        (TranslateX(8), 1.0, (11012, 1052264)),
        (TranslateX(8), -1.0, (14912, 1268936)),
        (TranslateY(9), 1.0, (14012, 1881140)),
        (TranslateY(9), -1.0, (11912, 667760)),
        (TranslateY(3), 1.0, (18944, 2043928)),
        (TranslateY(3), -1.0, (17964, 1396276)),
        (Rotate(2), 1.0, (20432, 1861328)),
        (Rotate(2), -1.0, (20432, 1861328)),
        (Brightness(7), 1.0, (30793, 2858188)),
        (Brightness(7), -1.0, (6054, 550461)),
        (Brightness(3), 1.0, (26019, 2369318)),
        (Brightness(3), -1.0, (14222, 1294475)),
        (Color(3), 1.0, (20489, 1871659)),
        (Color(3), -1.0, (21106, 1886857)),
        (Color(9), 1.0, (20944, 1914871)),
        (Color(9), -1.0, (22634, 1954216)),
        (Contrast(6), 1.0, (21002, 1822476)),
        (Contrast(6), -1.0, (21927, 2071238)),
        (Contrast(7), 1.0, (21069, 1817348)),
        (Contrast(7), -1.0, (22182, 2106813)),
        (Sharpness(1), 1.0, (20484, 1866398)),
        (Sharpness(1), -1.0, (20358, 1854113)),
        (Sharpness(5), 1.0, (20720, 1889300)),
        (Sharpness(5), -1.0, (20088, 1827788)),
        (Sharpness(9), 1.0, (20874, 1904018)),
        (Sharpness(9), -1.0, (19816, 1801268)),
        (Posterize(7), 1.0, (19808, 1798160)),
        (Solarize(2), 1.0, (16682, 1584451)),
        (Solarize(8), 1.0, (19698, 2047914)),
        (AutoContrast, 1.0, (21768, 1879946)),
        (Equalize, 1.0, (20432, 1861328)),
        (Invert, 1.0, (28528, 2863312)),
    ];

    #[test]
    fn flat_images_survive_every_operation() {
        for policy in CIFAR10 {
            for (operation, _) in policy {
                let flat = RgbImage::from_pixel(5, 3, Rgb([7, 7, 7]));
                assert_eq!(operation.apply(flat, -1.0).dimensions(), (5, 3));
            }
        }
    }
}
