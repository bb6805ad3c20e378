//! `ckd-det new`: from a folder of images to a checked ONNX file in four commands, for each layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use ckd_det::config::Config;
use ckd_det::data::synth::{Synth, generate};
use serde_json::Value;

use crate::support::real;
use crate::support::tiny::{Folder, assert_ended, names};

type Here = Folder<Config>;

/// Sixteen training and four validation images of 64 pixels in COCO's layout, in `coco/`.
fn synthetic() -> Here {
    let here = Here::empty();
    let synth = Synth { min_objects: 1, max_objects: 3, ..Synth::new(16, 4, 64, 2) };
    generate(&synth, &here.path("coco")).expect("a synthetic set");
    fs::remove_file(here.path("coco/synth.json")).ok();
    here
}

/// The synthetic set in another format, written by `data convert`; `val` only where it is asked for.
fn converted(here: &Here, to: &str, with_val: bool) {
    let splits: &[&str] = if with_val { &["train", "val"] } else { &["train"] };
    for split in splits {
        let annotations = format!("coco/annotations/instances_{split}.json");
        let images = format!("coco/{split}");
        let args = ["data", "convert", "--annotations", &annotations, "--images", &images, "--from", "coco"];
        assert_ended(
            &here.run_program(&[&args[..], &["--to", to, "--split", split, "--out", to]].concat()),
            0,
            &[],
        );
    }
}

/// All files below a folder with their contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(contents(&path)),
            path => all.push((path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    all.sort();
    all
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The four commands; `new` must say each of `mentions`. Gives what `new` said.
fn from_folder_to_onnx(here: &Here, folder: &str, networks: [&str; 2], mentions: &[&str]) -> String {
    let before = contents(&here.path(folder));
    let [teacher, student] = networks;
    let new = here.run_program(&[
        "new",
        folder,
        "--teacher",
        teacher,
        "--student",
        student,
        "--minutes",
        "0.001",
        "--out",
        "my.toml",
    ]);
    assert_ended(&new, 0, mentions);
    assert!(contents(&here.path(folder)) == before, "the user's folder is as it was");
    assert_ended(&here.run_program(&["config", "check", "my.toml"]), 0, &["ok"]);
    assert_ended(&here.run_program(&["train", "my.toml"]), 0, &["student alone", "everything is in runs/my"]);
    assert_ended(&here.run_program(&["eval", "--run", "runs/my"]), 0, &[]);
    let export = here.run_program(&["export", "--run", "runs/my", "--out", "my.onnx"]);
    assert_ended(&export, 0, &["my.onnx"]);
    assert!(here.path("my.onnx").metadata().is_ok_and(|file| file.len() > 10_000));
    text(&new)
}

const NETWORKS: [&str; 2] = ["resnet18:8", "resnet18:8"];

#[test]
fn a_coco_folder_becomes_an_onnx_file_in_four_commands() {
    let here = synthetic();
    let said = from_folder_to_onnx(
        &here,
        "coco",
        NETWORKS,
        &[
            "coco: coco",
            "16 images",
            "4 images",
            "boxes by area",
            "anchors",
            "learning rate",
            "written: my.toml",
        ],
    );
    assert!(said.contains("train  annotations/instances_train.json, images in train"), "{said}");
    assert!(said.contains("ckd-det export --run runs/my --out my.onnx"), "{said}");
    assert!(!here.path("my-split").exists(), "it has a validation part");
    // Typed again, nothing is written over; a second experiment finds the finished teacher.
    assert_ended(
        &here.run_program(&["new", "coco", "--yes"]),
        2,
        &["my.toml is there already", "--out", "--force"],
    );
    let again = here.run_program(&["train", "my.toml", "--set", "name=second", "--set", "seed=1"]);
    assert_ended(&again, 0, &["the teacher was trained before: ", "runs/my_teacher"]);
    assert_eq!(names(&here.path("runs")), ["my", "my_teacher", "second"]);

    // Trained networks, by their runs and files.
    let taught = |networks: &[&str]| {
        let new = ["new", "coco", "--minutes", "0.001", "--out", "taught.toml", "--force"];
        here.run_program(&[&new[..], networks].concat())
    };
    let said = taught(&["--teacher", "runs/my_teacher", "--student", "runs/my/last.safetensors"]);
    assert_ended(&said, 0, &["chosen: resnet18 (", "runs/my_teacher/last.safetensors) teaches resnet18 ("]);
    let config = here.text("taught.toml");
    assert!(config.contains("my_teacher/last.safetensors\"\n") && !config.contains("train = {"), "{config}");
    let trained = here.run_program(&["train", "taught.toml"]);
    assert_ended(&trained, 0, &["student distilled", "everything is in runs/taught"]);
    assert_ended(&taught(&["--teacher", "coco/train/000001.png"]), 1, &["000001.png", "neither safetensors"]);
    assert_ended(&taught(&["--teacher", "coco"]), 1, &["a folder without model.safetensors"]);
    let other =
        ["data", "synth", "--out", "other", "--images-train", "8", "--images-val", "2", "--size", "64"];
    assert_ended(&here.run_program(&[&other[..], &["--classes", "3"]].concat()), 0, &[]);
    let new = ["new", "other", "--teacher", "runs/my_teacher", "--out", "third.toml", "--minutes", "0.001"];
    assert_ended(&here.run_program(&new), 2, &["2 classes", "3 classes", "my_teacher/last.safetensors"]);
    assert!(!here.path("third.toml").exists());
}

#[cfg(unix)]
#[test]
fn a_person_at_a_terminal_is_asked() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    // util-linux's `script` gives a program a terminal.
    let has_script = Command::new("script").arg("--version").output();
    if !has_script.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).contains("util-linux")) {
        return;
    }
    let here = synthetic();
    let program = format!("{} new coco", env!("CARGO_BIN_EXE_ckd-det"));
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &program, "/dev/null"]).current_dir(here.path("")).env("NO_COLOR", "1");
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    terminal.stdin.take().unwrap().write_all(b"resnet18:8\nresnet18:8\n0.001\nmine\n").unwrap();
    let output = terminal.wait_with_output().unwrap();
    let questions =
        ["teacher, the network", "student, the network", "minutes that training", "written: mine.toml"];
    assert_ended(&output, 0, &questions);
    assert!(here.text("mine.toml").contains("width = 8"));
}

