//! Random crops: around boxes, and for scale jitter.

use ckd_detectors::boxes::iou;

use super::sample::{Object, Sample, Window};
use crate::data::draws::Draws;

/// Least IoU of a crop with one of its boxes; 1 stands for no crop. SSD's (Liu et al. 2016, section 2.2), as torchvision has
/// them.
const LEAST_IOU: [f32; 7] = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0];

/// Shortest side of a crop, as a share of the image's.
const SHORTEST: f64 = 0.3;

/// Width over height of a crop.
const ASPECT: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// Attempts at a crop for each least IoU.
const TRIALS: usize = 40;

/// Least IoUs that are tried before the image is left as it is; torchvision tries on without end.
const ROUNDS: usize = 20;

/// A crop with the centre of a box in it that overlaps one such box as a random least IoU asks: torchvision's
/// `RandomIoUCrop`. `None` leaves the image as it is, as one without boxes is.
pub(super) fn around_boxes(sample: &Sample, draws: &mut Draws) -> Option<Window> {
    let objects: Vec<&Object> = sample.objects.iter().filter(|object| object.is_positive).collect();
    if objects.is_empty() {
        return None;
    }
    for _ in 0..ROUNDS {
        let least = LEAST_IOU[draws.below(LEAST_IOU.len())];
        if least >= 1.0 {
            return None;
        }
        for _ in 0..TRIALS {
            let Some(window) = window(sample.image.dimensions(), draws) else { continue };
            let overlap = |object: &&&Object| iou(&object.xyxy, &window.xyxy());
            let seen = objects.iter().filter(|object| object.is_centred_in(window));
            let best = seen.map(|object| overlap(&object)).max_by(f32::total_cmp);
            if best.is_some_and(|best| best >= least) {
                return Some(window);
            }
        }
    }
    None
}

/// A window of random size and place; `None` where its shape is too long.
fn window((width, height): (u32, u32), draws: &mut Draws) -> Option<Window> {
    let [w, h] = [width, height].map(|side| (f64::from(side) * draws.between(SHORTEST, 1.0)) as u32);
    if w == 0 || h == 0 || !ASPECT.contains(&(f64::from(w) / f64::from(h))) {
        return None;
    }
    let [left, top] = [width - w, height - h].map(|room| (f64::from(room) * draws.unit()) as u32);
    Some(Window { left, top, width: w, height: h })
}

/// A window of the image's shape, smaller by `factor`, at a random place.
pub(super) fn at_random(sample: &Sample, factor: f64, draws: &mut Draws) -> Window {
    let (width, height) = sample.image.dimensions();
    let [w, h] = [width, height].map(|side| ((f64::from(side) / factor).round() as u32).clamp(1, side));
    let [left, top] = [width - w, height - h].map(|room| draws.below(room as usize + 1) as u32);
    Window { left, top, width: w, height: h }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::painted;
    use super::*;

    fn draws(position: u64) -> Draws {
        Draws::new(1, "crop", &[position])
    }

    #[test]
    fn a_crop_lies_within_the_image_has_a_centre_in_it_and_no_long_shape() {
        let sample = painted(80, 50, &[[8.0, 4.0, 24.0, 20.0], [30.0, 10.0, 70.0, 44.0]], 1);
        let mut whole = 0;
        for position in 0..700 {
            let Some(window) = around_boxes(&sample, &mut draws(position)) else {
                whole += 1;
                continue;
            };
            let Window { left, top, width, height } = window;
            assert!(left + width <= 80 && top + height <= 50 && width >= 24 && height >= 15, "{window:?}");
            assert!(ASPECT.contains(&(f64::from(width) / f64::from(height))), "{window:?}");
            assert!(sample.objects.iter().any(|object| object.is_centred_in(window)), "{window:?}");
        }
        // A seventh and what cannot be found: a least IoU of 0.9 with one of two boxes.
        assert!((100..350).contains(&whole), "{whole} of 700 as they are");
    }

    #[test]
    fn an_image_without_boxes_to_learn_from_is_left_as_it_is() {
        assert_eq!(around_boxes(&painted(80, 50, &[], 1), &mut draws(0)), None);
        let mut crowd = painted(80, 50, &[[8.0, 4.0, 24.0, 20.0]], 1);
        crowd.objects[0].is_positive = false;
        assert_eq!(around_boxes(&crowd, &mut draws(0)), None);
        for (width, height) in [(1, 1), (1, 200), (200, 2)] {
            // Nothing of a likely shape is found there.
            let _ = around_boxes(&painted(width, height, &[[0.0, 0.0, 1.0, 1.0]], 1), &mut draws(0));
        }
    }

    #[test]
    fn scale_jitter_takes_a_part_of_the_images_shape() {
        let sample = painted(80, 50, &[], 1);
        for position in 0..100 {
            let Window { left, top, width, height } = at_random(&sample, 2.0, &mut draws(position));
            assert_eq!((width, height), (40, 25));
            assert!(left <= 40 && top <= 25);
        }
        let tiny = at_random(&painted(1, 3, &[], 1), 10.0, &mut draws(0));
        assert_eq!((tiny.width, tiny.height), (1, 1));
    }
}
