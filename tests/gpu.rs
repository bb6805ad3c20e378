//! Whole steps and runs on a GPU, or its stand-in, beside the CPU's. In a build with the feature `cuda`, and with
//! `CKD_DET_TEST_DEVICE=cuda`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use ckd_det::config::{ClassifyConfig, CohortConfig, Config, Document};
use ckd_det::engine::EngineError;
use ckd_det::engine::cohort::{CohortSets, MetaBatch, meta_event};
use ckd_det::engine::detect::bench::{Inference, Workload};
use ckd_det::engine::job::Start;
use ckd_det::engine::task::{Settings, Task};
use ckd_detectors::images::Images;

use crate::distill::support::device;
use crate::numbers::spoiled;
use crate::support::colours;
use crate::support::tiny::{Folder, Tiny, assert_ended, log, names, tensors};
use crate::{classify, cohort};

mod bf16;

/// The GPU. Without one these tests fail: they say nothing of a CPU.
fn gpu() -> &'static Device {
    assert!(!device().is_cpu(), "these tests are of a GPU, or its stand-in: set CKD_DET_TEST_DEVICE=cuda");
    device()
}

/// Sets of a step without a trained teacher.
const ONE_STEP: [&str; 4] = [
    "teacher.weights=none.safetensors",
    "teacher.allow_random_weights=true",
    "schedule.steps=1",
    "schedule.milestones=[1]",
];

/// The newest checkpoint of a run: all weights, and the optimiser's state.
fn checkpoint(run: &Path) -> BTreeMap<String, Vec<f32>> {
    let folder = run.join("checkpoints");
    let newest = names(&folder).pop().expect("a checkpoint");
    let numbers =
        |bytes: Vec<u8>| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    tensors(&folder.join(newest)).into_iter().map(|(name, (_, bytes))| (name, numbers(bytes))).collect()
}

/// Losses of the steps of a run, by name.
fn losses(run: &Path) -> Vec<(String, f64)> {
    let lines = log(run);
    let steps = lines.iter().filter_map(|line| line["losses"].as_object());
    let all = steps.flatten().map(|(name, value)| (name.clone(), value.as_f64().expect("a number")));
    all.collect()
}

/// Largest allowed differences of two runs, relative to the largest number of a tensor.
#[derive(Clone, Copy)]
struct Tolerance {
    losses: f64,
    weights: f32,
    /// Of the optimiser's state: after one step, of the gradients.
    gradients: f32,
}

/// Compares two runs loss by loss and parameter by parameter.
#[track_caller]
fn assert_agree(about: &str, ours: &Path, cpus: &Path, tolerance: Tolerance) {
    let (ours_losses, cpus_losses) = (losses(ours), losses(cpus));
    assert!(!cpus_losses.is_empty() && ours_losses.len() == cpus_losses.len(), "{about}: {ours_losses:?}");
    let mut worst = [(0f64, String::new()), (0.0, String::new()), (0.0, String::new())];
    let mut note = |kind: usize, off: f64, name: &str| {
        // A NaN is the worst.
        if !(off <= worst[kind].0) {
            worst[kind] = (off, name.to_owned());
        }
    };
    for ((name, ours), (cpus_name, cpus)) in ours_losses.iter().zip(&cpus_losses) {
        assert_eq!(name, cpus_name, "{about}");
        note(0, (ours - cpus).abs() / cpus.abs().max(1e-3), name);
    }
    let (ours, cpus) = (checkpoint(ours), checkpoint(cpus));
    assert_eq!(ours.keys().collect::<Vec<_>>(), cpus.keys().collect::<Vec<_>>(), "{about}");
    let largest = |values: &[f32]| values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let is_state = |name: &str| !name.starts_with("model/");
    // What L-MCL's meta step moves follows from a difference of gradients over a small step, which multiplies their
    // rounding: it is not compared here.
    let is_phi = |name: &str| name.contains("/match.");
    let of_all = cpus.iter().filter(|(name, _)| is_state(name)).map(|(_, x)| largest(x)).fold(0.0, f32::max);
    for (name, cpus) in cpus.iter().filter(|(name, _)| !is_phi(name)) {
        let off = ours[name]
            .iter()
            .zip(cpus)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |off: f32, x| if x.is_nan() { f32::NAN } else { off.max(x) });
        let kind = if is_state(name) { 2 } else { 1 };
        // Gradients that are sums of much larger numbers are rounding alone: a bias before a norm.
        let floor = if is_state(name) { 1e-3 * of_all } else { 1e-6 };
        note(kind, f64::from(off / largest(cpus).max(floor)), name);
    }
    let [losses, weights, state] = &worst;
    eprintln!("{about}: losses {losses:?}, weights {weights:?}, gradients {state:?}");
    let fits = losses.0 <= tolerance.losses
        && weights.0 <= f64::from(tolerance.weights)
        && state.0 <= f64::from(tolerance.gradients);
    assert!(fits, "{about}: losses {losses:?}, weights {weights:?}, gradients {state:?}");
}

