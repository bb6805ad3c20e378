//! Weights from files: what fits is loaded, what does not is named in full, and hostile files are errors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::real;
use crate::support::tiny::{self, Tiny, assert_mentions};
use crate::support::torch_file::{self, ArrayBytes, TorchFile};
use candle_core::{DType, Device, Tensor};
use ckd_det::config::{Config, Document};
use ckd_det::engine::detect::build;
use ckd_det::export::student::Student;
use ckd_det::weights::file::{Format, write_safetensors};
use ckd_det::weights::{ModelCard, WeightsError, WeightsFile, load};
use ckd_detectors::Detector;
use tempfile::TempDir;

/// A student of three classes, and the folder of its configuration.
fn student() -> (Tiny, Detector) {
    let tiny = Tiny::new();
    let config = Config::load(tiny.path("plain.toml"), &[]).expect("valid").config;
    let detector = build::student(&config, 3, &Device::Cpu).expect("a network");
    (tiny, detector)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    write_safetensors(path, tensors, &BTreeMap::new()).unwrap();
}

fn read(path: &Path) -> WeightsFile {
    WeightsFile::read(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_strict_report_lists_every_missing_unexpected_and_misshapen_name() {
    let (tiny, student) = student();
    let mut tensors = student.params().snapshot().unwrap();
    let before = tensors.clone();
    for missing in ["rpn.head.conv.0.0.bias", "roi_heads.box_head.fc6.weight"] {
        tensors.remove(missing).unwrap();
    }
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("roi_heads.mask_head.weight".to_owned(), zeros(&[1]));
    tensors.insert("backbone.body.layer9.weight".to_owned(), zeros(&[1]));
    tensors.insert("roi_heads.box_predictor.cls_score.bias".to_owned(), zeros(&[91]));
    tensors.insert("backbone.body.bn1.num_batches_tracked".to_owned(), zeros(&[]));
    // What fits is different, and must not be loaded halfway.
    let conv1 = (&tensors["backbone.body.conv1.weight"] + 1.0).unwrap();
    tensors.insert("backbone.body.conv1.weight".to_owned(), conv1);
    let path = tiny.path("weights.safetensors");
    write(&path, &tensors);
    let error = load::strict(student.params(), &read(&path)).unwrap_err();
    assert!(matches!(error, WeightsError::Mismatch { .. }));
    let expected = format!(
        "{} does not fit the network:
  2 missing from the file:
    roi_heads.box_head.fc6.weight
    rpn.head.conv.0.0.bias
  2 unexpected in the file:
    backbone.body.layer9.weight
    roi_heads.mask_head.weight
  1 of another shape:
    roi_heads.box_predictor.cls_score.bias: [4] in the network, [91] in the file",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    for (name, tensor) in student.params().snapshot().unwrap() {
        assert_eq!(values(&tensor), values(&before[&name]), "{name} was touched");
    }
}

#[test]
fn whole_weights_are_loaded_as_they_are() {
    let (tiny, student) = student();
    let shifted: BTreeMap<String, Tensor> = student
        .params()
        .snapshot()
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, (tensor + 0.25).unwrap()))
        .collect();
    let path = tiny.path("weights.safetensors");
    write(&path, &shifted);
    load::strict(student.params(), &read(&path)).unwrap();
    for (name, tensor) in student.params().snapshot().unwrap() {
        assert_eq!(values(&tensor), values(&shifted[&name]), "{name}");
    }
}

/// What a classifier's weights differ by from the student's random ones.
const SHIFT: f64 = 1e-3;

/// A classifier as torchvision saves it: the student's trunk without its prefix, counters, and a head.
fn classifier(student: &Detector) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in student.params().snapshot().unwrap() {
        if let Some(name) = name.strip_prefix("backbone.body.") {
            tensors.insert(name.to_owned(), (tensor + SHIFT).unwrap());
        }
    }
    tensors.insert("fc.weight".to_owned(), Tensor::zeros((1000, 64), DType::F32, &Device::Cpu).unwrap());
    tensors.insert("fc.bias".to_owned(), Tensor::zeros(1000, DType::F32, &Device::Cpu).unwrap());
    tensors.insert("bn1.num_batches_tracked".to_owned(), Tensor::new(7i64, &Device::Cpu).unwrap());
    tensors
}

