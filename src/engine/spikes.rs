//! The running median of the losses, and what is a spike above it.

/// Losses that the median is of.
const WINDOW: usize = 64;
/// Losses before there is a median.
const FIRST: usize = 8;

/// The running median that `loss` is more than `factor` times of; otherwise `losses` takes `loss` in.
pub(super) fn exceeded(losses: &mut Vec<f64>, loss: f64, factor: f64) -> Option<f64> {
    if losses.len() >= FIRST {
        let mut sorted = losses.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        if median > 0.0 && loss > factor * median {
            return Some(median);
        }
    }
    if losses.len() == WINDOW {
        losses.remove(0);
    }
    losses.push(loss);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_far_above_the_median_of_the_last_ones_is_a_spike_and_moves_no_median() {
        let mut losses = Vec::new();
        assert_eq!(exceeded(&mut losses, 100.0, 3.0), None, "nothing to compare with");
        for _ in 0..70 {
            assert_eq!(exceeded(&mut losses, 2.0, 3.0), None);
        }
        assert_eq!(exceeded(&mut losses, 6.0, 3.0), None, "3 times is not above 3 times");
        assert_eq!(exceeded(&mut losses, 6.5, 3.0), Some(2.0));
        assert_eq!((losses.len(), losses.last()), (WINDOW, Some(&6.0)));
    }
}
