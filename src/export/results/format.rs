//! Formats of results files.

use std::path::{Path, PathBuf};

use super::coco::Coco;
use super::fiftyone::FiftyOne;
use super::label_studio::LabelStudio;
use super::writer::{About, ResultsError, ResultsWriter};
use super::yolo::Yolo;

/// Format of a results file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum ResultsFormat {
    /// COCO results, one JSON array: results.json
    Coco,
    /// A text file an image, a line a box (class cx cy w h score, as shares of the image): yolo/
    Yolo,
    /// Tasks with pre-annotations to import: label-studio.json, and the labels in label-studio.xml
    LabelStudio,
    /// COCO detection set with scores for FiftyOne: fiftyone.json
    #[cfg_attr(feature = "cli", value(name = "fiftyone"))]
    FiftyOne,
}

impl ResultsFormat {
    /// Name of the file, or of the folder, beside other results.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Coco => "results.json",
            Self::Yolo => "yolo",
            Self::LabelStudio => "label-studio.json",
            Self::FiftyOne => "fiftyone.json",
        }
    }

    /// The first file of results at `path`, which is a folder for some formats.
    pub fn first_file(self, path: &Path) -> PathBuf {
        match self {
            Self::Coco | Self::LabelStudio | Self::FiftyOne => path.to_owned(),
            Self::Yolo => path.join("classes.txt"),
        }
    }
}

impl ResultsFormat {
    /// A writer of results in this format to `path`.
    ///
    /// # Errors
    /// Names that the format cannot hold.
    pub fn writer<'a>(
        self,
        path: &Path,
        about: &'a About<'a>,
    ) -> Result<Box<dyn ResultsWriter + 'a>, ResultsError> {
        Ok(match self {
            Self::Coco => Box::new(Coco::new(path, about)),
            Self::Yolo => Box::new(Yolo::new(path, about)?),
            Self::LabelStudio => Box::new(LabelStudio::new(path, about)),
            Self::FiftyOne => Box::new(FiftyOne::new(path, about)),
        })
    }
}