/// Runs `config` on both devices, each in a folder of its own, and compares the runs called `name`.
#[track_caller]
fn assert_same_on_both<C: Settings>(
    made: impl Fn() -> Folder<C>,
    (config, name): (&str, &str),
    sets: &[&str],
    tolerance: Tolerance,
) {
    let (ours, cpus) = (made(), made());
    let runs = [(&ours, gpu()), (&cpus, &Device::Cpu)].map(|(folder, device)| {
        let run = folder.start_at(device, config, sets, Start::Anew, false);
        run.unwrap_or_else(|error| panic!("{config}: {error}"));
        folder.path(&format!("runs/{name}"))
    });
    assert_agree(&format!("{name} {sets:?}"), &runs[0], &runs[1], tolerance);
}

#[test]
fn a_step_of_each_detector_is_the_cpus_loss_by_loss_and_parameter_by_parameter() {
    let tolerance = Tolerance { losses: 1e-5, weights: 1e-4, gradients: 2e-4 };
    for name in ["distilled", "retina_distilled", "fcos_distilled"] {
        assert_same_on_both(Tiny::new, (&format!("{name}.toml"), name), &ONE_STEP, tolerance);
    }
}

fn classifiers() -> Folder<ClassifyConfig> {
    let folder = Folder::empty();
    colours::write(&folder.path("data"));
    folder.write("base.toml", classify::BASE);
    folder.write("distilled.toml", classify::DISTILLED);
    folder
}

fn cohorts() -> Folder<CohortConfig> {
    let folder = Folder::empty();
    colours::write(&folder.path("data"));
    folder.write("cohort.toml", cohort::BASE);
    folder
}

#[test]
fn a_classifiers_step_is_the_cpus() {
    let tolerance = Tolerance { losses: 1e-5, weights: 1e-5, gradients: 1e-4 };
    let random = ["teacher.weights=none.safetensors", "teacher.allow_random_weights=true"];
    let short = ["schedule.epochs=1", "train.batch_size=28"];
    for method in ["ckd", "kd", "dkd"] {
        let method = format!("distill.0.method={method}");
        let sets = [&random[..], &short, &["engine.autotune=true"], &[&method]].concat();
        assert_same_on_both(classifiers, ("distilled.toml", "distilled"), &sets, tolerance);
    }
}

#[test]
fn a_cohorts_step_is_the_cpus_and_l_mcls_meta_step_changes_nothing_else() {
    let tolerance = Tolerance { losses: 1e-5, weights: 1e-4, gradients: 1e-3 };
    let one = ["schedule.steps=1", "train.eval_every=1", "schedule.warmup_steps=0"];
    for method in [
        &["cohort.method=mcl"][..],
        &["cohort.method=mcl", "cohort.bank.negatives=5"],
        &["cohort.method=l_mcl", "cohort.layers.meta_every=1"],
    ] {
        let sets = [&one, method].concat();
        assert_same_on_both(cohorts, ("cohort.toml", "cohort"), &sets, tolerance);
    }
}

