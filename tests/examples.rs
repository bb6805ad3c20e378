//! The examples run, in small.

#[path = "../examples/detect.rs"]
#[allow(dead_code, unreachable_pub)]
mod detect;
#[path = "../examples/inside_candle.rs"]
#[allow(dead_code, unreachable_pub)]
mod inside_candle;
#[path = "../examples/own_dataset.rs"]
#[allow(dead_code, unreachable_pub)]
mod own_dataset;
#[path = "../examples/own_distiller.rs"]
#[allow(dead_code, unreachable_pub)]
mod own_distiller;
#[path = "../examples/train_from_code.rs"]
#[allow(dead_code, unreachable_pub)]
mod train_from_code;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use ckd_det::export::student::Student;
use image::RgbImage;

use crate::support::tiny::Tiny;

#[test]
fn a_method_of_a_program_of_its_own_joins_the_loss() {
    let tiny = Tiny::new();
    // Beside CKD, which is off.
    let sets = tiny.sets(&[
        "schedule.steps=2",
        "optim.clip_grad_norm=10.0",
        "distill.0.weight=0.0",
        "distill.1.weight=0.0",
        "distill.1.weight_inter=0.0",
    ]);
    let ap = own_distiller::run(tiny.path("distilled.toml").to_str().unwrap(), &sets).unwrap();
    assert!((0.0..=1.0).contains(&ap));
    let log = tiny.text("runs/distilled/log.jsonl");
    let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let losses = first["losses"].as_object().unwrap_or_else(|| panic!("{first}"));
    for name in ["energy/p3", "energy/p4"] {
        assert!(losses[name].as_f64().unwrap() > 0.0, "{first}");
    }
    assert!(!losses.keys().any(|name| name.starts_with("ckd")), "{first}");
}

#[test]
fn a_detector_is_a_module_of_another_candle_program() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap_or_else(|error| panic!("{error}"));
    let weights = tiny.path("runs/plain/last.safetensors");
    // Of a size at which nothing is resampled.
    let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(4 * x) as u8, (4 * y) as u8, 90]));
    let pixels = Tensor::from_slice(image.as_raw(), (1, 64, 64, 3), &Device::Cpu).unwrap();
    let pixels = (pixels.permute((0, 3, 1, 2)).unwrap().to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let student = Student::open(&weights).unwrap();
    let objects = student.detect(&image).unwrap();
    assert_eq!(detect::found(&student, &image, -1.0).unwrap().len(), objects.len());
    let rows = inside_candle::model(&weights, 0.0).unwrap().forward(&pixels).unwrap();
    assert_eq!(rows.dims(), [objects.len(), 7]);
    for (row, object) in rows.to_vec2::<f32>().unwrap().iter().zip(&objects) {
        assert!((row[5] - object.score).abs() <= 1e-6, "{row:?} {object:?}");
        assert!(row[1..5].iter().zip(object.xyxy).all(|(own, theirs)| (own - theirs).abs() <= 1e-3));
    }
    let none = inside_candle::model(&weights, 1.0).unwrap().forward(&pixels).unwrap();
    assert_eq!(none.dims(), [0, 7]);
}

#[test]
fn a_configuration_made_in_code_trains_a_teacher_and_its_student() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = train_from_code::Sizes { images: 6, side_px: 64, steps: 3, width: 16 };
    let ap = train_from_code::run(folder.path(), &sizes).unwrap();
    assert!((0.0..=1.0).contains(&ap));
    for file in ["teacher/last.safetensors", "student/last.safetensors", "student/config.toml"] {
        assert!(folder.path().join("runs").join(file).exists(), "{file}");
    }
    // The same experiment again is the same network.
    let (first, second) = (folder.path().join("runs/student"), folder.path().join("runs/student.1"));
    train_from_code::run(folder.path(), &sizes).unwrap();
    let weights = |run: &std::path::Path| crate::support::tiny::tensors(&run.join("last.safetensors"));
    assert_eq!(weights(&first), weights(&second));
}

#[test]
fn what_is_wrong_with_a_configuration_made_in_code_is_named_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = train_from_code::Sizes { images: 6, side_px: 64, steps: 3, width: 16 };
    let mut config = train_from_code::plain("wrong", 8, folder.path(), &sizes);
    config.input.long_side_px = 32;
    let message = ckd_det::train(config).unwrap_err().to_string();
    crate::support::tiny::assert_mentions(&message, &["input.long_side_px", "is 32", "made in code"]);
}

#[test]
fn images_drawn_in_memory_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    let ap = own_dataset::run(folder.path(), 8, 2).unwrap();
    assert!((0.0..=1.0).contains(&ap));
    let weights = folder.path().join("squares/last.safetensors");
    let student = Student::open(&weights).unwrap();
    let names: Vec<&str> = student.categories().iter().map(|category| category.name.as_str()).collect();
    assert_eq!(names, ["red", "green"]);
}
