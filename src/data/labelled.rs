//! Images with one label each, and their batches.
//!
//! Small images are decoded once and stay in memory; photographs are decoded whenever they are asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckd_kernels::resample::bytes_to_unit;
use ckd_kernels::upload::Values;
use image::RgbImage;
use rayon::prelude::*;

use super::augment::Augmentation;
use super::decode::{self, DecodeError};
use super::draws::Draws;
use super::error::{DataError, LabelledError};
use super::image_policy::{BadImage, BadImages, ImagePolicy, Tolerance};
use super::label_order::BatchOrder;
use super::loader::{Passes, Source};
use super::substitutes::{Place, Substitutes};

/// A data set of labelled images.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The class of each image, below `classes.len()`.
    pub labels: Vec<u32>,
    /// Images that were left out.
    pub left_out: Vec<BadImage>,
    pixels: Pixels,
    /// Images that cannot be used.
    bad: BTreeSet<usize>,
    tolerance: Tolerance,
}

#[derive(Debug, Clone)]
enum Pixels {
    /// All images one after the other: RGB bytes, rows from the top.
    Decoded {
        height: usize,
        width: usize,
        bytes: Vec<u8>,
        from: PathBuf,
    },
    Files(Vec<PathBuf>),
}

impl Labelled {
    /// Decoded images of one size, read from `from`: `bytes` holds `height` x `width` x 3 of each.
    ///
    /// # Errors
    /// [`LabelledError::Counts`] if there are not as many images as labels; [`LabelledError::Label`] for a
    /// label beyond the classes.
    pub fn decoded(
        classes: Vec<String>,
        labels: Vec<u32>,
        (height, width): (usize, usize),
        bytes: Vec<u8>,
        from: PathBuf,
    ) -> Result<Self, LabelledError> {
        let images = bytes.len() / (height * width * 3).max(1);
        if images != labels.len() || bytes.len() != images * height * width * 3 {
            return Err(LabelledError::Counts { path: from, images, labels: labels.len() });
        }
        check_labels(&classes, &labels, &from)?;
        Ok(Self::of(classes, labels, Pixels::Decoded { height, width, bytes, from }))
    }

    /// Image files with the class of each; `from` is the folder they were found in.
    ///
    /// # Errors
    /// Errors of [`decoded`](Self::decoded).
    pub fn files(
        classes: Vec<String>,
        files: Vec<(PathBuf, u32)>,
        from: PathBuf,
    ) -> Result<Self, LabelledError> {
        let (paths, labels): (Vec<PathBuf>, Vec<u32>) = files.into_iter().unzip();
        check_labels(&classes, &labels, &from)?;
        Ok(Self::of(classes, labels, Pixels::Files(paths)))
    }

    fn of(classes: Vec<String>, labels: Vec<u32>, pixels: Pixels) -> Self {
        let (left_out, bad, tolerance) = (Vec::new(), BTreeSet::new(), Tolerance::default());
        Self { classes, labels, left_out, pixels, bad, tolerance }
    }

    /// The set after a look at the headers of its images; `from` is what messages call it. Bad ones are left
    /// out of evaluations, and replaced in training batches, whose order does not change.
    ///
    /// # Errors
    /// If more are bad than `policy` allows.
    pub fn with_good_headers(mut self, from: &Path, policy: &ImagePolicy) -> Result<Self, LabelledError> {
        let Pixels::Files(paths) = &self.pixels else { return Ok(self) };
        let problem = |path: &PathBuf| {
            let error = decode::header(path).err()?;
            Some(BadImage { path: path.clone(), reason: error.to_string() })
        };
        let problems: Vec<Option<BadImage>> = paths.par_iter().map(problem).collect();
        let total = paths.len();
        self.bad = (0..total).filter(|&image| problems[image].is_some()).collect();
        self.left_out = problems.into_iter().flatten().collect();
        self.tolerance = policy.after(self.bad.len(), total);
        if self.tolerance.is_exceeded || (self.bad.len() == total && total > 0) {
            return Err(BadImages::new(from, &self.left_out, total, policy).into());
        }
        Ok(self)
    }

