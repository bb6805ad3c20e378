//! Pascal VOC to COCO.

use std::fs;
use std::path::Path;

use ckd_det::data::FindingKind;
use ckd_det::data::voc::{Classes, read};
use image::RgbImage;
use proptest::prelude::*;
use tempfile::TempDir;

const OBJECTS: &str = "<annotation>
  <filename>wrong.jpg</filename>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <object><name>dog</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11.5</xmax><ymax>22</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>
  </object>
  <object><bndbox><ymax>9</ymax><xmax>9</xmax><ymin>5</ymin><xmin>5</xmin></bndbox><name>cat &amp; co</name></object>
  <object><name>dog</name><bndbox><xmin>7</xmin><ymin>7</ymin><xmax>7</xmax><ymax>9</ymax></bndbox></object>
</annotation>";

const EMPTY: &str = "<?xml version=\"1.0\"?><annotation><size><width>0</width><height/></size></annotation>";

/// A VOC folder with the images 2007_000002 (OBJECTS) and 2007_000001 (EMPTY).
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["Annotations", "ImageSets/Main", "JPEGImages"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("ImageSets/Main/train.txt"), "2007_000002\n2007_000001  1\n\n").unwrap();
    fs::write(root.join("Annotations/2007_000002.xml"), OBJECTS).unwrap();
    fs::write(root.join("Annotations/2007_000001.xml"), EMPTY).unwrap();
    RgbImage::new(40, 30).save(root.join("JPEGImages/2007_000002.png")).unwrap();
    RgbImage::new(21, 12).save(root.join("JPEGImages/2007_000001.png")).unwrap();
    folder
}

fn error(root: &Path, classes: &Classes) -> String {
    read(root, "train", classes).unwrap_err().to_string()
}

#[test]
fn boxes_classes_and_ids_are_converted() {
    let folder = folder();
    let instances = read(folder.path(), "train", &Classes::Found).unwrap();
    let images: Vec<_> = instances
        .images
        .iter()
        .map(|image| (image.id, image.file_name.as_str(), image.width, image.height))
        .collect();
    assert_eq!(
        images,
        [(2_007_000_002, "2007_000002.png", 40, 30), (2_007_000_001, "2007_000001.png", 21, 12)],
        "a size that is missing is read from the image"
    );
    let categories: Vec<_> = instances.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
    assert_eq!(categories, [(1, "cat & co"), (2, "dog")], "parts are no objects");
    let boxes: Vec<_> =
        instances.annotations.iter().map(|a| (a.id, a.image_id, a.category_id, a.bbox, a.ignore)).collect();
    assert_eq!(
        boxes,
        [
            (1, 2_007_000_002, 2, [1.0, 2.0, 10.5, 20.0], true),
            (2, 2_007_000_002, 1, [5.0, 5.0, 4.0, 4.0], false),
        ]
    );
    let findings = instances.findings();
    assert_eq!(findings.count_of(FindingKind::NoSizeIn), 1);
    assert!(
        findings.to_string().contains("1 boxes without a size dropped: in image 2007000002"),
        "{findings}"
    );
}

#[test]
fn lists_with_paths_and_repeated_lines_and_folders_without_lists_are_read() {
    let folder = folder();
    let list = folder.path().join("ImageSets/Main/train.txt");
    let plain = read(folder.path(), "train", &Classes::Found).unwrap();
    let other = "./JPEGImages/2007_000002.png\r\nJPEGImages\\2007_000001.png -1\r\n2007_000002\r\n";
    fs::write(&list, other).unwrap();
    let again = read(folder.path(), "train", &Classes::Found).unwrap();
    assert_eq!((&again.images, &again.annotations), (&plain.images, &plain.annotations));
    assert_eq!(again.findings().count_of(FindingKind::RepeatedImage), 1);
    assert!(again.findings().to_string().contains("1 images listed twice taken once: image 2007000002"));
    fs::remove_dir_all(folder.path().join("ImageSets")).unwrap();
    assert!(error(folder.path(), &Classes::Found).contains("without lists, the split . is all there is"));
    let all = read(folder.path(), ".", &Classes::Found).unwrap();
    let names = |set: &ckd_det::data::Instances| {
        set.images
            .iter()
            .map(|image| (image.id, image.file_name.clone()))
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&all), names(&plain));
}

