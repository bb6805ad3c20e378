//! Detects objects with an exported student: `cargo run --release --example detect -- student.safetensors photo.jpg`

use ckd_det::data::decode;
use ckd_det::export::student::Student;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(weights), Some(photo)) = (args.next(), args.next()) else {
        return Err("usage: detect STUDENT.safetensors IMAGE".into());
    };
    let student = Student::open(&weights)?;
    // Upright, as the camera was held. `image::open(photo)?` or an array (height, width, 3) will do, too.
    let image = decode::read(photo.as_ref())?;
    for object in student.detect(&image)?.iter().filter(|object| object.score > 0.5) {
        println!("{} {:.2} {:?}", object.category.name, object.score, object.xyxy);
    }
    Ok(())
}
