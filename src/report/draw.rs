//! Boxes on images: outlines with class name and score, hits told from false boxes and missed objects, and several models'
//! boxes side by side.
//!
//! | file | what lives there |
//! |---|---|
//! | `mark` | boxes, and the lines that they are drawn with |
//! | `labels` | places of labels |
//! | `text` | letters |
//! | `canvas` | rectangles of pixels |

mod canvas;
mod labels;
mod mark;
mod text;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, replace, resize};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};

use self::canvas::{Area, fill};
use self::labels::{Wanted, placed};
use self::mark::{ink_on, outline};
use crate::fsx;
pub use mark::{DrawnBox, Mark};

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

/// Height of letters beside images.
const LETTERS: u32 = 17;
const GAP: u32 = 8;
const GROUND: Rgb<u8> = Rgb([250, 250, 250]);
const INK: Rgb<u8> = Rgb([20, 20, 20]);

/// Draws `boxes` on `image`; lines and letters grow with the image. A label that would hide another one is shortened, or
/// left out: those of missed objects and of low scores first.
pub fn draw_boxes(image: &mut RgbImage, boxes: &[DrawnBox]) {
    let short_side = image.width().min(image.height());
    let line = i64::from((short_side / 150).clamp(2, 12));
    let letters = (short_side / 28).clamp(14, 64);
    // All outlines first, so that no outline crosses a label. Missed objects last: hits do not hide them.
    let mut visible: Vec<(&DrawnBox, Area)> =
        boxes.iter().filter_map(|drawn| Some((drawn, drawn.area(image)?))).collect();
    visible.sort_by_key(|(drawn, _)| drawn.mark == Mark::Missed);
    for (drawn, area) in &visible {
        outline(image, *area, drawn.mark, drawn.colour(), line);
    }
    visible.sort_by_key(|(drawn, _)| (drawn.mark == Mark::Missed, Reverse(thousandths(drawn.score))));
    let margin = (letters / 6).max(1);
    let high = i64::from(text::line_height(letters) + margin / 2);
    let mut wanted = Vec::new();
    for (drawn, area) in visible {
        let labels = drawn.labels();
        let sizes = labels.iter().map(|label| (i64::from(text::width(label, letters) + 2 * margin), high));
        wanted.push((drawn, Wanted { box_area: area, sizes: sizes.collect() }, labels));
    }
    let (boxes, (wanted, labels)): (Vec<_>, (Vec<_>, Vec<_>)) =
        wanted.into_iter().map(|(drawn, wanted, labels)| (drawn, (wanted, labels))).unzip();
    for ((place, drawn), labels) in
        placed(&wanted, image.dimensions(), line).into_iter().zip(boxes).zip(labels)
    {
        let Some((form, area)) = place else { continue };
        fill(image, area, drawn.colour());
        let at = (area[0] + i64::from(margin), area[1] + i64::from(margin / 4));
        text::write(image, &labels[form], at, letters, ink_on(drawn.colour()));
    }
}

/// A score as a number that can be ordered; the truth, which has none, goes first.
fn thousandths(score: Option<f32>) -> i64 {
    score.map_or(i64::MAX, |score| (f64::from(score) * 1000.0) as i64)
}

/// The image with its boxes, enlarged by a whole factor where it is small, over a line that says `note`.
pub fn annotated(image: &RgbImage, boxes: &[DrawnBox], note: &str) -> RgbImage {
    /// Images are enlarged to at most so many pixels.
    const LONG_SIDE: u32 = 800;
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return image.clone();
    }
    let factor = (LONG_SIDE / width.max(height)).max(1);
    let drawn = with_boxes(image, boxes, (width * factor, height * factor));
    let marks: BTreeSet<Mark> = boxes.iter().map(|drawn| drawn.mark).collect();
    with_legend(&drawn, &marks, note)
}