#[test]
fn a_classifier_fills_the_trunk_and_leaves_the_rest_random() {
    let (tiny, student) = student();
    let before = student.params().snapshot().unwrap();
    let path = tiny.path("resnet18.pth");
    fs::write(&path, TorchFile::of(&classifier(&student)).bytes()).unwrap();
    let random = load::init(student.params(), &read(&path)).unwrap();
    assert!(!random.is_empty());
    for (name, tensor) in student.params().snapshot().unwrap() {
        let in_trunk = name.starts_with("backbone.body.");
        assert_ne!(in_trunk, random.contains(&name), "{name}");
        let shift = if in_trunk { SHIFT } else { 0.0 };
        assert_eq!(values(&tensor), values(&(&before[&name] + shift).unwrap()), "{name}");
    }
}

#[test]
fn a_mobilenet_classifier_fills_the_trunk() {
    let tiny = Tiny::new();
    let sets = ["student.backbone=mobilenet_v2", "student.width=8"].map(str::to_owned);
    let config = Config::load(tiny.path("plain.toml"), &sets).unwrap().config;
    let student = build::student(&config, 3, &Device::Cpu).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in student.params().snapshot().unwrap() {
        if let Some(name) = name.strip_prefix("backbone.body.") {
            tensors.insert(format!("features.{name}"), (tensor + SHIFT).unwrap());
        }
    }
    assert!(tensors.contains_key("features.0.0.weight") && tensors.contains_key("features.18.1.running_var"));
    tensors.insert("classifier.1.weight".to_owned(), zeros(&[1000, 1280]));
    tensors.insert("classifier.1.bias".to_owned(), zeros(&[1000]));
    let path = tiny.path("mobilenet_v2.pth");
    fs::write(&path, TorchFile::of(&tensors).bytes()).unwrap();
    let random = load::init(student.params(), &read(&path)).unwrap();
    for (name, tensor) in student.params().snapshot().unwrap() {
        let in_trunk = name.strip_prefix("backbone.body.");
        assert_ne!(in_trunk.is_some(), random.contains(&name), "{name}");
        if let Some(in_trunk) = in_trunk {
            assert_eq!(values(&tensor), values(&tensors[&format!("features.{in_trunk}")]), "{name}");
        }
    }
}

#[test]
fn a_detector_fills_all_but_the_predictors_of_its_own_classes() {
    let (tiny, student) = student();
    let config = Config::load(tiny.path("plain.toml"), &["seed=8".to_owned()]).unwrap().config;
    let other = build::student(&config, 5, &Device::Cpu).unwrap();
    let path = tiny.path("detector.safetensors");
    write(&path, &other.params().snapshot().unwrap());
    let random = load::init(student.params(), &read(&path)).unwrap();
    let predictors = ["bbox_pred.bias", "bbox_pred.weight", "cls_score.bias", "cls_score.weight"];
    assert_eq!(random, predictors.map(|name| format!("roi_heads.box_predictor.{name}")));
    let name = "rpn.head.cls_logits.weight";
    let [ours, theirs] =
        [&student, &other].map(|detector| values(&detector.params().snapshot().unwrap()[name]));
    assert_eq!(ours, theirs);
}

