//! STL-10 (Coates et al. 2011) in its binary form: 96x96 pixels, labels 1 to 10.
//!
//! `train_X.bin`, `test_X.bin` and `unlabeled_X.bin` hold 27,648 bytes an image: all red ones first, and each plane column by
//! column. `train_y.bin` and `test_y.bin` hold one byte an image.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::cifar::Split;
use super::error::LabelledError;
use super::labelled::Labelled;

const SIDE: usize = 96;
const PLANE: usize = SIDE * SIDE;

/// File of the images without labels.
pub const UNLABELLED: &str = "unlabeled_X.bin";

/// In the order of the labels, from 1.
const CLASSES: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Reads a split of the data set in `folder`.
///
/// # Errors
/// Files that are missing, hold no whole images or fewer labels than images; labels outside of 1 to 10.
pub fn load(folder: &Path, split: Split) -> Result<Labelled, LabelledError> {
    let name = match split {
        Split::Train => "train",
        Split::Test => "test",
    };
    let (images_path, labels_path) =
        (folder.join(format!("{name}_X.bin")), folder.join(format!("{name}_y.bin")));
    let bytes = pixels(&images_path)?;
    let labels =
        fs::read(&labels_path).map_err(|source| LabelledError::Read { path: labels_path.clone(), source })?;
    if let Some((row, label)) = labels.iter().enumerate().find(|(_, label)| !(1..=10).contains(*label)) {
        let reason = format!("image {row} has the label {label}; STL-10's are 1 to 10");
        return Err(LabelledError::Format { path: labels_path, reason });
    }
    let classes = CLASSES.map(str::to_owned).to_vec();
    let labels = labels.into_iter().map(|label| u32::from(label) - 1).collect();
    Labelled::decoded(classes, labels, (SIDE, SIDE), bytes, images_path)
}

/// Reads the 100,000 images without labels in `folder`, as images of one class that is called `class`.
///
/// # Errors
/// A file that is missing or holds no whole images.
pub fn unlabelled(folder: &Path, class: &str) -> Result<Labelled, LabelledError> {
    let path = folder.join(UNLABELLED);
    let bytes = pixels(&path)?;
    let labels = vec![0; bytes.len() / (3 * PLANE)];
    Labelled::decoded(vec![class.to_owned()], labels, (SIDE, SIDE), bytes, path)
}

/// Pixels of the images in `path`: of each its rows from the top, red, green and blue together.
fn pixels(path: &Path) -> Result<Vec<u8>, LabelledError> {
    let unread = |source| LabelledError::Read { path: PathBuf::from(path), source };
    let mut file = File::open(path).map_err(unread)?;
    let size = file.metadata().map_err(unread)?.len() as usize;
    if size == 0 || !size.is_multiple_of(3 * PLANE) {
        let reason = format!("it has {size} bytes, which are no images of {}", 3 * PLANE);
        return Err(LabelledError::Format { path: path.to_owned(), reason });
    }
    // An image at a time: the file is large, and its pixels are wanted once.
    let (mut bytes, mut planes) = (Vec::with_capacity(size), [0; 3 * PLANE]);
    for _ in 0..size / (3 * PLANE) {
        file.read_exact(&mut planes).map_err(unread)?;
        for pixel in 0..PLANE {
            let (row, column) = (pixel / SIDE, pixel % SIDE);
            bytes.extend((0..3).map(|channel| planes[channel * PLANE + column * SIDE + row]));
        }
    }
    Ok(bytes)
}