    /// The files of the images, if they are files.
    pub fn paths(&self) -> &[PathBuf] {
        match &self.pixels {
            Pixels::Files(paths) => paths,
            Pixels::Decoded { .. } => &[],
        }
    }

    /// Decodes all images into memory, `side_px` high and wide.
    ///
    /// # Errors
    /// If an image cannot be decoded.
    pub fn in_memory(self, side_px: u32) -> Result<Self, DecodeError> {
        let Pixels::Files(paths) = &self.pixels else { return Ok(self) };
        let decoded: Vec<Vec<u8>> = paths
            .par_iter()
            .map(|path| Ok(super::augment::square(decode::read(path)?, side_px).into_raw()))
            .collect::<Result<_, DecodeError>>()?;
        let from = paths.first().and_then(|path| path.parent()).map(PathBuf::from).unwrap_or_default();
        let side = side_px as usize;
        let pixels = Pixels::Decoded { height: side, width: side, bytes: decoded.concat(), from };
        Ok(Self { pixels, ..self })
    }

    /// The images at `indices`, in that order.
    pub fn chosen(&self, indices: &[usize]) -> Self {
        let pixels = match &self.pixels {
            Pixels::Decoded { height, width, bytes, from } => {
                let size = height * width * 3;
                let image = |&index: &usize| &bytes[index * size..][..size];
                let bytes = indices.iter().map(image).collect::<Vec<_>>().concat();
                Pixels::Decoded { height: *height, width: *width, bytes, from: from.clone() }
            }
            Pixels::Files(paths) => {
                Pixels::Files(indices.iter().map(|&index| paths[index].clone()).collect())
            }
        };
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let classes = self.classes.clone();
        let bad = (0..indices.len()).filter(|&place| self.bad.contains(&indices[place])).collect();
        Self { classes, labels, left_out: self.left_out.clone(), pixels, bad, tolerance: self.tolerance }
    }

    /// BLAKE3 of the set, hexadecimal: the classes, the label of each image, and its pixels, or of
    /// photographs the names of their files and folders.
    pub fn blake3(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        self.classes.iter().for_each(|class| part(class.as_bytes()));
        part(&self.labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>());
        match &self.pixels {
            Pixels::Decoded { bytes, .. } => part(bytes),
            Pixels::Files(paths) => {
                for path in paths {
                    for name in [path.parent().and_then(|folder| folder.file_name()), path.file_name()] {
                        part(name.unwrap_or_default().as_encoded_bytes());
                    }
                }
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The image at `index`, upright.
    ///
    /// # Errors
    /// If its file cannot be decoded.
    pub fn image(&self, index: usize) -> Result<RgbImage, DecodeError> {
        match &self.pixels {
            Pixels::Decoded { height, width, bytes, .. } => {
                let size = height * width * 3;
                let bytes = bytes[index * size..][..size].to_vec();
                Ok(RgbImage::from_raw(*width as u32, *height as u32, bytes)
                    .expect("the buffer has as many bytes as the size says"))
            }
            Pixels::Files(paths) => decode::read(&paths[index]),
        }
    }

    /// Usable images among `indices`; where bad images may be left out, each is decoded.
    pub fn usable(&self, indices: Vec<usize>) -> Vec<usize> {
        let is_usable = |&index: &usize| {
            let may_break = self.tolerance.left > 0;
            !self.bad.contains(&index) && (!may_break || self.image(index).is_ok())
        };
        indices.into_par_iter().filter(is_usable).collect()
    }

    /// The file of the image at `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        match &self.pixels {
            Pixels::Decoded { from, .. } => from.join(format!("image {index}")),
            Pixels::Files(paths) => paths[index].clone(),
        }
    }
}

fn check_labels(classes: &[String], labels: &[u32], from: &Path) -> Result<(), LabelledError> {
    match labels.iter().enumerate().find(|(_, label)| **label as usize >= classes.len()) {
        None => Ok(()),
        Some((row, &label)) => {
            Err(LabelledError::Label { path: from.to_owned(), row, label, classes: classes.len() })
        }
    }
}

/// Batch of labelled images: the input of one classifier step.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBatch {
    /// RGB in [0, 1], `labels.len()` x `side` x `side` x 3.
    pub pixels: Values,
    /// Height and width in pixels.
    pub side: usize,
    /// The class of each image.
    pub labels: Vec<u32>,
    /// Index in the data set of each image.
    pub indices: Vec<u32>,
}