#[test]
fn a_trunk_that_is_not_whole_or_of_another_width_is_refused() {
    let (tiny, student) = student();
    let mut tensors = classifier(&student);
    tensors.remove("layer2.0.conv1.weight").unwrap();
    let conv1 = Tensor::zeros((64, 3, 7, 7), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("conv1.weight".to_owned(), conv1.clone());
    tensors.insert("layer5.0.conv1.weight".to_owned(), conv1);
    let path = tiny.path("trunk.safetensors");
    write(&path, &tensors);
    assert_mentions(
        &load::init(student.params(), &read(&path)).unwrap_err().to_string(),
        &[
            "1 missing from the file:\n    backbone.body.layer2.0.conv1.weight",
            "1 unexpected in the file:\n    backbone.body.layer5.0.conv1.weight",
            "backbone.body.conv1.weight: [8, 3, 7, 7] in the network, [64, 3, 7, 7] in the file",
        ],
    );
}

#[test]
fn a_student_begins_with_its_initial_weights_and_keeps_the_frozen_stages() {
    let (tiny, student) = student();
    let trunk = classifier(&student);
    write(&tiny.path("trunk.safetensors"), &trunk);
    let init = format!("student.init={}", tiny.path("trunk.safetensors").display());
    tiny.train("plain.toml", &[&init, "student.freeze_at=2", "student.norm=frozen_bn", "schedule.steps=2"])
        .unwrap();
    let trained = read(&tiny.path("runs/plain/last.safetensors")).tensors;
    let same = |name: &str| values(&trained[&format!("backbone.body.{name}")]) == values(&trunk[name]);
    for frozen in ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer1.1.bn2.weight"] {
        assert!(same(frozen), "{frozen}");
    }
    assert!(!same("layer2.0.conv1.weight"), "it trains");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The error that the file of these bytes gives.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let folder = folder();
    let path = folder.path().join("weights.pth");
    fs::write(&path, bytes).unwrap();
    let error = WeightsFile::read(&path).expect_err("not to be read");
    assert!(matches!(error, WeightsError::Format { .. }), "{error}");
    let message = error.to_string();
    assert_mentions(&message, &["weights.pth holds no weights that can be read"]);
    message
}

fn small() -> BTreeMap<String, Tensor> {
    let ramp = |count: i64, shape: &[usize]| {
        Tensor::arange(0, count, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().reshape(shape).unwrap()
    };
    BTreeMap::from([("a.weight".to_owned(), ramp(6, &[2, 3])), ("b.bias".to_owned(), ramp(4, &[4]))])
}

#[test]
fn files_that_hold_no_weights_are_told_by_their_first_bytes() {
    for bytes in [b"".as_slice(), b"P", b"weights", b"{\"a\": 1}", &[0; 64], &[0xff; 64]] {
        assert_mentions(&refused(bytes), &["neither safetensors nor a torch file", ".pkl"]);
    }
}

#[test]
fn a_missing_file_and_a_folder_are_errors_that_name_them() {
    let folder = folder();
    for path in [folder.path().join("none.pth"), folder.path().to_owned()] {
        let error = WeightsFile::read(&path).unwrap_err();
        let fits = match path.is_dir() {
            true => matches!(error, WeightsError::Format { .. }),
            false => matches!(error, WeightsError::Read { .. }),
        };
        assert!(fits, "{error:?}");
        assert_mentions(&error.to_string(), &[&path.display().to_string()]);
    }
    #[cfg(unix)]
    assert!(WeightsFile::read(Path::new("/dev/zero")).is_err(), "it never ends");
}

#[test]
fn every_cut_of_a_safetensors_file_is_refused() {
    let folder = folder();
    let path = folder.path().join("whole.safetensors");
    write(&path, &small());
    let whole = fs::read(&path).unwrap();
    assert_eq!(read(&path).tensors.len(), 2);
    for cut in 0..whole.len() {
        let says = refused(&whole[..cut]);
        // The first nine bytes say what it is, also where the header is cut.
        assert!(cut < 9 || says.contains("cut short"), "{cut}: {says}");
    }
    refused(&[whole.as_slice(), b"more"].concat());
}

#[test]
fn a_safetensors_header_is_not_believed() {
    let file = |length: u64, header: &str, data: &[u8]| {
        [length.to_le_bytes().as_slice(), header.as_bytes(), data].concat()
    };
    let exact = |header: &str, data: &[u8]| file(header.len() as u64, header, data);
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 99_999_999, 1000] {
        refused(&file(length, "{}", &[0; 16]));
    }
    for header in [
        "{",
        "{\"a\":1}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615,2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
        "{\"a\":{\"dtype\":\"F99\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}",
        "{\"__metadata__\":3}",
    ] {
        refused(&exact(header, &[0; 8]));
    }
    let mut random = 0x9e37_79b9_u32;
    let whole = exact("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", &[0; 8]);
    let folder = folder();
    let path = folder.path().join("changed.safetensors");
    for _ in 0..2000 {
        let mut changed = whole.clone();
        for _ in 0..2 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (random >> 8) as usize % changed.len();
            changed[at] = random as u8;
        }
        fs::write(&path, &changed).unwrap();
        let _ = WeightsFile::read(&path);
    }
}

