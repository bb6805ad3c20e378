//! Outlines, as signed distances: negative inside, positive outside, in pixels.
//!
//! Only `+ - * /`, comparisons and `sqrt` (exact in IEEE 754) are used, so that every machine draws
//! the same bytes; sines and cosines of the star are written out.

/// An outline. The first [`CLASS_SHAPES`] make classes, the others are clutter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Disc,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
    Bar,
    HalfDisc,
}

/// The outlines that classes have, in the order in which they are used.
pub(super) const CLASS_SHAPES: [(Shape, &str); 6] = [
    (Shape::Disc, "disc"),
    (Shape::Square, "square"),
    (Shape::Triangle, "triangle"),
    (Shape::Star, "star"),
    (Shape::Ring, "ring"),
    (Shape::Cross, "cross"),
];

/// Outlines that no class has.
pub(super) const STRAY_SHAPES: [Shape; 2] = [Shape::Bar, Shape::HalfDisc];

/// Corners of a five-pointed star of radius 1, outer and inner (0.45) in turn.
const STAR: [[f64; 2]; 10] = {
    // cos and sin of 18, 36, 54, 72 degrees.
    const C18: f64 = 0.951_056_516_295_153_5;
    const S18: f64 = 0.309_016_994_374_947_45;
    const C36: f64 = 0.809_016_994_374_947_5;
    const S36: f64 = 0.587_785_252_292_473_1;
    const I: f64 = 0.45;
    [
        [0.0, -1.0],
        [I * S36, -I * C36],
        [C18, -S18],
        [I * C18, I * S18],
        [S36, C36],
        [0.0, I],
        [-S36, C36],
        [-I * C18, I * S18],
        [-C18, -S18],
        [-I * S36, -I * C36],
    ]
};

impl Shape {
    /// Signed distance of `point` from the outline around the origin; nothing of the shape is further
    /// than `radius` from the origin.
    pub(super) fn distance(self, point: [f64; 2], radius: f64) -> f64 {
        let [x, y] = point;
        match self {
            Self::Disc => length(point) - 0.92 * radius,
            Self::Square => rectangle(point, [0.7 * radius; 2]),
            Self::Triangle => {
                // Half of the square root of 3.
                const H: f64 = 0.866_025_403_784_438_6;
                y.max(H * x - 0.5 * y).max(-H * x - 0.5 * y) - 0.5 * radius
            }
            Self::Star => polygon(point, &STAR, radius),
            Self::Ring => (length(point) - 0.7 * radius).abs() - 0.24 * radius,
            Self::Cross => {
                let (long, short) = (0.92 * radius, 0.3 * radius);
                rectangle(point, [long, short]).min(rectangle(point, [short, long]))
            }
            Self::Bar => rectangle(point, [0.92 * radius, 0.34 * radius]),
            Self::HalfDisc => (length(point) - 0.92 * radius).max(y - 0.1 * radius),
        }
    }
}

fn length([x, y]: [f64; 2]) -> f64 {
    (x * x + y * y).sqrt()
}

fn rectangle([x, y]: [f64; 2], half: [f64; 2]) -> f64 {
    let (dx, dy) = (x.abs() - half[0], y.abs() - half[1]);
    length([dx.max(0.0), dy.max(0.0)]) + dx.max(dy).min(0.0)
}

/// Distance to the nearest edge; the sign by counting the edges that a ray crosses.
fn polygon(point: [f64; 2], corners: &[[f64; 2]], radius: f64) -> f64 {
    let (mut nearest, mut inside) = (f64::INFINITY, false);
    let mut from = corners[corners.len() - 1].map(|number| number * radius);
    for corner in corners {
        let to = corner.map(|number| number * radius);
        let edge = [to[0] - from[0], to[1] - from[1]];
        let offset = [point[0] - from[0], point[1] - from[1]];
        let along = (offset[0] * edge[0] + offset[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        nearest = nearest.min(length([offset[0] - along * edge[0], offset[1] - along * edge[1]]));
        if (from[1] > point[1]) != (to[1] > point[1]) {
            inside ^= point[0] < from[0] + edge[0] * (point[1] - from[1]) / edge[1];
        }
        from = to;
    }
    if inside { -nearest } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_hold_their_inside_and_stay_within_their_radius() {
        let all = CLASS_SHAPES.iter().map(|&(shape, _)| shape).chain(STRAY_SHAPES);
        for shape in all {
            let inner = if shape == Shape::Ring { [7.0, 0.0] } else { [0.0, 0.0] };
            assert!(shape.distance(inner, 10.0) < 0.0, "{shape:?}");
            for direction in [[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8], [0.6, -0.8]] {
                assert!(shape.distance(direction.map(|part| part * 10.1), 10.0) > 0.0, "{shape:?}");
            }
        }
        assert!(Shape::Ring.distance([0.0, 0.0], 10.0) > 0.0, "a ring has a hole");
        assert!(Shape::Star.distance([0.0, -9.0], 10.0) < 0.0, "a star points up");
        assert!(Shape::Star.distance([0.0, 9.0], 10.0) > 0.0);
    }
}
