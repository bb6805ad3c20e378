//! A trained detector from its file, ready to detect: for programs that embed this crate.

use std::borrow::Cow;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use candle_core::Device;
use ckd_detectors::Detector;
use ckd_detectors::eight_bits::InputRanges;
use ckd_detectors::postprocess::Detections;
use image::RgbImage;

use crate::config::Config;
use crate::data::pixels::{Pixels, PixelsError};
use crate::engine::EngineError;
use crate::engine::detect::build;
use crate::engine::detect::evaluate::detect_images;
use crate::weights::card::{Category, input_ranges};
use crate::weights::{ModelCard, WeightsFile};

/// A detector, its classes, and how its images are prepared.
///
/// ```no_run
/// use ckd_det::export::student::Student;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let student = Student::open("student.safetensors")?;
/// for object in &student.detect(&image::open("photo.jpg")?)? {
///     println!("{} {:.2} {:?}", object.category.name, object.score, object.xyxy);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Student {
    detector: Detector,
    config: Config,
    categories: Vec<Category>,
    device: Device,
    ranges: Option<InputRanges>,
    path: PathBuf,
}

/// An object on an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<'a> {
    /// Class of the object.
    pub category: &'a Category,
    /// Box of the object: x1, y1, x2, y2 in pixels of the image.
    pub xyxy: [f32; 4],
    /// Confidence of the detector, 0 to 1.
    pub score: f32,
}

/// Objects on one image, best first: a slice of [`Object`]s.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Objects<'a>(Vec<Object<'a>>);

/// A student could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudentError {
    /// An image that is none.
    #[error(transparent)]
    Pixels(#[from] PixelsError),
    /// 8 bits were asked for, and the file does not say by which ranges.
    #[error(
        "{} has no ranges of activations to compute in 8 bits by; `ckd-det export --int8 activations --out \
         FILE.safetensors` writes them",
        path.display()
    )]
    NoRanges {
        /// The file.
        path: PathBuf,
    },
    /// The weights or the network.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Student {
    /// Opens the safetensors file of a run or an export, on the processor.
    ///
    /// # Errors
    /// If the file cannot be read, does not say how its network is built, or is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StudentError> {
        Self::open_on(path, &Device::Cpu)
    }

    /// Opens the safetensors file of a run or an export, on `device`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(path: impl AsRef<Path>, device: &Device) -> Result<Self, StudentError> {
        let file = WeightsFile::read(path.as_ref()).map_err(EngineError::from)?;
        let ModelCard { config, categories, .. } = ModelCard::of(&file).map_err(EngineError::from)?;
        let detector = build::loaded(&config, categories.len(), &file, device)?;
        let ranges = input_ranges(&file).map_err(EngineError::from)?;
        Ok(Self { detector, config, categories, device: device.clone(), ranges, path: file.path })
    }

    /// Computes in 8 bits from now on: what goes into each layer is rounded by the ranges that `ckd-det export --int8
    /// activations` put into the file.
    ///
    /// # Errors
    /// A file without ranges; a student that is not on the processor.
    pub fn in_8_bits(self) -> Result<Self, StudentError> {
        let Some(ranges) = &self.ranges else { return Err(StudentError::NoRanges { path: self.path }) };
        self.detector.params().compute_in_8_bits(ranges).map_err(EngineError::from)?;
        Ok(self)
    }

    /// The classes that it knows.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// The objects on `image` above the detector's own score threshold.
    ///
    /// An image is an [`RgbImage`], an [`image::DynamicImage`], or an array (height, width, 3) of `u8`
    /// (feature `ndarray`).
    ///
    /// # Errors
    /// An image without pixels or of another shape.
    pub fn detect(&self, image: &impl Pixels) -> Result<Objects<'_>, StudentError> {
        Ok(self.detect_batch(std::slice::from_ref(&image))?.pop().unwrap_or_default())
    }

    /// The objects on each of `images`, in one batch: images of one size are faster together than one by one.
    /// Smaller images are padded to the largest, which changes scores a little.
    ///
    /// # Errors
    /// An image without pixels or of another shape.
    pub fn detect_batch<P: Pixels>(&self, images: &[&P]) -> Result<Vec<Objects<'_>>, StudentError> {
        let images = images.iter().map(|image| image.rgb()).collect::<Result<Vec<Cow<'_, RgbImage>>, _>>()?;
        let found = detect_images(&self.detector, &images, &self.config, &self.device)?;
        Ok(found.into_iter().map(|found| self.objects(found)).collect())
    }

    fn objects(&self, found: Detections) -> Objects<'_> {
        let rows = found.boxes.into_iter().zip(found.scores).zip(found.labels);
        let object = |((xyxy, score), label): (([f32; 4], f32), u32)| {
            Some(Object { category: self.categories.get(label as usize)?, xyxy, score })
        };
        Objects(rows.filter_map(object).collect())
    }
}

impl<'a> Deref for Objects<'a> {
    type Target = [Object<'a>];

    fn deref(&self) -> &[Object<'a>] {
        &self.0
    }
}

impl<'a> IntoIterator for Objects<'a> {
    type Item = Object<'a>;
    type IntoIter = std::vec::IntoIter<Object<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, 'o> IntoIterator for &'o Objects<'a> {
    type Item = &'o Object<'a>;
    type IntoIter = std::slice::Iter<'o, Object<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(feature = "ndarray")]
impl Objects<'_> {
    /// Boxes as rows x1, y1, x2, y2 in pixels of the image.
    ///
    /// # Shapes
    /// (D, 4).
    pub fn boxes(&self) -> ndarray::Array2<f32> {
        ndarray::Array2::from_shape_fn((self.len(), 4), |(row, column)| self[row].xyxy[column])
    }

    /// Scores.
    ///
    /// # Shapes
    /// (D).
    pub fn scores(&self) -> ndarray::Array1<f32> {
        self.iter().map(|object| object.score).collect()
    }

    /// Ids of the classes.
    ///
    /// # Shapes
    /// (D).
    pub fn category_ids(&self) -> ndarray::Array1<u64> {
        self.iter().map(|object| object.category.id).collect()
    }
}
