//! Images that take the place of those that turn out broken in mid-training.
//!
//! Which image takes a place is a function of (seed, epoch, position): a resumed run trains on the same
//! batches as long as the same files are broken.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::decode::DecodeError;
use super::draws::Draws;
use super::error::DataError;
use super::image_policy::{BadImage, Tolerance};

/// Broken images of a running loader.
#[derive(Debug)]
pub(super) struct Substitutes {
    tolerance: Tolerance,
    images: usize,
    /// Images that were known to be bad before.
    known: BTreeSet<usize>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    broken: BTreeSet<usize>,
    /// Those that have not been told of yet, with the problem.
    untold: Vec<(usize, String)>,
}

/// Place of a batch, for random draws.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) seed: u64,
    pub(super) epoch: u64,
    /// The position of the batch's first image in the epoch.
    pub(super) first: u64,
}

impl Substitutes {
    /// Substitutes in a set of so many images, of which `known` are bad and `tolerance` may still break.
    pub(super) fn of(images: usize, known: BTreeSet<usize>, tolerance: Tolerance) -> Self {
        Self { tolerance, images, known, found: Mutex::default() }
    }

    /// The batch that `make` makes of `images`, with others in place of those that `decode` fails on.
    ///
    /// # Errors
    /// Errors of `make`; [`DataError::TooManyBad`].
    pub(super) fn batch<B>(
        &self,
        images: &[usize],
        Place { seed, epoch, first }: Place,
        decode: impl Fn(usize) -> Result<(), DecodeError>,
        make: impl Fn(&[usize]) -> Result<B, DataError>,
    ) -> Result<B, DataError> {
        let error = match images.iter().any(|image| self.known.contains(image)) {
            true => None,
            false => match make(images) {
                Err(DataError::Decode(error)) if self.tolerance.left > 0 => Some(error),
                made => return made,
            },
        };
        let (mut images, mut is_replaced) = (images.to_vec(), error.is_none());
        for (position, image) in (first..).zip(&mut images) {
            for attempt in 0.. {
                if !self.known.contains(image) {
                    let Err(reason) = decode(*image) else { break };
                    self.note(*image, reason)?;
                }
                is_replaced = true;
                *image = Draws::new(seed, "substitute", &[epoch, position, attempt]).below(self.images);
            }
        }
        match error {
            Some(error) if !is_replaced => Err(error.into()),
            _ => make(&images),
        }
    }

    fn note(&self, image: usize, reason: DecodeError) -> Result<(), DataError> {
        if self.tolerance.left == 0 {
            return Err(reason.into());
        }
        let mut found = self.lock();
        if found.broken.insert(image) {
            let count = found.broken.len();
            if count > self.tolerance.left || count + self.known.len() == self.images {
                let last = reason.to_string();
                return Err(DataError::TooManyBad { count, total: self.images, last });
            }
            found.untold.push((image, reason.to_string()));
        }
        Ok(())
    }

    /// Takes the broken images that have not been told of yet; `path` names their files.
    pub(super) fn take_broken(&self, path: impl Fn(usize) -> PathBuf) -> Vec<BadImage> {
        let untold = std::mem::take(&mut self.lock().untold);
        untold.into_iter().map(|(image, reason)| BadImage { path: path(image), reason }).collect()
    }

    /// No code that holds the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
