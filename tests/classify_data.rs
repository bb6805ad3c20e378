//! Labelled data sets in the forms they are published in.

use std::fs;
use std::path::Path;

use ckd_det::data::cifar::{Cifar, Split};
use ckd_det::data::{Labelled, image_folder, stl10};
use image::{Rgb, RgbImage};

const ROW: usize = 3072;

/// A picture whose every byte says where it is.
fn planes(seed: u8) -> Vec<u8> {
    (0..ROW).map(|place| (place % 251) as u8 ^ seed).collect()
}

fn never(_: &[u8], _: &str) -> Result<(Vec<u32>, Vec<u8>), String> {
    panic!("there is nothing to unpickle")
}

fn pixel(set: &Labelled, image: usize, x: u32, y: u32) -> [u8; 3] {
    set.image(image).expect("an image").get_pixel(x, y).0
}

#[test]
fn cifar_rows_are_planes_and_the_fine_label_counts() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [[3, 99].as_slice(), &planes(0), &[7, 1], &planes(5)].concat();
    fs::create_dir(folder.path().join("cifar-100-binary")).unwrap();
    fs::write(folder.path().join("cifar-100-binary/train.bin"), &rows).unwrap();
    let found = Cifar::Hundred.find(folder.path());
    assert!(found.ends_with("cifar-100-binary"));
    let set = Cifar::Hundred.load(&found, Split::Train, never).unwrap();
    assert_eq!((set.labels.as_slice(), set.classes.len(), set.len()), ([99, 1].as_slice(), 100, 2));
    // Row 2, column 3: place 67 of each plane of 1024.
    assert_eq!(pixel(&set, 0, 3, 2), [67, (1024 + 67) % 251, (2048 + 67) % 251].map(|v: usize| v as u8));
    let missing = Cifar::Hundred.load(&found, Split::Test, never).unwrap_err().to_string();
    assert!(missing.contains("test.bin"), "{missing}");
    fs::write(found.join("fine_label_names.txt"), "apple\nbear\n").unwrap();
    let wrong = Cifar::Hundred.load(&found, Split::Train, never).unwrap_err().to_string();
    assert!(wrong.contains("names 2 classes"), "{wrong}");
}

