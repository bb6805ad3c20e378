//! Order and batches of labelled images, as a pure function of (seed, epoch).

use std::num::NonZeroUsize;

use ckd_settings::choices;

use super::draws::Draws;

choices! {
    /// The order of training images.
    pub enum LabelOrder {
        /// Shuffled anew each epoch.
        Shuffled = "shuffled",
        /// Two images of each class in a batch (MCL).
        ClassPairs = "class_pairs",
    }
}

impl LabelOrder {
    /// Batches of so many images in this order.
    pub fn batches_of(self, batch: NonZeroUsize, seed: u64) -> BatchOrder {
        match self {
            Self::Shuffled => BatchOrder::Shuffled { seed, batch },
            Self::ClassPairs => BatchOrder::ClassPairs { seed, batch },
        }
    }
}

/// Order in which labelled images are taken, and the size of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOrder {
    /// The order of the data set, once: for evaluation.
    Sequential {
        /// Images in a batch.
        batch: NonZeroUsize,
    },
    /// Shuffled anew each epoch; the last batch may be smaller.
    Shuffled {
        /// The seed of the run.
        seed: u64,
        /// Images in a batch.
        batch: NonZeroUsize,
    },
    /// Two images of each class in a batch (as MCL, arXiv 2207.11518, needs: an anchor without another image
    /// of its class has no positive). Classes come evenly; where a batch has more pairs than there are
    /// classes, a class comes several times. The odd image of a class waits for another epoch.
    ClassPairs {
        /// The seed of the run.
        seed: u64,
        /// Images in a batch; an odd number counts as one less, and 1 as 2.
        batch: NonZeroUsize,
    },
}

impl BatchOrder {
    /// Batches in every epoch.
    pub fn batches_per_epoch(self, labels: &[u32]) -> usize {
        match self {
            Self::Sequential { batch } | Self::Shuffled { batch, .. } => labels.len().div_ceil(batch.get()),
            Self::ClassPairs { batch, .. } => {
                let pairs: usize = by_class(labels).iter().map(|images| images.len() / 2).sum();
                pairs.div_ceil(pairs_of(batch))
            }
        }
    }

    /// The batches of `epoch`: indices of images.
    pub fn batches(self, labels: &[u32], epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        match self {
            Self::Sequential { batch } => order.chunks(batch.get()).map(<[_]>::to_vec).collect(),
            Self::Shuffled { seed, batch } => {
                Draws::new(seed, "order", &[epoch]).shuffle(&mut order);
                order.chunks(batch.get()).map(<[_]>::to_vec).collect()
            }
            Self::ClassPairs { seed, batch } => {
                let mut draws = Draws::new(seed, "order", &[epoch]);
                class_pairs(labels, pairs_of(batch), &mut draws)
            }
        }
    }
}

fn pairs_of(batch: NonZeroUsize) -> usize {
    (batch.get() / 2).max(1)
}

/// The images of each class that has any.
fn by_class(labels: &[u32]) -> Vec<Vec<usize>> {
    let classes = labels.iter().max().map_or(0, |&last| last as usize + 1);
    let mut images = vec![Vec::new(); classes];
    for (image, &label) in labels.iter().enumerate() {
        images[label as usize].push(image);
    }
    images
}

/// Rounds over the classes in random order, one pair of each class a round. A round begins with the classes
/// that the batch under way does not have yet.
fn class_pairs(labels: &[u32], pairs_per_batch: usize, draws: &mut Draws) -> Vec<Vec<usize>> {
    let mut images = by_class(labels);
    images.iter_mut().for_each(|images| draws.shuffle(images));
    let mut batches = Vec::new();
    let mut batch: Vec<usize> = Vec::with_capacity(2 * pairs_per_batch);
    loop {
        let mut round: Vec<usize> = (0..images.len()).filter(|&class| images[class].len() >= 2).collect();
        if round.is_empty() {
            break;
        }
        draws.shuffle(&mut round);
        let has = |class: usize| batch.iter().any(|&image| labels[image] as usize == class);
        round.sort_by_key(|&class| has(class));
        for class in round {
            let rest = images[class].len() - 2;
            batch.extend(images[class].drain(rest..));
            if batch.len() == 2 * pairs_per_batch {
                batches.push(std::mem::replace(&mut batch, Vec::with_capacity(2 * pairs_per_batch)));
            }
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(size: usize) -> NonZeroUsize {
        NonZeroUsize::new(size).expect("not zero")
    }

    fn labels(classes: u32, images_of_each: usize) -> Vec<u32> {
        (0..classes * images_of_each as u32).map(|image| image % classes).collect()
    }

    #[test]
    fn a_batch_of_class_pairs_has_two_images_of_each_of_its_classes() {
        let labels = labels(100, 10);
        let order = BatchOrder::ClassPairs { seed: 3, batch: batch(128) };
        for epoch in 0..3 {
            let batches = order.batches(&labels, epoch);
            assert_eq!(batches.len(), order.batches_per_epoch(&labels));
            for batch in &batches[..batches.len() - 1] {
                assert_eq!(batch.len(), 128);
                let mut counts = [0; 100];
                batch.iter().for_each(|&image| counts[labels[image] as usize] += 1);
                assert!(counts.iter().all(|&count| count == 0 || count == 2), "{counts:?}");
            }
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
        }
        assert_eq!(order.batches(&labels, 1), order.batches(&labels, 1));
        assert_ne!(order.batches(&labels, 1), order.batches(&labels, 2));
    }

    #[test]
    fn with_few_classes_pairs_repeat_and_with_odd_counts_one_image_waits() {
        let few = labels(3, 7);
        let order = BatchOrder::ClassPairs { seed: 1, batch: batch(8) };
        let batches = order.batches(&few, 0);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 2]);
        assert_eq!(order.batches_per_epoch(&few), 3);
        for batch in &batches {
            let mut counts = [0; 3];
            batch.iter().for_each(|&image| counts[few[image] as usize] += 1);
            assert!(counts.iter().all(|count| count % 2 == 0 && *count <= 4), "{counts:?}");
        }
        let mut all = batches.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 18, "6 of the 7 images of each class");
    }

    #[test]
    fn lonely_images_have_no_pair_and_no_image_no_batch() {
        let order = BatchOrder::ClassPairs { seed: 1, batch: batch(1) };
        assert!(order.batches(&[0, 1, 2], 0).is_empty());
        assert_eq!(order.batches_per_epoch(&[]), 0);
        assert_eq!(order.batches(&[4, 0, 4], 0).len(), 1);
    }

    #[test]
    fn a_shuffled_epoch_has_every_image_once_and_evaluation_keeps_the_order() {
        let labels = labels(3, 3);
        let shuffled = BatchOrder::Shuffled { seed: 1, batch: batch(4) };
        let batches = shuffled.batches(&labels, 0);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 1]);
        let mut all = batches.concat();
        assert_ne!(all, (0..9).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<_>>());
        let sequential = BatchOrder::Sequential { batch: batch(4) };
        assert_eq!(sequential.batches(&labels, 0).concat(), (0..9).collect::<Vec<_>>());
        assert_eq!(sequential.batches_per_epoch(&labels), 3);
    }
}
