//! Mix-up: two images blended, the boxes of both (Zhang et al. 2018, arXiv 1710.09412; for boxes, arXiv 1902.04103).

use super::mosaic::within;
use super::sample::Sample;
use crate::data::draws::Draws;

/// Uniform numbers whose median is distributed as Beta(32, 32), Ultralytics' distribution of the host's weight.
const UNIFORM: usize = 63;

/// `host` with `guest` blended in, which is resized to fit into it and lies at its left upper corner; where the guest does not
/// reach, the host stays as it is.
pub(super) fn mix_up(mut host: Sample, guest: Sample, min_visible: f64, draws: &mut Draws) -> Sample {
    let weight = beta(draws);
    let image = within(&guest.image, host.image.dimensions());
    for (x, y, guest) in image.enumerate_pixels() {
        let pixel = host.image.get_pixel_mut(x, y);
        for (own, &other) in pixel.0.iter_mut().zip(&guest.0) {
            // The sum of two shares of bytes is a byte.
            *own = (weight * f64::from(*own) + (1.0 - weight) * f64::from(other)).round() as u8;
        }
    }
    host.background =
        (weight * f64::from(host.background) + (1.0 - weight) * f64::from(guest.background)) as f32;
    let scale = [
        image.width() as f32 / guest.image.width() as f32,
        image.height() as f32 / guest.image.height() as f32,
    ];
    let moved = guest.objects.into_iter().map(|object| object.moved(scale, [0.0, 0.0]));
    let size = host.image.dimensions();
    host.objects.extend(moved.filter_map(|object| object.seen_in(size, min_visible)));
    host
}

/// A number distributed as Beta(32, 32): the middle one of so many uniform ones, which needs no function that differs from
/// machine to machine.
fn beta(draws: &mut Draws) -> f64 {
    let mut uniform = [0.0; UNIFORM];
    uniform.iter_mut().for_each(|number| *number = draws.unit());
    uniform.sort_by(f64::total_cmp);
    uniform[UNIFORM / 2]
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::super::sample::tests::painted;
    use super::*;

    #[test]
    fn pixels_are_blended_where_both_are_and_the_boxes_of_both_are_kept() {
        let host = painted(40, 20, &[[2.0, 2.0, 10.0, 10.0]], 1);
        let mut guest = painted(20, 20, &[[4.0, 4.0, 16.0, 16.0]], 2);
        guest.image.pixels_mut().for_each(|pixel| *pixel = Rgb([200; 3]));
        let mut draws = Draws::new(1, "mix", &[]);
        let weight = beta(&mut draws.clone());
        let mixed = mix_up(host.clone(), guest, 0.1, &mut draws);
        let boxes: Vec<[f32; 4]> = mixed.objects.iter().map(|object| object.xyxy).collect();
        assert_eq!(boxes, [[2.0, 2.0, 10.0, 10.0], [4.0, 4.0, 16.0, 16.0]]);
        let dark = (200.0 * (1.0 - weight)).round() as u8;
        assert_eq!(mixed.image.get_pixel(15, 15).0, [dark; 3]);
        let blue = (255.0 * weight + 200.0 * (1.0 - weight)).round() as u8;
        assert_eq!(mixed.image.get_pixel(5, 5).0[2], blue);
        assert_eq!(mixed.image.get_pixel(25, 5), host.image.get_pixel(25, 5), "the guest is 20 wide");
    }

    #[test]
    fn weights_have_the_mean_and_the_spread_of_beta_32_32() {
        let mut draws = Draws::new(1, "beta", &[]);
        let weights: Vec<f64> = (0..20_000).map(|_| beta(&mut draws)).collect();
        let mean = weights.iter().sum::<f64>() / 20_000.0;
        let variance = weights.iter().map(|weight| (weight - mean).powi(2)).sum::<f64>() / 20_000.0;
        // Variance 1 / (4 (2 * 32 + 1)); standard errors 4e-4 and 4e-5.
        assert!((mean - 0.5).abs() < 2e-3, "{mean}");
        assert!((variance - 1.0 / 260.0).abs() < 2e-4, "{variance}");
    }
}
