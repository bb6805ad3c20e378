//! Hits of classifiers as text: a line a network, in it a digit an image, 1 where the first guess is right.

/// Text of the hits of each network.
pub(crate) fn hit_lines(networks: &[&[bool]]) -> String {
    let digits = |hits: &&[bool]| hits.iter().map(|&hit| if hit { '1' } else { '0' }).collect();
    networks.iter().map(digits).collect::<Vec<String>>().join("\n")
}

/// Share of the networks that are right on each image; `None` of a text that [`hit_lines`] has not made.
pub(crate) fn shares_right(lines: &str) -> Option<Vec<f64>> {
    let lines: Vec<&[u8]> = lines.trim().lines().map(str::as_bytes).collect();
    let images = lines.first()?.len();
    let is_whole = |line: &&[u8]| line.len() == images && line.iter().all(|digit| b"01".contains(digit));
    let right = |image: usize| lines.iter().filter(|line| line[image] == b'1').count();
    let share = |image: usize| right(image) as f64 / lines.len() as f64;
    lines.iter().all(is_whole).then(|| (0..images).map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_shared_by_the_networks_that_are_right_on_it() {
        let text = hit_lines(&[&[true, false, true, false], &[true, true, false, false]]);
        assert_eq!(text, "1010\n1100");
        assert_eq!(shares_right(&text), Some(vec![1.0, 0.5, 0.5, 0.0]));
        assert_eq!(shares_right(&hit_lines(&[&[true, false]])), Some(vec![1.0, 0.0]));
        for damaged in ["", "10\n1", "12", "1é"] {
            assert_eq!(shares_right(damaged), None, "{damaged:?}");
        }
    }
}
