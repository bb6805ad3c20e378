//! Checkpoints of RepDistiller's and mdistiller's networks: recognised by their tensors, imported whole or not at all.

use std::collections::BTreeMap;
use std::fs;

use crate::support::tiny::{Tiny, assert_ended};
use crate::support::torch_file::TorchFile;
use candle_core::{DType, Device, Tensor};
use ckd_det::weights::WeightsFile;
use ckd_detectors::classifier::Architecture;
use ckd_detectors::param::Builder;

type Tensors = BTreeMap<String, Tensor>;

/// Those of [`Architecture::ALL`] that are not for ImageNet.
fn of_small_images() -> impl Iterator<Item = Architecture> {
    let first = Architecture::ALL.iter().position(|known| known.name() == "resnet18").expect("it is known");
    Architecture::ALL[..first].iter().copied()
}

fn tensors(architecture: Architecture, classes: usize) -> Tensors {
    let network = architecture.build(Builder::new(3, &Device::Cpu), classes).unwrap();
    network.params().snapshot().unwrap()
}

/// As RepDistiller saves it: `{"model": ...}` with the norms' counters.
fn checkpoint(tensors: &Tensors, wrapper: &str) -> Vec<u8> {
    let mut tensors = tensors.clone();
    let norms: Vec<String> =
        tensors.keys().filter_map(|name| name.strip_suffix("running_var").map(str::to_owned)).collect();
    for norm in norms {
        tensors.insert(format!("{norm}num_batches_tracked"), Tensor::new(7i64, &Device::Cpu).unwrap());
    }
    TorchFile { under: Some("model"), wrapper, ..TorchFile::of(&tensors) }.bytes()
}

#[test]
fn every_network_for_small_images_is_told_by_its_tensors() {
    for architecture in of_small_images() {
        let tensors = tensors(architecture, 7);
        let shape = |name: &str| tensors.get(name).map(|tensor| tensor.dims().to_vec());
        let found = Architecture::of_small_images(shape).unwrap();
        assert_eq!(found, Some((architecture, 7)));
    }
}

#[test]
fn every_network_for_small_images_is_told_without_its_last_layer() {
    for architecture in of_small_images() {
        let network = architecture.build(Builder::outline(), 7).unwrap();
        let body = network.params().without(&format!("{}.", network.head().prefix()));
        let mut shapes: BTreeMap<String, Vec<usize>> =
            body.iter().map(|(name, param)| (name.to_string(), param.value.dims().to_vec())).collect();
        assert_eq!(Architecture::of_small_body(&shapes), Some(architecture));
        // With a layer beside it, it is another network's.
        shapes.insert("head.weight".to_owned(), vec![7, 64]);
        assert_eq!(Architecture::of_small_body(&shapes), None, "{architecture}");
    }
}

#[test]
fn a_checkpoint_of_each_family_becomes_our_network() {
    let tiny = Tiny::new();
    let import = |more: &[&str]| {
        let _ = fs::remove_file(tiny.path("out.safetensors"));
        let command = ["weights", "import", "ckpt_epoch_240.pth", "--out", "out.safetensors"];
        tiny.run_program(&[command.as_slice(), more].concat())
    };
    for (name, wrapper) in [
        ("resnet20", "module."),
        ("resnet8x4", ""),
        ("resnet20_a", "module."),
        ("cifar_resnet50", ""),
        ("resnet110_bottleneck", ""),
        ("wrn_16_2", ""),
        ("vgg8", ""),
        ("cifar_mobilenet_v2", ""),
        ("shufflenet_v1", ""),
        ("shufflenet_v2", "module."),
    ] {
        let mut theirs = tensors(name.parse().unwrap(), 100);
        let write = |tensors: &Tensors| {
            fs::write(tiny.path("ckpt_epoch_240.pth"), checkpoint(tensors, wrapper)).unwrap();
        };
        write(&theirs);
        let network = format!("out.safetensors: {name}, ");
        assert_ended(&import(&["--arch", name]), 0, &[&network, "student.init or teacher.weights"]);
        let ours = WeightsFile::read(&tiny.path("out.safetensors")).unwrap();
        assert_eq!(ours.tensors.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, tensor) in &theirs {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&ours.tensors[name]), values(tensor), "{name}");
        }
        assert!(ours.metadata["ckd_det.provenance"].contains(&format!("\"architecture\":\"{name}\"")));

        assert_ended(&import(&["--arch", "resnet110"]), 2, &[&format!("is {name}, not resnet110")]);
        assert_ended(&import(&["--partial", "backbone"]), 2, &["is imported whole"]);
        // A norm somewhere in the middle.
        let lost = theirs.keys().filter(|name| name.ends_with("running_mean")).nth(2).unwrap().clone();
        theirs.remove(&lost);
        theirs.insert("projection.weight".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        write(&theirs);
        let missing = format!("1 missing from the file:\n    {lost}");
        assert_ended(&import(&[]), 1, &[&missing, "1 unexpected in the file:\n    projection.weight"]);
        assert!(!tiny.path("out.safetensors").exists());
    }
}

#[test]
fn a_relative_of_known_networks_is_named_and_refused() {
    let tiny = Tiny::new();
    let refused = |tensors: &Tensors, says: &[&str]| {
        fs::write(tiny.path("a.pth"), checkpoint(tensors, "")).unwrap();
        let output = tiny.run_program(&["weights", "import", "a.pth", "--out", "out.safetensors"]);
        assert_ended(&output, 1, says);
        assert!(!tiny.path("out.safetensors").exists());
    };
    let mut resnet = tensors("resnet20".parse().unwrap(), 10);
    for stage in 1..=3 {
        let copied: Vec<(String, Tensor)> = resnet
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("layer{stage}.2.")))
            .map(|(name, tensor)| (name.replacen(".2.", ".3.", 1), tensor.clone()))
            .collect();
        resnet.extend(copied);
    }
    refused(&resnet, &["a CIFAR ResNet of 26 layers", "option B, which is none of resnet8, resnet14"]);

    let mut headless = tensors("wrn_16_1".parse().unwrap(), 10);
    headless.remove("fc.weight");
    refused(&headless, &["a wide ResNet 16-1 without a last layer called fc"]);

    // Blocks that the other stages do not have.
    let mut uneven = tensors("resnet20".parse().unwrap(), 10);
    uneven.retain(|name, _| !name.starts_with("layer2.2."));
    refused(&uneven, &["missing from the file:\n    layer2.2.bn1.bias"]);
}
