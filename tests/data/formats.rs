//! One data set in COCO's, YOLO's and VOC's form: read, converted, trained on.

use std::fs;
use std::path::Path;

use ckd_det::data::synth::Split;
use ckd_det::data::voc::Classes;
use ckd_det::data::{
    DataKind, Dataset, FindingKind, ImagePolicy, Instances, LoadReport, SplitFiles, coco, voc, yolo,
};
use image::RgbImage;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::tiny::{Tiny, assert_ended, assert_same_tensors, log};

fn opened(files: &SplitFiles) -> (Instances, Dataset, LoadReport) {
    let (instances, folder) = files.open().unwrap();
    let (dataset, report) = Dataset::new(&instances, &folder, &ImagePolicy::default()).unwrap();
    (instances, dataset, report)
}

/// Writes empty pictures and texts below a new folder.
fn folder(pictures: &[&str], texts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for name in pictures {
        RgbImage::new(96, 64).save_with_format(place(name), image::ImageFormat::Png).unwrap();
    }
    texts.iter().for_each(|(name, text)| fs::write(place(name), text).unwrap());
    folder
}

const RED: [f64; 4] = [10.0, 10.0, 30.0, 30.0];
const BLUE: [f64; 4] = [50.0, 20.0, 30.0, 30.0];
const LABELS: &str = "0 0.2604166666666667 0.390625 0.3125 0.46875\n1 0.677083 0.546875 0.3125 0.46875\n";

fn boxes(dataset: &Dataset, image: usize) -> Vec<(u32, [f64; 4])> {
    dataset.annotations(image).iter().map(|kept| (kept.category.0, kept.bbox)).collect()
}

#[test]
fn a_yolo_set_is_read_as_ultralytics_lays_it_out() {
    let set = folder(
        &["images/train/b.png", "images/train/a.JPG", "images/train/sub/c.jpeg", "images/train/.hidden.png"],
        &[
            ("labels/train/b.txt", LABELS),
            ("labels/train/a.txt", ""),
            (
                "data.yaml",
                "path: ../datasets/coco8\ntrain: images/train\nval: images/train\nnames: {0: red, 1: blue}\n",
            ),
            ("images/train/Thumbs.db", "x"),
        ],
    );
    let (instances, dataset, report) = opened(&SplitFiles::yolo(set.path(), "train"));
    let names: Vec<&str> = dataset.images.iter().map(|image| image.file_name.as_str()).collect();
    assert_eq!(
        names,
        ["images/train/a.JPG", "images/train/b.png", "images/train/sub/c.jpeg"],
        "sorted by path"
    );
    assert!(dataset.images.iter().all(|image| (image.width, image.height) == (96, 64)));
    assert_eq!(boxes(&dataset, 0), []);
    let [(0, red), (1, blue)] = boxes(&dataset, 1)[..] else { panic!("two boxes") };
    assert_eq!(red, RED, "all digits give the box back");
    assert!(blue.iter().zip(BLUE).all(|(read, meant)| (read - meant).abs() < 1e-3), "six digits nearly do");
    assert_eq!(
        report.findings.iter().map(|f| (f.kind, f.count)).collect::<Vec<_>>(),
        [(FindingKind::NoLabelFile, 1)]
    );
    let categories: Vec<_> = instances.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
    assert_eq!(categories, [(1, "red"), (2, "blue")]);
    // The file itself names the set too.
    assert_eq!(opened(&SplitFiles::yolo(&set.path().join("data.yaml"), "val")).1.images.len(), 3);
}