/// A batch as CIFAR's python version has it: protocol 2, written by Python 2.
fn python_batch(labels: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x04testq\x03U\x06labelsq\x04]q\x05(".to_vec();
    labels.iter().for_each(|&label| bytes.extend([b'K', label]));
    bytes.extend(b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87R");
    bytes.extend(b"q\x09(K\x01K");
    bytes.push((rows.len() / ROW) as u8);
    bytes.extend(b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN");
    bytes.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    bytes.extend((rows.len() as u32).to_le_bytes());
    bytes.extend(rows);
    bytes.extend(b"tbu.");
    bytes
}

#[test]
fn the_python_version_is_the_binary_one() {
    let unpickle = |bytes: &[u8], key: &str| {
        let rows = ckd_det::weights::labelled_rows(bytes, key)?;
        Ok((rows.labels, rows.bytes))
    };
    let folder = tempfile::tempdir().unwrap();
    let (binary, python) = (folder.path().join("bin"), folder.path().join("py"));
    fs::create_dir(&binary).unwrap();
    fs::create_dir(&python).unwrap();
    let rows = [planes(1), planes(2)].concat();
    fs::write(binary.join("test_batch.bin"), [[4].as_slice(), &rows[..ROW], &[9], &rows[ROW..]].concat())
        .unwrap();
    fs::write(python.join("test_batch"), python_batch(&[4, 9], &rows)).unwrap();
    let [binary, python] =
        [&binary, &python].map(|folder| Cifar::Ten.load(folder, Split::Test, unpickle).unwrap());
    assert_eq!(binary.labels, python.labels);
    for image in 0..2 {
        assert_eq!(binary.image(image).unwrap(), python.image(image).unwrap());
    }
    // Every cut and every changed byte is an error or the same number of rows, never a panic.
    let whole = python_batch(&[4, 9], &rows);
    for at in (0..250).chain(whole.len() - 10..whole.len()) {
        let _ = unpickle(&whole[..at], "labels");
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        let _ = unpickle(&changed, "labels");
    }
    assert!(unpickle(&whole, "fine_labels").unwrap_err().contains("fine_labels"));
}

#[test]
fn stl10_planes_run_column_by_column() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = vec![0u8; 2 * 27_648];
    // Image 1, blue plane, column 5, row 7.
    images[27_648 + 2 * 9216 + 5 * 96 + 7] = 200;
    fs::write(folder.path().join("train_X.bin"), &images).unwrap();
    fs::write(folder.path().join("train_y.bin"), [10, 1]).unwrap();
    let set = stl10::load(folder.path(), Split::Train).unwrap();
    assert_eq!((set.labels.as_slice(), set.classes[9].as_str()), ([9, 0].as_slice(), "truck"));
    assert_eq!(pixel(&set, 1, 5, 7), [0, 0, 200]);
    for (labels, says) in
        [(vec![10, 0], "label 0"), (vec![1], "2 images, but 1 labels"), (vec![11, 1], "label 11")]
    {
        fs::write(folder.path().join("train_y.bin"), labels).unwrap();
        let error = stl10::load(folder.path(), Split::Train).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    fs::write(folder.path().join("train_X.bin"), &images[1..]).unwrap();
    assert!(stl10::load(folder.path(), Split::Train).unwrap_err().to_string().contains("train_X.bin"));

    let none = stl10::unlabelled(folder.path(), "image").unwrap_err().to_string();
    assert!(none.contains("unlabeled_X.bin"), "{none}");
    fs::write(folder.path().join("unlabeled_X.bin"), &images).unwrap();
    let set = stl10::unlabelled(folder.path(), "image").unwrap();
    assert_eq!(
        (set.labels.as_slice(), set.classes.as_slice()),
        ([0, 0].as_slice(), ["image".to_owned()].as_slice())
    );
    assert_eq!((pixel(&set, 1, 5, 7), pixel(&set, 0, 5, 7)), ([0, 0, 200], [0, 0, 0]));
    fs::write(folder.path().join("unlabeled_X.bin"), &images[..30_000]).unwrap();
    let cut = stl10::unlabelled(folder.path(), "image").unwrap_err().to_string();
    assert!(cut.contains("30000 bytes, which are no images of 27648"), "{cut}");
}

fn save(path: &Path, tone: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(6, 4, Rgb([tone, 0, 255 - tone])).save(path).unwrap();
}

#[test]
fn folders_are_classes_in_alphabetical_order_or_as_an_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("train");
    for (name, tone) in [("n02/b.png", 20), ("n02/a.PNG", 21), ("n01/c.png", 10), ("n02/notes.txt", 0)] {
        match name.ends_with("txt") {
            true => fs::write(root.join(name), "no image").unwrap(),
            false => save(&root.join(name), tone),
        }
    }
    let set = image_folder::load(&root, None).unwrap();
    assert_eq!((set.classes.join(" "), set.labels.as_slice()), ("n01 n02".to_owned(), [0, 1, 1].as_slice()));
    assert_eq!([0, 1, 2].map(|image| pixel(&set, image, 0, 0)[0]), [10, 21, 20]);

    let index = folder.path().join("index.json");
    let write = |text: &str| {
        fs::write(&index, text).unwrap();
        image_folder::load(&root, Some(&index)).map_err(|error| error.to_string())
    };
    let set = write(r#"{"0": ["n02", "tench"], "1": ["n00", "shark"], "2": ["n01", "hen"]}"#).unwrap();
    assert_eq!(
        (set.classes.join(" "), set.labels.as_slice()),
        ("tench shark hen".to_owned(), [2, 0, 0].as_slice())
    );
    for (text, says) in [
        (r#"{"0": ["n02", "tench"]}"#, "n01 is no class"),
        (r#"{"0": ["n01", "a"], "7": ["n02", "b"]}"#, "without gaps"),
        (r#"{"0": ["n01", "a"], "1": ["n01", "b"]}"#, "twice"),
        ("[]", "no class index"),
    ] {
        let error = write(text).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(image_folder::load(empty.path(), None).unwrap_err().to_string().contains("no image"));
}

#[test]
fn images_of_a_class_lie_in_its_folder_and_below_it_and_hidden_entries_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // torchvision's order: by folder, then by name.
    for (name, tone) in [
        ("ant/b.bmp", 1),
        ("ant/deep/er/a.webp", 3),
        ("ant/deep/z.tiff", 2),
        ("bee/batch1/a.gif", 4),
        ("bee/.ipynb_checkpoints/a.png", 99),
        (".ipynb_checkpoints/a.png", 99),
        ("__MACOSX/bee/a.png", 99),
    ] {
        save(&root.join(name), tone);
    }
    for name in ["bee/batch1/._a.gif", "ant/Thumbs.db", "ant/._b.jpg"] {
        fs::write(root.join(name), "no image").unwrap();
    }
    let set = image_folder::load(root, None).unwrap();
    assert_eq!(
        (set.classes.join(" "), set.labels.as_slice()),
        ("ant bee".to_owned(), [0, 0, 0, 1].as_slice())
    );
    assert_eq!([0, 1, 2, 3].map(|image| pixel(&set, image, 0, 0)[0]), [1, 2, 3, 4]);
}

#[test]
fn a_class_without_an_image_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("ant/a.png"), 1);
    fs::create_dir_all(folder.path().join("bee/batch1")).unwrap();
    fs::write(folder.path().join("bee/batch1/notes.txt"), "no image").unwrap();
    let error = image_folder::load(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("the folder of 1 class: bee"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_links_to_itself_is_entered_once() {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("ant/a.png"), 1);
    std::os::unix::fs::symlink(folder.path().join("ant"), folder.path().join("ant/again")).unwrap();
    assert_eq!(image_folder::load(folder.path(), None).unwrap().len(), 1);
}

#[test]
fn tiny_imagenet_keeps_its_validation_labels_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::write(root.join("wnids.txt"), "n5\nn3\n").unwrap();
    fs::write(root.join("words.txt"), "n3\tcat\nn5\tdog\nn9\tcow\n").unwrap();
    save(&root.join("train/n5/images/n5_0.png"), 50);
    save(&root.join("train/n3/images/n3_0.png"), 30);
    save(&root.join("val/images/val_0.png"), 51);
    fs::write(root.join("val/val_annotations.txt"), "val_0.png\tn5\t0\t0\t9\t9\n").unwrap();
    let train = image_folder::load_tiny_imagenet(root, Split::Train).unwrap();
    assert_eq!((train.classes.join(" "), train.labels.as_slice()), ("cat dog".to_owned(), [0, 1].as_slice()));
    let small = train.in_memory(2).unwrap();
    assert_eq!((small.image(1).unwrap().dimensions(), pixel(&small, 1, 1, 1)[0]), ((2, 2), 50));
    let val = image_folder::load_tiny_imagenet(root, Split::Test).unwrap();
    assert_eq!((val.labels.as_slice(), pixel(&val, 0, 0, 0)[0]), ([1].as_slice(), 51));
    for line in ["val_0.png\tn9\n", "val_0.png\n", "../../secret.png\tn5\n"] {
        fs::write(root.join("val/val_annotations.txt"), line).unwrap();
        let error = image_folder::load_tiny_imagenet(root, Split::Test).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
