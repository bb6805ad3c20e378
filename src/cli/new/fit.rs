//! Sizes of the input and anchors that fit the boxes of a data set.

/// An object's box: width, height, and the short side of its image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) short_side: f64,
}

impl Shape {
    /// The square root of the area where the image's short side is `short_side` pixels.
    fn size_at(&self, short_side: f64) -> f64 {
        (self.width * self.height).sqrt() * short_side / self.short_side
    }
}

/// Anchors of five levels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Anchors {
    /// One size a level, in pixels of the resized image.
    pub(super) sizes: [f64; 5],
    /// Height over width.
    pub(super) ratios: [f64; 3],
}

/// Pixels that half of the boxes and that nine tenths of them have at least, as the square root of the area: 12 and 4
/// cells of the finest level.
const MEDIAN_BOX_PX: f64 = 48.0;
const SMALL_BOX_PX: f64 = 16.0;

/// The largest short side: torchvision's.
const LARGEST_SIDE_PX: f64 = 800.0;

/// The smallest short side that an image is shrunk to.
pub(super) const SMALLEST_SIDE_PX: u32 = 128;

/// The short side of the input: where half of the boxes have 48 pixels and nine tenths 16, between 128 and the images' own
/// size, 800 at most.
pub(super) fn short_side(shapes: &[Shape], median_short_side: f64) -> u32 {
    let own = median_short_side.min(LARGEST_SIDE_PX);
    let relative: Vec<f64> = shapes.iter().map(|shape| shape.size_at(1.0)).collect();
    let (half, tenth) = (quantile(relative.clone(), 0.5), quantile(relative, 0.1));
    let wanted = if tenth > 0.0 { (MEDIAN_BOX_PX / half).max(SMALL_BOX_PX / tenth) } else { own };
    in_steps(wanted.max(f64::from(SMALLEST_SIDE_PX)).min(own))
}

/// Multiples of 16 pixels, at least 32.
pub(super) fn in_steps(side: f64) -> u32 {
    (((side / 16.0).round() * 16.0) as u32).max(32)
}

/// Anchors for boxes on images with this short side: five sizes in even ratios from the 5th to the 95th percentile of
/// the boxes' sizes, and the 15th, 50th and 85th percentile of height over width.
pub(super) fn anchors(shapes: &[Shape], short_side: u32) -> Anchors {
    /// The least ratio of the largest to the smallest size: more for boxes that are all alike.
    const LEAST_RANGE: f64 = 4.0;
    /// The least ratio of neighbouring aspect ratios.
    const LEAST_STEP: f64 = 1.25;
    let sizes: Vec<f64> = shapes.iter().map(|shape| shape.size_at(short_side.into())).collect();
    let (low, high) = (quantile(sizes.clone(), 0.05).max(4.0), quantile(sizes, 0.95).max(4.0));
    let (middle, range) = ((low * high).sqrt(), (high / low).max(LEAST_RANGE));
    let size = |level: i32| (middle * range.powf(f64::from(level) / 4.0 - 0.5)).round().max(2.0);
    let ratios: Vec<f64> = shapes.iter().map(|shape| shape.height / shape.width).collect();
    let centre = quantile(ratios.clone(), 0.5);
    let lower = quantile(ratios.clone(), 0.15).min(centre / LEAST_STEP);
    let upper = quantile(ratios, 0.85).max(centre * LEAST_STEP);
    Anchors { sizes: [0, 1, 2, 3, 4].map(size), ratios: [lower, centre, upper].map(two_digits) }
}

/// Torchvision's anchors for Faster R-CNN.
pub(super) const USUAL: Anchors =
    Anchors { sizes: [32.0, 64.0, 128.0, 256.0, 512.0], ratios: [0.5, 1.0, 2.0] };

/// The share of boxes that an anchor of the same middle overlaps by an IoU of half or more.
pub(super) fn coverage(shapes: &[Shape], short_side: u32, anchors: &Anchors) -> f64 {
    let is_covered = |shape: &&Shape| {
        let scale = f64::from(short_side) / shape.short_side;
        let (width, height) = (shape.width * scale, shape.height * scale);
        anchors.sizes.iter().any(|size| {
            anchors.ratios.iter().any(|ratio| {
                let (own_width, own_height) = (size / ratio.sqrt(), size * ratio.sqrt());
                let shared = width.min(own_width) * height.min(own_height);
                shared / (width * height + own_width * own_height - shared) >= 0.5
            })
        })
    };
    shapes.iter().filter(is_covered).count() as f64 / shapes.len().max(1) as f64
}

/// The value below which the share `part` lies; 0 of nothing.
pub(super) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (part * values.len().saturating_sub(1) as f64).round() as usize;
    values.get(place).copied().unwrap_or(0.0)
}

fn two_digits(value: f64) -> f64 {
    ((value * 100.0).round() / 100.0).clamp(0.05, 20.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(size: f64, short_side: f64) -> Shape {
        Shape { width: size, height: size, short_side }
    }

    #[test]
    fn small_boxes_ask_for_large_images_and_large_boxes_do_not() {
        let of = |size: f64, side: f64| short_side(&[square(size, side); 9], side);
        assert_eq!(of(96.0, 640.0), 320, "96 px become 48 px at half the size");
        let mixed: Vec<Shape> = [20.0, 20.0, 200.0, 200.0, 200.0].map(|size| square(size, 600.0)).into();
        assert_eq!(short_side(&mixed, 600.0), 480, "the small ones become 16 px");
        assert_eq!(of(300.0, 600.0), 128, "no smaller");
        assert_eq!(of(4.0, 600.0), 608, "no larger than the images");
        assert_eq!(of(4.0, 4000.0), 800, "no larger than torchvision's");
        assert_eq!(of(30.0, 96.0), 96, "small images stay as they are");
        assert_eq!(short_side(&[], 640.0), 640);
    }

    #[test]
    fn anchors_span_the_boxes_and_cover_them() {
        // Upright boxes from 10 to 160 pixels on images that are shown at half their size.
        let shapes: Vec<Shape> = (0..=100)
            .map(|at| 10.0 * 16f64.powf(f64::from(at) / 100.0))
            .map(|size| Shape { width: size, height: 3.0 * size, short_side: 800.0 })
            .collect();
        let fitted = anchors(&shapes, 400);
        assert_eq!(fitted.ratios, [2.4, 3.0, 3.75]);
        assert!(fitted.sizes.windows(2).all(|pair| pair[1] > 1.2 * pair[0]), "{:?}", fitted.sizes);
        assert!(coverage(&shapes, 400, &fitted) > 0.95);
        assert!(coverage(&shapes, 400, &USUAL) < 0.7);
    }

    #[test]
    fn boxes_that_are_all_alike_still_get_anchors_of_several_sizes() {
        let fitted = anchors(&[square(50.0, 100.0); 5], 100);
        assert_eq!((fitted.sizes, fitted.ratios), ([25.0, 35.0, 50.0, 71.0, 100.0], [0.8, 1.0, 1.25]));
        assert_eq!(coverage(&[square(50.0, 100.0)], 100, &fitted), 1.0);
    }
}
