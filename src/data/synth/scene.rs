//! One picture: background, clutter, objects, and the boxes of what can be seen of them.

use image::RgbImage;

use super::canvas::{Canvas, Colour, Figure, mix};
use super::shape::{CLASS_SHAPES, STRAY_SHAPES, Shape};
use super::texture::{CLASS_TEXTURES, Texture};
use crate::data::draws::Draws;

/// An object is annotated when at least this share of it can be seen.
const VISIBLE_SHARE: f64 = 0.25;
/// Least number of visible pixels of an annotated object.
const VISIBLE_PIXELS: usize = 12;
/// Diameter of the smallest objects, in pixels.
const SMALLEST_PX: f64 = 7.0;
/// Diameter of the largest, of the picture's side.
const LARGEST_SHARE: f64 = 0.75;

/// A class: an outline and a filling.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class {
    shape: (Shape, &'static str),
    texture: (Texture, &'static str),
}

impl Class {
    /// The first `count` classes of a grid of about as many outlines as fillings, so that neither
    /// alone tells the class.
    pub(super) fn first(count: usize) -> Vec<Self> {
        let shapes = (1..=CLASS_SHAPES.len())
            .find(|&shapes| shapes * shapes.min(CLASS_TEXTURES.len()) >= count)
            .unwrap_or(CLASS_SHAPES.len());
        (0..count)
            .map(|class| Self {
                shape: CLASS_SHAPES[class % shapes],
                texture: CLASS_TEXTURES[class / shapes],
            })
            .collect()
    }

    pub(super) fn name(self) -> String {
        format!("{} {}", self.texture.1, self.shape.1)
    }
}

/// An object that can be seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Visible {
    pub(super) class: usize,
    /// `[x, y, width, height]` of the visible pixels.
    pub(super) bbox: [f64; 4],
    /// Number of visible pixels.
    pub(super) area: f64,
}

/// Size of a picture and number of its objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct SceneSize {
    /// Width and height in pixels.
    pub(super) side: usize,
    /// The fewest and the most objects placed.
    pub(super) objects: (usize, usize),
}

/// Draws one picture.
pub(super) fn render(sizes: &SceneSize, classes: &[Class], draws: &mut Draws) -> (RgbImage, Vec<Visible>) {
    let size = sizes.side;
    let ground = [colour(draws), colour(draws)];
    let ground = [ground[0], mix(ground[0], ground[1], draws.between(0.1, 0.5))];
    let mut canvas = Canvas::background(size, ground, draws);
    let middle = mix(ground[0], ground[1], 0.5);
    clutter(&mut canvas, middle, draws);

    // Larger ones first, with exceptions: small objects lie on large ones more often than under them.
    let (fewest, most) = sizes.objects;
    let count = fewest + draws.below(most - fewest + 1);
    let mut radii: Vec<(f64, f64)> = (0..count)
        .map(|_| {
            let radius = object_radius(size, draws);
            (radius, radius * draws.between(0.4, 1.6))
        })
        .collect();
    radii.sort_by(|a, b| b.1.total_cmp(&a.1));

    let mut placed: Vec<([f64; 2], f64)> = Vec::new();
    let mut objects = Objects::new(size);
    for (radius, _) in radii {
        let class = draws.below(classes.len());
        let Some(centre) = free_place(size, radius, &placed, draws) else { continue };
        placed.push((centre, radius));
        let Class { shape: (shape, _), texture: (texture, _) } = classes[class];
        let figure = figure(shape, texture, centre, radius, middle, draws);
        objects.add(class, &mut canvas, &figure);
    }
    for _ in 0..draws.below(3) {
        line(&mut canvas, 1.2, draws);
    }
    canvas.blur(draws.between(0.0, 0.6));
    let noise = draws.between(0.0, 0.08);
    (canvas.develop(noise, draws), objects.visible())
}

/// Draws distractors: random lines, outlines of classes in one colour, fillings of classes on
/// outlines that no class has.
fn clutter(canvas: &mut Canvas, ground: Colour, draws: &mut Draws) {
    for _ in 0..2 + draws.below(5) {
        line(canvas, 3.0, draws);
    }
    for _ in 0..1 + draws.below(4) {
        let radius = object_radius(canvas.size, draws) * 0.7;
        let (shape, texture) = if draws.chance(0.5) {
            (CLASS_SHAPES[draws.below(CLASS_SHAPES.len())].0, Texture::Flat)
        } else {
            let texture = CLASS_TEXTURES[draws.below(CLASS_TEXTURES.len())].0;
            (STRAY_SHAPES[draws.below(STRAY_SHAPES.len())], texture)
        };
        let centre = [0, 1].map(|_| draws.between(0.0, canvas.size as f64));
        let figure = figure(shape, texture, centre, radius, ground, draws);
        canvas.paint(&figure);
    }
}

fn line(canvas: &mut Canvas, widest: f64, draws: &mut Draws) {
    let size = canvas.size as f64;
    let mut end = || [0, 1].map(|_| draws.between(-0.1 * size, 1.1 * size));
    let (from, to) = (end(), end());
    let width = draws.between(0.6, widest);
    canvas.line(from, to, width, colour(draws));
}

/// Many small ones, few large ones.
fn object_radius(size: usize, draws: &mut Draws) -> f64 {
    let (smallest, largest) = (0.5 * SMALLEST_PX, 0.5 * LARGEST_SHARE * size as f64);
    let share = draws.unit();
    smallest + (largest - smallest) * share * share
}