#[test]
fn a_torch_file_is_read_with_its_types_strides_parameters_and_nesting() {
    let folder = folder();
    let path = folder.path().join("weights.pth");
    let tensors = small();
    let check = |file: &TorchFile| {
        for (bytes, format) in [(file.bytes(), Format::TorchZip), (file.legacy_bytes(), Format::TorchLegacy)]
        {
            fs::write(&path, bytes).unwrap();
            let read = read(&path);
            assert_eq!(read.format, format);
            assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["a.weight", "b.bias"]);
            for (name, tensor) in &tensors {
                assert_eq!(read.tensors[name].dims(), tensor.dims());
                assert_eq!(values(&read.tensors[name]), values(tensor), "{name}");
            }
            assert!(read.metadata.is_empty());
        }
    };
    check(&TorchFile::of(&tensors));
    check(&TorchFile { wrapper: "module.", ..TorchFile::of(&tensors) });
    check(&TorchFile { wrapper: "_orig_mod.module.", ..TorchFile::of(&tensors) });
    for key in ["state_dict", "model"] {
        check(&TorchFile { under: Some(key), ..TorchFile::of(&tensors) });
    }
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        check(&TorchFile { dtype, ..TorchFile::of(&tensors) });
    }
    check(&TorchFile { parameters: true, ..TorchFile::of(&tensors) });
    check(&TorchFile { column_major: true, ..TorchFile::of(&tensors) });
    let mut counted = tensors.clone();
    counted.insert("bn.num_batches_tracked".to_owned(), Tensor::new(3i64, &Device::Cpu).unwrap());
    check(&TorchFile::of(&counted));
}

#[test]
fn a_torch_file_without_a_state_dict_says_what_there_is() {
    let nothing = BTreeMap::new();
    let message = refused(&TorchFile { under: Some("weights"), ..TorchFile::of(&nothing) }.bytes());
    assert_mentions(&message, &["no state dict", "there is weights"]);
    // A list, a whole model (an object of some class), nothing.
    for pickle in [b"\x80\x02].".as_slice(), b"\x80\x02cmodels\nNet\n)\x81}b.", b"\x80\x02N."] {
        let message = refused(&torch_file::zip(&[("archive/data.pkl", pickle)]));
        assert_mentions(&message, &["no state dict", "torch.save(model.state_dict(), FILE)"]);
    }
}

#[test]
fn a_zip_that_is_not_torchs_is_refused() {
    assert_mentions(&refused(&torch_file::zip(&[("word/document.xml", b"<xml/>")])), &["no data.pkl"]);
    assert_mentions(&refused(&torch_file::zip(&[])[..]), &["neither"]);
    assert_mentions(&refused(b"PK\x03\x04 and then nothing"), &["cut short"]);
}

