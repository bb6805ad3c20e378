//! Which images form which batch, as a pure function of (seed, epoch).
//!
//! Grouped by aspect, training batches hold wide or tall images, not both (as torchvision's
//! `GroupedBatchSampler` and Detectron2's `AspectRatioGroupedDataset` do), so little of a batch is padding.
//! Every image comes exactly once an epoch: what is left of the two groups at the end is put together, into
//! full batches as far as it goes, and the last batch may be smaller. The number of batches is therefore the
//! same in every epoch.

use std::num::NonZeroUsize;

use super::draws::Draws;

/// The order in which images are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Shuffled anew each epoch: for training.
    Shuffled {
        /// The seed of the run.
        seed: u64,
        /// Images that may share a batch.
        grouping: Grouping,
    },
    /// The order of the data set: for evaluation.
    Sequential,
}

/// Grouping of images that may share a training batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grouping {
    /// Wide ones with wide ones, tall ones with tall ones.
    #[default]
    ByAspect,
    /// Any.
    None,
}

/// Two groups, as torchvision and Detectron2 have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Wider than high.
    Wide,
    /// Square or higher than wide.
    Tall,
}

impl Aspect {
    /// The group of an image of this size.
    pub fn of(width: u32, height: u32) -> Self {
        if width > height { Self::Wide } else { Self::Tall }
    }
}

/// Cuts a data set into batches, epoch by epoch.
#[derive(Debug, Clone)]
pub struct Sampler {
    aspects: Vec<Aspect>,
    images_per_batch: NonZeroUsize,
    order: Order,
}

impl Sampler {
    /// A sampler of `aspects.len()` images, each with its group.
    pub fn new(aspects: Vec<Aspect>, images_per_batch: NonZeroUsize, order: Order) -> Self {
        Self { aspects, images_per_batch, order }
    }

    /// Batches in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        match self.order {
            Order::Sequential => self.aspects.len().div_ceil(self.images_per_batch.get()),
            Order::Shuffled { grouping: Grouping::None, .. } => {
                self.aspects.len().div_ceil(self.images_per_batch.get())
            }
            Order::Shuffled { grouping: Grouping::ByAspect, .. } => {
                let wide = self.aspects.iter().filter(|&&aspect| aspect == Aspect::Wide).count();
                let tall = self.aspects.len() - wide;
                let size = self.images_per_batch.get();
                wide / size + tall / size + (wide % size + tall % size).div_ceil(size)
            }
        }
    }

    /// The batches of `epoch`: indices of images.
    pub fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.aspects.len()).collect();
        let mut grouping = Grouping::None;
        if let Order::Shuffled { seed, grouping: by } = self.order {
            Draws::new(seed, "order", &[epoch]).shuffle(&mut order);
            grouping = by;
        }
        match grouping {
            Grouping::None => order.chunks(self.images_per_batch.get()).map(<[_]>::to_vec).collect(),
            Grouping::ByAspect => self.grouped(&order),
        }
    }

    /// Walks `order` and gives out a batch whenever one of the groups has filled one.
    fn grouped(&self, order: &[usize]) -> Vec<Vec<usize>> {
        let size = self.images_per_batch.get();
        let mut batches = Vec::with_capacity(order.len().div_ceil(size) + 1);
        let (mut wide, mut tall) = (Vec::new(), Vec::new());
        for &image in order {
            let group = match self.aspects[image] {
                Aspect::Wide => &mut wide,
                Aspect::Tall => &mut tall,
            };
            group.push(image);
            if group.len() == size {
                batches.push(std::mem::take(group));
            }
        }
        wide.append(&mut tall);
        batches.extend(wide.chunks(size).map(<[_]>::to_vec));
        batches
    }
}

/// Random draws of one image of a training batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageDraws {
    /// Uniform in [0, 1): flipped when below the flip probability.
    pub flip: f64,
    /// Uniform in [0, 1): picks one of the short sides.
    pub short_side: f64,
}

impl ImageDraws {
    /// The draws of the image at `position` of `epoch`, counted over the epoch's batches in order.
    pub fn at(seed: u64, epoch: u64, position: u64) -> Self {
        let mut draws = Draws::new(seed, "image", &[epoch, position]);
        Self { flip: draws.unit(), short_side: draws.unit() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(wide: usize, tall: usize, size: usize, order: Order) -> Sampler {
        let mut aspects = vec![Aspect::Wide; wide];
        aspects.resize(wide + tall, Aspect::Tall);
        Sampler::new(aspects, NonZeroUsize::new(size).expect("not zero"), order)
    }

    fn shuffled(seed: u64) -> Order {
        Order::Shuffled { seed, grouping: Grouping::ByAspect }
    }

    #[test]
    fn every_image_comes_once_an_epoch_and_the_count_of_batches_is_constant() {
        for (wide, tall, size) in [(10, 7, 4), (0, 5, 2), (3, 3, 8), (1, 0, 1), (9, 9, 3), (0, 0, 2)] {
            let sampler = sampler(wide, tall, size, shuffled(5));
            for epoch in 0..4 {
                let batches = sampler.batches(epoch);
                assert_eq!(batches.len(), sampler.batches_per_epoch());
                let short = batches.iter().filter(|batch| batch.len() < size).count();
                assert!(short <= 1 && batches.iter().all(|batch| !batch.is_empty() && batch.len() <= size));
                let mut all: Vec<usize> = batches.concat();
                all.sort_unstable();
                assert_eq!(all, (0..wide + tall).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_batch_is_wide_or_tall_except_for_what_is_left() {
        let sampler = sampler(21, 14, 4, shuffled(1));
        let batches = sampler.batches(0);
        let whole = 21 / 4 + 14 / 4;
        for batch in &batches[..whole] {
            assert!(batch.iter().all(|&image| image < 21) || batch.iter().all(|&image| image >= 21));
        }
    }

    #[test]
    fn without_grouping_only_the_last_batch_is_smaller() {
        let sampler = sampler(5, 4, 2, Order::Shuffled { seed: 1, grouping: Grouping::None });
        let lengths: Vec<usize> = sampler.batches(0).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 2, 2, 2, 1]);
        assert_eq!(sampler.batches_per_epoch(), 5);
    }

    #[test]
    fn epochs_and_seeds_differ_and_repeat() {
        let one = sampler(30, 20, 4, shuffled(1));
        let other = sampler(30, 20, 4, shuffled(2));
        assert_eq!(one.batches(3), one.batches(3));
        assert_ne!(one.batches(3), one.batches(4));
        assert_ne!(one.batches(3), other.batches(3));
    }

    #[test]
    fn evaluation_keeps_the_order_of_the_file() {
        let sampler = sampler(2, 3, 2, Order::Sequential);
        assert_eq!(sampler.batches(0), vec![vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(sampler.batches_per_epoch(), 3);
    }
}