#[test]
fn lists_several_folders_and_roboflows_paths_are_followed() {
    let set = folder(
        &["train/images/000002.png", "train/images/000001.png", "more/1.png", "valid/images/9.png"],
        &[
            ("train/labels/000001.txt", LABELS),
            ("more/1.txt", "1 0.5 0.5 0.25 0.5\n"),
            ("list.txt", "./train/images/000002.png\r\ntrain/images/000001.png\n\n"),
            ("data.yaml", "train: [list.txt, more]\nval: ../valid/images\nnc: 2\nnames: ['red', \"blue\"]\n"),
        ],
    );
    let (_, dataset, _) = opened(&SplitFiles::yolo(set.path(), "train"));
    let names: Vec<&str> = dataset.images.iter().map(|image| image.file_name.as_str()).collect();
    assert_eq!(
        names,
        ["train/images/000002.png", "train/images/000001.png", "more/1.png"],
        "in the list's order"
    );
    assert_eq!(boxes(&dataset, 1).len(), 2);
    assert_eq!(boxes(&dataset, 2), [(1, [36.0, 16.0, 24.0, 32.0])], "labels beside the image");
    let (val, ..) = opened(&SplitFiles::yolo(set.path(), "val"));
    assert_eq!((val.images[0].id, val.images[0].file_name.as_str()), (9, "valid/images/9.png"));
}

#[test]
fn a_yolo_set_that_cannot_be_read_is_refused_with_the_file_and_line() {
    let bad = |texts: &[(&str, &str)]| {
        let set = folder(&["images/train/a.png"], texts);
        SplitFiles::yolo(set.path(), "train").open().unwrap_err().to_string()
    };
    let yaml = ("data.yaml", "train: images/train\nnames: [red]\n");
    for (texts, expected) in [
        (
            &[yaml, ("labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1")][..],
            "a.txt: line 2: class 3",
        ),
        (&[yaml, ("labels/train/a.txt", "0 48 32 10 10")], "48 is no fraction of the image"),
        (&[("data.yaml", "val: images\nnames: [red]")], "has no `train`"),
        (&[("data.yaml", "train: nowhere\nnames: [red]")], "nowhere"),
        (&[("data.yaml", "train: labels\nnames: [red]"), ("labels/x.txt", "")], "train has no image"),
        (&[("data.yaml", "train: images/train")], "has no `names`"),
        (&[], "data.yaml"),
        (&[("data.yaml", "train: a.txt\nnames: [red]"), ("a.txt", "gone.png")], "gone.png"),
    ] {
        let error = bad(texts);
        assert!(error.contains(expected), "{error} lacks {expected:?}");
    }
}

fn voc_xml(objects: &str) -> String {
    let object = |name: &str, [x, y, w, h]: [f64; 4]| {
        format!(
            "<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>",
            x + w,
            y + h
        )
    };
    let both = object("red", RED) + &object("blue", BLUE);
    format!("<annotation><size><width>96</width><height>64</height></size>{both}{objects}</annotation>")
}