#[test]
fn a_torch_file_that_runs_code_or_lies_about_sizes_is_refused() {
    // os.system("..."): a call, which is not made.
    let attack = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";
    assert_mentions(&refused(&torch_file::zip(&[("a/data.pkl", attack)])), &["no state dict"]);
    let claim = |shape: &[i32], strides: &[i32], offset: i32| {
        let pickle = torch_file::one_tensor("w", shape, strides, offset);
        torch_file::zip(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 16])])
    };
    let folder = folder();
    let path = folder.path().join("fine.pth");
    fs::write(&path, claim(&[2, 2], &[2, 1], 0)).unwrap();
    assert_eq!(read(&path).tensors["w"].dims(), [2, 2]);
    for (shape, strides, offset) in [
        (&[5][..], &[1][..], 0),
        (&[4], &[1], 1),
        (&[2, 2], &[3, 1], 1),
        (&[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1], 0),
        (&[2], &[i32::MAX], i32::MAX),
        (&[2], &[1], -1),
        (&[-2], &[1], 0),
        (&[2, 2], &[1], 0),
    ] {
        assert_mentions(&refused(&claim(shape, strides, offset)), &["w: "]);
    }
    // Four numbers, seen a billion times over.
    assert_mentions(
        &refused(&claim(&[1 << 30, 4], &[0, 1], 0)),
        &["w: the tensors are larger than the file"],
    );
    let pickle = torch_file::one_tensor("w", &[1], &[1], 0);
    assert_mentions(
        &refused(&torch_file::zip(&[("a/data.pkl", &pickle)])),
        &["w: its storage a/data/0 is not in the file"],
    );
}

#[test]
fn every_cut_and_many_changes_of_a_torch_file_are_survived() {
    let whole = TorchFile::of(&small()).bytes();
    for cut in 0..whole.len() {
        refused(&whole[..cut]);
    }
    let folder = folder();
    let path = folder.path().join("changed.pth");
    for at in 4..whole.len() {
        for byte in [0x00, 0x7f, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = byte;
            fs::write(&path, &changed).unwrap();
            let _ = WeightsFile::read(&path);
        }
    }
}

#[test]
fn every_cut_and_many_changes_of_a_legacy_torch_file_are_survived() {
    let whole = TorchFile::of(&small()).legacy_bytes();
    for cut in 0..whole.len() {
        refused(&whole[..cut]);
    }
    let folder = folder();
    let path = folder.path().join("changed.pth");
    for at in 4..whole.len() {
        for byte in [0x00, 0x7f, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = byte;
            fs::write(&path, &changed).unwrap();
            let _ = WeightsFile::read(&path);
        }
    }
}

#[test]
fn a_legacy_torch_file_that_lies_about_sizes_is_refused() {
    let folder = folder();
    let path = folder.path().join("fine.pth");
    fs::write(&path, torch_file::one_legacy_tensor(&[2, 2], &[2, 1], 4, &[0; 16])).unwrap();
    assert_eq!(read(&path).tensors["w"].dims(), [2, 2]);
    // Storages of 2^64 - 1, 2^62 and 5 numbers, of which there are four.
    for count in [u64::MAX, 1 << 62, 5] {
        let message = refused(&torch_file::one_legacy_tensor(&[2, 2], &[2, 1], count, &[0; 16]));
        assert_mentions(&message, &["cut short"]);
    }
    for (shape, strides) in
        [(&[5][..], &[1][..]), (&[1 << 30, 4], &[0, 1]), (&[2, 2], &[4, 1]), (&[-2], &[1])]
    {
        let message = refused(&torch_file::one_legacy_tensor(shape, strides, 4, &[0; 16]));
        assert_mentions(&message, &["w: "]);
    }
    let big_endian = [torch_file::LEGACY_START, b"\x80\x02N.\x80\x02]."].concat();
    let at = big_endian.iter().rposition(|&byte| byte == 0x88).unwrap();
    let mut changed = big_endian.clone();
    changed[at] = 0x89;
    assert_mentions(&refused(&changed), &["big-endian"]);
    assert_mentions(&refused(&big_endian), &["no state dict"]);
}

