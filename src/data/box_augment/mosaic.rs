//! Mosaic: four images around a random point (Bochkovskiy et al. 2020, arXiv 2004.10934).

use ckd_kernels::antialias::resize_antialiased;
use image::{Rgb, RgbImage, imageops};

use super::sample::Sample;
use crate::data::draws::Draws;

/// Grey where no image reaches, as Ultralytics has it.
const GREY: u8 = 114;

/// `first` and `others` in a square of `side` pixels: each, its longer side as long as the square's, lies with a corner at a
/// random point of the square, and what reaches beyond is cut.
pub(super) fn mosaic(
    first: Sample,
    others: [Sample; 3],
    side: u32,
    min_visible: f64,
    draws: &mut Draws,
) -> Sample {
    let centre = [0, 1].map(|_| draws.below(side as usize + 1) as i64);
    around(centre, [first].into_iter().chain(others), side, min_visible)
}

/// The samples left above, right above, left below and right below `centre`.
fn around([x, y]: [i64; 2], samples: impl Iterator<Item = Sample>, side: u32, min_visible: f64) -> Sample {
    let image = RgbImage::from_pixel(side, side, Rgb([GREY; 3]));
    let mut whole = Sample { image, objects: Vec::new(), background: 0.0 };
    for (quarter, sample) in samples.enumerate() {
        let (width, height) = sample.image.dimensions();
        whole.background += 0.25 * sample.background;
        let image = within(&sample.image, (side, side));
        let (w, h) = image.dimensions();
        let left = if quarter % 2 == 0 { x - i64::from(w) } else { x };
        let top = if quarter < 2 { y - i64::from(h) } else { y };
        imageops::replace(&mut whole.image, &image, left, top);
        let scale = [w as f32 / width as f32, h as f32 / height as f32];
        let moved = sample.objects.into_iter().map(|object| object.moved(scale, [left as f32, top as f32]));
        whole.objects.extend(moved.filter_map(|object| object.seen_in((side, side), min_visible)));
    }
    whole
}

/// The image resized so that it just fits into `(width, height)`, as Pillow resizes.
pub(super) fn within(image: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    let (own_width, own_height) = image.dimensions();
    let scale = (f64::from(width) / f64::from(own_width)).min(f64::from(height) / f64::from(own_height));
    let [w, h] = [(own_width, width), (own_height, height)]
        .map(|(own, most)| ((f64::from(own) * scale).round() as u32).clamp(1, most.max(1)));
    if (w, h) == (own_width, own_height) {
        return image.clone();
    }
    let from = (own_height as usize, own_width as usize);
    let pixels = resize_antialiased(image.as_raw(), from, (h as usize, w as usize));
    RgbImage::from_raw(w, h, pixels).unwrap_or_else(|| RgbImage::new(w, h))
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::{assert_painted, painted};
    use super::*;

    #[test]
    fn four_images_meet_at_the_point() {
        // A square of 40 around (20, 10). The longer sides become 40: factors 1, 2, 1/2 and 1.
        let samples = [
            painted(40, 40, &[[4.0, 32.0, 30.0, 38.0]], 1),
            painted(20, 10, &[[2.0, 6.0, 8.0, 9.0]], 2),
            painted(80, 80, &[[48.0, 8.0, 72.0, 40.0]], 3),
            painted(40, 20, &[[4.0, 4.0, 16.0, 16.0]], 4),
        ];
        let made = around([20, 10], samples.into_iter(), 40, 0.1);
        let boxes: Vec<([f32; 4], u32)> =
            made.objects.iter().map(|object| (object.xyxy, object.class.0)).collect();
        assert_eq!(
            boxes,
            [
                // Moved by (20 - 40, 10 - 40) and cut at the left.
                ([0.0, 2.0, 10.0, 8.0], 1),
                // Doubled, moved by (20, 10 - 20).
                ([24.0, 2.0, 36.0, 8.0], 2),
                // Halved, moved by (20 - 40, 10).
                ([4.0, 14.0, 16.0, 30.0], 3),
                // Moved by (20, 10).
                ([24.0, 14.0, 36.0, 26.0], 4),
            ]
        );
        assert_eq!(assert_painted(&made), 4);
        // Right below, the last image is 20 high.
        assert_eq!((made.image.get_pixel(30, 31).0, made.image.get_pixel(30, 29).0), ([GREY; 3], [0; 3]));
    }

    #[test]
    fn all_of_an_image_is_seen_where_the_point_is_a_corner() {
        let samples = [1, 2, 3, 4].map(|class| painted(32, 32, &[[8.0, 8.0, 24.0, 24.0]], class));
        for (centre, class) in [([32, 32], 1), ([0, 32], 2), ([32, 0], 3), ([0, 0], 4)] {
            let made = around(centre, samples.clone().into_iter(), 32, 0.1);
            assert_eq!(made.objects.iter().map(|object| object.class.0).collect::<Vec<_>>(), [class]);
            assert_eq!(made, samples[class as usize - 1]);
        }
    }

    #[test]
    fn images_of_any_shape_fit() {
        for (width, height) in [(1, 1), (1, 300), (300, 1), (7, 5)] {
            let (w, h) = within(&RgbImage::new(width, height), (40, 30)).dimensions();
            assert!((1..=40).contains(&w) && (1..=30).contains(&h), "{w} x {h}");
            assert!(w == 40 || h == 30);
        }
    }
}
