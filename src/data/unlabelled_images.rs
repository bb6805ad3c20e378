//! The section `data` of an experiment on images without labels, and the batches of it.

use std::path::PathBuf;

use ckd_kernels::upload::Values;
use ckd_settings::{Check, choices, section};

use super::draws::Draws;
use super::error::DataError;
use super::image_policy::{BadImage, ImagePolicy, OnBadImage};
use super::labelled::{Labelled, LabelledBatch, LabelledImages};
use super::loader::{Passes, Source};
use super::mix_up::mix_up;

choices! {
    /// A set of images, or the layout of one.
    pub enum UnlabelledKind {
        /// All images in a folder and below it, whatever its layout.
        Folder = "folder",
        /// CIFAR-10's training images, binary version.
        Cifar10 = "cifar10",
        /// CIFAR-100's training images, binary version.
        Cifar100 = "cifar100",
        /// STL-10's 100,000 images without labels, binary version.
        Stl10 = "stl10",
    }
}

section! {
    /// Images without labels.
    pub struct UnlabelledImages {
        /// The set, or its layout.
        pub kind: UnlabelledKind = UnlabelledKind::Folder,
        /// Folder of the images; relative to the current directory, else to the configuration's folder.
        pub root: PathBuf,
        /// Part of the images that is held out and measured on, drawn by the run's seed, in (0, 1).
        pub held_out: f64 = 0.05,
        /// Policy for broken image files: the program ends before the first step, or they are left out. An image that
        /// breaks in mid-training is replaced by another image.
        pub on_bad_image: OnBadImage = OnBadImage::Stop,
        /// The largest part of all images that on_bad_image = "skip" may leave out, in [0, 1].
        pub max_bad_images: f64 = 0.01,
        /// Threads that decode and transform images.
        pub workers: usize = 2,
        /// Batches made ahead of training.
        pub queue: usize = 4,
    }
}

impl UnlabelledImages {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("workers", self.workers);
        check.at_least_one("queue", self.queue);
        check.fraction("max_bad_images", self.max_bad_images);
        check.that(
            self.held_out > 0.0 && self.held_out < 1.0,
            "held_out",
            format!("is {}", self.held_out),
            "give a part of the images, above 0 and below 1",
        );
    }

    /// Policy for the files of the images.
    pub fn image_policy(&self) -> ImagePolicy {
        ImagePolicy { on_bad: self.on_bad_image, max_bad: self.max_bad_images, ..ImagePolicy::default() }
    }

    /// Training images and held-out ones of `all`; one of each at least, of two or more.
    pub fn divided(&self, all: &Labelled, seed: u64) -> [Labelled; 2] {
        let mut order: Vec<usize> = (0..all.len()).collect();
        Draws::new(seed, "held out", &[]).shuffle(&mut order);
        let wanted = (self.held_out * all.len() as f64).round() as usize;
        let (held_out, train) =
            order.split_at(wanted.clamp(1, all.len().saturating_sub(1).max(1)).min(all.len()));
        let [mut train, mut held_out] = [train.to_vec(), held_out.to_vec()];
        train.sort_unstable();
        held_out.sort_unstable();
        [all.chosen(&train), all.chosen(&held_out)]
    }
}

/// Batches of images of which each is blended with another.
#[derive(Debug)]
pub struct MixedImages {
    images: LabelledImages,
    /// Seed of the blends; `None`: no blends.
    mix: Option<u64>,
}

impl MixedImages {
    /// The batches of `images`; with a seed, one share and one order are drawn for each batch.
    pub fn new(images: LabelledImages, mix: Option<u64>) -> Self {
        Self { images, mix }
    }
}

impl Source for MixedImages {
    type Batch = LabelledBatch;

    fn pixels(batch: &mut LabelledBatch) -> Vec<&mut Values> {
        LabelledImages::pixels(batch)
    }

    fn batches_per_epoch(&self) -> usize {
        self.images.batches_per_epoch()
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.images.batches(epoch)
    }

    fn passes(&self) -> Passes {
        self.images.passes()
    }

    fn build(&self, epoch: u64, first: u64, images: &[usize]) -> Result<LabelledBatch, DataError> {
        let mut batch = self.images.build(epoch, first, images)?;
        if let Some(seed) = self.mix {
            let mut draws = Draws::new(seed, "mix-up", &[epoch, first]);
            let mut order: Vec<usize> = (0..images.len()).collect();
            draws.shuffle(&mut order);
            mix_up(&mut batch.pixels, &order, draws.unit() as f32);
        }
        Ok(batch)
    }

    fn take_broken(&self) -> Vec<BadImage> {
        self.images.take_broken()
    }

    fn path(&self, image: usize) -> PathBuf {
        self.images.path(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(count: usize) -> Labelled {
        let bytes = (0..count).flat_map(|image| [image as u8; 3]).collect();
        let labels = vec![0; count];
        Labelled::decoded(vec!["image".to_owned()], labels, (1, 1), bytes, PathBuf::from("grey"))
            .expect("a set")
    }

    fn data(held_out: f64) -> UnlabelledImages {
        UnlabelledImages { held_out, ..UnlabelledImages::new(PathBuf::from("grey")) }
    }

    #[test]
    fn every_image_is_on_one_side_drawn_by_the_seed() {
        let all = grey(40);
        let sides = |seed| {
            let levels = |set: &Labelled| -> Vec<u8> {
                (0..set.len()).map(|image| set.image(image).expect("an image").as_raw()[0]).collect()
            };
            data(0.25).divided(&all, seed).map(|set| levels(&set))
        };
        let [train, held_out] = sides(3);
        assert_eq!((train.len(), held_out.len()), (30, 10));
        let mut both = [train.clone(), held_out].concat();
        both.sort_unstable();
        assert_eq!(both, (0..40).collect::<Vec<u8>>());
        assert_eq!(sides(3)[0], train);
        assert_ne!(sides(4)[0], train);
    }

    #[test]
    fn something_is_left_on_both_sides() {
        for part in [0.001, 0.5, 0.999] {
            let [train, held_out] = data(part).divided(&grey(3), 0);
            assert!(!train.is_empty() && !held_out.is_empty() && train.len() + held_out.len() == 3, "{part}");
        }
        assert_eq!(data(0.5).divided(&grey(1), 0).map(|set| set.len()), [0, 1]);
    }
}
