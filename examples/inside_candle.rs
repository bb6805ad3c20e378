//! A trained detector as a module of another candle program:
//! `cargo run --release --example inside_candle -- student.safetensors photo.jpg`

use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::{Module, VarBuilder, seq};
use ckd_det::ckd_detectors::{Detector, DetectorConfig};
use ckd_det::data::decode;
use ckd_det::engine::detect::build;
use ckd_det::weights::{ModelCard, WeightsFile};

/// The settings of the detector in `weights`, from the header of the file.
pub fn settings(weights: &Path) -> Result<DetectorConfig, Box<dyn std::error::Error>> {
    let card = ModelCard::of(&WeightsFile::read(weights)?)?;
    Ok(build::student_settings(&card.config, card.categories.len()))
}

/// A detector with its weights from candle's own reader, then a layer of this program: rows whose score is above `score`.
pub fn model(weights: &Path, score: f64) -> Result<impl Module, Box<dyn std::error::Error>> {
    let vars = VarBuilder::from_buffered_safetensors(std::fs::read(weights)?, DType::F32, &Device::Cpu)?;
    let detector = Detector::from_vars(&settings(weights)?, &vars)?;
    Ok(seq().add(detector).add_fn(move |rows| above(rows, score)))
}

/// Rows (image, x1, y1, x2, y2, score, class) whose score is above `score`.
fn above(rows: &Tensor, score: f64) -> CandleResult<Tensor> {
    let scores: Vec<f32> = rows.narrow(1, 5, 1)?.flatten_all()?.to_vec1()?;
    let kept: Vec<u32> =
        (0u32..).zip(scores).filter(|(_, value)| f64::from(*value) > score).map(|(row, _)| row).collect();
    let count = kept.len();
    rows.index_select(&Tensor::from_vec(kept, count, rows.device())?, 0)
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(weights), Some(photo)) = (args.next(), args.next()) else {
        return Err("usage: inside_candle STUDENT.safetensors IMAGE".into());
    };
    let image = decode::read(photo.as_ref())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    // (1, 3, H, W) in 0..1. Resize large photographs as the header's `ckd_det.input` says.
    let pixels = Tensor::from_vec(image.into_raw(), (1, height, width, 3), &Device::Cpu)?;
    let images = (pixels.permute((0, 3, 1, 2))?.to_dtype(DType::F32)? / 255.0)?;
    println!("{}", model(weights.as_ref(), 0.5)?.forward(&images)?);
    Ok(())
}