#[test]
fn voc_lists_may_have_spaces_extensions_and_flags() {
    let xml = voc_xml("");
    let set = folder(
        &[
            "JPEGImages/IMG 001.jpg",
            "JPEGImages/a1.jpg",
            "JPEGImages/a2.Jpg",
            "JPEGImages/a3.PNG",
            "JPEGImages/.a1.png",
        ],
        &[
            ("Annotations/IMG 001.xml", &xml),
            ("Annotations/a1.xml", &xml),
            ("Annotations/a2.xml", &xml),
            ("Annotations/a3.xml", &xml),
            ("Annotations/._a1.xml", "\u{0}\u{5}\u{16}\u{7} no XML"),
            ("ImageSets/Main/train.txt", "IMG 001\na1.jpg\na2.Jpg 1\n\n._a1\na3  -1\n"),
        ],
    );
    let (instances, dataset, report) = opened(&SplitFiles::voc(set.path(), "train", Classes::Found));
    let names: Vec<&str> = instances.images.iter().map(|image| image.file_name.as_str()).collect();
    assert_eq!(names, ["IMG 001.jpg", "a1.jpg", "a2.Jpg", "a3.PNG"]);
    for image in 0..4 {
        assert_eq!(boxes(&dataset, image), [(1, RED), (0, BLUE)], "blue is before red");
    }
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn xml_files_beside_the_images_are_labelimgs_flat_layout() {
    let xml = voc_xml("");
    let set = folder(
        &["train/b.jpg", "train/a.jpg", "valid/c.jpg"],
        &[
            ("train/a.xml", &xml),
            ("train/b.xml", &xml),
            ("train/._b.xml", "x"),
            (
                "valid/c.xml",
                &voc_xml(
                    "<object><name>amber</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>",
                ),
            ),
        ],
    );
    let (train, dataset, _) = opened(&SplitFiles::voc(set.path(), "train", Classes::Found));
    assert_eq!(
        train.images.iter().map(|image| image.file_name.as_str()).collect::<Vec<_>>(),
        ["a.jpg", "b.jpg"]
    );
    let names: Vec<&str> = train.categories.iter().map(|category| category.name.as_str()).collect();
    assert_eq!(names, ["amber", "blue", "red"], "of all splits");
    assert_eq!(boxes(&dataset, 0), [(2, RED), (1, BLUE)]);
    let (alone, ..) = opened(&SplitFiles::voc(&set.path().join("valid"), ".", Classes::Found));
    assert_eq!(alone.annotations.len(), 3, "the folder itself is the split `.`");
}

#[test]
fn xml_in_latin_1_is_read_if_it_says_so() {
    let xml = voc_xml("").replace("red", "caf\u{e9}");
    let latin: Vec<u8> = xml.chars().map(|letter| letter as u8).collect();
    let set = folder(&["JPEGImages/a.jpg"], &[("ImageSets/Main/train.txt", "a\n")]);
    let path = set.path().join("Annotations/a.xml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let head = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>";
    fs::write(&path, [head.as_slice(), &latin].concat()).unwrap();
    let read = voc::read(set.path(), "train", &Classes::Found).unwrap();
    assert_eq!(read.categories.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["blue", "caf\u{e9}"]);
    fs::write(&path, &latin).unwrap();
    let error = voc::read(set.path(), "train", &Classes::Found).unwrap_err().to_string();
    assert!(error.contains("a.xml: is not UTF-8 text") && error.contains("ISO-8859-1"), "{error}");
}

type Pictures = Vec<(String, u32, u32)>;
type Boxes = Vec<(usize, usize, [u64; 4])>;

/// What every form keeps: pictures, sizes, boxes and classes, in their order.
fn kept(instances: &Instances) -> (Pictures, Vec<String>, Boxes) {
    let stem = |name: &str| Path::new(name).file_stem().unwrap().to_string_lossy().into_owned();
    let images = instances.images.iter().map(|image| (stem(&image.file_name), image.width, image.height));
    let mut ids: Vec<u64> = instances.categories.iter().map(|category| category.id).collect();
    ids.sort_unstable();
    let names = ids.iter().map(|id| instances.categories.iter().find(|c| c.id == *id).unwrap().name.clone());
    let place = |id: u64| instances.images.iter().position(|image| image.id == id).unwrap();
    let class = |id: u64| ids.iter().position(|known| *known == id).unwrap();
    let rows = instances.annotations.iter();
    let rows = rows.map(|row| (place(row.image_id), class(row.category_id), row.bbox.map(f64::to_bits)));
    (images.collect(), names.collect(), rows.collect())
}

/// A small COCO set on the disk.
fn small_set(boxes: &[(usize, usize, [f64; 4])]) -> (TempDir, Instances) {
    let set = folder(&["images/z.png", "images/007.png", "images/b 1.png"], &[]);
    let mut instances = Instances::of_classes(["zebra", "ant & bee", "cat"]);
    let rows = |image: usize| {
        boxes.iter().filter(move |row| row.0 == image).map(|&(_, class, bbox)| (class as u32, bbox))
    };
    for (place, name) in ["z.png", "007.png", "b 1.png"].into_iter().enumerate() {
        instances.push_image(name, (96, 64), rows(place));
    }
    (set, instances)
}

/// The set written in a form and read again.
fn through(
    kind: DataKind,
    instances: &Instances,
    images: &Path,
    out: &Path,
) -> (Instances, std::path::PathBuf) {
    let left_out = kind
        .write(instances, images, &out.join(if kind == DataKind::Coco { "set.json" } else { "" }), "train")
        .unwrap();
    assert_eq!(left_out, 0);
    match kind {
        DataKind::Yolo => yolo::read(out, "train").unwrap(),
        DataKind::Voc => (voc::read(out, "train", &Classes::Found).unwrap(), out.join("JPEGImages")),
        _ => (coco::read(&out.join("set.json")).unwrap(), images.to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_set_goes_round_all_forms_without_a_change(
        rows in proptest::collection::vec((0usize..3, 0usize..3, 0u32..60_000, 0u32..40_000, 1u32..36_000, 1u32..24_000), 0..6)
    ) {
        let mut boxes: Vec<_> = rows.iter().map(|&(image, class, x, y, w, h)| {
            (image, class, [x, y, w, h].map(|thousandths| f64::from(thousandths) / 1000.0))
        }).collect();
        boxes.sort_by_key(|row| row.0);
        let (set, instances) = small_set(&boxes);
        let wanted = kept(&instances);
        let forms = [DataKind::Yolo, DataKind::Voc, DataKind::Coco];
        for from in forms {
            let first = tempfile::tempdir().unwrap();
            let (read, folder) = through(from, &instances, &set.path().join("images"), first.path());
            prop_assert_eq!(&kept(&read), &wanted, "{}", from);
            for to in forms {
                let second = tempfile::tempdir().unwrap();
                let (again, _) = through(to, &read, &folder, second.path());
                prop_assert_eq!(&kept(&again), &wanted, "{} to {}", from, to);
            }
        }
    }
}

#[test]
fn crowd_and_ignored_boxes_become_difficult_and_are_left_out_of_yolo() {
    let (set, mut instances) = small_set(&[(0, 0, RED), (0, 1, BLUE), (1, 2, RED)]);
    instances.annotations[0].iscrowd = true;
    instances.annotations[1].ignore = true;
    let images = set.path().join("images");
    let out = tempfile::tempdir().unwrap();
    DataKind::Voc.write(&instances, &images, &out.path().join("voc"), "val").unwrap();
    let read = voc::read(&out.path().join("voc"), "val", &Classes::Found).unwrap();
    assert_eq!(read.annotations.iter().map(|row| row.ignore).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(DataKind::Yolo.write(&instances, &images, &out.path().join("yolo"), "val").unwrap(), 2);
}

#[test]
fn a_conversion_never_mixes_two_sets_or_leaves_its_folder() {
    let (set, instances) = small_set(&[(0, 0, RED)]);
    let images = set.path().join("images");
    let out = tempfile::tempdir().unwrap();
    for kind in [DataKind::Yolo, DataKind::Voc] {
        let to = out.path().join(kind.word());
        kind.write(&instances, &images, &to, "train").unwrap();
        kind.write(&instances, &images, &to, "val").unwrap();
        let refused =
            |changed: &Instances| kind.write(changed, &images, &to, "test").unwrap_err().to_string();
        let mut other = instances.clone();
        other.categories[0].name = "horse".to_owned();
        assert!(refused(&other).contains("other classes"), "{kind}");
        let mut twins = instances.clone();
        twins.categories[0].name = "cat".to_owned();
        assert!(refused(&twins).contains("two categories are named \"cat\""), "{kind}");
        let mut outside = instances.clone();
        outside.images[0].file_name = "../z.png".to_owned();
        assert!(refused(&outside).contains("lies outside its folder"), "{kind}");
        let mut alike = instances.clone();
        alike.images[0].file_name = "007.jpg".to_owned();
        fs::copy(images.join("z.png"), images.join("007.jpg")).unwrap();
        assert!(refused(&alike).contains("rename one of them"), "{kind}");
    }
}

#[test]
fn a_copy_in_each_form_trains_to_the_same_weights_bit_for_bit() {
    let tiny = Tiny::new();
    let synth = [
        "data",
        "synth",
        "--out",
        "data",
        "--images-train",
        "6",
        "--images-val",
        "2",
        "--size",
        "64",
        "--classes",
        "3",
    ];
    assert_ended(&tiny.run_program(&synth), 0, &[]);
    for split in [Split::Train, Split::Val] {
        let name = split.name();
        let annotations = format!("data/annotations/instances_{name}.json");
        for to in ["yolo", "voc"] {
            let images = format!("data/{name}");
            let convert =
                ["data", "convert", "--from", "coco", "--annotations", &annotations, "--images", &images];
            let target = ["--split", name, "--to", to, "--out", &format!("data/{to}")];
            assert_ended(&tiny.run_program(&[convert.as_slice(), &target].concat()), 0, &["images"]);
        }
    }
    let base = tiny.text("base.toml");
    let (data, student) = (base.find("[data]").unwrap(), base.find("[student]").unwrap());
    let mut forms = vec![(
        "coco",
        "kind = \"coco\"\nroot = \"data\"\ntrain_images = \"train\"\nval_images = \"val\"\n\
         train_annotations = \"annotations/instances_train.json\"\nval_annotations = \"annotations/instances_val.json\"",
        ".",
    )];
    forms.push(("yolo", "kind = \"yolo\"\nroot = \"data\"", "yolo"));
    forms.push(("voc", "kind = \"voc\"\nroot = \"data\"", "voc"));
    for (name, section, folder) in forms {
        let section = section.replace("root = \"data\"", &format!("root = \"data/{folder}\""));
        tiny.write(
            &format!("{name}.toml"),
            &format!("{}[data]\n{section}\n\n{}", &base[..data], &base[student..]),
        );
        let output = tiny.run_program(&[
            "train",
            &format!("{name}.toml"),
            "--set",
            "schedule.steps=2",
            "--set",
            "schedule.milestones=[1]",
        ]);
        assert_ended(&output, 0, &["6 images"]);
        let of = |form: &str| tiny.path("runs").join(form);
        assert_same_tensors(&of("coco").join("last.safetensors"), &of(name).join("last.safetensors"));
        let losses = |form: &str| {
            log(&of(form)).into_iter().filter(|line| line["losses"].is_object()).collect::<Vec<_>>()
        };
        assert_eq!(losses("coco"), losses(name));
    }
    for (args, expected) in [
        (["--format", "yolo", "--root", "data/yolo", "--split", "val"], "2 images"),
        (["--format", "voc", "--root", "data/voc", "--split", "train"], "6 images"),
    ] {
        let check = [["data", "check", "--decode"].as_slice(), &args].concat();
        assert_ended(&tiny.run_program(&check), 0, &[expected, "decode"]);
    }
    let eval = ["eval", "--coco-val", "--run", "runs/yolo", "--json"];
    assert_ended(&tiny.run_program(&eval), 0, &["\"stats\""]);
}

#[test]
fn data_convert_asks_for_the_options_that_are_missing() {
    let tiny = Tiny::new();
    for (args, expected) in [
        (&["--from", "voc", "--root", "x", "--out", "y.json"][..], "--root DIR and --split SPLIT"),
        (&["--from", "coco", "--root", "x", "--out", "y.json"], "--annotations FILE and --images DIR"),
        (
            &["--from", "coco", "--annotations", "a.json", "--images", "x", "--to", "yolo", "--out", "y"],
            "--split SPLIT",
        ),
        (
            &["--from", "yolo", "--root", "x", "--split", "val", "--classes", "a", "--out", "y"],
            "--classes is for voc",
        ),
    ] {
        assert_ended(&tiny.run_program(&[&["data", "convert"], args].concat()), 2, &[expected]);
    }
}
