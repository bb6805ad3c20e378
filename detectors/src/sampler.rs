//! A balanced sample of the matched candidates: the few hundred an image that the loss looks at.
//!
//! Girshick, "Fast R-CNN", ICCV 2015, section 2.3; torchvision's `BalancedPositiveNegativeSampler`.

use crate::boxes::GeometryError;
use crate::matcher::Match;
use rand::Rng;

/// The candidates that take part in the loss, as indices in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Matched with a ground-truth box.
    pub positives: Vec<usize>,
    /// Background.
    pub negatives: Vec<usize>,
}

/// Draws at most `floor(batch_per_image * positive_fraction)` positives and fills up with negatives to
/// `batch_per_image`. [`Match::Between`] is never drawn. Where everything fits, everything is taken and `rng`
/// isn't touched; the same `rng` state gives the same sample on every machine.
///
/// # Errors
/// Unless `positive_fraction` is in 0..=1.
pub fn sample(
    labels: &[Match],
    batch_per_image: usize,
    positive_fraction: f64,
    rng: &mut impl Rng,
) -> Result<Sample, GeometryError> {
    if !(0.0..=1.0).contains(&positive_fraction) {
        let what = "sampler: positive fraction";
        return Err(GeometryError::Parameter { what, rule: "in 0..=1", got: positive_fraction });
    }
    let most_positives = (batch_per_image as f64 * positive_fraction) as usize;
    let positives = choose(indices(labels, |m| matches!(m, Match::Gt(_))), most_positives, rng);
    let most_negatives = batch_per_image - positives.len();
    let negatives = choose(indices(labels, |m| m == Match::Background), most_negatives, rng);
    Ok(Sample { positives, negatives })
}

fn indices(labels: &[Match], wanted: impl Fn(Match) -> bool) -> Vec<usize> {
    labels.iter().enumerate().filter(|&(_, &m)| wanted(m)).map(|(i, _)| i).collect()
}

/// `count` of `pool` without replacement (the first steps of a Fisher-Yates shuffle), in ascending order.
fn choose(mut pool: Vec<usize>, count: usize, rng: &mut impl Rng) -> Vec<usize> {
    if count < pool.len() {
        for i in 0..count {
            // u64, so that the draw doesn't depend on the machine's word.
            let other = rng.random_range(i as u64..pool.len() as u64) as usize;
            pool.swap(i, other);
        }
        pool.truncate(count);
        pool.sort_unstable();
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn labels(positives: usize, negatives: usize, between: usize) -> Vec<Match> {
        let mut labels = vec![Match::Gt(3); positives];
        labels.extend(vec![Match::Between; between]);
        labels.extend(vec![Match::Background; negatives]);
        labels
    }

    fn draw(labels: &[Match], batch: usize, fraction: f64, seed: u64) -> Sample {
        sample(labels, batch, fraction, &mut ChaCha8Rng::seed_from_u64(seed)).expect("valid fraction")
    }

    #[test]
    fn when_everything_fits_everything_is_taken_without_randomness() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let taken = sample(&labels(3, 4, 2), 1_000_000, 0.5, &mut rng).expect("valid fraction");
        assert_eq!(taken, Sample { positives: vec![0, 1, 2], negatives: vec![5, 6, 7, 8] });
        assert_eq!(rng.get_word_pos(), 0);
    }

    #[test]
    fn missing_positives_are_made_up_by_negatives_but_not_the_reverse() {
        let few = draw(&labels(3, 1000, 5), 256, 0.5, 7);
        assert_eq!((few.positives.len(), few.negatives.len()), (3, 253));
        let many = draw(&labels(1000, 5, 5), 256, 0.5, 7);
        assert_eq!((many.positives.len(), many.negatives.len()), (128, 5));
        let quarter = draw(&labels(1000, 1000, 0), 510, 0.25, 7);
        assert_eq!((quarter.positives.len(), quarter.negatives.len()), (127, 383), "127.5 is rounded down");
    }

    #[test]
    fn a_sample_is_ascending_without_repetition_and_never_between() {
        let labels = labels(100, 2000, 300);
        for seed in 0..20 {
            let sample = draw(&labels, 64, 0.5, seed);
            assert!(
                sample.positives.is_sorted_by(|a, b| a < b) && sample.negatives.is_sorted_by(|a, b| a < b)
            );
            assert!(sample.positives.iter().all(|&i| i < 100));
            assert!(sample.negatives.iter().all(|&i| i >= 400));
        }
    }

    #[test]
    fn a_seed_gives_one_sample_and_another_seed_another() {
        let labels = labels(50, 500, 0);
        assert_eq!(draw(&labels, 32, 0.5, 1), draw(&labels, 32, 0.5, 1));
        assert_ne!(draw(&labels, 32, 0.5, 1), draw(&labels, 32, 0.5, 2));
    }

    #[test]
    fn every_candidate_is_drawn_equally_often() {
        let labels = labels(0, 20, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut hits = [0_u32; 20];
        for _ in 0..4000 {
            for i in sample(&labels, 5, 0.5, &mut rng).expect("valid fraction").negatives {
                hits[i] += 1;
            }
        }
        // 1000 expected each, standard deviation 27.
        assert!(hits.iter().all(|&h| (860..=1140).contains(&h)), "{hits:?}");
    }

    #[test]
    fn empty_inputs_and_bad_fractions() {
        assert_eq!(draw(&[], 256, 0.5, 1), Sample::default());
        assert_eq!(draw(&labels(3, 3, 3), 0, 0.5, 1), Sample::default());
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(sample(&[], 1, bad, &mut ChaCha8Rng::seed_from_u64(1)).is_err());
        }
    }
}
