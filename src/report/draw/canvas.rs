//! Rectangles of an image's pixels.

use image::{Rgb, RgbImage};

/// Left, top, right and bottom pixel, all of them inside.
pub(super) type Area = [i64; 4];

/// Paints the part of the rectangle that lies in the image.
pub(super) fn fill(image: &mut RgbImage, [x1, y1, x2, y2]: Area, colour: Rgb<u8>) {
    let (right, bottom) = (i64::from(image.width()) - 1, i64::from(image.height()) - 1);
    for y in y1.max(0)..=y2.min(bottom) {
        for x in x1.max(0)..=x2.min(right) {
            image.put_pixel(x as u32, y as u32, colour);
        }
    }
}

/// Pixels that two rectangles share.
pub(super) fn shared([ax1, ay1, ax2, ay2]: Area, [bx1, by1, bx2, by2]: Area) -> i64 {
    let side = |a1: i64, a2: i64, b1: i64, b2: i64| (a2.min(b2) - a1.max(b1) + 1).max(0);
    side(ax1, ax2, bx1, bx2) * side(ay1, ay2, by1, by2)
}

/// Pixels of a rectangle.
pub(super) fn pixels([x1, y1, x2, y2]: Area) -> i64 {
    (x2 - x1 + 1).max(0) * (y2 - y1 + 1).max(0)
}