#[test]
fn a_yolo_folder_becomes_an_onnx_file_in_four_commands() {
    let here = synthetic();
    converted(&here, "yolo", true);
    from_folder_to_onnx(&here, "yolo", NETWORKS, &["yolo: yolo", "data.yaml `train`", "data.yaml `val`"]);
}

#[test]
fn a_voc_folder_without_a_validation_part_is_split_beside_the_configuration() {
    let here = synthetic();
    converted(&here, "voc", false);
    // Two images of one content, which must not be on both sides.
    for (from, to) in [("JPEGImages", "png"), ("Annotations", "xml")] {
        let first = names(&here.path("voc").join(from)).remove(0);
        let extension = Path::new(&first).extension().unwrap().to_string_lossy().into_owned();
        assert!(extension == to || extension == "jpg", "{extension}");
        fs::copy(
            here.path("voc").join(from).join(&first),
            here.path("voc").join(from).join(format!("copy.{extension}")),
        )
        .unwrap();
    }
    fs::remove_dir_all(here.path("voc/ImageSets")).unwrap();
    let said = from_folder_to_onnx(
        &here,
        "voc",
        NETWORKS,
        &[
            "voc: voc",
            "all of Annotations",
            "val    none: 20 % of the images are held out",
            "split written to",
        ],
    );
    assert!(!said.contains("have the content of a training image"), "{said}");
    let images = |file: &str| -> Vec<String> {
        let json: Value = here.json(&format!("my-split/{file}"));
        let images = json["images"].as_array().expect("images").iter();
        images.map(|image| image["file_name"].as_str().expect("a name").to_owned()).collect()
    };
    let (train, val) = (images("train.json"), images("val.json"));
    assert_eq!(train.len() + val.len(), 17);
    assert!((3..=4).contains(&val.len()), "{val:?}");
    assert!(val.iter().all(|image| !train.contains(image)));
}

#[test]
fn a_flat_folder_of_labelimg_becomes_an_onnx_file_in_four_commands() {
    let here = synthetic();
    converted(&here, "voc", false);
    fs::create_dir(here.path("flat")).unwrap();
    for folder in ["JPEGImages", "Annotations"] {
        for name in names(&here.path("voc").join(folder)) {
            fs::rename(here.path("voc").join(folder).join(&name), here.path("flat").join(&name)).unwrap();
        }
    }
    from_folder_to_onnx(
        &here,
        "flat",
        NETWORKS,
        &["flat: voc", "XML files beside the images", "split written to"],
    );
}

