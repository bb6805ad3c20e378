//! A trained classifier from its file, ready to name images: for programs that embed this crate.

use std::path::Path;

use candle_core::Device;
use ckd_detectors::classifier::Classifier;
use serde::Serialize;

use super::student::StudentError;
use crate::data::pixels::Pixels;
use crate::engine::EngineError;
use crate::engine::classify::{ClassifierCard, logits, seen_as};
use crate::weights::WeightsFile;

/// A classifier, its classes, and how its images are prepared.
///
/// ```no_run
/// use ckd_det::export::labeller::Labeller;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let labeller = Labeller::open("classifier.safetensors")?;
/// for guess in labeller.likeliest(&image::open("photo.jpg")?, 5)? {
///     println!("{} {:.3}", guess.class, guess.probability);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Labeller {
    network: Classifier,
    card: ClassifierCard,
    device: Device,
}

/// A class that an image may have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guess {
    /// The index among the logits.
    pub index: usize,
    /// The name of the class.
    pub class: String,
    /// Probability of the class by the softmax of the logits.
    pub probability: f64,
}

impl Labeller {
    /// Opens the safetensors file of a classifier's run or export, on the processor.
    ///
    /// # Errors
    /// If the file cannot be read, is no classifier's, or is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StudentError> {
        let file = WeightsFile::read(path.as_ref()).map_err(EngineError::from)?;
        let Some(card) = ClassifierCard::of(&file)? else {
            let reason =
                "its header does not describe a classifier; a detector is opened as a Student".to_owned();
            return Err(EngineError::Run { path: file.path, reason }.into());
        };
        Ok(Self::of(&file, card, &Device::Cpu)?)
    }

    /// The classifier of `file`, which `card` describes, on `device`.
    ///
    /// # Errors
    /// If the file is not whole.
    pub fn of(file: &WeightsFile, card: ClassifierCard, device: &Device) -> Result<Self, EngineError> {
        Ok(Self { network: card.network(file, device)?, card, device: device.clone() })
    }

    /// The classes that it knows, in the order of the logits.
    pub fn classes(&self) -> &[String] {
        &self.card.classes
    }

    /// Logits of `image`, one a class.
    ///
    /// # Errors
    /// An image without pixels or of another shape.
    pub fn logits(&self, image: &impl Pixels) -> Result<Vec<f32>, StudentError> {
        let image = image.rgb()?.into_owned();
        Ok(logits(&self.network, &seen_as(image, &self.card.config, &self.device)?)?)
    }

    /// The `count` likeliest classes of `image`; of equals the first comes first.
    ///
    /// # Errors
    /// An image without pixels or of another shape.
    pub fn likeliest(&self, image: &impl Pixels, count: usize) -> Result<Vec<Guess>, StudentError> {
        Ok(likeliest(&self.logits(image)?, self.classes(), count))
    }
}

/// The `count` likeliest of `classes` by their logits; of equals the first comes first.
pub(crate) fn likeliest(logits: &[f32], classes: &[String], count: usize) -> Vec<Guess> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |logit: f32| f64::from(logit - largest).exp();
    let sum: f64 = logits.iter().map(|&logit| exp(logit)).sum();
    let mut order: Vec<usize> = (0..logits.len().min(classes.len())).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let guess =
        |index: usize| Guess { index, class: classes[index].clone(), probability: exp(logits[index]) / sum };
    order.into_iter().take(count).map(guess).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_classes_come_first_with_their_softmax() {
        let classes = ["a", "b", "c"].map(str::to_owned);
        let guesses = likeliest(&[0.0, 2.0, 0.0], &classes, 2);
        let names: Vec<&str> = guesses.iter().map(|guess| guess.class.as_str()).collect();
        assert_eq!((names, guesses[0].index, guesses[1].index), (vec!["b", "a"], 1, 0));
        let softmax = 1.0 / (1.0 + 2.0 * (-2f64).exp());
        assert!((guesses[0].probability - softmax).abs() < 1e-12);
        // Logits that overflow alone do not together.
        let large = likeliest(&[1e4, 1e4, -1e4], &classes, 3);
        assert_eq!(large.iter().map(|guess| guess.probability).collect::<Vec<_>>(), [0.5, 0.5, 0.0]);
    }
}