/// A centre where the object covers little of the others; they may touch, overlap a bit, and a small
/// one may lie within a large one.
fn free_place(size: usize, radius: f64, placed: &[([f64; 2], f64)], draws: &mut Draws) -> Option<[f64; 2]> {
    // Up to a third of the diameter may lie outside the picture.
    let margin = (0.35 * radius).min(0.5 * size as f64);
    for _ in 0..20 {
        let centre = [0, 1].map(|_| draws.between(margin, size as f64 - margin));
        let fits = placed.iter().all(|&(other, other_radius)| {
            let (dx, dy) = (centre[0] - other[0], centre[1] - other[1]);
            let distance = (dx * dx + dy * dy).sqrt();
            distance > 0.6 * (radius + other_radius) || radius < 0.35 * other_radius
        });
        if fits {
            return Some(centre);
        }
    }
    None
}

fn figure(
    shape: Shape,
    texture: Texture,
    centre: [f64; 2],
    radius: f64,
    ground: Colour,
    draws: &mut Draws,
) -> Figure {
    let colours = colour_pair(ground, draws);
    let period = (radius * draws.between(0.45, 0.8)).max(3.0);
    let shading = draws.between(-0.15, 0.15);
    Figure { shape, texture, centre, radius, axis: draws.direction(), period, colours, shading }
}

fn colour(draws: &mut Draws) -> Colour {
    [0, 1, 2].map(|_| draws.between(0.06, 0.94))
}

/// Two colours that differ clearly in lightness, of which the first differs from the ground.
fn colour_pair(ground: Colour, draws: &mut Draws) -> [Colour; 2] {
    loop {
        let pair = [colour(draws), colour(draws)];
        let contrast = lightness(pair[0]) - lightness(pair[1]);
        let apart: f64 = [0, 1, 2].iter().map(|&part| (pair[0][part] - ground[part]).abs()).sum();
        if contrast.abs() > 0.25 && apart > 0.4 {
            return pair;
        }
    }
}

fn lightness([red, green, blue]: Colour) -> f64 {
    0.3 * red + 0.6 * green + 0.1 * blue
}

/// Object that each pixel belongs to.
struct Objects {
    size: usize,
    /// 0 for none, else the object's number from 1.
    owner: Vec<u16>,
    /// (class, pixels it would have if nothing hid it).
    whole: Vec<(usize, usize)>,
}

impl Objects {
    fn new(size: usize) -> Self {
        Self { size, owner: vec![0; size * size], whole: Vec::new() }
    }

    fn add(&mut self, class: usize, canvas: &mut Canvas, figure: &Figure) {
        let covered = canvas.paint(figure);
        self.whole.push((class, covered.len()));
        let number = self.whole.len() as u16;
        let inside = 0..self.size as i64;
        for pixel in covered.iter().filter(|pixel| inside.contains(&pixel.x) && inside.contains(&pixel.y)) {
            self.owner[pixel.y as usize * self.size + pixel.x as usize] = number;
        }
    }

    fn visible(&self) -> Vec<Visible> {
        let mut seen = vec![(0usize, [usize::MAX, usize::MAX, 0, 0]); self.whole.len()];
        for (place, &owner) in self.owner.iter().enumerate().filter(|&(_, &owner)| owner > 0) {
            let (x, y) = (place % self.size, place / self.size);
            let (count, [left, top, right, bottom]) = &mut seen[usize::from(owner) - 1];
            *count += 1;
            (*left, *top) = ((*left).min(x), (*top).min(y));
            (*right, *bottom) = ((*right).max(x + 1), (*bottom).max(y + 1));
        }
        let objects = self.whole.iter().zip(seen);
        objects
            .filter(|&(&(_, whole), (count, _))| {
                count >= VISIBLE_PIXELS && count as f64 >= VISIBLE_SHARE * whole as f64
            })
            .map(|(&(class, _), (count, [left, top, right, bottom]))| Visible {
                class,
                bbox: [left, top, right - left, bottom - top].map(|number| number as f64),
                area: count as f64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_outline_nor_filling_tells_the_class() {
        for count in 4..=24 {
            let classes = Class::first(count);
            assert_eq!(classes.len(), count);
            let names: std::collections::BTreeSet<String> =
                classes.iter().map(|class| class.name()).collect();
            assert_eq!(names.len(), count);
            let shapes = classes.iter().filter(|class| class.shape.0 == Shape::Disc).count();
            let textures = classes.iter().filter(|class| class.texture.0 == Texture::Stripes).count();
            assert!(shapes >= 2 && textures >= 2, "{count} classes");
        }
    }

    #[test]
    fn boxes_hold_what_can_be_seen() {
        let classes = Class::first(8);
        let mut boxes = 0;
        for picture in 0..20 {
            let (image, visible) = render(
                &SceneSize { side: 96, objects: (2, 7) },
                &classes,
                &mut Draws::new(1, "test", &[picture]),
            );
            assert_eq!(image.dimensions(), (96, 96));
            for Visible { class, bbox: [x, y, w, h], area } in visible {
                boxes += 1;
                assert!(class < 8 && x >= 0.0 && y >= 0.0 && x + w <= 96.0 && y + h <= 96.0);
                assert!(area >= 12.0 && area <= w * h);
            }
        }
        assert!(boxes > 40);
    }

    #[test]
    fn a_hidden_object_has_no_box() {
        let mut draws = Draws::new(1, "test", &[]);
        let mut canvas = Canvas::background(64, [[0.5; 3]; 2], &mut draws);
        let mut objects = Objects::new(64);
        let mut disc = |x: f64, radius, class| {
            let figure = figure(Shape::Disc, Texture::Flat, [x, 32.0], radius, [0.5; 3], &mut draws);
            objects.add(class, &mut canvas, &figure);
        };
        disc(20.0, 6.0, 0);
        disc(50.0, 6.0, 1);
        disc(20.0, 12.0, 2);
        let classes: Vec<usize> = objects.visible().iter().map(|object| object.class).collect();
        assert_eq!(classes, [1, 2]);
    }
}
