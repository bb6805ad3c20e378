//! Boxes on images: outlines with class name and score, and several models' boxes side by side.
//!
//! Letters are the public-domain 8x8 font of `font8x8`, enlarged by whole factors.

use std::io;
use std::path::Path;

use font8x8::UnicodeFonts;
use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use crate::fsx;

/// A picture could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrawError {
    /// The picture has no PNG form (it has no pixels).
    #[error("cannot encode {}: {source}", path.display())]
    Encode {
        /// The file it was for.
        path: std::path::PathBuf,
        /// Error of the encoder.
        source: image::ImageError,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] fsx::WriteError),
}

/// A box to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnBox {
    /// `[x1, y1, x2, y2]` in pixels of the image; parts outside of it are not drawn.
    pub xyxy: [f32; 4],
    /// Index of the class: it chooses the colour.
    pub class: usize,
    /// Label of the box, before its score.
    pub name: String,
    /// Confidence from 0 to 1; ground truth has none.
    pub score: Option<f32>,
}

/// An image with its boxes, under a title.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Source of the boxes: `ground truth`, `student`, ...
    pub title: String,
    /// The image, any size.
    pub image: RgbImage,
    /// The boxes, in pixels of `image`; later ones lie on top.
    pub boxes: Vec<DrawnBox>,
}

/// Draws `boxes` on `image`; lines and letters grow with the image.
pub fn draw_boxes(image: &mut RgbImage, boxes: &[DrawnBox]) {
    let short_side = image.width().min(image.height());
    let line = (short_side / 240).clamp(2, 12);
    let letter = (short_side / 400).clamp(1, 6);
    // All outlines first, so that no outline crosses a label.
    for drawn in boxes {
        outline(image, drawn, line);
    }
    for drawn in boxes {
        label(image, drawn, line, letter);
    }
}

/// Lays `rows` of panels out as a grid, each panel scaled to a cell of the same width with its title above:
/// one row an image, one column a model (ground truth, alone, distilled, teacher). Rows may differ in length.
pub fn grid(rows: &[Vec<Panel>]) -> RgbImage {
    const CELL_WIDTH: u32 = 480;
    /// No photograph is this tall; it keeps a hostile one from filling the memory.
    const MAX_CELL_HEIGHT: u32 = 1920;
    const GAP: u32 = 8;
    const TITLE_HEIGHT: u32 = 24;

    let cells: Vec<Vec<(&str, RgbImage)>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .filter(|panel| panel.image.width() > 0 && panel.image.height() > 0)
                .map(|panel| (panel.title.as_str(), scaled(panel, CELL_WIDTH, MAX_CELL_HEIGHT)))
                .collect()
        })
        .collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let heights: Vec<u32> = cells
        .iter()
        .map(|row| row.iter().map(|(_, cell)| cell.height()).max().unwrap_or(0) + TITLE_HEIGHT + GAP)
        .collect();
    let mut picture = RgbImage::from_pixel(
        columns * (CELL_WIDTH + GAP) + GAP,
        heights.iter().sum::<u32>() + GAP,
        Rgb([250, 250, 250]),
    );
    let mut top = GAP;
    for (row, height) in cells.iter().zip(heights) {
        for (column, (title, cell)) in row.iter().enumerate() {
            let left = GAP + column as u32 * (CELL_WIDTH + GAP);
            write_text(&mut picture, title, (i64::from(left), i64::from(top) + 4), 2, Rgb([20, 20, 20]));
            image::imageops::replace(&mut picture, cell, i64::from(left), i64::from(top + TITLE_HEIGHT));
        }
        top += height;
    }
    picture
}

/// Writes `image` to `path` as PNG.
///
/// # Errors
/// [`DrawError::Encode`] for an image without pixels, [`DrawError::Write`].
pub fn save_png(path: &Path, image: &RgbImage) -> Result<(), DrawError> {
    let bytes = png(image).map_err(|source| DrawError::Encode { path: path.to_owned(), source })?;
    Ok(fsx::write_atomic(path, &bytes)?)
}

