//! A trained detector from its file, ready to detect: what a program that embeds this crate needs.

use std::path::Path;

use candle_core::Device;
use ckd_detectors::Detector;
use image::RgbImage;

use crate::config::Config;
use crate::engine::EngineError;
use crate::engine::detect::build;
use crate::engine::detect::evaluate::detect_one;
use crate::weights::card::Category;
use crate::weights::{ModelCard, WeightsFile, load};

/// A detector, its classes, and how it wants its images.
#[derive(Debug)]
pub struct Student {
    detector: Detector,
    config: Config,
    categories: Vec<Category>,
    device: Device,
}

/// An object on an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<'a> {
    /// What it is.
    pub category: &'a Category,
    /// Where: x1, y1, x2, y2 in pixels of the image.
    pub xyxy: [f32; 4],
    /// How sure the detector is, 0 to 1.
    pub score: f32,
}

impl Student {
    /// Opens the safetensors file of a run or an export, on the processor.
    ///
    /// # Errors
    /// If the file cannot be read, does not say how its network is built, or is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        let file = WeightsFile::read(path.as_ref())?;
        let ModelCard { config, categories, .. } = ModelCard::of(&file)?;
        let device = Device::Cpu;
        let detector = build::frozen_student(&config, categories.len(), &device)?;
        load::strict(detector.params(), &file)?;
        Ok(Self { detector, config, categories, device })
    }

    /// The objects on `image` above the detector's own score threshold, best first.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn detect(&self, image: &RgbImage) -> Result<Vec<Object<'_>>, EngineError> {
        let found = detect_one(&self.detector, image, &self.config, &self.device)?;
        let rows = found.boxes.into_iter().zip(found.scores).zip(found.labels);
        let object = |((xyxy, score), label): (([f32; 4], f32), u32)| {
            Some(Object { category: self.categories.get(label as usize)?, xyxy, score })
        };
        Ok(rows.filter_map(object).collect())
    }
}
