//! Checkpoints as trainers write them: the state dict found, or named by the user.

use std::path::{Path, PathBuf};

use crate::support::tiny::{Tiny, assert_ended, assert_mentions};
use crate::support::torch_file::TorchFile;
use candle_core::{DType, Device, Tensor};
use ckd_det::weights::file::write_safetensors;
use ckd_det::weights::{Selection, WeightsError, WeightsFile};
use ckd_detectors::classifier::Architecture;
use ckd_detectors::param::Builder;

/// A checkpoint that `tools/golden/checkpoint_layouts.py` made.
fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(format!("{name}.pth"))
}

fn read_as(name: &str, selection: &Selection) -> Result<WeightsFile, WeightsError> {
    WeightsFile::read_as(&checkpoint(name), selection)
}

/// Checks the state dict that all of the checkpoints are around, `more` added to each number.
#[track_caller]
fn assert_is_the_state_dict(file: &WeightsFile, more: f32) {
    let values =
        |name: &str| -> Vec<f32> { file.tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap() };
    assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["conv1.weight", "fc.bias"]);
    assert_eq!(values("conv1.weight"), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25].map(|value| value + more));
    assert_eq!(values("fc.bias"), [-1.0, 0.5].map(|value| value + more));
}

#[test]
fn the_state_dict_is_found_in_the_checkpoints_of_common_trainers() {
    for name in [
        "plain",
        "imagenet_example",
        "tutorial",
        "repdistiller",
        "repdistiller_legacy",
        "lightning",
        "averaged_model",
        "model_state",
        "ema_alone",
        "own_key",
        "nested",
        "mmdetection_ema",
        "with_ema",
    ] {
        let file = read_as(name, &Selection::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_is_the_state_dict(&file, 0.0);
    }
}

#[test]
fn one_of_several_state_dicts_is_named_by_the_user() {
    let under = |name: &str, key: &str| {
        read_as(name, &Selection { under: Some(key.to_owned()), ..Selection::default() })
    };
    assert_is_the_state_dict(&under("with_ema", "model_ema").unwrap(), 10.0);
    assert_is_the_state_dict(&under("student_and_teacher", "student").unwrap(), 0.0);
    assert_is_the_state_dict(&under("student_and_teacher", "teacher").unwrap(), 10.0);
    assert_is_the_state_dict(&under("nested", "checkpoint.state_dict").unwrap(), 0.0);
    let several = read_as("student_and_teacher", &Selection::default()).unwrap_err().to_string();
    assert_mentions(&several, &["student (2 tensors), teacher (2 tensors)", "--under KEY"]);
    let none = under("with_ema", "pupil").unwrap_err().to_string();
    assert_mentions(&none, &["no state dict under pupil", "model (2 tensors), model_ema (2 tensors)"]);
}

#[test]
fn one_of_two_networks_in_a_state_dict_is_taken_by_its_prefix() {
    let strip = |prefix: &str| {
        read_as("one_dict_of_two", &Selection { strip: Some(prefix.to_owned()), ..Selection::default() })
    };
    assert_is_the_state_dict(&strip("student").unwrap(), 0.0);
    assert_is_the_state_dict(&strip("teacher.").unwrap(), 10.0);
    assert_mentions(&strip("pupil").unwrap_err().to_string(), &["begins with pupil.", "--strip pupil"]);
}

#[test]
fn a_classifier_with_other_names_is_imported_once_its_layers_are_named() {
    let tiny: Tiny = Tiny::empty();
    let known = "resnet8_a".parse::<Architecture>().unwrap();
    let network = known.build(Builder::new(3, &Device::Cpu), 7).unwrap();
    let ours = network.params().snapshot().unwrap();
    let renamed = |name: &String| {
        let theirs = [("conv1.", "conv."), ("bn1.", "bn."), ("linear.", "head.")];
        theirs
            .iter()
            .find_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))
            .unwrap_or_else(|| name.clone())
    };
    let theirs = ours.iter().map(|(name, tensor)| (renamed(name), tensor.clone())).collect();
    std::fs::write(tiny.path("mine.pth"), TorchFile::of(&theirs).bytes()).unwrap();
    let import = |more: &[&str]| {
        let mut args = vec!["weights", "import", "mine.pth", "--out", "r8.safetensors"];
        args.extend(more);
        tiny.run_program(&args)
    };
    assert_ended(
        &import(&[]),
        1,
        &["nearest to resnet8_a", "lacks bn1, conv1, linear", "--rename bn=bn1,conv=conv1,head=linear"],
    );
    assert_ended(&import(&["--rename", "bn=bn1,conv=conv1,head=linear"]), 0, &["resnet8_a"]);
    let imported = WeightsFile::read(&tiny.path("r8.safetensors")).unwrap();
    assert_eq!(imported.tensors.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    assert_ended(&import(&["--rename", "stem=conv1"]), 1, &["a layer stem", "--rename stem=conv1"]);
    assert_ended(&import(&["--rename", "conv1"]), 2, &["conv=conv1"]);
}