/// The bytes of `image` as PNG.
///
/// # Errors
/// For an image without pixels.
pub fn png(image: &RgbImage) -> Result<Vec<u8>, image::ImageError> {
    let mut png = io::Cursor::new(Vec::new());
    PngEncoder::new(&mut png).write_image(
        image.as_raw(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(png.into_inner())
}

/// The panel's image at `width`, boxes drawn after scaling, so that lines and letters stay crisp.
fn scaled(panel: &Panel, width: u32, max_height: u32) -> RgbImage {
    let (from_width, from_height) = panel.image.dimensions();
    let scale =
        (f64::from(width) / f64::from(from_width)).min(f64::from(max_height) / f64::from(from_height));
    let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).max(1);
    let mut image = resize(&panel.image, side(from_width), side(from_height), FilterType::Triangle);
    let boxes: Vec<DrawnBox> = panel
        .boxes
        .iter()
        .map(|drawn| DrawnBox {
            xyxy: drawn.xyxy.map(|value| (f64::from(value) * scale) as f32),
            ..drawn.clone()
        })
        .collect();
    draw_boxes(&mut image, &boxes);
    image
}

/// The box's edges in the class's colour inside of a thin dark one, which shows on a bright ground.
fn outline(image: &mut RgbImage, drawn: &DrawnBox, line: u32) {
    let Some([x1, y1, x2, y2]) = corners(image, drawn.xyxy) else { return };
    let line = i64::from(line);
    for inset in -1..line {
        let colour = if inset < 0 { SHADE } else { colour_of(drawn.class) };
        let [x1, y1, x2, y2] = [x1 + inset, y1 + inset, x2 - inset, y2 - inset];
        if x1 > x2 || y1 > y2 {
            continue;
        }
        fill(image, [x1, y1, x2, y1], colour);
        fill(image, [x1, y2, x2, y2], colour);
        fill(image, [x1, y1, x1, y2], colour);
        fill(image, [x2, y1, x2, y2], colour);
    }
}

/// `name 0.87` on a ground of the class's colour, above the box, or inside where there is no room above.
fn label(image: &mut RgbImage, drawn: &DrawnBox, line: u32, letter: u32) {
    let Some([x1, y1, _, _]) = corners(image, drawn.xyxy) else { return };
    let text = match drawn.score {
        Some(score) => format!("{} {score:.2}", drawn.name),
        None => drawn.name.clone(),
    };
    if text.is_empty() {
        return;
    }
    let (letter_px, margin) = (8 * i64::from(letter), i64::from(letter));
    let width = text.chars().count() as i64 * letter_px + 2 * margin;
    let height = letter_px + 2 * margin;
    let left = x1.min(i64::from(image.width()) - width).max(0);
    let top = if y1 >= height { y1 - height } else { (y1 + i64::from(line)).max(0) };
    let ground = colour_of(drawn.class);
    fill(image, [left, top, left + width - 1, top + height - 1], ground);
    write_text(image, &text, (left + margin, top + margin), letter, ink_on(ground));
}

/// Writes `text` with its top left corner at `at`; each font pixel becomes `letter` x `letter` pixels.
fn write_text(image: &mut RgbImage, text: &str, at: (i64, i64), letter: u32, ink: Rgb<u8>) {
    let letter = i64::from(letter);
    for (position, character) in text.chars().enumerate() {
        let left = at.0 + position as i64 * 8 * letter;
        if left >= i64::from(image.width()) {
            return;
        }
        for (row, bits) in (0..).zip(glyph(character)) {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (left + column * letter, at.1 + row * letter);
                fill(image, [x, y, x + letter - 1, y + letter - 1], ink);
            }
        }
    }
}

/// Eight rows of eight pixels, the lowest bit leftmost.
fn glyph(character: char) -> [u8; 8] {
    font8x8::BASIC_FONTS
        .get(character)
        .or_else(|| font8x8::LATIN_FONTS.get(character))
        .or_else(|| font8x8::GREEK_FONTS.get(character))
        .or_else(|| font8x8::BASIC_FONTS.get('?'))
        .unwrap_or([0; 8])
}

/// Paints the part of the rectangle (corners included) that lies in the image.
fn fill(image: &mut RgbImage, [x1, y1, x2, y2]: [i64; 4], colour: Rgb<u8>) {
    let (right, bottom) = (i64::from(image.width()) - 1, i64::from(image.height()) - 1);
    for y in y1.max(0)..=y2.min(bottom) {
        for x in x1.max(0)..=x2.min(right) {
            image.put_pixel(x as u32, y as u32, colour);
        }
    }
}

/// The box's pixels, corners included; `None` if it is no box or has no pixel in the image.
fn corners(image: &RgbImage, xyxy: [f32; 4]) -> Option<[i64; 4]> {
    let [x1, y1, x2, y2] = xyxy.map(f64::from);
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    // Also false for NaN.
    let visible = x1 <= x2 && y1 <= y2 && x1 < width && y1 < height && x2 > 0.0 && y2 > 0.0;
    // The float-to-integer cast saturates; a margin of one image keeps far edges outside.
    visible.then(|| {
        let clamp = |value: f64, side: f64| value.round().clamp(-side, 2.0 * side) as i64;
        let (x1, y1) = (clamp(x1, width), clamp(y1, height));
        [x1, y1, (clamp(x2, width) - 1).max(x1), (clamp(y2, height) - 1).max(y1)]
    })
}

const SHADE: Rgb<u8> = Rgb([16, 16, 16]);

/// Bright colours, neighbours far apart: hues at steps of the golden ratio.
fn colour_of(class: usize) -> Rgb<u8> {
    let turns = (class % 1_000_000) as f64 * 0.618_033_988_749_895;
    let sixth = (0.02 + turns).fract() * 6.0;
    let (saturation, value) = ([0.85, 0.6][class / 7 % 2], [1.0, 0.85][class / 3 % 2]);
    let channel = |offset: f64| {
        let position = (offset + sixth) % 6.0;
        let fall = position.min(4.0 - position).clamp(0.0, 1.0);
        (255.0 * value * (1.0 - saturation * fall)).round() as u8
    };
    Rgb([channel(5.0), channel(3.0), channel(1.0)])
}