#[test]
fn the_classes_can_be_given() {
    let folder = folder();
    let listed = |names: &[&str]| Classes::Listed(names.iter().map(|&name| name.to_owned()).collect());
    let instances = read(folder.path(), "train", &listed(&["dog", "bird", "cat & co"])).unwrap();
    assert_eq!(instances.annotations.iter().map(|a| a.category_id).collect::<Vec<_>>(), [1, 3]);
    let error = error(folder.path(), &listed(&["dog"]));
    assert!(error.contains("\"cat & co\" is not among those given: dog"), "{error}");
}

#[test]
fn bad_input_is_refused_with_the_file() {
    let folder = folder();
    let root = folder.path();
    let xml = root.join("Annotations/2007_000001.xml");
    for (text, expected) in [
        ("<annotation><object><name>a</name></annotation>", "broken XML"),
        ("<annotation><object><name>a</name></object></annotation>", "no complete <bndbox>"),
        ("<annotation><object></object></annotation>", "no <name>"),
        ("<annotation><object><bndbox><xmin>nan</xmin></bndbox></object></annotation>", "not a number"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1e300</xmax><ymax>9</ymax></bndbox></object></annotation>",
            "the coordinate 1000",
        ),
        ("<annotation>", "cut short"),
        ("", "no VOC <annotation>"),
        ("<annotation>&unknown;</annotation>", "unknown XML entity"),
    ] {
        fs::write(&xml, text).unwrap();
        let error = error(root, &Classes::Found);
        assert!(error.contains(expected) && error.contains("2007_000001.xml"), "{text}: {error}");
    }
    fs::write(&xml, b"\xff\xfe\x00").unwrap();
    assert!(error(root, &Classes::Found).contains("2007_000001.xml"));
    fs::write(&xml, EMPTY).unwrap();
    fs::remove_file(root.join("JPEGImages/2007_000001.png")).unwrap();
    assert!(error(root, &Classes::Found).contains("image 2007_000001 of the split has no file"));
    fs::write(root.join("ImageSets/Main/train.txt"), "\n").unwrap();
    assert!(error(root, &Classes::Found).contains("lists no image"));
    assert!(read(root, "test", &Classes::Found).unwrap_err().to_string().contains("test.txt"));
}

#[test]
fn names_without_distinct_digits_are_numbered() {
    let folder = folder();
    let root = folder.path();
    for name in ["a", "b"] {
        fs::write(root.join(format!("Annotations/{name}.xml")), EMPTY).unwrap();
        RgbImage::new(4, 4).save(root.join(format!("JPEGImages/{name}.png"))).unwrap();
    }
    fs::write(root.join("ImageSets/Main/val.txt"), "b\na\n").unwrap();
    let instances = read(root, "val", &Classes::Found).unwrap();
    assert_eq!(instances.images.iter().map(|image| image.id).collect::<Vec<_>>(), [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_reader_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "<annotation>", "</annotation>", "<object>", "</object>", "<name>", "</name>", "<bndbox>", "</bndbox>", "<xmin>",
            "</xmin>", "<size/>", "<width>", "</width>", "1", "-7", "1e300", "nan", "dog", "&amp;", "&#x41;", "&x;", "<![CDATA[",
            "]]>", "<!--", "-->", "<?xml version=\"1.0\"?>", "<", ">", "\"", " ", "\n",
        ]), 0..40),
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let folder = folder();
        let path = folder.path().join("Annotations/2007_000001.xml");
        for text in [parts.concat().into_bytes(), bytes] {
            fs::write(&path, text).unwrap();
            let _ = read(folder.path(), "train", &Classes::Found);
        }
    }
}

#[test]
fn elements_that_lie_very_deep_are_refused_at_once() {
    let folder = folder();
    let text = format!("<annotation>{}", "<a>".repeat(200_000));
    fs::write(folder.path().join("Annotations/2007_000001.xml"), text).unwrap();
    assert!(error(folder.path(), &Classes::Found).contains("deep"));
}
