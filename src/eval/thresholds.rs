//! Score thresholds by wanted precision: how sure a detector must be for its boxes to be right so often.

use super::hits::Verdict;

/// Boxes of a class below which its precision says too little.
pub const FEWEST: usize = 20;

/// The least threshold of each of so many classes above which its boxes on labelled images are right with the wanted
/// `precision`, at an IoU of .50; `None` of a class of fewer than [`FEWEST`] boxes.
///
/// A box counts if it scores more than the threshold. Boxes on ignored objects are neither right nor wrong. Where no threshold
/// is enough it is 1, which no box exceeds.
pub fn by_precision(
    boxes: impl IntoIterator<Item = (usize, f64, Verdict)>,
    classes: usize,
    precision: f64,
) -> Vec<Option<f64>> {
    let mut by_class: Vec<Vec<(f64, bool)>> = vec![Vec::new(); classes];
    for (class, score, verdict) in boxes {
        if let (Some(own), true) = (by_class.get_mut(class), verdict != Verdict::Ignored) {
            own.push((score, verdict == Verdict::Hit));
        }
    }
    by_class.into_iter().map(|boxes| (boxes.len() >= FEWEST).then(|| least(boxes, precision))).collect()
}

/// The least threshold for boxes of these scores, right or wrong.
fn least(mut boxes: Vec<(f64, bool)>, precision: f64) -> f64 {
    boxes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut threshold) = (0, 1.0);
    for (index, &(score, is_hit)) in boxes.iter().enumerate() {
        hits += usize::from(is_hit);
        let next = boxes.get(index + 1).map_or(0.0, |next| next.0);
        // Boxes of one score are taken together.
        if next < score && hits as f64 >= precision * (index + 1) as f64 {
            threshold = next;
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(boxes: &[(f64, Verdict)]) -> Vec<(usize, f64, Verdict)> {
        boxes.iter().map(|&(score, verdict)| (0, score, verdict)).collect()
    }

    /// Scores 0.99, 0.98, ..; a false box wherever the text has an x.
    fn row(text: &str) -> Vec<(f64, Verdict)> {
        let verdict = |letter| if letter == 'x' { Verdict::False } else { Verdict::Hit };
        (1..)
            .zip(text.chars())
            .map(|(place, letter)| (1.0 - 0.01 * f64::from(place), verdict(letter)))
            .collect()
    }

    #[test]
    fn the_least_threshold_that_is_precise_enough_is_found_also_behind_worse_ones() {
        let of = |text: &str, precision| by_precision(judged(&row(text)), 1, precision)[0].unwrap();
        // 19 of 20 are right: all may stay, whatever the detector gives.
        assert_eq!(of("o-o-o-o-o-o-o-o-o-ox", 0.95), 0.0);
        // At 0.96 the false one must go: the score of it is not exceeded by it.
        assert!((of("o-o-o-o-o-o-o-o-o-ox", 0.96) - 0.80).abs() < 1e-9);
        // The first box is wrong, and precision recovers below it.
        assert_eq!(of("x-------------------", 0.95), 0.0);
        assert!((of("x--------xxxxxxxxxxx", 0.8) - 0.89).abs() < 1e-9);
    }

    #[test]
    fn nothing_passes_where_no_threshold_is_enough_and_few_boxes_say_nothing() {
        assert_eq!(by_precision(judged(&row("xxxxxxxxxxxxxxxxxxxxx")), 1, 0.5), [Some(1.0)]);
        assert_eq!(by_precision(judged(&row("-------------------")), 2, 0.5), [None, None]);
        let ignored = (0..30).map(|_| (0.5, Verdict::Ignored)).collect::<Vec<_>>();
        assert_eq!(by_precision(judged(&ignored), 1, 0.5), [None], "ignored boxes are no evidence");
    }

    #[test]
    fn boxes_of_one_score_are_kept_or_dropped_together() {
        let mut boxes = row("--------------------");
        boxes.extend([
            (0.5, Verdict::Hit),
            (0.5, Verdict::False),
            (0.5, Verdict::False),
            (0.5, Verdict::False),
        ]);
        assert_eq!(by_precision(judged(&boxes), 1, 0.9), [Some(0.5)]);
    }
}