#[test]
fn a_known_network_behind_a_prefix_is_named_with_the_option_that_takes_it() {
    let tiny: Tiny = Tiny::empty();
    let network = "resnet8".parse::<Architecture>().unwrap();
    let ours = network.build(Builder::new(3, &Device::Cpu), 10).unwrap().params().snapshot().unwrap();
    let behind = |prefixes: &[&str]| {
        let all = prefixes.iter().flat_map(|prefix| {
            ours.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
        });
        let tensors = all.chain([("criterion.weight".to_owned(), ours["bn1.weight"].clone())]).collect();
        std::fs::write(tiny.path("mine.pth"), TorchFile::of(&tensors).bytes()).unwrap();
    };
    let import = |more: &[&str]| {
        let import = ["weights", "import", "mine.pth", "--out", "r8.safetensors"];
        tiny.run_program(&[import.as_slice(), more].concat())
    };
    behind(&["student.", "teacher.net."]);
    let both = [
        "a resnet8 behind student., and a resnet8 behind teacher.net.",
        "--strip student or --strip teacher.net",
    ];
    assert_ended(&import(&[]), 1, &both);
    assert_ended(&import(&["--strip", "teacher.net"]), 0, &["resnet8"]);
    behind(&["encoder."]);
    assert_ended(&import(&[]), 1, &["there is a resnet8 behind encoder.: say --strip encoder"]);
}

#[test]
fn tensors_of_no_known_network_are_near_to_none() {
    let tiny: Tiny = Tiny::empty();
    let tensor = Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap();
    let tensors = [("encoder.weight".to_owned(), tensor)].into();
    write_safetensors(&tiny.path("b.safetensors"), &tensors, &Default::default()).unwrap();
    let output = tiny.run_program(&["weights", "import", "b.safetensors", "--out", "c.safetensors"]);
    assert_ended(&output, 1, &["no network that is known here"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("nearest"));
}

#[test]
fn a_flipped_byte_in_a_torch_zip_file_is_noticed_and_a_file_without_checksums_is_read() {
    let whole = std::fs::read(checkpoint("plain")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.pth");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        WeightsFile::read(&path).unwrap_err().to_string()
    };
    // 0.75, in a tensor's storage.
    let at = whole.windows(4).position(|bytes| bytes == 0.75f32.to_le_bytes()).expect("a number");
    let mut changed = whole.clone();
    changed[at] ^= 1;
    assert_mentions(&refused(&changed), &["damaged", "data/0", "checksum", "copy it again"]);
    // torch.serialization.set_crc32_options(False)
    let mut without = whole;
    let starts: Vec<usize> =
        (0..without.len() - 4).filter(|&at| without[at..].starts_with(b"PK\x01\x02")).collect();
    for start in starts {
        without[start + 16..start + 20].fill(0x5a);
    }
    std::fs::write(&path, without).unwrap();
    assert_is_the_state_dict(&WeightsFile::read(&path).unwrap(), 0.0);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_file_of_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    let message = WeightsFile::read(&path).unwrap_err().to_string();
    assert_mentions(&message, &["pipe", "not a regular file"]);
}