#[test]
fn a_pickle_of_arrays_is_read_however_python_wrote_it() {
    let folder = folder();
    let path = folder.path().join("weights.pkl");
    let tensors = small();
    for bytes in [ArrayBytes::Encoded, ArrayBytes::Bytes, ArrayBytes::Python2] {
        fs::write(&path, torch_file::numpy_pickle(&tensors, "somebody", bytes)).unwrap();
        let read = read(&path);
        assert_eq!((read.format, read.remarks.author.as_deref()), (Format::NumpyPickle, Some("somebody")));
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["a.weight", "b.bias"]);
        for (name, tensor) in &tensors {
            assert_eq!(read.tensors[name].dims(), tensor.dims(), "{bytes:?}");
            assert_eq!(values(&read.tensors[name]), values(tensor), "{bytes:?} {name}");
        }
    }
    let numbers = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let data: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
    fs::write(&path, torch_file::one_array("f4", "<", &[2, 3], true, &data)).unwrap();
    assert_eq!(values(&read(&path).tensors["w"]), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    let data: Vec<u8> = numbers.into_iter().flat_map(|value| f64::from(value).to_le_bytes()).collect();
    fs::write(&path, torch_file::one_array("f8", "<", &[6], false, &data)).unwrap();
    assert_eq!(values(&read(&path).tensors["w"]), numbers);
    fs::write(&path, torch_file::one_array("i8", "<", &[6], false, &data)).unwrap();
    assert!(read(&path).tensors.is_empty() && read(&path).entries["w"].shape == [6], "a counter");
}