/// Batches of labelled images, augmented for training or as they are.
#[derive(Debug)]
pub struct LabelledImages {
    set: Arc<Labelled>,
    order: BatchOrder,
    augmentation: Augmentation,
    seed: u64,
    substitutes: Substitutes,
}

impl LabelledImages {
    /// Batches of `set` in `order`; `augmentation` draws from streams of `seed`.
    ///
    /// # Errors
    /// If the set is empty.
    pub fn new(
        set: Arc<Labelled>,
        order: BatchOrder,
        augmentation: Augmentation,
        seed: u64,
    ) -> Result<Self, DataError> {
        if set.is_empty() {
            return Err(DataError::Setting("the data set has no image".to_owned()));
        }
        let substitutes = match order {
            BatchOrder::Sequential { .. } => {
                Substitutes::of(set.len(), BTreeSet::new(), Tolerance::default())
            }
            _ => Substitutes::of(set.len(), set.bad.clone(), set.tolerance),
        };
        Ok(Self { set, order, augmentation, seed, substitutes })
    }

    fn batch(&self, epoch: u64, first: u64, images: &[usize]) -> Result<LabelledBatch, DataError> {
        let side = self.augmentation.side_px as usize;
        let row = side * side * 3;
        let mut pixels = vec![0f32; images.len() * row];
        for ((position, &image), out) in (first..).zip(images).zip(pixels.chunks_exact_mut(row)) {
            let mut draws = Draws::new(self.seed, "augment", &[epoch, position]);
            let image = self.augmentation.apply(self.set.image(image)?, &mut draws);
            bytes_to_unit(image.as_raw(), out);
        }
        Ok(LabelledBatch {
            pixels: pixels.into(),
            side,
            labels: images.iter().map(|&image| self.set.labels[image]).collect(),
            indices: images.iter().map(|&image| image as u32).collect(),
        })
    }
}

impl Source for LabelledImages {
    type Batch = LabelledBatch;

    fn pixels(batch: &mut LabelledBatch) -> Vec<&mut Values> {
        vec![&mut batch.pixels]
    }

    fn batches_per_epoch(&self) -> usize {
        match self.order {
            BatchOrder::Sequential { .. } => self.batches(0).len(),
            _ => self.order.batches_per_epoch(&self.set.labels),
        }
    }

    fn batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let batches = self.order.batches(&self.set.labels, epoch);
        match self.order {
            BatchOrder::Sequential { batch } if !self.set.bad.is_empty() => {
                let good: Vec<usize> =
                    batches.into_iter().flatten().filter(|image| !self.set.bad.contains(image)).collect();
                good.chunks(batch.get()).map(<[usize]>::to_vec).collect()
            }
            _ => batches,
        }
    }

    fn passes(&self) -> Passes {
        match self.order {
            BatchOrder::Sequential { .. } => Passes::One,
            BatchOrder::Shuffled { .. } | BatchOrder::ClassPairs { .. } => Passes::Endless,
        }
    }

    fn build(&self, epoch: u64, first: u64, images: &[usize]) -> Result<LabelledBatch, DataError> {
        let decode = |image| self.set.image(image).map(drop);
        let place = Place { seed: self.seed, epoch, first };
        self.substitutes.batch(images, place, decode, |images| self.batch(epoch, first, images))
    }

    fn take_broken(&self) -> Vec<BadImage> {
        self.substitutes.take_broken(|image| self.path(image))
    }

    fn path(&self, image: usize) -> PathBuf {
        self.set.path(image)
    }
}
