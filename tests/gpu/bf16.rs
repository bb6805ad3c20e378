//! Steps with maps of bf16 beside those with maps of f32, on one GPU.
//!
//! Rounding moves a gradient as much as PyTorch's autocast does: of a ResNet-18 with its pyramid, of initial weights on two
//! images of 64 pixels, autocast's has a cosine of 0.87 to 0.92 with that in f32.

use std::path::Path;

use ckd_det::engine::job::Start;
use ckd_det::engine::task::Settings;

use super::{ONE_STEP, checkpoint, classifiers, cohorts, gpu, losses};
use crate::distill_runs::{faster, fcos, retina};
use crate::pretrain::Small;
use crate::support::tiny::{Folder, Tiny};

const BF16: &str = "engine.precision=bf16";

/// How far a run with maps of bf16 is from one with maps of f32.
struct Distance {
    /// Largest difference of a loss, relative to the loss or 0.1, and which it is.
    loss: (f64, String),
    /// Cosine of all gradients of one step.
    cosine: f64,
}

/// Runs one step of `config` in both precisions, each in a folder of its own.
#[track_caller]
fn distance<C: Settings>(
    made: impl Fn() -> Folder<C>,
    (config, name): (&str, &str),
    sets: &[&str],
) -> Distance {
    let [narrow, wide] = [BF16, "engine.precision=f32"].map(|precision| {
        let folder = made();
        let sets = [sets, &[precision]].concat();
        let run = folder.start_at(gpu(), config, &sets, Start::Anew, false);
        run.unwrap_or_else(|error| panic!("{config}: {error}"));
        let run = folder.path(&format!("runs/{name}"));
        (losses(&run), gradients(&run))
    });
    let (losses, of_f32) = (narrow.0, wide.0);
    assert!(!losses.is_empty() && losses.len() == of_f32.len(), "{losses:?}, {of_f32:?}");
    let mut loss = (0.0, String::new());
    for ((name, narrow), (_, wide)) in losses.into_iter().zip(of_f32) {
        let off = (narrow - wide).abs() / wide.abs().max(0.1);
        assert!(off.is_finite(), "{name}: {narrow}, {wide}");
        if off > loss.0 {
            loss = (off, format!("{name}: {narrow}, {wide}"));
        }
    }
    let found = Distance { loss, cosine: cosine(&narrow.1, &wide.1) };
    eprintln!("{name} {sets:?}: {:.1e} ({}), cosine {:.4}", found.loss.0, found.loss.1, found.cosine);
    found
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The optimiser's state after one step: the gradients.
fn gradients(run: &Path) -> Vec<f32> {
    let state = checkpoint(run).into_iter().filter(|(name, _)| !name.starts_with("model/"));
    state.flat_map(|(_, numbers)| numbers).collect()
}

#[test]
fn a_step_of_each_detector_follows_that_in_f32() {
    for name in ["distilled", "retina_distilled", "fcos_distilled"] {
        let found = distance(Tiny::new, (&format!("{name}.toml"), name), &ONE_STEP);
        assert!(found.loss.0 < 0.03 && found.cosine > 0.87, "{name}: {:?} {}", found.loss, found.cosine);
    }
}

#[test]
fn every_method_takes_maps_of_bf16() {
    let configs: [(fn(&Tiny) -> &'static str, &str); 3] =
        [(faster, "every"), (retina, "retina_every"), (fcos, "fcos_every")];
    for (config, name) in configs {
        let made = || {
            let tiny = Tiny::new();
            config(&tiny);
            tiny
        };
        let found = distance(
            made,
            (&format!("{name}.toml"), name),
            &["schedule.steps=1", "schedule.milestones=[1]", "train.share_steps=1"],
        );
        assert!(found.loss.0 < 0.15 && found.cosine > 0.8, "{name}: {:?} {}", found.loss, found.cosine);
    }
}

#[test]
fn a_classifiers_and_a_cohorts_step_follow_those_in_f32() {
    let sets = [
        "teacher.weights=none.safetensors",
        "teacher.allow_random_weights=true",
        "schedule.epochs=1",
        "train.batch_size=28",
    ];
    let found = distance(classifiers, ("distilled.toml", "distilled"), &sets);
    assert!(found.loss.0 < 0.01 && found.cosine > 0.99, "{:?} {}", found.loss, found.cosine);
    for method in ["mcl", "l_mcl"] {
        let method = format!("cohort.method={method}");
        let sets = ["schedule.steps=1", "train.eval_every=1", "schedule.warmup_steps=0", &method];
        let found = distance(cohorts, ("cohort.toml", "cohort"), &sets);
        assert!(found.loss.0 < 0.03 && found.cosine > 0.99, "{method}: {:?} {}", found.loss, found.cosine);
    }
}

#[test]
fn a_backbones_step_without_labels_follows_that_in_f32() {
    let made = || {
        let small = Small::new();
        let teacher = small.path("teacher.safetensors").display().to_string();
        small.write("bf16.toml", &format!("extends = \"base.toml\"\n[teacher]\nweights = \"{teacher}\"\n"));
        small
    };
    let sets = ["schedule.epochs=1", "train.batch_size=16", "train.share_steps=1"];
    let found = distance(made, ("bf16.toml", "bf16"), &sets);
    assert!(found.loss.0 < 0.01 && found.cosine > 0.99, "{:?} {}", found.loss, found.cosine);
}

#[test]
fn maps_of_bf16_are_computed_again() {
    let run = |recompute: &str| {
        let tiny = Tiny::new();
        let sets = [&ONE_STEP[..], &[BF16, recompute]].concat();
        tiny.start_at(gpu(), "distilled.toml", &sets, Start::Anew, false).unwrap();
        gradients(&tiny.path("runs/distilled"))
    };
    let (kept, again) = (run("engine.recompute=[]"), run("engine.recompute=[\"layer1\", \"layer3\"]"));
    let cosine = cosine(&kept, &again);
    assert!(cosine > 0.999, "{cosine}");
}

#[test]
fn a_resumed_run_in_bf16_is_the_uninterrupted_one() {
    let sets = [&ONE_STEP[..2], &["schedule.steps=2", "schedule.milestones=[1]", BF16]].concat();
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.start_at(gpu(), "distilled.toml", &sets, Start::Anew, false).unwrap();
    let mut start = Start::Anew;
    while resumed.start_at(gpu(), "distilled.toml", &sets, start, true).is_err() {
        start = Start::Resume;
    }
    let run = |tiny: &Tiny| checkpoint(&tiny.path("runs/distilled"));
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    for (name, numbers) in run(&whole) {
        assert_eq!(bits(&numbers), bits(&run(&resumed)[&name]), "{name}");
    }
}

/// Weights, gradients and momentum stay f32: what grows with the images is nearly halved. A process each, since the most that
/// was ever held is told.
#[test]
fn maps_of_a_step_in_bf16_take_half_the_memory() {
    let tiny = Tiny::new();
    let held = |precision: &str, size: &str| {
        let step = "bench step quickstart_teacher --device cuda --json --steps 1 --warmup 0 --size SIZE --set PRECISION";
        let step = step.replace("SIZE", size).replace("PRECISION", precision);
        let args: Vec<&str> = step.split(' ').collect();
        let output = tiny.run_program(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["peak_gpu_mib"].as_f64().unwrap()
    };
    let growth = |precision| held(precision, "384x384") - held(precision, "192x192");
    let (narrow, wide) = (growth(BF16), growth("engine.precision=f32"));
    eprintln!("{narrow:.1} MiB in bf16, {wide:.1} in f32");
    assert!(narrow < 0.6 * wide, "{narrow:.1} MiB in bf16, {wide:.1} in f32");
}