#[test]
fn a_folder_for_each_class_becomes_an_onnx_file_in_four_commands() {
    let here = Here::empty();
    for (class, shade) in [("cat", 40u8), ("dog", 200)] {
        fs::create_dir_all(here.path("pets").join(class)).unwrap();
        for number in 0..10u8 {
            let image = image::RgbImage::from_fn(40, 36, |x, y| {
                image::Rgb([shade, (x as u8).wrapping_mul(number), (y as u8).wrapping_add(number)])
            });
            image.save(here.path("pets").join(class).join(format!("{number}.png"))).unwrap();
        }
    }
    let said = from_folder_to_onnx(
        &here,
        "pets",
        ["resnet8", "resnet8"],
        &["pets: images by class", "2 classes", "16 images", "4 images", "images of 32x32 px"],
    );
    assert!(said.contains("held_out.txt"), "{said}");
    let trained = ["new", "pets", "--teacher", "runs/my_teacher", "--student", "resnet8"];
    let trained = [&trained[..], &["--out", "taught.toml", "--minutes", "0.001"]].concat();
    assert_ended(&here.run_program(&trained), 0, &["chosen: resnet8 (", "teaches resnet8 from random"]);
    assert_ended(&here.run_program(&["train", "taught.toml"]), 0, &["student distilled"]);
    // Two of each class.
    let list = here.text("my-split/held_out.txt");
    let of = |class: &str| list.lines().filter(|line| line.starts_with(class)).count();
    assert_eq!((of("cat/"), of("dog/"), list.lines().count()), (2, 2, 4), "{list}");
    // A line of the list that names no image is an error with its place.
    here.write("my-split/held_out.txt", &format!("{list}cat/nowhere.png\n"));
    assert_ended(
        &here.run_program(&["train", "my.toml"]),
        1,
        &["held_out.txt", "cat/nowhere.png is no image"],
    );
}

#[test]
fn a_folder_that_holds_no_data_set_is_told_what_was_looked_for_and_what_to_do() {
    let here = Here::empty();
    fs::create_dir_all(here.path("empty")).unwrap();
    assert_ended(&here.run_program(&["new", "nowhere"]), 3, &["there is no folder nowhere"]);
    assert_ended(
        &here.run_program(&["new", "empty"]),
        3,
        &[
            "holds no data set",
            "YOLO: no data.yaml",
            "COCO: no JSON file",
            "Pascal VOC: ",
            "images by class: ",
            "right folder?",
        ],
    );
    fs::create_dir_all(here.path("bare/images")).unwrap();
    fs::create_dir_all(here.path("bare/labels")).unwrap();
    assert_ended(
        &here.run_program(&["new", "bare"]),
        3,
        &["write data.yaml beside them", "names: [cat, dog]"],
    );
    assert!(!here.path("my.toml").exists());
}

#[test]
fn annotations_that_cannot_be_told_apart_or_lack_their_images_are_named() {
    let here = synthetic();
    let annotations = |name: &str| here.path("coco/annotations").join(name);
    fs::rename(annotations("instances_train.json"), annotations("instances_one.json")).unwrap();
    fs::rename(annotations("instances_val.json"), annotations("instances_two.json")).unwrap();
    assert_ended(
        &here.run_program(&["new", "coco", "--format", "coco"]),
        3,
        &[
            "several COCO files could be the training part",
            "instances_one.json",
            "instances_two.json",
            "with `train`",
        ],
    );
    fs::remove_file(annotations("instances_two.json")).unwrap();
    fs::remove_dir_all(here.path("coco/train")).unwrap();
    fs::remove_dir_all(here.path("coco/val")).unwrap();
    assert_ended(&here.run_program(&["new", "coco", "--format", "coco"]), 3, &["are in no folder of"]);
}

#[test]
fn networks_that_do_not_exist_are_refused_before_anything_is_written() {
    let here = synthetic();
    for (networks, mentions) in [
        (["--teacher", "resnet19"], ["\"resnet19\" is no backbone", "resnet34"]),
        (["--student", "resnet18:wide"], ["names no network", "resnet34:32"]),
    ] {
        let args = [&["new", "coco"][..], &networks].concat();
        assert_ended(&here.run_program(&args), 2, &mentions);
    }
    assert!(!here.path("my.toml").exists() && !here.path("my-split").exists());
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn bccd_becomes_an_onnx_file_in_four_commands_from_each_of_three_layouts() {
    for layout in ["coco", "voc", "yolo"] {
        let here = Here::empty();
        real::unpacked("bccd", &here.path("."));
        let (folder, mentions) = match layout {
            "coco" => ("bccd", ["bccd: coco", "coco/instances_val.json, images in JPEGImages"]),
            "voc" => {
                fs::remove_dir_all(here.path("bccd/coco")).unwrap();
                // Two boxes of no size are in the XML, and are said to be left out.
                ("bccd", ["ImageSets/Main/val.txt", "1 boxes without a size dropped: in image"])
            }
            _ => {
                for split in ["train", "val"] {
                    let convert = [
                        "data", "convert", "--from", "voc", "--root", "bccd", "--to", "yolo", "--out", "yolo",
                    ];
                    assert_ended(&here.run_program(&[&convert[..], &["--split", split]].concat()), 0, &[]);
                }
                ("yolo", ["yolo: yolo", "data.yaml `val`"])
            }
        };
        let said = from_folder_to_onnx(&here, folder, NETWORKS, &mentions);
        for found in ["205 images", "2804 boxes", "87 images", "1137 boxes", "RBC", "Platelets", "640x480"] {
            assert!(said.contains(found), "{layout}: {found} is not in\n{said}");
        }
    }
}
