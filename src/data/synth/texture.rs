//! Fillings: how much of an object's second colour lies at a point.

/// A filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texture {
    Stripes,
    Checker,
    Dots,
    Gradient,
    /// A single colour: clutter only.
    Flat,
}

/// The fillings that classes have, in the order in which they are used.
pub(super) const CLASS_TEXTURES: [(Texture, &str); 4] = [
    (Texture::Stripes, "striped"),
    (Texture::Checker, "checkered"),
    (Texture::Dots, "dotted"),
    (Texture::Gradient, "shaded"),
];

impl Texture {
    /// The share, 0 to 1, of the second colour at `point` (pixels from the object's centre, in its own
    /// frame). Edges are a pixel wide. `period` is in pixels.
    pub(super) fn share(self, [x, y]: [f64; 2], period: f64, radius: f64) -> f64 {
        match self {
            Self::Stripes => stripe(x, period),
            Self::Checker => {
                let (a, b) = (stripe(x, period), stripe(y, period));
                a * (1.0 - b) + b * (1.0 - a)
            }
            Self::Dots => {
                let (u, v) = (phase(x, period), phase(y, period));
                (0.5 + 0.34 * period - (u * u + v * v).sqrt()).clamp(0.0, 1.0)
            }
            Self::Gradient => (0.5 + 0.65 * x / radius).clamp(0.0, 1.0),
            Self::Flat => 0.0,
        }
    }
}

/// Distance from the middle of the period, in pixels, signed.
fn phase(x: f64, period: f64) -> f64 {
    let turns = x / period;
    (turns - turns.floor() - 0.5) * period
}

fn stripe(x: f64, period: f64) -> f64 {
    (0.5 + 0.25 * period - phase(x, period).abs()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_texture_shows_both_colours_but_flat() {
        for (texture, name) in CLASS_TEXTURES {
            let shares: Vec<f64> = (-20..20)
                .flat_map(|x| (-20..20).map(move |y| [f64::from(x), f64::from(y)]))
                .map(|point| texture.share(point, 10.0, 20.0))
                .collect();
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{name}");
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            assert!((0.25..0.75).contains(&mean), "{name}: {mean}");
        }
        assert_eq!(Texture::Flat.share([3.0, 4.0], 10.0, 20.0), 0.0);
    }
}
