//! Bounding boxes of COCO segmentations: polygons and run-length codes.
//!
//! Source: cocoapi's `common/maskApi.c` (`rleFrString`, `rleToBbox`).

use serde::Deserialize;
use serde_json::Value;

/// A segmentation in any of its three forms.
#[derive(Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Polygon(Vec<f64>),
    Runs { counts: Counts, size: [u32; 2] },
}

/// Lengths of runs of 0 and 1 in turns, down the columns.
#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u64>),
    Packed(String),
}

/// `[x, y, width, height]` around a segmentation; `None` if it encloses nothing or is none.
pub(super) fn bounds(segmentation: &Value) -> Option<[f64; 4]> {
    match Segmentation::deserialize(segmentation).ok()? {
        Segmentation::Polygons(polygons) => around(&polygons),
        Segmentation::Polygon(polygon) => around(&[polygon]),
        Segmentation::Runs { counts, size: [height, width] } => {
            let counts = match counts {
                Counts::Plain(counts) => counts,
                Counts::Packed(text) => unpacked(text.as_bytes())?,
            };
            around_runs(&counts, u64::from(height), u64::from(width))
        }
    }
}

fn around(polygons: &[Vec<f64>]) -> Option<[f64; 4]> {
    let mut corners = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    for polygon in polygons {
        if polygon.len() < 6 || polygon.len() % 2 == 1 {
            return None;
        }
        for point in polygon.chunks_exact(2) {
            for axis in 0..2 {
                corners[axis] = corners[axis].min(point[axis]);
                corners[axis + 2] = corners[axis + 2].max(point[axis]);
            }
        }
    }
    let [x1, y1, x2, y2] = corners;
    (x1 < x2 && y1 < y2).then_some([x1, y1, x2 - x1, y2 - y1])
}

/// The box of the pixels that are 1; `None` if there are none, or more pixels than the image has.
fn around_runs(counts: &[u64], height: u64, width: u64) -> Option<[f64; 4]> {
    let (mut at, mut corners) = (0u64, None::<[u64; 4]>);
    for (run, &count) in counts.iter().enumerate() {
        let (first, end) = (at, at.checked_add(count)?);
        at = end;
        if run % 2 == 0 || count == 0 || height == 0 {
            continue;
        }
        let last = end - 1;
        let (left, right) = (first / height, last / height);
        // A run that goes on into the next column touches both ends of a column.
        let (top, bottom) = match left == right {
            true => (first % height, last % height),
            false => (0, height - 1),
        };
        let [x1, y1, x2, y2] = corners.unwrap_or([left, top, right, bottom]);
        corners = Some([x1.min(left), y1.min(top), x2.max(right), y2.max(bottom)]);
    }
    if at > height * width {
        return None;
    }
    let [x1, y1, x2, y2] = corners?;
    Some([x1 as f64, y1 as f64, (x2 - x1 + 1) as f64, (y2 - y1 + 1) as f64])
}

/// Run lengths of a packed code: 5 bits a character from '0' on, lowest first; from the fourth on each is a
/// difference to the run two before.
fn unpacked(text: &[u8]) -> Option<Vec<u64>> {
    let (mut counts, mut at) = (Vec::<i64>::new(), 0);
    while at < text.len() {
        let (mut value, mut shift) = (0i64, 0u32);
        loop {
            let bits = i64::from(text.get(at)?.checked_sub(48)?);
            at += 1;
            if shift >= 60 {
                return None;
            }
            value |= (bits & 0x1f) << shift;
            shift += 5;
            if bits & 0x20 == 0 {
                if bits & 0x10 != 0 {
                    value |= -1 << shift;
                }
                break;
            }
        }
        if counts.len() > 2 {
            value = value.checked_add(counts[counts.len() - 2])?;
        }
        counts.push(value);
    }
    counts.into_iter().map(|count| u64::try_from(count).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(json: &str) -> Option<[f64; 4]> {
        super::bounds(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_box_of_polygons_is_around_all_of_them() {
        assert_eq!(bounds("[[10, 10, 40, 10, 40, 40, 10, 40]]"), Some([10.0, 10.0, 30.0, 30.0]));
        assert_eq!(bounds("[[1, 1, 2, 1, 2, 2], [5, 0.5, 6, 7, 5.5, 3]]"), Some([1.0, 0.5, 5.0, 6.5]));
        assert_eq!(bounds("[0, 0, 4, 0, 4, 4]"), Some([0.0, 0.0, 4.0, 4.0]));
    }

    #[test]
    fn the_box_of_runs_is_cocoapis() {
        // 4 rows: column 1 rows 1 and 2, column 2 row 1.
        let plain = r#"{"counts": [5, 2, 2, 1, 10], "size": [4, 5]}"#;
        assert_eq!(bounds(plain), Some([1.0, 1.0, 2.0, 2.0]));
        assert_eq!(unpacked(b"522O8"), Some(vec![5, 2, 2, 1, 10]), "by pycocotools' mask.encode");
        let over_columns = r#"{"counts": [3, 2, 15], "size": [4, 5]}"#;
        assert_eq!(bounds(over_columns), Some([0.0, 0.0, 2.0, 4.0]));
    }

    #[test]
    fn what_encloses_nothing_has_no_box() {
        for json in [
            "[]",
            "[[]]",
            "null",
            "[[1, 2]]",
            "[[1, 2, 3]]",
            "[[1, 1, 1, 1, 1, 1]]",
            "{}",
            "7",
            "\"x\"",
            r#"{"counts": [20], "size": [4, 5]}"#,
            r#"{"counts": "~~~~~~~~~~~~~~~~~~~~", "size": [4, 5]}"#,
            r#"{"counts": [1, 1], "size": [0, 0]}"#,
            r#"{"counts": [1, 18446744073709551615, 9], "size": [4, 5]}"#,
            r#"{"counts": "\u0001", "size": [4, 5]}"#,
        ] {
            assert_eq!(bounds(json), None, "{json}");
        }
    }
}
