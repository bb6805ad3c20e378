//! `ckd-det data check`: what it counts, corrects and finds in both parts of a data set.

use std::fs;

use super::text;
use crate::support::tiny::{Tiny, assert_ended, assert_mentions};

#[test]
fn data_check_writes_a_corrected_copy_and_finds_training_images_in_the_evaluation() {
    let tiny = Tiny::new();
    let synth = ["data", "synth", "--out", "set", "--images-train", "4", "--images-val", "3", "--size", "64"];
    assert_ended(&tiny.run_program(&synth), 0, &[]);
    fs::copy(tiny.path("set/train/000002.png"), tiny.path("set/val/000001.png")).unwrap();
    fs::write(tiny.path("set/val/000003.png"), b"no image").unwrap();
    let (train, val) = ("set/annotations/instances_train.json", "set/annotations/instances_val.json");
    let check = ["data", "check", "--annotations", val, "--images", "set/val"];
    let output = tiny.run_program(&check);
    assert_ended(
        &output,
        1,
        &["1 images with broken files", "000003.png is none of", "1 of 3 images cannot be used"],
    );
    let against = ["--against", train, "--against-images", "set/train", "--fix", "fixed.json"];
    let output = tiny.run_program(&[check.as_slice(), &against].concat());
    assert_ended(
        &output,
        0,
        &["1 images with the content of a training image: image 1", "fixed.json: 2 images"],
    );
    let output = tiny.run_program(&[
        "data",
        "check",
        "--annotations",
        "fixed.json",
        "--images",
        "set/val",
        "--decode",
    ]);
    assert_ended(&output, 0, &["all 2 images decode"]);
    let onto_itself = tiny.run_program(&[check.as_slice(), &["--fix", val]].concat());
    assert_ended(&onto_itself, 2, &["name a new file"]);
}

#[test]
fn data_check_counts_labelled_images_and_names_those_that_cannot_be_used() {
    let tiny = Tiny::empty();
    let pixels =
        |seed: u8| image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, seed]));
    for (number, file) in
        ["train/ant/a.png", "train/ant/b.png", "train/bee/c.png", "val/ant/d.png", "val/bee/e.png"]
            .into_iter()
            .enumerate()
    {
        let path = tiny.path("set").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        pixels(number as u8).save(&path).unwrap();
    }
    let check = |more: &[&str]| {
        tiny.run_program(
            &[["data", "check", "--format", "folder", "--root", "set"].as_slice(), more].concat(),
        )
    };
    let good = check(&["--decode"]);
    assert_ended(&good, 0, &["set train: 3 images, 2 classes, 0 cannot be used", "set val: 2 images"]);
    assert_mentions(&text(&good), &["    0       2  ant", "    1       1  bee"]);
    assert_ended(&check(&["--split", "val"]), 0, &["set val: 2 images"]);
    fs::copy(tiny.path("set/train/ant/a.png"), tiny.path("set/val/bee/e.png")).unwrap();
    assert_ended(
        &check(&[]),
        0,
        &["1 held-out images have the content of a training image, first: set/val/bee/e.png"],
    );
    fs::write(tiny.path("set/train/ant/b.png"), "no image").unwrap();
    assert_ended(
        &check(&[]),
        1,
        &["3 images, 2 classes, 1 cannot be used", "b.png", "1 of 5 images cannot be used"],
    );
    fs::remove_dir_all(tiny.path("set/val/bee")).unwrap();
    assert_ended(&check(&[]), 2, &["\"bee\" is among the training images only"]);
    assert_ended(&check(&["--fix", "x.json"]), 2, &["--fix is for data sets with boxes"]);

    fs::create_dir(tiny.path("cifar")).unwrap();
    let rows: Vec<u8> = [3u8, 3, 9].iter().flat_map(|&label| [label].into_iter().chain([7; 3072])).collect();
    fs::write(tiny.path("cifar/data_batch_1.bin"), &rows).unwrap();
    fs::write(tiny.path("cifar/test_batch.bin"), &rows[..3073]).unwrap();
    let cifar = ["data", "check", "--format", "cifar10", "--root", "cifar", "--decode"];
    assert_ended(
        &tiny.run_program(&cifar),
        0,
        &["cifar train: 3 images, 10 classes", "    3       2  class 3", "cifar val: 1 images"],
    );
    fs::write(tiny.path("cifar/test_batch.bin"), &rows[..3000]).unwrap();
    assert_ended(
        &tiny.run_program(&cifar),
        1,
        &["test_batch.bin: it has 3000 bytes, which are no rows of 3073"],
    );
}
