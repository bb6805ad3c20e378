//! Boxes, and the lines that they are drawn with.

use image::{Rgb, RgbImage};

use super::canvas::{Area, fill};

/// A box to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnBox {
    /// `[x1, y1, x2, y2]` in pixels of the image; parts outside of it are not drawn.
    pub xyxy: [f32; 4],
    /// Index of the class: it chooses the colour of a plain box.
    pub class: usize,
    /// Label of the box, before its score.
    pub name: String,
    /// Confidence from 0 to 1; ground truth has none.
    pub score: Option<f32>,
    /// Kind of box.
    pub mark: Mark,
}

/// Kind of a box: it chooses the line, and the colour of all but plain ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A box that is not compared with anything, in its class's colour.
    Plain,
    /// A detection of an object.
    Hit,
    /// A detection of nothing, of another class, or of an object that was found before.
    False,
    /// An object that was not found.
    Missed,
}

impl Mark {
    /// Meaning of the line in words.
    pub(super) fn meaning(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Hit => Some("hit"),
            Self::False => Some("false"),
            Self::Missed => Some("missed"),
        }
    }

    /// Lengths of a stroke and of the gap after it, in widths of the line.
    fn strokes(self) -> (i64, i64) {
        match self {
            Self::Plain | Self::Hit => (1, 0),
            Self::False => (5, 3),
            Self::Missed => (2, 2),
        }
    }

    /// Colour of the line: three of Okabe and Ito's, which people tell apart whatever colours they see.
    pub(super) fn colour(self, class: usize) -> Rgb<u8> {
        match self {
            Self::Plain => colour_of(class),
            Self::Hit => Rgb([0, 190, 140]),
            Self::False => Rgb([235, 94, 20]),
            Self::Missed => Rgb([240, 228, 66]),
        }
    }
}

impl DrawnBox {
    /// Colour of its line and of the ground of its label.
    pub(super) fn colour(&self) -> Rgb<u8> {
        self.mark.colour(self.class)
    }

    /// Forms of its label, the longest first.
    pub(super) fn labels(&self) -> Vec<String> {
        let short = self.name.clone();
        let mut forms: Vec<String> =
            self.score.iter().map(|score| format!("{} {score:.2}", self.name)).collect();
        forms.push(short);
        forms.retain(|form| !form.is_empty());
        forms
    }

    /// Pixels of the box; `None` if it is no box or has no pixel in the image.
    pub(super) fn area(&self, image: &RgbImage) -> Option<Area> {
        let [x1, y1, x2, y2] = self.xyxy.map(f64::from);
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
}

/// Draws the edges of a box inside of a thin dark line, which shows on a bright ground.
pub(super) fn outline(image: &mut RgbImage, area: Area, mark: Mark, colour: Rgb<u8>, line: i64) {
    for (widened, colour) in [(1, SHADE), (0, colour)] {
        stroke(image, area, mark, colour, (line, widened));
    }
}

/// Draws the edges of a box in strokes, `widened` by so many pixels on all sides.
fn stroke(
    image: &mut RgbImage,
    [x1, y1, x2, y2]: Area,
    mark: Mark,
    colour: Rgb<u8>,
    (line, widened): (i64, i64),
) {
    let (on, off) = mark.strokes();
    let (on, period) = (on * line, (on + off) * line);
    let (line, length) = (line - 1, if off == 0 { i64::MAX } else { on });
    let mut edge = |from: i64, to: i64, at: &dyn Fn(i64, i64) -> Area| {
        let mut begin = from;
        while begin <= to {
            let end = begin.saturating_add(length).saturating_sub(1).min(to);
            let [x1, y1, x2, y2] = at(begin, end);
            fill(image, [x1 - widened, y1 - widened, x2 + widened, y2 + widened], colour);
            begin = if off == 0 { to + 1 } else { begin + period };
        }
    };
    // A line is never wider than its box.
    let (across, down) = (line.min(x2 - x1), line.min(y2 - y1));
    edge(x1, x2, &|begin, end| [begin, y1, end, y1 + down]);
    edge(x1, x2, &|begin, end| [begin, y2 - down, end, y2]);
    edge(y1, y2, &|begin, end| [x1, begin, x1 + across, end]);
    edge(y1, y2, &|begin, end| [x2 - across, begin, x2, end]);
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
pub(super) fn ink_on(Rgb([red, green, blue]): Rgb<u8>) -> Rgb<u8> {
    let luma = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if luma > 128.0 { Rgb([0, 0, 0]) } else { Rgb([255, 255, 255]) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn hits_false_boxes_and_missed_objects_differ_in_line_and_colour() {
        let coloured = |mark: Mark| {
            let mut image = RgbImage::from_pixel(200, 200, Rgb([128, 128, 128]));
            outline(&mut image, [20, 20, 179, 179], mark, mark.colour(0), 3);
            let row = (20..180).filter(|&x| *image.get_pixel(x, 21) == mark.colour(0)).count();
            let corner = *image.get_pixel(20, 20) == mark.colour(0);
            assert!(corner, "{mark:?}");
            row
        };
        assert_eq!(coloured(Mark::Hit), 160);
        let (dashed, dotted) = (coloured(Mark::False), coloured(Mark::Missed));
        assert!((95..=110).contains(&dashed) && (75..=95).contains(&dotted), "{dashed} {dotted}");
    }
}
