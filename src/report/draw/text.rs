//! Letters on images: DejaVu Sans Bold, its edges smooth.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("DejaVuSans-Bold.ttf")).expect("the font of the program is whole")
});

/// Height of a line of letters of so many pixels.
pub(super) fn line_height(size: u32) -> u32 {
    FONT.as_scaled(PxScale::from(size as f32)).height().ceil() as u32
}

/// Width of `text` in letters of so many pixels.
pub(super) fn width(text: &str, size: u32) -> u32 {
    let font = FONT.as_scaled(PxScale::from(size as f32));
    text.chars().map(|letter| font.h_advance(font.glyph_id(letter))).sum::<f32>().ceil() as u32
}

/// Beginning of `text` that is `most` pixels wide, with an ellipsis where more follows.
pub(super) fn fitted(text: &str, size: u32, most: u32) -> String {
    if width(text, size) <= most {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    while kept.pop().is_some() {
        let shorter = kept.iter().collect::<String>() + "…";
        if width(&shorter, size) <= most {
            return shorter;
        }
    }
    String::new()
}

/// Writes `text` with the top left corner of its line at `at`; letters outside the image are cut off.
pub(super) fn write(image: &mut RgbImage, text: &str, (left, top): (i64, i64), size: u32, ink: Rgb<u8>) {
    let scale = PxScale::from(size as f32);
    let font = FONT.as_scaled(scale);
    let mut at = point(left as f32, top as f32 + font.ascent());
    for letter in text.chars() {
        let id = font.glyph_id(letter);
        let advance = font.h_advance(id);
        if let Some(outline) = FONT.outline_glyph(id.with_scale_and_position(scale, at)) {
            let (x, y) = (outline.px_bounds().min.x as i64, outline.px_bounds().min.y as i64);
            outline.draw(|dx, dy, cover| blend(image, (x + i64::from(dx), y + i64::from(dy)), cover, ink));
        }
        at.x += advance;
        if at.x >= image.width() as f32 {
            return;
        }
    }
}

/// Covers a share of a pixel with ink.
fn blend(image: &mut RgbImage, (x, y): (i64, i64), cover: f32, ink: Rgb<u8>) {
    let is_inside = x >= 0 && y >= 0 && x < i64::from(image.width()) && y < i64::from(image.height());
    if !is_inside {
        return;
    }
    let pixel = image.get_pixel_mut(x as u32, y as u32);
    let cover = cover.clamp(0.0, 1.0);
    for (ground, ink) in pixel.0.iter_mut().zip(ink.0) {
        *ground = (f32::from(*ground) * (1.0 - cover) + f32::from(ink) * cover).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_have_ink_within_their_width_and_line() {
        let (wide, high) = (width("Ångström 0.87", 16), line_height(16));
        let mut image = RgbImage::new(wide + 40, high + 40);
        write(&mut image, "Ångström 0.87", (20, 20), 16, Rgb([255, 255, 255]));
        let inked: Vec<(u32, u32)> =
            image.enumerate_pixels().filter(|(.., pixel)| pixel.0[0] > 0).map(|(x, y, _)| (x, y)).collect();
        assert!(inked.len() > 400, "{}", inked.len());
        assert!(inked.iter().all(|&(x, y)| (19..=20 + wide).contains(&x) && (20..20 + high).contains(&y)));
    }

    #[test]
    fn every_letter_of_european_languages_has_a_form_of_its_own() {
        let none = FONT.glyph_id('\u{4e2d}');
        for letter in ('!'..='~').chain("äöüßéñçøåłšžőΑΩαωБЯбя≥≤×…–".chars()) {
            assert_ne!(FONT.glyph_id(letter), none, "{letter}");
        }
    }

    #[test]
    fn text_that_is_too_wide_ends_in_an_ellipsis() {
        assert_eq!(fitted("student", 16, 500), "student");
        let cut = fitted("student distilled", 16, 90);
        assert!(cut.starts_with("stud") && cut.ends_with('…') && width(&cut, 16) <= 90, "{cut}");
        assert_eq!(fitted("student", 16, 2), "");
    }
}