/// Lays `rows` of panels out as a grid, each panel scaled to a cell of the same width with its title above:
/// one row an image, one column a model (ground truth, teacher, alone, distilled). Rows may differ in length. Below stands
/// `note`, after a key to the marks of the boxes.
pub fn grid(rows: &[Vec<Panel>], note: &str) -> RgbImage {
    const CELL_WIDTH: u32 = 480;
    const TITLE_HEIGHT: u32 = 26;

    let cells: Vec<Vec<(&str, RgbImage)>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .filter(|panel| panel.image.width() > 0 && panel.image.height() > 0)
                .map(|panel| (panel.title.as_str(), cell(panel, CELL_WIDTH)))
                .collect()
        })
        .collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let heights: Vec<u32> = cells
        .iter()
        .map(|row| row.iter().map(|(_, cell)| cell.height()).max().unwrap_or(0) + TITLE_HEIGHT + GAP)
        .collect();
    let mut picture =
        RgbImage::from_pixel(columns * (CELL_WIDTH + GAP) + GAP, heights.iter().sum::<u32>() + GAP, GROUND);
    let mut top = GAP;
    for (row, height) in cells.iter().zip(heights) {
        for (column, (title, cell)) in row.iter().enumerate() {
            let left = GAP + column as u32 * (CELL_WIDTH + GAP);
            let title = text::fitted(title, LETTERS, CELL_WIDTH);
            text::write(&mut picture, &title, (left.into(), i64::from(top) + 2), LETTERS, INK);
            replace(&mut picture, cell, i64::from(left), i64::from(top + TITLE_HEIGHT));
        }
        top += height;
    }
    let marks = rows.iter().flatten().flat_map(|panel| panel.boxes.iter().map(|drawn| drawn.mark)).collect();
    with_legend(&picture, &marks, note)
}

/// The panel's image at `width`, its boxes drawn after scaling, so that lines and letters stay crisp.
pub fn cell(panel: &Panel, width: u32) -> RgbImage {
    /// No photograph is this tall, in widths; it keeps a hostile one from filling the memory.
    const TALLEST: u32 = 4;
    let (from_width, from_height) = panel.image.dimensions();
    let scale = (f64::from(width) / f64::from(from_width.max(1)))
        .min(f64::from(TALLEST * width) / f64::from(from_height.max(1)));
    let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).max(1);
    with_boxes(&panel.image, &panel.boxes, (side(from_width), side(from_height)))
}

/// The image at another size, with the boxes drawn on it.
fn with_boxes(image: &RgbImage, boxes: &[DrawnBox], (width, height): (u32, u32)) -> RgbImage {
    let scale = [width, height].map(f64::from);
    let scale = [scale[0] / f64::from(image.width()), scale[1] / f64::from(image.height())];
    let mut scaled = match image.dimensions() == (width, height) {
        true => image.clone(),
        false => resize(image, width, height, FilterType::CatmullRom),
    };
    let boxes: Vec<DrawnBox> = boxes
        .iter()
        .map(|drawn| {
            let [x1, y1, x2, y2] = drawn.xyxy.map(f64::from);
            let xyxy = [x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]];
            DrawnBox { xyxy: xyxy.map(|value| value as f32), ..drawn.clone() }
        })
        .collect();
    draw_boxes(&mut scaled, &boxes);
    scaled
}

/// The picture over a key to the marks, and what else is to be said; nothing is added where there is neither.
fn with_legend(picture: &RgbImage, marks: &BTreeSet<Mark>, note: &str) -> RgbImage {
    const SAMPLE: u32 = 46;
    let width = picture.width();
    let marks = marks.iter().filter_map(|&mark| Some((Some(mark), mark.meaning()?)));
    let words: Vec<(Option<Mark>, &str)> = marks.chain((!note.is_empty()).then_some((None, note))).collect();
    let room = width.saturating_sub(2 * GAP);
    let size = |(mark, words): &(Option<Mark>, &str)| {
        let sample = if mark.is_some() { SAMPLE + GAP } else { 0 };
        sample + text::width(words, LETTERS).min(room) + 3 * GAP
    };
    // Lines of as many items as have room.
    let mut lines: Vec<Vec<(Option<Mark>, &str)>> = Vec::new();
    let mut used = u32::MAX;
    for item in words {
        let own = size(&item);
        if used.saturating_add(own) > room + 3 * GAP {
            lines.push(Vec::new());
            used = 0;
        }
        used += own;
        if let Some(line) = lines.last_mut() {
            line.push(item);
        }
    }
    if lines.is_empty() || width == 0 {
        return picture.clone();
    }
    let line_height = text::line_height(LETTERS) + GAP;
    let height = picture.height() + GAP + line_height * lines.len() as u32;
    let mut whole = RgbImage::from_pixel(width, height, GROUND);
    replace(&mut whole, picture, 0, 0);
    let mut top = picture.height() + GAP;
    for line in lines {
        let mut left = GAP;
        for item in line {
            let mut at = left;
            if let Some(mark) = item.0 {
                let (x, y) = (i64::from(at), i64::from(top) + 2);
                let sample = [x, y, x + i64::from(SAMPLE), y + i64::from(LETTERS)];
                outline(&mut whole, sample, mark, mark.colour(0), 3);
                at += SAMPLE + GAP;
            }
            let words = text::fitted(item.1, LETTERS, width.saturating_sub(at + GAP));
            text::write(&mut whole, &words, (at.into(), top.into()), LETTERS, INK);
            left += size(&item);
        }
        top += line_height;
    }
    whole
}

