//! Optimisers with parameter groups, clipping and the average of the weights agree with PyTorch's over 20 steps.

use std::path::Path;

use candle_core::{Device, Tensor};
use ckd_det::config::{CohortConfig, Config, Document};
use ckd_det::optim::groups::grouped;
use ckd_det::optim::{Ema, Optim, OptimKind, gradient_norm};
use ckd_detectors::init::Init;
use ckd_detectors::param::{Builder, ParamStore};
use ckd_kernels::Gradients;
use serde_json::Value;

use crate::support::tiny::assert_mentions;

/// The parameters of the golden network, by PyTorch's name and ours: the shapes tell weights from norms.
const PARAMETERS: [(&str, &str, &[usize]); 3] = [
    ("backbone", "backbone.body.conv.weight", &[2, 3]),
    ("head", "head.weight", &[3, 2]),
    ("norm", "norm.weight", &[4]),
];

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/own/optimiser_groups.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the golden file")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .expect("numbers")
        .iter()
        .map(|number| number.as_f64().expect("a number") as f32)
        .collect()
}

fn network(start: &Value) -> ParamStore {
    let builder = Builder::new(0, &Device::Cpu);
    for (_, name, shape) in PARAMETERS {
        let (layer, weight) = name.rsplit_once('.').expect("a layer");
        builder.within(layer).weight(weight, shape, Init::Constant(0.0)).expect("a weight");
    }
    let store = builder.finish();
    for (theirs, ours, shape) in PARAMETERS {
        let tensor = Tensor::from_vec(numbers(&start[theirs]), shape, &Device::Cpu).expect("a tensor");
        store.set(ours, &tensor).expect("the same shape");
    }
    store
}

#[track_caller]
fn assert_values(store: &ParamStore, expected: &Value) {
    for (theirs, ours, _) in PARAMETERS {
        let tensor = store.get(ours).expect("a parameter").value.tensor().clone();
        let found = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("values");
        for (found, expected) in found.iter().zip(numbers(&expected[theirs])) {
            // 20 steps in f32 of numbers around 1.
            assert!((found - expected).abs() < 2e-6, "{ours}: {found} and {expected}");
        }
    }
}

/// Runs the golden steps of `settings` and compares the weights and their average.
#[track_caller]
fn check_against_pytorch(case: &str, settings: &Optim) {
    let golden = golden();
    let case = &golden["cases"][case];
    let store = network(&case["start"]);
    let parameters = grouped(&[&store], settings, |name| name.starts_with("backbone.body."));
    let mut optimizer = settings.over(parameters).expect("an optimiser");
    let mut ema = Ema::over(&[&store], golden["decay"].as_f64().expect("a decay")).expect("an average");
    for (updates, step) in (1..).zip(case["steps"].as_array().expect("steps")) {
        let mut gradients = Gradients::new();
        for (theirs, ours, shape) in PARAMETERS {
            let gradient = &step["gradients"][theirs];
            if !gradient.is_null() {
                let gradient = Tensor::from_vec(numbers(gradient), shape, &Device::Cpu).expect("a tensor");
                gradients.insert(ours.into(), gradient);
            }
        }
        let norm = gradient_norm(optimizer.parameters(), &gradients, 1.0).expect("a norm");
        let expected = step["norm"].as_f64().expect("a norm");
        assert!((norm - expected).abs() < 1e-6 * expected, "{norm} and {expected}");
        let lr = step["lr"].as_f64().expect("a rate");
        optimizer.step(&gradients, lr, settings.clip_factor(norm)).expect("an update");
        ema.update(updates).expect("an average");
    }
    assert_values(&store, &case["weights"]);
    ema.in_place(|| {
        assert_values(&store, &case["average"]);
        Ok::<(), ckd_detectors::Error>(())
    })
    .expect("the averages in place");
    assert_values(&store, &case["weights"]);
}

/// The groups of the golden file: decay of weights alone, a tenth of the rate for the backbone, norms clipped to 1.
fn settings(kind: OptimKind) -> Optim {
    Optim {
        kind,
        backbone_lr_factor: 0.1,
        weight_decay: 0.05,
        weight_decay_norm: Some(0.0),
        clip_grad_norm: Some(1.0),
        ..Optim::new(0.02)
    }
}

#[test]
fn adamw_with_groups_and_clipping_is_pytorchs_and_so_is_the_average() {
    check_against_pytorch(
        "adamw",
        &Optim { betas: vec![0.8, 0.95], eps: 1e-6, ..settings(OptimKind::AdamW) },
    );
}

#[test]
fn sgd_with_groups_and_clipping_is_pytorchs_and_so_is_the_average() {
    check_against_pytorch("sgd", &Optim { nesterov: true, ..settings(OptimKind::Sgd) });
}

#[test]
fn settings_of_optimisers_that_cannot_be_are_named() {
    let error = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::load("quickstart.toml", &sets).expect_err("a mistake").to_string()
    };
    assert_mentions(&error(&["optim.kind=adam"]), &["\"adam\" is not a choice", "did you mean \"adamw\""]);
    assert_mentions(&error(&["optim.betas=[0.9]"]), &["optim.betas", "two numbers from 0 to below 1"]);
    assert_mentions(&error(&["optim.eps=0"]), &["optim.eps", "above 0"]);
    assert_mentions(&error(&["optim.backbone_lr_factor=0"]), &["optim.backbone_lr_factor", "above 0"]);
    assert_mentions(&error(&["train.ema_decay=1"]), &["train.ema_decay", "below 1"]);
}

#[test]
fn a_meta_step_of_another_optimiser_than_sgd_is_refused_before_anything_is_read() {
    let l_mcl = "cifar10/lmcl_r8_r8.toml";
    let error = CohortConfig::load(l_mcl, &["optim.kind=adamw".to_owned()]).expect_err("no meta step");
    assert_mentions(&error.to_string(), &["optim.kind", "virtual updates are those of SGD"]);
    let sets = ["optim.kind=adamw".to_owned(), "cohort.layers.meta_every=0".to_owned()];
    CohortConfig::load(l_mcl, &sets).expect("without a meta step any optimiser will do");
}