/// Where no batch norm divides by next to nothing, as one of images of one colour does, what the meta step moves is the CPU's.
#[test]
fn l_mcls_meta_gradient_on_noise_is_the_cpus() {
    let folder = cohorts();
    let loaded = folder.load("cohort.toml", &["cohort.method=l_mcl"]).unwrap();
    let task = CohortSets::gather(&loaded).unwrap().task;
    let labels: Vec<u32> = (0..16).map(|image| image / 2).collect();
    let phi = |device: &Device| {
        let cohort = task.student(&loaded.config, device).unwrap();
        let Images { pixels, sizes } = cohort::noise(16, 16);
        let last = pixels.permute((0, 2, 3, 1)).and_then(|pixels| pixels.to_device(device));
        let pixels = last.and_then(|pixels| pixels.permute((0, 3, 1, 2))).unwrap();
        let images = Images { pixels, sizes };
        let batch = MetaBatch { images: &images, labels: &labels, drawn: &[] };
        let found = meta_event(&loaded.config, &cohort, batch, 0.01).unwrap().phi;
        let numbers = |tensor: &Tensor| tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).unwrap();
        found.iter().map(|(name, tensor)| (name.to_string(), numbers(tensor))).collect::<BTreeMap<_, _>>()
    };
    let (ours, cpus) = (phi(gpu()), phi(&Device::Cpu));
    assert_eq!(ours.keys().collect::<Vec<_>>(), cpus.keys().collect::<Vec<_>>());
    let largest = |values: &[f32]| values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let of_all = cpus.values().map(|values| largest(values)).fold(0.0, f32::max);
    for (name, cpus) in &cpus {
        let off: Vec<f32> = ours[name].iter().zip(cpus).map(|(a, b)| a - b).collect();
        let off = largest(&off) / of_all;
        eprintln!("{name}: {off:.1e}");
        assert!(off <= 3e-2 && !ours[name].iter().any(|x| x.is_nan()), "{name}: {off}");
    }
}

#[test]
fn a_checkpoint_moves_from_the_cpu_to_a_gpu_and_back() {
    let (moved, stayed) = (classifiers(), classifiers());
    let sets = [
        "teacher.weights=none.safetensors",
        "teacher.allow_random_weights=true",
        "schedule.epochs=1",
        "train.batch_size=8",
        "optim.lr=0.01",
    ];
    let mut start = Start::Anew;
    let mut devices = [&Device::Cpu, gpu(), &Device::Cpu, gpu()].into_iter().cycle();
    let mut interruptions = 0;
    while let Err(error) =
        moved.start_at(devices.next().expect("one of them"), "distilled.toml", &sets, start, true)
    {
        assert!(matches!(error, EngineError::Interrupted { .. }), "{error}");
        (start, interruptions) = (Start::Resume, interruptions + 1);
        assert!(interruptions < 10, "the run never ends");
    }
    assert!(interruptions >= 3, "{interruptions} interruptions");
    stayed.train("distilled.toml", &sets).unwrap();
    let [moved, stayed] = [&moved, &stayed].map(|folder| folder.path("runs/distilled"));
    // Three steps, each with the rounding of those before it.
    let tolerance = Tolerance { losses: 1e-3, weights: 1e-3, gradients: 1e-2 };
    assert_agree("moved", &moved, &stayed, tolerance);
}

#[test]
fn a_comparison_trains_teacher_and_students_on_a_gpu_and_evaluates_them() {
    let tiny = Tiny::new();
    let sets = ["schedule.steps=2", "schedule.milestones=[1]", "train.compare_alone=true"];
    let finished = tiny.start_at(gpu(), "distilled.toml", &sets, Start::Anew, false);
    let row = finished.unwrap_or_else(|error| panic!("{error}")).student.row;
    // Two steps find nothing; what was measured has a number.
    assert!(row.stats[0] >= 0.0, "{row:?}");
    for run in ["runs/teacher", "runs/distilled", "runs/distilled/alone"] {
        let losses = losses(&tiny.path(run));
        assert!(losses.len() >= 8 && losses.iter().all(|(_, loss)| loss.is_finite()), "{run}: {losses:?}");
    }
}