/// Writes `image` to `path` as PNG.
///
/// # Errors
/// [`DrawError::Encode`] for an image without pixels, [`DrawError::Write`].
pub fn save_png(path: &Path, image: &RgbImage) -> Result<(), DrawError> {
    save(path, png(image))
}

/// Writes `image` to `path` as JPEG of quality 85.
///
/// # Errors
/// [`DrawError::Encode`] for an image without pixels, [`DrawError::Write`].
pub fn save_jpeg(path: &Path, image: &RgbImage) -> Result<(), DrawError> {
    let mut bytes = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(image);
    save(path, encoded.map(|()| bytes))
}

fn save(path: &Path, encoded: Result<Vec<u8>, image::ImageError>) -> Result<(), DrawError> {
    let bytes = encoded.map_err(|source| DrawError::Encode { path: path.to_owned(), source })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(xyxy: [f32; 4], class: usize, score: Option<f32>) -> DrawnBox {
        DrawnBox { xyxy, class, name: "cell".into(), score, mark: Mark::Plain }
    }

    fn grey() -> RgbImage {
        RgbImage::from_pixel(200, 120, Rgb([128, 128, 128]))
    }

    #[test]
    fn the_outline_lies_on_the_edge_of_the_box() {
        let mut image = grey();
        draw_boxes(&mut image, &[drawn([20.0, 30.0, 60.0, 70.0], 2, None)]);
        let colour = Mark::Plain.colour(2);
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
            let ink = ink_on(Mark::Plain.colour(0));
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
    fn a_grid_holds_every_panel_at_one_width() {
        let panel = |width, height| Panel {
            title: "student".into(),
            image: RgbImage::from_pixel(width, height, Rgb([7, 8, 9])),
            boxes: vec![drawn([1.0, 1.0, 9.0, 9.0], 1, Some(0.5))],
        };
        let rows = [vec![panel(96, 48), panel(960, 960)], vec![panel(1, 100_000)], vec![panel(0, 0)]];
        let picture = grid(&rows, "");
        assert_eq!(picture.dimensions(), (2 * 488 + 8, (480 + 34) + (1920 + 34) + 34 + 8));
        assert_eq!(grid(&[], "").dimensions(), (8, 8));
    }

    #[test]
    fn a_small_image_is_enlarged_and_says_what_is_drawn() {
        let image = RgbImage::from_pixel(128, 96, Rgb([90, 90, 90]));
        let boxes = [drawn([10.0, 10.0, 60.0, 60.0], 1, Some(0.5))];
        let picture = annotated(&image, &boxes, "score 0.50 or more");
        assert_eq!(picture.width(), 768);
        assert!(picture.height() > 576, "{}", picture.height());
        let below = picture.enumerate_pixels().filter(|(_, y, pixel)| *y > 576 && pixel.0[0] < 100).count();
        assert!(below > 300, "{below} dark pixels of text");
        assert_eq!(*picture.get_pixel(60, 200), Mark::Plain.colour(1));
        assert_eq!(annotated(&image, &[], "").dimensions(), (768, 576));
        assert_eq!(annotated(&RgbImage::new(0, 5), &boxes, "x").dimensions(), (0, 5));
        // A hostile shape is not enlarged and not spoiled.
        assert_eq!(annotated(&RgbImage::new(4000, 1), &boxes, "").dimensions(), (4000, 1));
    }

    #[test]
    fn the_key_explains_the_marks_that_there_are() {
        let image = RgbImage::from_pixel(400, 300, Rgb([90, 90, 90]));
        let of = |marks: &[Mark]| {
            let boxes: Vec<DrawnBox> = marks
                .iter()
                .map(|&mark| DrawnBox { mark, ..drawn([9.0, 9.0, 50.0, 50.0], 0, None) })
                .collect();
            let picture = annotated(&image, &boxes, "");
            let below =
                |colour: Rgb<u8>| picture.enumerate_pixels().any(|(_, y, &own)| y > 600 && own == colour);
            [Mark::Hit, Mark::False, Mark::Missed].map(|mark| below(mark.colour(0)))
        };
        assert_eq!(of(&[Mark::Plain]), [false; 3]);
        assert_eq!(of(&[Mark::Hit, Mark::Missed]), [true, false, true]);
        assert_eq!(of(&[Mark::False]), [false, true, false]);
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
