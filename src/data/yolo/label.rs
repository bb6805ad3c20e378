//! Label files: a line an object, in fractions of the image.

use super::yaml::DataYaml;
use crate::data::instances::snapped;

/// A line of a label file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) class: u32,
    /// `[cx, cy, w, h]` in fractions of the image.
    pub(super) fractions: [f64; 4],
    /// True if the box is around a polygon.
    pub(super) is_polygon: bool,
}

/// Fractions beyond this are no rounding and no overhang: they are pixels.
const FARTHEST: f64 = 2.0;

/// Reads the lines of a label file.
///
/// # Errors
/// Says which line is wrong and why.
pub(super) fn parse(text: &str, yaml: &DataYaml) -> Result<Vec<Row>, String> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| row(line, yaml).map_err(|problem| format!("line {}: {problem}", number + 1)))
        .collect()
}

fn row(line: &str, yaml: &DataYaml) -> Result<Row, String> {
    let numbers: Vec<f64> = line
        .split_whitespace()
        .map(|word| match word.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("\"{word}\" is not a number; a line is `class cx cy w h`")),
        })
        .collect::<Result<_, _>>()?;
    let [class, coordinates @ ..] = numbers.as_slice() else {
        unreachable!("a line with a word has a number")
    };
    let class = whole(*class).filter(|class| yaml.names.contains_key(class)).ok_or_else(|| {
        format!(
            "class {class} is not among the {} that data.yaml names; add its name or remove the line",
            yaml.names.len()
        )
    })?;
    if let Some(far) = coordinates.iter().find(|number| !(-1.0..=FARTHEST).contains(*number)) {
        return Err(format!(
            "{far} is no fraction of the image: YOLO's coordinates are divided by its width and height"
        ));
    }
    match coordinates {
        &[cx, cy, w, h] => Ok(Row { class, fractions: [cx, cy, w, h], is_polygon: false }),
        &[cx, cy, w, h, ..] if yaml.has_keypoints => {
            Ok(Row { class, fractions: [cx, cy, w, h], is_polygon: false })
        }
        points if points.len() >= 6 && points.len() % 2 == 0 => {
            Ok(Row { class, fractions: around(points), is_polygon: true })
        }
        other => Err(format!(
            "{} numbers behind the class; a box has 4 (cx cy w h), a polygon 6 or more, two a point",
            other.len()
        )),
    }
}

fn whole(number: f64) -> Option<u32> {
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

fn around(points: &[f64]) -> [f64; 4] {
    let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
    for point in points.chunks_exact(2) {
        for axis in 0..2 {
            low[axis] = low[axis].min(point[axis]);
            high[axis] = high[axis].max(point[axis]);
        }
    }
    [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, high[0] - low[0], high[1] - low[1]]
}

impl Row {
    /// `[x, y, width, height]` in pixels of an image of this size.
    pub(super) fn pixels(&self, width: u32, height: u32) -> [f64; 4] {
        let [cx, cy, w, h] = self.fractions;
        let (w, h) = (w * f64::from(width), h * f64::from(height));
        [cx * f64::from(width) - w / 2.0, cy * f64::from(height) - h / 2.0, w, h].map(snapped)
    }

    /// The row of a box in pixels.
    pub(super) fn of(class: u32, [x, y, w, h]: [f64; 4], (width, height): (u32, u32)) -> Self {
        let (width, height) = (f64::from(width), f64::from(height));
        let fractions = [(x + w / 2.0) / width, (y + h / 2.0) / height, w / width, h / height];
        Self { class, fractions, is_polygon: false }
    }

    /// The line, with all digits that tell its numbers from their neighbours.
    pub(super) fn line(&self) -> String {
        let [cx, cy, w, h] = self.fractions;
        format!("{} {cx} {cy} {w} {h}\n", self.class)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn yaml(has_keypoints: bool) -> DataYaml {
        let names = [(0, "a".to_owned()), (2, "c".to_owned())].into_iter().collect();
        DataYaml { names, has_keypoints, ..DataYaml::default() }
    }

    #[test]
    fn boxes_polygons_and_keypoints_are_told_apart() {
        let rows = parse("0 0.5 0.5 0.2 0.4\n\n 2.0\t0.1 0.2 0.3 0.2 0.3 0.6 \r\n", &yaml(false)).unwrap();
        assert_eq!(rows[0].pixels(100, 50), [40.0, 15.0, 20.0, 20.0]);
        assert_eq!((rows[1].class, rows[1].is_polygon), (2, true));
        assert_eq!(rows[1].pixels(100, 50), [10.0, 10.0, 20.0, 20.0]);
        let pose = parse("0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.2 0.2 1", &yaml(true)).unwrap();
        assert_eq!(pose[0].pixels(100, 50), [40.0, 15.0, 20.0, 20.0]);
        assert_eq!(parse("", &yaml(false)), Ok(Vec::new()));
    }

    #[test]
    fn bad_lines_are_named() {
        for (line, expected) in [
            ("1 0.5 0.5 0.2 0.4", "class 1 is not among the 2"),
            ("-1 0.5 0.5 0.2 0.4", "class -1"),
            ("0.5 0.5 0.5 0.2 0.4", "class 0.5"),
            ("0 0.5 0.5 0.2", "3 numbers behind the class"),
            ("0 0.5 0.5 0.2 0.4 0.9", "5 numbers"),
            ("0", "0 numbers"),
            ("0 x 0.5 0.2 0.4", "\"x\" is not a number"),
            ("0 nan 0.5 0.2 0.4", "\"nan\" is not a number"),
            ("0 320 240 64 48", "320 is no fraction of the image"),
        ] {
            let error = parse(&format!("0 0.5 0.5 0.1 0.1\n{line}"), &yaml(false)).unwrap_err();
            assert!(error.contains(expected) && error.starts_with("line 2: "), "{line}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_box_of_up_to_three_decimals_survives_being_written(
            (width, height) in (1u32..20_000, 1u32..20_000),
            drawn in proptest::array::uniform4(0u32..=20_000_000),
        ) {
            // Corners and sides within the image's own, so that no fraction is above FARTHEST.
            let sides = [width, height, width, height];
            let written: [f64; 4] =
                std::array::from_fn(|index| f64::from(drawn[index] % (1000 * sides[index] + 1)) / 1000.0);
            let row = Row::of(0, written, (width, height));
            let read = parse(&row.line(), &yaml(false)).unwrap();
            prop_assert_eq!(read[0].pixels(width, height).map(f64::to_bits), written.map(f64::to_bits));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9 .eE+x\\-\n\t]{0,80}", any in ".{0,60}", keypoints: bool) {
            for text in [text, any] {
                for row in parse(&text, &yaml(keypoints)).unwrap_or_default() {
                    prop_assert!(row.pixels(64, 48).iter().all(|number| number.is_finite()));
                }
            }
        }
    }
}