/// Black or white, whichever is easier to read on `ground` (ITU-R BT.601 luma).
fn ink_on(Rgb([red, green, blue]): Rgb<u8>) -> Rgb<u8> {
    let luma = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if luma > 128.0 { Rgb([0, 0, 0]) } else { Rgb([255, 255, 255]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(xyxy: [f32; 4], class: usize, score: Option<f32>) -> DrawnBox {
        DrawnBox { xyxy, class, name: "cell".into(), score }
    }

    fn grey() -> RgbImage {
        RgbImage::from_pixel(200, 120, Rgb([128, 128, 128]))
    }

    #[test]
    fn the_outline_lies_on_the_edge_of_the_box() {
        let mut image = grey();
        draw_boxes(&mut image, &[drawn([20.0, 30.0, 60.0, 70.0], 2, None)]);
        let colour = colour_of(2);
        for (x, y) in [(20, 30), (59, 30), (20, 69), (59, 69), (40, 69), (20, 50), (59, 50)] {
            assert_eq!(*image.get_pixel(x, y), colour, "({x}, {y})");
        }
        assert_eq!(*image.get_pixel(40, 50), Rgb([128, 128, 128]));
        assert_eq!(*image.get_pixel(62, 50), Rgb([128, 128, 128]));
    }

    #[test]
    fn the_label_is_in_the_image_wherever_the_box_is() {
        for xyxy in [[0.0, 0.0, 9.0, 9.0], [190.0, 110.0, 200.0, 120.0], [-50.0, -50.0, 300.0, 300.0]] {
            let mut image = grey();
            draw_boxes(&mut image, &[drawn(xyxy, 0, Some(0.875))]);
            let ink = ink_on(colour_of(0));
            let inked = image.pixels().filter(|&&pixel| pixel == ink).count();
            assert!(inked > 60, "{xyxy:?}: {inked} pixels of text");
        }
    }

    #[test]
    fn boxes_that_cannot_be_seen_draw_nothing() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for xyxy in [
            [nan, 0.0, 9.0, 9.0],
            [0.0, nan, nan, 9.0],
            [30.0, 30.0, 20.0, 40.0],
            [300.0, 300.0, 400.0, 400.0],
            [-9.0, -9.0, -1.0, -1.0],
            [inf, inf, inf, inf],
        ] {
            let mut image = grey();
            draw_boxes(&mut image, &[drawn(xyxy, 0, None)]);
            assert_eq!(image, grey(), "{xyxy:?}");
        }
        draw_boxes(&mut RgbImage::new(0, 0), &[drawn([0.0, 0.0, 9.0, 9.0], 0, None)]);
        draw_boxes(&mut grey(), &[drawn([-inf, -inf, inf, inf], usize::MAX, Some(nan))]);
        draw_boxes(&mut grey(), &[drawn([5.0, 5.0, 5.0, 5.0], 0, None)]);
    }

    #[test]
    fn neighbouring_classes_have_colours_far_apart() {
        for class in 0..100 {
            let distance = |other: usize| {
                let (a, b) = (colour_of(class).0, colour_of(other).0);
                a.iter().zip(b).map(|(&a, b)| u32::from(a.abs_diff(b))).sum::<u32>()
            };
            for other in class + 1..class + 4 {
                assert!(distance(other) >= 100, "{class} and {other}: {}", distance(other));
            }
        }
        let colours: std::collections::BTreeSet<[u8; 3]> = (0..80).map(|class| colour_of(class).0).collect();
        assert_eq!(colours.len(), 80);
    }

    #[test]
    fn a_grid_holds_every_panel_at_one_width() {
        let panel = |width, height| Panel {
            title: "student".into(),
            image: RgbImage::from_pixel(width, height, Rgb([7, 8, 9])),
            boxes: vec![drawn([1.0, 1.0, 9.0, 9.0], 1, Some(0.5))],
        };
        let rows = [vec![panel(96, 48), panel(960, 960)], vec![panel(1, 100_000)], vec![panel(0, 0)]];
        let picture = grid(&rows);
        assert_eq!(picture.dimensions(), (2 * 488 + 8, (480 + 32) + (1920 + 32) + 32 + 8));
        assert_eq!(grid(&[]).dimensions(), (8, 8));
    }

    #[test]
    fn a_saved_picture_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pictures/one.png");
        let mut image = grey();
        draw_boxes(&mut image, &[drawn([20.0, 30.0, 60.0, 70.0], 2, Some(1.0))]);
        save_png(&path, &image).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), image);
        assert!(matches!(save_png(&path, &RgbImage::new(0, 0)), Err(DrawError::Encode { .. })));
        assert!(matches!(save_png(folder.path(), &image), Err(DrawError::Write(_))));
    }
}
