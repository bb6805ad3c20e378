//! STL-10 (Coates et al. 2011) in its binary form: 96x96 pixels, labels 1 to 10.
//!
//! `train_X.bin` and `test_X.bin` hold 27,648 bytes an image: all red ones first, and each plane column by
//! column. `train_y.bin` and `test_y.bin` hold one byte an image.

use std::fs;
use std::path::Path;

use super::cifar::Split;
use super::error::LabelledError;
use super::labelled::Labelled;

const SIDE: usize = 96;
const PLANE: usize = SIDE * SIDE;

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
    let read = |file: String| {
        let path = folder.join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(source) => Err(LabelledError::Read { path, source }),
        }
    };
    let (images_path, images) = read(format!("{name}_X.bin"))?;
    let (labels_path, labels) = read(format!("{name}_y.bin"))?;
    if images.is_empty() || images.len() % (3 * PLANE) != 0 {
        let reason = format!("it has {} bytes, which are no images of {}", images.len(), 3 * PLANE);
        return Err(LabelledError::Format { path: images_path, reason });
    }
    if let Some((row, label)) = labels.iter().enumerate().find(|(_, label)| !(1..=10).contains(*label)) {
        let reason = format!("image {row} has the label {label}; STL-10's are 1 to 10");
        return Err(LabelledError::Format { path: labels_path, reason });
    }
    let mut bytes = vec![0; images.len()];
    for (out, planes) in bytes.chunks_exact_mut(3 * PLANE).zip(images.chunks_exact(3 * PLANE)) {
        for (pixel, out) in out.chunks_exact_mut(3).enumerate() {
            let (row, column) = (pixel / SIDE, pixel % SIDE);
            for (channel, out) in out.iter_mut().enumerate() {
                *out = planes[channel * PLANE + column * SIDE + row];
            }
        }
    }
    let classes = CLASSES.map(str::to_owned).to_vec();
    let labels = labels.into_iter().map(|label| u32::from(label) - 1).collect();
    Labelled::decoded(classes, labels, (SIDE, SIDE), bytes, images_path)
}