#[test]
fn a_pickle_of_arrays_that_lies_or_runs_code_is_refused() {
    let whole = torch_file::numpy_pickle(&small(), "somebody", ArrayBytes::Encoded);
    for cut in 0..whole.len() {
        refused(&whole[..cut]);
    }
    assert_mentions(&refused(&[whole.as_slice(), b"more"].concat()), &["4 bytes follow"]);
    let folder = folder();
    let path = folder.path().join("changed.pkl");
    for at in 3..whole.len() {
        for byte in [0x00, 0x7f, 0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = byte;
            fs::write(&path, &changed).unwrap();
            let _ = WeightsFile::read(&path);
        }
    }
    for shape in [&[5][..], &[i32::MAX, i32::MAX, i32::MAX], &[-1], &[2, 3]] {
        assert_mentions(&refused(&torch_file::one_array("f4", "<", shape, false, &[0; 16])), &["w: "]);
    }
    assert_mentions(
        &refused(&torch_file::one_array("f4", ">", &[4], false, &[0; 16])),
        &["w: ", "big-endian"],
    );
    assert_mentions(&refused(&torch_file::one_array("O", "|", &[4], false, &[0; 16])), &["w: ", "type O"]);
    // os.system("true")
    assert_mentions(&refused(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."), &["no state dict"]);
    let within =
        b"\x80\x02}X\x05\x00\x00\x00model}X\x01\x00\x00\x00acos\nsystem\nX\x04\x00\x00\x00true\x85Rss.";
    assert_mentions(
        &refused(within),
        &["no state dict", "calls of os.system, and nothing in a file is called here"],
    );
    // A length of nearly 2^64 bytes.
    assert_mentions(&refused(b"\x80\x04}\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."), &["cut short at byte 3"]);
    // A row of opcodes without end.
    let endless = [b"\x80\x02}".as_slice(), &b")0".repeat(2 << 20), b"."].concat();
    assert_mentions(&refused(&endless), &["opcodes"]);
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn a_torch_file_from_the_wild_is_read() {
    let file = read(&real::file("weights/shufflenetv2_x0_5_imagenet_backbone.pth"));
    assert!(file.tensors.len() > 100, "{}", file.tensors.len());
    assert!(file.tensors.values().all(|tensor| values(tensor).iter().all(|value| value.is_finite())));
}

#[test]
fn equal_content_is_written_as_equal_bytes_that_the_safetensors_crate_reads() {
    let folder = folder();
    let metadata: BTreeMap<String, String> =
        (0..20).map(|number| (format!("key {number}"), format!("\"text\" {number} é\n"))).collect();
    let write = |name: &str| {
        let path = folder.path().join(name);
        write_safetensors(&path, &small(), &metadata).unwrap();
        path
    };
    let (one, other) = (write("one.safetensors"), write("other.safetensors"));
    assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
    let mut header = tiny::metadata(&one);
    assert_eq!(header.remove("ckd_det.blake3").map(|hash| hash.len()), Some(64), "of all the content");
    assert_eq!(header, metadata);
    let tensors = tiny::tensors(&one);
    assert_eq!(tensors["a.weight"].0, [2, 3]);
    let bytes: Vec<u8> = (0..6).flat_map(|value| (value as f32).to_le_bytes()).collect();
    assert_eq!(tensors["a.weight"].1, bytes);
    let read = read(&one);
    assert_eq!(
        (read.metadata, read.hash),
        (metadata, blake3::hash(&fs::read(&one).unwrap()).to_hex().to_string())
    );
}

#[test]
fn weights_without_a_card_say_how_to_name_the_experiment() {
    let folder = folder();
    let path = folder.path().join("bare.safetensors");
    write(&path, &small());
    let error = ModelCard::of(&read(&path)).unwrap_err().to_string();
    assert_mentions(&error, &["bare.safetensors", "does not say how its network is built", "--config"]);
}

#[test]
fn a_damaged_card_is_an_error_that_names_the_file() {
    let (tiny, _) = student();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    let file = read(&tiny.path("runs/plain/last.safetensors"));
    for (key, text) in [
        ("ckd_det.config", "optim = 3"),
        ("ckd_det.categories", "[{\"id\": -1}]"),
        ("ckd_det.provenance", "no JSON"),
    ] {
        let mut metadata = file.metadata.clone();
        assert!(metadata.insert(key.to_owned(), text.to_owned()).is_some());
        let path = tiny.path("damaged.safetensors");
        write_safetensors(&path, &file.tensors, &metadata).unwrap();
        let error = ModelCard::of(&read(&path)).unwrap_err().to_string();
        assert_mentions(&error, &["damaged.safetensors"]);
    }
}

/// A file of weights from elsewhere may say anything of itself: what is not borne out by its tensors costs nothing.
#[test]
fn a_card_that_claims_more_than_the_tensors_hold_is_refused_before_anything_is_made() {
    let (tiny, _) = student();
    tiny.train("plain.toml", &["schedule.steps=1"]).unwrap();
    let file = read(&tiny.path("runs/plain/last.safetensors"));
    let config = ModelCard::of(&file).unwrap().config;
    type Claim = fn(&mut Config);
    let claims: [(&str, Claim); 6] = [
        ("of another shape", |config| config.detector.fpn_channels = 1_000_000_000),
        ("of another shape", |config| config.student.network.width = Some(100_000_000)),
        ("of another shape", |config| config.detector.roi.head_width = 4_000_000_000),
        ("detector.rpn.head_convs", |config| config.detector.rpn.head_convs = 1_000_000_000),
        ("input.long_side_px", |config| config.input.long_side_px = 20_000),
        ("input.size_divisor", |config| config.input.size_divisor = 1_000_000_000),
    ];
    for (mention, claim) in claims {
        let mut config = config.clone();
        claim(&mut config);
        let mut metadata = file.metadata.clone();
        metadata.insert("ckd_det.config".to_owned(), config.to_toml());
        let path = tiny.path("hostile.safetensors");
        write_safetensors(&path, &file.tensors, &metadata).unwrap();
        let error = Student::open(&path).unwrap_err().to_string();
        assert_mentions(&error, &["hostile.safetensors", mention]);
    }
}
