//! The picture while it is painted: linear f64 RGB, antialiased.

use image::RgbImage;

use super::shape::Shape;
use super::texture::Texture;
use crate::data::draws::Draws;

/// RGB, each about 0 to 1.
pub(super) type Colour = [f64; 3];

/// A square picture.
pub(super) struct Canvas {
    pub(super) size: usize,
    pixels: Vec<Colour>,
}

/// A shape with a texture, somewhere.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    pub(super) shape: Shape,
    pub(super) texture: Texture,
    /// In pixels from the top left corner.
    pub(super) centre: [f64; 2],
    pub(super) radius: f64,
    /// The object's x axis, a unit vector.
    pub(super) axis: [f64; 2],
    /// Pixels.
    pub(super) period: f64,
    pub(super) colours: [Colour; 2],
    /// How much lighter one side is than the middle.
    pub(super) shading: f64,
}

/// A pixel that a figure covers by more than half.
pub(super) struct Covered {
    pub(super) x: i64,
    pub(super) y: i64,
}

impl Canvas {
    /// A background: a gradient between two colours with clouds on it.
    pub(super) fn background(size: usize, colours: [Colour; 2], draws: &mut Draws) -> Self {
        let axis = draws.direction();
        let clouds = [Clouds::new(draws, 3, 0.05), Clouds::new(draws, 9, 0.04)];
        let scale = 1.0 / size as f64;
        let mut pixels = Vec::with_capacity(size * size);
        for y in 0..size {
            for x in 0..size {
                let at = [(x as f64 + 0.5) * scale, (y as f64 + 0.5) * scale];
                let along = 0.5 + (at[0] - 0.5) * axis[0] + (at[1] - 0.5) * axis[1];
                let cloud = clouds[0].at(at) + clouds[1].at(at);
                pixels.push(mix(colours[0], colours[1], along.clamp(0.0, 1.0)).map(|part| part + cloud));
            }
        }
        Self { size, pixels }
    }

    /// Paints a figure over what is there; returns the pixels it covers, those outside too.
    pub(super) fn paint(&mut self, figure: &Figure) -> Vec<Covered> {
        let [cx, cy] = figure.centre;
        let reach = figure.radius + 1.0;
        let bounds = |centre: f64| ((centre - reach).floor() as i64, (centre + reach).ceil() as i64);
        let ((left, right), (top, bottom)) = (bounds(cx), bounds(cy));
        let mut covered = Vec::new();
        for y in top..bottom {
            for x in left..right {
                let offset = [x as f64 + 0.5 - cx, y as f64 + 0.5 - cy];
                let [ax, ay] = figure.axis;
                let local = [offset[0] * ax + offset[1] * ay, offset[1] * ax - offset[0] * ay];
                let cover = (0.5 - figure.shape.distance(local, figure.radius)).clamp(0.0, 1.0);
                if cover == 0.0 {
                    continue;
                }
                if cover > 0.5 {
                    covered.push(Covered { x, y });
                }
                if let Some(pixel) = self.pixel(x, y) {
                    *pixel = mix(*pixel, figure.colour(local), cover);
                }
            }
        }
        covered
    }

    /// A straight line from `from` to `to`.
    pub(super) fn line(&mut self, from: [f64; 2], to: [f64; 2], width: f64, colour: Colour) {
        let edge = [to[0] - from[0], to[1] - from[1]];
        let square = (edge[0] * edge[0] + edge[1] * edge[1]).max(1e-9);
        for y in 0..self.size {
            for x in 0..self.size {
                let offset = [x as f64 + 0.5 - from[0], y as f64 + 0.5 - from[1]];
                let along = ((offset[0] * edge[0] + offset[1] * edge[1]) / square).clamp(0.0, 1.0);
                let away = [offset[0] - along * edge[0], offset[1] - along * edge[1]];
                let distance = (away[0] * away[0] + away[1] * away[1]).sqrt() - 0.5 * width;
                let cover = (0.5 - distance).clamp(0.0, 1.0);
                let pixel = &mut self.pixels[y * self.size + x];
                *pixel = mix(*pixel, colour, cover);
            }
        }
    }

    /// Softens by a 3x3 binomial kernel, mixed in by `strength`.
    pub(super) fn blur(&mut self, strength: f64) {
        let (size, sharp) = (self.size, self.pixels.clone());
        let near = |place: usize| [place.saturating_sub(1), place, (place + 1).min(size - 1)];
        for y in 0..size {
            for x in 0..size {
                let mut sum = [0.0; 3];
                for (row, down) in near(y).into_iter().zip([0.25, 0.5, 0.25]) {
                    for (column, across) in near(x).into_iter().zip([0.25, 0.5, 0.25]) {
                        for (sum, part) in sum.iter_mut().zip(sharp[row * size + column]) {
                            *sum += down * across * part;
                        }
                    }
                }
                let pixel = &mut self.pixels[y * size + x];
                *pixel = mix(*pixel, sum, strength);
            }
        }
    }

    /// Adds noise of at most `amplitude` to every channel (triangular density) and rounds to bytes.
    pub(super) fn develop(&self, amplitude: f64, draws: &mut Draws) -> RgbImage {
        let mut bytes = Vec::with_capacity(self.pixels.len() * 3);
        for pixel in &self.pixels {
            let mut bits = draws.bits();
            for part in pixel {
                let (first, second) = (bits & 1023, (bits >> 10) & 1023);
                bits >>= 20;
                let noise = amplitude * ((first + second) as f64 / 1023.0 - 1.0);
                bytes.push(((part + noise) * 255.0 + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        RgbImage::from_raw(self.size as u32, self.size as u32, bytes).expect("three bytes a pixel")
    }

    fn pixel(&mut self, x: i64, y: i64) -> Option<&mut Colour> {
        let (x, y) = (usize::try_from(x).ok()?, usize::try_from(y).ok()?);
        if x < self.size && y < self.size { self.pixels.get_mut(y * self.size + x) } else { None }
    }
}

impl Figure {
    fn colour(&self, local: [f64; 2]) -> Colour {
        let share = self.texture.share(local, self.period, self.radius);
        let light = 1.0 + self.shading * local[1] / self.radius;
        mix(self.colours[0], self.colours[1], share).map(|part| part * light)
    }
}

/// Smooth random values over the unit square.
struct Clouds {
    cells: usize,
    values: Vec<f64>,
}

impl Clouds {
    fn new(draws: &mut Draws, cells: usize, amplitude: f64) -> Self {
        let amplitude = draws.between(0.0, amplitude);
        let values = (0..(cells + 1) * (cells + 1)).map(|_| draws.between(-amplitude, amplitude)).collect();
        Self { cells, values }
    }

    fn at(&self, [x, y]: [f64; 2]) -> f64 {
        let place = |along: f64| {
            let at = along * self.cells as f64;
            let cell = (at as usize).min(self.cells - 1);
            let within = at - cell as f64;
            (cell, within * within * (3.0 - 2.0 * within))
        };
        let ((column, across), (row, down)) = (place(x), place(y));
        let value = |row: usize, column: usize| self.values[row * (self.cells + 1) + column];
        let upper = value(row, column) * (1.0 - across) + value(row, column + 1) * across;
        let lower = value(row + 1, column) * (1.0 - across) + value(row + 1, column + 1) * across;
        upper * (1.0 - down) + lower * down
    }
}

/// `from` to `to` by `share`.
pub(super) fn mix(from: Colour, to: Colour, share: f64) -> Colour {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share)
}
