//! Writers of results: one image after the other.

use super::names::{ImageNamesBelow, SameName};
use crate::data::CategoryMap;
use crate::eval::Detection;
use crate::fsx::WriteError;

/// Facts about all results of a detector.
#[derive(Debug)]
pub struct About<'a> {
    /// The classes, in the order of the logits.
    pub categories: &'a CategoryMap,
    /// Name of the detector, as Label Studio shows it.
    pub model: &'a str,
    /// The images, and their names in the files.
    pub names: &'a ImageNamesBelow,
    /// Address that Label Studio finds the images at: their names, percent-encoded, are put behind it. Without one, it
    /// serves them from its machine, below the folder that holds the folder of all images.
    pub image_url: Option<&'a str>,
}

/// Detections of an image.
#[derive(Debug)]
pub struct ImageResults<'a> {
    /// Place of the image among the names of [`About`].
    pub index: usize,
    /// The image's id in COCO results.
    pub image_id: u64,
    /// Name of the image's file in COCO results; they are without it if it is not given.
    pub file_name: Option<&'a str>,
    /// Width and height of the image in pixels.
    pub size: (u32, u32),
    /// The detections, in pixels of the image.
    pub detections: &'a [Detection],
}

/// Results could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Two images would have one file.
    #[error(transparent)]
    SameName(#[from] SameName),
    /// A list of one name a line cannot hold the name of a class.
    #[error(
        "the class {name:?} has a line break in its name, and YOLO's classes.txt has a line for each class"
    )]
    ClassName {
        /// The name.
        name: String,
    },
}

/// A results file that is being written.
pub trait ResultsWriter {
    /// Adds the results of an image.
    ///
    /// # Errors
    /// When they cannot be written.
    fn add(&mut self, image: &ImageResults<'_>) -> Result<(), ResultsError>;

    /// Puts the file in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    fn finish(self: Box<Self>) -> Result<(), ResultsError>;
}
