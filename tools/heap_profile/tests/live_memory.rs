//! The memory that a training has in use, to the byte, over its steps. A binary of its own, since it counts every
//! allocation of the process.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use ckd_det::Training;
use ckd_det::config::Experiment;
use ckd_det::engine::Result;
use ckd_det::engine::observer::{Observer, Step};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const DETECTION: &str = r#"
seed = 3
train = { batch_size = 2, eval_every = 10, checkpoint_every = 20 }
optim = { lr = 0.002 }
schedule = { steps = 120, kind = "constant" }
input = { short_side_px = [64], long_side_px = 64 }
[data]
kind = "synth"
synth = { images_train = 8, images_val = 2, image_size_px = 64, classes = 3 }
[detector]
architecture = "faster_rcnn"
fpn_channels = 16
anchor_sizes = [[8.0], [16.0], [32.0], [64.0], [128.0]]
roi = { batch_per_image = 16 }
[detector.rpn]
pre_nms_top_n_train = 60
post_nms_top_n_train = 30
pre_nms_top_n_test = 40
post_nms_top_n_test = 20
batch_per_image = 16
[student]
backbone = "resnet18"
width = 8
norm = "bn"
"#;

const DISTILLED: &str = r#"
[teacher]
backbone = "resnet18"
width = 16
norm = "bn"
train = { schedule.steps = 2 }
[[distill]]
method = "ckd"
at = "roi_logits"
weight = 0.5
[[distill]]
method = "rcka"
levels = ["p2", "p3"]
weight = 1.0
patch = 4
"#;

const CIFAR: &str = r#"
seed = 3
train = { batch_size = 8, eval_every = 10, checkpoint_every = 20 }
data = { kind = "cifar10" }
optim = { lr = 0.01 }
schedule = { steps = 120, kind = "cosine" }
"#;

const CLASSIFIER: &str = "task = \"classify\"\nstudent = { network = \"resnet8\" }\n";

const COHORT: &str = "task = \"cohort\"\npeer = [{ network = \"resnet8\" }, { network = \"resnet8\" }]\n\
    cohort = { method = \"mcl\", width = 16 }\n";

/// Bytes of the pixels of a batch: 2 images of 64 x 64, or 8 of 32 x 32.
const BATCH: isize = 2 * 64 * 64 * 3 * 4;

/// Bytes in use after each step.
#[derive(Default)]
struct InUse(RefCell<Vec<usize>>);

impl Observer for InUse {
    fn step(&self, _: &Step<'_>) -> Result<()> {
        self.0.borrow_mut().push(dhat::HeapStats::get().curr_bytes);
        Ok(())
    }
}

/// CIFAR-10's binary form.
fn write_cifar(root: &Path) {
    fs::create_dir_all(root).unwrap();
    for file in (1..=5).map(|batch| format!("data_batch_{batch}.bin")).chain(["test_batch.bin".to_owned()]) {
        let rows = (0..8_u8).flat_map(|label| {
            (0..=3072_u32).map(move |place| if place == 0 { label } else { label.wrapping_mul(place as u8) })
        });
        fs::write(root.join(file), rows.collect::<Vec<u8>>()).unwrap();
    }
}

/// The least memory in use between two steps, since batches that wait come and go.
fn least(in_use: &[usize], from: usize, to: usize) -> usize {
    in_use[from..to].iter().copied().min().unwrap()
}

#[test]
fn the_memory_in_use_does_not_grow_over_the_steps_of_any_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let sets = [format!("output={:?}", path("runs")), format!("data.root={:?}", path("data"))];
    write_cifar(&folder.path().join("data/cifar-10-batches-bin"));
    let _counting = dhat::Profiler::builder().testing().trim_backtraces(Some(4)).build();
    for (name, text) in [
        ("detection", [DETECTION, DISTILLED].concat()),
        ("classification", [CLASSIFIER, CIFAR].concat()),
        ("cohort", [COHORT, CIFAR].concat()),
    ] {
        let file = folder.path().join(format!("{name}.toml"));
        fs::write(&file, format!("name = \"{name}\"\n{text}")).unwrap();
        let in_use = InUse::default();
        match Experiment::load(&file, &sets).unwrap() {
            Experiment::Detect(loaded) => drop(Training::of(*loaded).observer(&in_use).run().unwrap()),
            Experiment::Classify(loaded) => drop(Training::of(*loaded).observer(&in_use).run().unwrap()),
            Experiment::Cohort(loaded) => drop(Training::of(*loaded).observer(&in_use).run().unwrap()),
            Experiment::Pretrain(loaded) => drop(Training::of(*loaded).observer(&in_use).run().unwrap()),
        }
        let in_use = in_use.0.into_inner();
        let steps = &in_use[in_use.len() - 120..];
        let (earlier, later) = (least(steps, 40, 80), least(steps, 80, 120));
        // Up to three batches more or fewer may wait at the best of times.
        let grown = later.cast_signed() - earlier.cast_signed();
        let waiting =
            (-3..=3).map(|batches| batches * BATCH).min_by_key(|size| (grown - size).abs()).unwrap();
        assert!(
            (grown - waiting).abs() < 4096,
            "{name}: {earlier} bytes were in use at best after steps 41 to 80, {later} after steps 81 to 120"
        );
    }
}