/// The host reads the losses of a GPU when the gradients are made.
#[test]
fn a_loss_that_is_not_finite_is_named_as_on_the_cpu_and_nothing_is_updated() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &["schedule.steps=1", "schedule.milestones=[1]"]).unwrap();
    let init = format!("student.init={}", spoiled(&tiny, "runs/plain", 3e38, "huge.safetensors"));
    let told = [gpu(), &Device::Cpu].map(|device| {
        let error = tiny.start_at(device, "plain.toml", &[&init], Start::Anew, false).unwrap_err();
        let EngineError::NonFinite { step, what, .. } = error else { panic!("{error}") };
        assert!(!tiny.path("runs/plain/last.safetensors").exists());
        (step, what)
    });
    assert_eq!(told[0], told[1]);
    assert!(told[0].0 == 0 && told[0].1.starts_with("the loss "), "{told:?}");
}

#[test]
fn a_gpu_that_is_full_says_what_was_asked_for_what_is_held_and_what_needs_less() {
    if std::env::var_os("CPU_CUDA_DIR").is_none() {
        eprintln!("NOT RUN: the stand-in alone has as little memory as it is told to");
        return;
    }
    let tiny = Tiny::new();
    let step = ["bench", "step", "quickstart_teacher", "--device", "cuda", "--size", "384x384"];
    let output = tiny.program(&step).env("CPU_CUDA_MEMORY", "80000000").output().unwrap();
    let wanted = ["out of GPU memory", "MiB were asked for", "of 76 MiB are free", "this program holds 7"];
    let keys = ["train.batch_size", "input.long_side_px", "engine.precision = \"bf16\"", "engine.recompute"];
    assert_ended(&output, 1, &[&wanted[..], &keys].concat());
}

/// The most bytes that a step of so many images selects: 20 of each proposal, or 12 of each anchor that is compared and of as
/// many that may be positives. It does not depend on the size of the images.
fn selected(config: &Config, images: u64) -> u64 {
    let proposals = config.detector.rpn.post_nms_top_n_train as u64;
    // Compared anchors of an image: the default.
    images * (20 * proposals).max(2 * 12 * 512)
}

#[test]
fn a_published_step_of_16_images_selects_less_than_a_mebibyte() {
    for recipe in ["coco_r101_r18", "coco_retinanet_r101_r50"] {
        let config = Config::load(recipe, &[]).unwrap().config;
        assert!(selected(&config, 16) <= 1 << 20, "{recipe}: {}", selected(&config, 16));
    }
}

/// Maps of a step here are 131 KB and more; what goes to the host has the size of the selection.
#[test]
fn a_step_copies_no_map_to_the_host_and_waits_three_times() {
    let tiny = Tiny::new();
    let workload = Workload {
        classes: 3,
        batch: 2,
        size: (128, 128),
        warmup: 0,
        steps: 2,
        is_traced: false,
        in_8_bits: false,
    };
    for (config, waits) in [("distilled.toml", 3), ("retina_distilled.toml", 3), ("fcos_distilled.toml", 3)] {
        let config: Config = tiny.load(config, &ONE_STEP).unwrap().config;
        let counts = workload.training_steps(&config, gpu()).unwrap().gpu;
        eprintln!("{}: {counts:?}", config.run.name);
        assert!(counts.launches > 100, "{counts:?}");
        assert!(counts.largest <= selected(&config, 2), "{}: {counts:?}", config.run.name);
        assert_eq!(counts.copies, waits * u64::from(workload.steps), "{}", config.run.name);
    }
}

#[test]
fn detection_copies_what_is_selected_and_no_more() {
    let tiny = Tiny::new();
    let workload = Workload {
        classes: 30,
        batch: 2,
        size: (128, 128),
        warmup: 0,
        steps: 1,
        is_traced: false,
        in_8_bits: false,
    };
    // All class logits of the dense heads: 82 KB and more.
    let few = ["detector.retina.topk_candidates=20", "detector.fcos.topk_candidates=20"];
    for config in ["plain.toml", "retina_plain.toml", "fcos_plain.toml"] {
        let config: Config = tiny.load(config, &few).unwrap().config;
        let counts = workload.inference(&config, Inference::Student, gpu()).unwrap().gpu;
        eprintln!("{}: {counts:?}", config.run.name);
        assert!((1..=3).contains(&counts.copies) && counts.largest <= 24 << 10, "{counts:?}");
    }
}
