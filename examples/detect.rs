//! Detects objects with an exported student: `cargo run --release --example detect -- student.safetensors photo.jpg`

use std::path::Path;

use ckd_det::data::decode;
use ckd_det::export::student::{Student, StudentError};
use image::RgbImage;

/// The objects on `image` whose score is above `score`, one a line. An `image::DynamicImage` or an array
/// (height, width, 3) will do, too.
pub fn found(student: &Student, image: &RgbImage, score: f32) -> Result<Vec<String>, StudentError> {
    let objects = student.detect(image)?;
    let sure = objects.iter().filter(|object| object.score > score);
    Ok(sure.map(|object| format!("{} {:.2} {:?}", object.category.name, object.score, object.xyxy)).collect())
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(weights), Some(photo)) = (args.next(), args.next()) else {
        return Err("usage: detect STUDENT.safetensors IMAGE".into());
    };
    // Upright, as the camera was held.
    let image = decode::read(Path::new(&photo))?;
    for line in found(&Student::open(&weights)?, &image, 0.5)? {
        println!("{line}");
    }
    Ok(())
}
