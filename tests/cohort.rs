//! Cohorts as a user meets them: networks that train together by MCL and L-MCL, resumed, measured, exported, compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::colours;
use crate::support::mpi::assert_jobs_are_one_process;
use crate::support::tiny::{
    Folder, assert_ended, assert_mentions, assert_same_tensors, log, metadata, names, tensors,
};
use candle_core::{Device, Tensor};
use ckd_det::config::CohortConfig;
use ckd_det::distill::meta::MetaGradient;
use ckd_det::engine::EngineError;
use ckd_det::engine::classify::ClassifierCard;
use ckd_det::engine::cohort::{Cohort, CohortSets, MetaBatch, meta_event};
use ckd_det::engine::experiment::Finished;
use ckd_det::engine::job::Start;
use ckd_det::engine::task::Task;
use ckd_det::report::cohort_table::CohortRow;
use ckd_det::report::table::Row;
use ckd_det::weights::WeightsFile;
use ckd_detectors::images::Images;
use ckd_detectors::param::ParamStore;
use ckd_golden::{Case, Golden, value};

pub(crate) const BASE: &str = r#"
task = "cohort"
seed = 3

[data]
kind = "cifar10"
root = "data"
order = "class_pairs"

[[peer]]
network = "resnet8"

[[peer]]
network = "resnet8"

[cohort]
method = "mcl"
width = 16

[optim]
lr = 0.05
nesterov = true
weight_decay = 5e-4

[schedule]
steps = 4
kind = "cosine"
warmup_steps = 2

[train]
batch_size = 8
log_every = 1
eval_every = 2

[eval]
batch_size = 7
"#;

/// Settings of the tests that resume, by the name of what they are about.
const METHODS: [(&str, &[&str]); 4] = [
    ("mcl", &["cohort.method=mcl", "train.accumulate=2"]),
    ("mcl with a memory", &["cohort.method=mcl", "cohort.bank.negatives=5"]),
    ("l_mcl", &["cohort.method=l_mcl", "cohort.layers.meta_every=2"]),
    (
        "l_mcl with a memory",
        &["cohort.method=l_mcl", "cohort.layers.meta_every=2", "cohort.bank.negatives=5"],
    ),
];

/// A folder with the coloured images and `cohort.toml`.
type Small = Folder<CohortConfig>;

impl Small {
    fn new() -> Self {
        let small = Self::empty();
        colours::write(&small.path("data"));
        small.write("cohort.toml", BASE);
        small
    }

    fn trained(&self, sets: &[&str]) -> Finished<CohortRow> {
        self.train("cohort.toml", sets).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self, sets: &[&str]) -> String {
        match self.train("cohort.toml", sets) {
            Ok(_) => panic!("{sets:?} was taken"),
            Err(error) => error.to_string(),
        }
    }

    /// The cohort before its first step, and its data.
    fn cohort(&self, sets: &[&str]) -> (CohortConfig, CohortSets, Cohort) {
        let loaded = self.load("cohort.toml", sets).unwrap();
        let task = CohortSets::gather(&loaded).unwrap().task;
        let cohort = task.student(&loaded.config, &Device::Cpu).unwrap();
        (loaded.config, task, cohort)
    }
}

/// The newest checkpoint of a run.
fn checkpoint(run: &Path) -> PathBuf {
    let folder = run.join("checkpoints");
    folder.join(names(&folder).pop().expect("a checkpoint"))
}

#[track_caller]
fn assert_same_cohort(a: &Path, b: &Path, about: &str) {
    for file in ["peer0/last", "peer1/last", "peer0/best", "peer1/best"] {
        let of = |run: &Path| run.join(format!("{file}.safetensors"));
        assert_same_tensors(&of(a), &of(b));
    }
    let (ours, theirs) = (checkpoint(a), checkpoint(b));
    assert_eq!(ours.file_name(), theirs.file_name());
    assert_same_tensors(&ours, &theirs);
    let state = |path: &Path| {
        let mut state: serde_json::Value =
            serde_json::from_str(&metadata(path)["ckd_det.train_state"]).unwrap();
        // The settings name the run's folder.
        state["config"] = serde_json::Value::Null;
        state
    };
    assert_eq!(state(&ours), state(&theirs), "{about}: step, threads, the best of all");
    assert_eq!(log(a), log(b), "{about}");
}

/// Images of noise in [0, 1], `side` pixels high and wide.
pub(crate) fn noise(count: usize, side: usize) -> Images {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let values: Vec<f32> = (0..count * side * side * 3).map(|_| next()).collect();
    let pixels = Tensor::from_vec(values, (count, side, side, 3), &Device::Cpu).unwrap();
    Images { pixels: pixels.permute((0, 3, 1, 2)).unwrap(), sizes: vec![(side, side); count] }
}

/// Every tensor of the cohort, bit by bit.
fn bits(cohort: &Cohort) -> BTreeMap<String, Vec<u32>> {
    let networks = CohortSets::networks(cohort);
    let stores = networks.iter().map(|network| network.params).chain(CohortSets::beside(cohort));
    let of = |tensor: &Tensor| -> Vec<u32> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    stores
        .flat_map(|store| store.iter())
        .map(|(name, param)| (name.to_string(), of(param.value.tensor())))
        .collect()
}

#[test]
fn resumed_equals_uninterrupted_bit_for_bit_networks_heads_phi_and_memories() {
    for (about, sets) in METHODS {
        let (whole, resumed) = (Small::new(), Small::new());
        whole.trained(sets);
        let mut start = Start::Anew;
        let mut interruptions = 0;
        while let Err(error) = resumed.start("cohort.toml", sets, start, true) {
            assert!(matches!(error, EngineError::Interrupted { .. }), "{about}: {error}");
            (start, interruptions) = (Start::Resume, interruptions + 1);
        }
        // After each step, and after an evaluation in the middle.
        assert_eq!(interruptions, 5, "{about}");
        assert_same_cohort(&whole.path("runs/cohort"), &resumed.path("runs/cohort"), about);
        let held = tensors(&checkpoint(&resumed.path("runs/cohort")));
        let holds = |part: &str| held.keys().any(|name| name.starts_with(part));
        assert!(holds("model/peer.1.") && holds("velocity/heads.0.embed."), "{about}");
        assert_eq!(holds("model/memory.1.rows"), about.contains("memory"), "{about}");
        assert_eq!(holds("velocity/match.1.2."), about.starts_with("l_mcl"), "{about}");
        assert_eq!(holds("velocity/heads.1.branch.2."), about.starts_with("l_mcl"), "{about}");
        let before = fs::read(resumed.path("runs/cohort/log.jsonl")).unwrap();
        resumed.start("cohort.toml", sets, Start::Resume, false).unwrap();
        assert_eq!(
            fs::read(resumed.path("runs/cohort/log.jsonl")).unwrap(),
            before,
            "nothing was left to do"
        );
    }
}

#[test]
fn two_processes_are_one_that_accumulates_two_batches_memories_and_meta_steps_included() {
    for (about, sets) in METHODS {
        let sets: Vec<&str> = sets.iter().copied().filter(|set| !set.contains("accumulate")).collect();
        let from = if about.contains("memory") { "part" } else { "update" };
        let from = format!("cohort.negatives_from={from}");
        let sets = [&sets[..], &["train.accumulate=2", "schedule.steps=4", &from]].concat();
        let (alone, shared) = (Small::new(), Small::new());
        alone.trained(&sets);
        shared.train_on(2, "cohort.toml", &sets).unwrap();
        assert_same_cohort(&alone.path("runs/cohort"), &shared.path("runs/cohort"), about);
    }
}

#[test]
fn under_mpirun_a_cohort_is_trained_as_by_one_process() {
    for (about, sets) in METHODS {
        let sets: Vec<&str> = sets.iter().copied().filter(|set| !set.contains("accumulate")).collect();
        let sets = [&sets[..], &["train.accumulate=4", "train.batch_size=4"]].concat();
        let ranks: &[usize] = if about.starts_with("l_mcl") { &[2] } else { &[2, 4] };
        let same = |one: &Path, shared: &Path| {
            assert_same_cohort(&one.join("cohort"), &shared.join("cohort"), about);
        };
        assert_jobs_are_one_process(Small::new, ("cohort.toml", &sets), ranks, same);
    }
}

#[test]
fn without_anything_to_learn_from_each_other_a_network_trains_as_if_it_were_alone() {
    let small = Small::new();
    let off = ["cohort.alpha=0", "cohort.beta=0", "cohort.gamma=0", "cohort.lambda=0"];
    let with = |sets: &[&str]| {
        small.trained(sets);
        tensors(&small.path("runs/cohort/peer0/last.safetensors"))
    };
    let equal = with(&off);
    let other = with(&[off.as_slice(), &["peer.1.network=resnet14"]].concat());
    assert!(equal == other, "another network beside it changed it");
    assert!(with(&[]) != other, "what it learned from the other changed nothing");
    let steps = log(&small.path("runs/cohort"));
    for name in ["mcl/vcl", "mcl/icl", "mcl/soft_vcl", "mcl/soft_icl", "loss_classifier/peer1"] {
        assert!(steps[0]["losses"][name].as_f64() > Some(0.0), "{name}: {}", steps[0]);
    }
}

#[test]
fn networks_of_different_kinds_learn_from_each_other_layer_by_layer() {
    let small = Small::new();
    let sets = ["cohort.method=l_mcl", "peer.1.network=wrn_16_1", "schedule.steps=1", "train.eval_every=1"];
    let finished = small.trained(&sets);
    assert_mentions(&finished.student.row.table(&[]), &["peer0 (resnet8)", "peer1 (wrn_16_1)", "mean of 2"]);
    let steps = log(&small.path("runs/cohort"));
    let names = [
        "l_mcl/vcl",
        "l_mcl/soft_icl",
        "loss_classifier/peer1/stage1",
        "loss_classifier/peer1",
        "loss_aggregated/peer0",
        "kd/peer0/peer1",
        "kd/peer1/peer1",
    ];
    for name in names {
        assert!(steps[0]["losses"][name].as_f64() > Some(0.0), "{name}: {}", steps[0]);
    }
}

#[test]
fn with_logit_kd_mcls_networks_also_learn_from_the_mean_of_their_logits() {
    let small = Small::new();
    let first_losses = |weight: &str| {
        small.trained(&["schedule.steps=1", "train.eval_every=1", &format!("cohort.logit_kd={weight}")]);
        log(&small.path("runs/cohort"))[0]["losses"].clone()
    };
    let [none, once, twice] = ["0", "1", "2"].map(first_losses);
    for peer in ["kd/mean/peer0", "kd/mean/peer1"] {
        let [once, twice] = [&once, &twice].map(|losses| losses[peer].as_f64().expect("a loss"));
        assert!(none.get(peer).is_none() && once > 0.0, "{peer}: {once}");
        assert!((twice - 2.0 * once).abs() < 1e-5 * twice, "{peer}: {once}, then {twice}");
    }
    assert_eq!(none["mcl/icl"], once["mcl/icl"]);
    let other = small.error(&["cohort.method=l_mcl", "cohort.logit_kd=1"]);
    assert_mentions(&other, &["cohort.logit_kd", "aggregated teachers", "method = \"mcl\""]);
}

/// With the statistics of all parts and the negatives of all parts, nothing tells two parts from one batch of both.
#[test]
fn with_negatives_from_the_update_two_processes_contrast_as_one_with_the_whole_batch() {
    let (whole, shared) = (Small::new(), Small::new());
    let sets = ["data.order=shuffled", "schedule.steps=2", "cohort.negatives_from=update"];
    whole.trained(&sets);
    let parts = ["train.sync_bn=true", "train.accumulate=2", "train.batch_size=4"];
    shared.train_on(2, "cohort.toml", &[&sets[..], &parts].concat()).unwrap();
    let losses = |small: &Small| log(&small.path("runs/cohort"))[0]["losses"].clone();
    let (one, two) = (losses(&whole), losses(&shared));
    for term in ["loss_classifier/peer0", "mcl/vcl", "mcl/icl", "mcl/soft_vcl", "mcl/soft_icl"] {
        let [one, two] = [&one, &two].map(|losses| losses[term].as_f64().expect(term));
        assert!(one > 0.0 && (one - two).abs() < 2e-5 * one.max(0.1), "{term}: {one} {two}");
    }
    let both = whole.error(&["cohort.negatives_from=update", "cohort.bank.negatives=5"]);
    assert_mentions(&both, &["cohort.negatives_from", "[cohort.bank]", "leave one of them out"]);
}

#[test]
fn a_meta_event_changes_phi_alone() {
    let small = Small::new();
    let run = |every: &str| {
        let every = format!("cohort.layers.meta_every={every}");
        small.trained(&["cohort.method=l_mcl", "schedule.steps=2", &every]);
        tensors(&checkpoint(&small.path("runs/cohort")))
    };
    // The event comes after the last update.
    let (with, without) = (run("2"), run("0"));
    assert_eq!(with.keys().collect::<Vec<_>>(), without.keys().collect::<Vec<_>>());
    for (name, tensor) in &with {
        let is_phi = name.starts_with("model/match.") || name.starts_with("velocity/match.");
        assert!(is_phi || *tensor == without[name], "{name} is not as it was");
        assert!(!name.ends_with(".weight") || !is_phi || *tensor != without[name], "{name} did not learn");
    }
}

#[test]
fn without_the_soft_terms_the_meta_gradient_is_the_slope_of_what_the_virtual_updates_lead_to() {
    let small = Small::new();
    let sets = ["cohort.method=l_mcl", "cohort.gamma=0", "cohort.lambda=0"];
    // With 3 rows of the memories for each image, and without.
    for drawn in [vec![], (0..48).map(|at| at % 20).collect()] {
        let bank = (!drawn.is_empty()).then_some("cohort.bank.negatives=1");
        assert_slope(small.cohort(&sets.into_iter().chain(bank).collect::<Vec<_>>()), &drawn);
    }
}

#[track_caller]
fn assert_slope((config, _, cohort): (CohortConfig, CohortSets, Cohort), drawn: &[u32]) {
    // Noise: with images of one colour, batch norms divide by next to nothing, and the loss is all rounding and kinks.
    let (images, labels) = (noise(16, 16), (0..16).map(|image| image / 2).collect::<Vec<u32>>());
    let batch = MetaBatch { images: &images, labels: &labels, drawn };
    let at = || meta_event(&config, &cohort, batch, 0.01).unwrap();
    let before = bits(&cohort);
    let found = at();
    assert!(bits(&cohort) == before, "networks, statistics, heads and phi are as they were");
    assert_eq!(found.phi.len(), 12, "a weight and a bias for each of three layers of two networks");

    // Along the gradient itself, where the slope is its length, but for the kinks that the differences here step across.
    let phi = CohortSets::beside(&cohort).into_iter().find(|store| store.get("match.0.0.weight").is_some());
    let phi = phi.expect("the store of phi");
    let square = |x: &Tensor| f64::from(x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
    let length = found.phi.values().map(square).sum::<f64>().sqrt();
    let own: BTreeMap<_, Tensor> =
        phi.trainable().map(|(name, tensor)| (name.clone(), tensor.copy().unwrap())).collect();
    let moved = |by: f64| {
        for (name, tensor) in &own {
            let step = found.phi[name].affine(by / length, 0.0).unwrap();
            phi.set(name, &(tensor + step).unwrap()).unwrap();
        }
        at().loss
    };
    let step = 0.03;
    let slope = (moved(step) - moved(-step)) / (2.0 * step);
    assert!((slope - length).abs() < 0.05 * length, "slope {slope}, gradient {length}");
}

/// ResNet-8 beside ResNet-14 against an unroll in float64 (`tools/golden/meta_gradients.py`). Where pre-activations come
/// near 0, float32 moves some across it, whoever computes: there PyTorch's float32 is the measure, in the least near of three ways.
#[test]
fn the_meta_gradient_of_networks_with_relus_is_near_to_a_float64_unroll() {
    let golden = Golden::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/meta"));
    let mut wrong = Vec::new();
    for case in golden.cases_with_prefix("") {
        let found = of_golden_weights(&golden, &case);
        let loss = case.attr_f64("loss");
        assert!((found.loss - loss).abs() < 1e-4 * loss, "{}: F {} for {loss}", case.name, found.loss);
        assert_eq!(found.phi.len(), 12, "every weight and bias of the layer matching");
        let error_of = |keys: &[&str]| -> f64 {
            let (mut off, mut length) = (0.0, 0.0);
            for &key in keys {
                let got = found.phi[key].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (a, b) in got.iter().zip(&case.f32(key).0) {
                    off += f64::from(a - b).powi(2);
                    length += f64::from(*b).powi(2);
                }
            }
            (off / length).sqrt()
        };
        let torch = case.attrs["torch_errors"].as_array().expect("errors").iter();
        let torch = torch.map(|error| error.as_f64().expect("an error")).fold(0.0, f64::max);
        // Of all weights together, and of each.
        let [most, most_of_one] =
            if case.name.starts_with("away/") { [1e-3; 2] } else { [torch, 1.5 * torch] };
        let keys = case.outputs();
        let error = error_of(&keys);
        if error > most {
            wrong.push(format!("{}: error {error:.2e}, more than {most:.2e}", case.name));
        }
        for key in keys {
            let error = error_of(&[key]);
            if error > most_of_one {
                wrong.push(format!("{}: {key}: error {error:.2e}, more than {most_of_one:.2e}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Meta event of a golden case: its weights, images and memories in a cohort.
fn of_golden_weights(golden: &Golden, case: &Case<'_>) -> MetaGradient {
    let settings = &golden.index()["settings"];
    let count = |key: &str| settings[key].as_u64().expect(key) as usize;
    let flag = |key: &str| case.attrs[key].as_bool().expect(key);
    let (images, side) = (case.attr_usize("images"), case.attr_usize("side"));
    let mut sets = vec![
        "cohort.method=l_mcl".to_owned(),
        "peer.1.network=resnet14".to_owned(),
        format!("cohort.width={}", count("width")),
        format!("cohort.layers.meta_steps={}", case.attr_usize("steps")),
        "normalization.mean=[0.0,0.0,0.0]".to_owned(),
        "normalization.std=[1.0,1.0,1.0]".to_owned(),
    ];
    let columns = count("columns");
    if flag("remembered") {
        sets.push(format!("cohort.bank.negatives={}", columns - 2));
    }
    let small = Small::new();
    let (config, _, cohort) = small.cohort(&sets.iter().map(String::as_str).collect::<Vec<_>>());
    let stores = CohortSets::networks(&cohort).into_iter().map(|network| network.params);
    let stores: Vec<&ParamStore> = stores.chain(CohortSets::beside(&cohort)).collect();
    let moved: BTreeMap<&str, (&ParamStore, Vec<usize>)> = stores
        .iter()
        .flat_map(|store| store.trainable().map(|(name, t)| (&**name, (*store, t.dims().to_vec()))))
        .filter(|(name, _)| !name.starts_with("aggregate."))
        .collect();
    let filled = |stream: u64, shape: &[usize], of: &dyn Fn(f64) -> f64| {
        let all = 0..shape.iter().product::<usize>() as u64;
        let values: Vec<f32> = all.map(|index| of(value(stream, index)) as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    for (stream, (name, (store, shape))) in (1000..).zip(&moved) {
        store.set(name, &filled(stream, shape, &|v| golden_weight(name, shape, v))).unwrap();
    }
    let images = Images {
        pixels: filled(case.attr_usize("stream") as u64, &[images, 3, side, side], &|v| v),
        sizes: vec![(side, side); images],
    };
    let mut drawn = Vec::new();
    if flag("remembered") {
        let rows = count("remembered");
        for (peer, stream) in [(0, 2), (1, 3)] {
            let name = format!("memory.{peer}.rows");
            let store = stores.iter().find(|store| store.get(&name).is_some()).expect("a memory");
            let width = count("width");
            let at = |row: usize, column: usize| value(stream, (row * width + column) as u64);
            let unit = |row: usize| {
                let length = (0..width).map(|column| at(row, column).powi(2)).sum::<f64>().sqrt();
                (0..width).map(move |column| (at(row, column) / length) as f32).collect::<Vec<_>>()
            };
            let values: Vec<f32> = (0..rows).flat_map(unit).collect();
            store.set(&name, &Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()).unwrap();
        }
        for image in 0..images.sizes.len() {
            drawn.extend((0..columns).map(|column| ((5 * image + 11 * column) % rows) as u32));
        }
    }
    let labels: Vec<u32> =
        (0..images.sizes.len() as u32).map(|image| image % case.attr_usize("classes") as u32).collect();
    let batch = MetaBatch { images: &images, labels: &labels, drawn: &drawn };
    meta_event(&config, &cohort, batch, case.attr_f64("lr")).unwrap()
}

/// Weight of a golden case from a number of the generator in [-1, 1).
fn golden_weight(name: &str, shape: &[usize], v: f64) -> f64 {
    if shape.len() > 1 {
        v / (shape[1..].iter().product::<usize>() as f64).sqrt()
    } else if name.ends_with("weight") {
        1.0 + 0.1 * v
    } else {
        0.1 * v
    }
}

#[test]
fn every_network_is_reported_last_and_best_and_their_mean() {
    let small = Small::new();
    let finished = small.trained(&["schedule.steps=6", "peer.1.network=resnet14"]);
    let row = &finished.student.row;
    assert_eq!(
        row.peers.iter().map(|peer| &*peer.name).collect::<Vec<_>>(),
        ["peer0 (resnet8)", "peer1 (resnet14)"]
    );
    assert!((row.mean.top1 - (row.peers[0].top1 + row.peers[1].top1) / 2.0).abs() < 1e-12);
    assert_eq!(row.of_several().as_deref(), Some("mean of 2 peers"));
    let evaluations: Vec<serde_json::Value> =
        log(&small.path("runs/cohort")).into_iter().filter(|line| line["eval"].is_object()).collect();
    assert_eq!(evaluations.len(), 3);
    for (index, own) in finished.student.networks.iter().enumerate() {
        let of = |line: &serde_json::Value| line["eval"]["peers"][index]["top1"].as_f64().expect("a number");
        assert_eq!(row.peers[index].top1, of(&evaluations[2]), "the last, not the best");
        assert_eq!(own.best.score, evaluations.iter().map(of).fold(0.0, f64::max));
        assert_eq!(own.folder, format!("peer{index}"));
        assert!(own.eval["ece"].is_number() && own.eval["top5"].is_number());
    }
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(small.path("runs/cohort/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["student"]["row"]["peers"][1]["top1"].as_f64(), Some(row.peers[1].top1));
    assert_eq!(summary["student"]["networks"][0]["folder"], "peer0");
    assert_eq!(names(&small.path("runs/cohort/peer1")), ["best.safetensors", "last.safetensors"]);
}

#[test]
fn a_networks_file_is_an_ordinary_classifiers_that_is_measured_used_and_exported() {
    let small = Small::new();
    let finished = small.trained(&[
        "cohort.method=l_mcl",
        "peer.1.network=resnet14",
        "schedule.steps=1",
        "train.eval_every=1",
    ]);
    let path = small.path("runs/cohort/peer1/last.safetensors");
    let file = WeightsFile::read(&path).unwrap();
    assert!(file.tensors.contains_key("layer1.1.conv1.weight") && file.tensors.contains_key("fc.bias"));
    let parts = ["peer.", "heads.", "match.", "aggregate.", "memory."];
    let has_part = |name: &String| parts.iter().any(|part| name.contains(part));
    assert!(!file.tensors.keys().any(has_part), "{:?}", file.tensors.keys());
    let card = ClassifierCard::of(&file).unwrap().expect("a card");
    assert_eq!(
        (card.config.student.network.name(), card.config.run.name.as_str()),
        ("resnet14", "cohort_peer1")
    );
    card.network(&file, &Device::Cpu).unwrap();

    let measured =
        small.run_program(&["eval", "--run", "runs/cohort/peer1", "--data-root", "data", "--json"]);
    assert_ended(&measured, 0, &[]);
    let measured: serde_json::Value = serde_json::from_slice(&measured.stdout).expect("one JSON object");
    assert_eq!(measured["top1"].as_f64(), Some(finished.student.row.peers[1].top1));
    assert_ended(
        &small.run_program(&["eval", "--run", "runs/cohort"]),
        2,
        &["a cohort's run", "--run runs/cohort/peer0"],
    );
    let picture = image::RgbImage::from_pixel(50, 40, image::Rgb([200, 60, 30]));
    picture.save(small.path("red.png")).unwrap();
    let weights = path.to_str().unwrap();
    assert_ended(&small.run_program(&["predict", "--weights", weights, "red.png"]), 0, &["red.png: "]);
    let export = ["export", "--weights", weights, "--data-root", "data", "--out", "peer.onnx"];
    assert_ended(&small.run_program(&export), 0, &["compared on 20 held-out images"]);
}

#[test]
fn the_program_trains_compares_and_lists_cohorts() {
    let small = Small::new();
    let sets = ["--set", "schedule.steps=2", "--quiet"];
    let trained = small.run_program(&[["train", "cohort.toml"].as_slice(), &sets].concat());
    assert_ended(
        &trained,
        0,
        &["peer0 (resnet8)", "peer1 (resnet8)", "mean of 2", "best top-1", "runs/cohort"],
    );
    let compare = ["compare", "cohort.toml", "--seeds", "0,1", "--out", "table"];
    let compared = small.run_program(&[compare.as_slice(), &sets].concat());
    assert_ended(&compared, 0, &["| cohort (mean of 2 peers) | 2 |", "top-1", "±"]);
    let table = fs::read_to_string(small.path("table/compare.json")).expect("a table");
    let again = small.run_program(&[compare.as_slice(), &sets].concat());
    assert_ended(&again, 0, &["mean of 2 peers"]);
    assert_eq!(fs::read_to_string(small.path("table/compare.json")).expect("a table"), table);
    assert!(!names(&small.path("runs")).contains(&"cohort_seed0.1".to_owned()), "nothing was trained again");

    assert_ended(&small.run_program(&["methods"]), 0, &["mcl", "l_mcl", "[cohort]"]);
    let lmcl = ["[cohort]", "method = \"l_mcl\"", "layers.meta_every = 50", "lambda = 1.0", "2207.11518"];
    assert_ended(&small.run_program(&["methods", "l_mcl"]), 0, &lmcl);
    let keys = [
        "[cohort]   # task = \"cohort\"",
        "[cohort.bank]",
        "negatives = ",
        "[cohort.layers]",
        "meta_steps = ",
    ];
    assert_ended(&small.run_program(&["config", "keys", "cohort"]), 0, &keys);
    let shown = ["task = \"cohort\"", "[[peer]]", "temperature = 3.0"];
    assert_ended(&small.run_program(&["config", "show", "cohort.toml"]), 0, &shown);
}

#[test]
fn two_networks_learn_the_colours() {
    let small = Small::new();
    // More images than the other tests have: with those, luck decides.
    let data = small.path("data/cifar-10-batches-bin");
    fs::write(data.join("data_batch_1.bin"), colours::rows(0..200)).expect("a file");
    fs::write(data.join("test_batch.bin"), colours::rows(1000..1100)).expect("a file");
    for method in ["mcl", "l_mcl"] {
        let method = format!("cohort.method={method}");
        let sets = [
            &method,
            "train.batch_size=20",
            "schedule.steps=40",
            "train.eval_every=40",
            "optim.lr=0.1",
            "cohort.layers.meta_every=20",
        ];
        let finished = small.trained(&sets);
        for peer in &finished.student.row.peers {
            assert!(peer.top1 >= 0.5, "{method}: {} has top-1 {}, chance is 0.1", peer.name, peer.top1);
        }
    }
}

#[test]
fn cohorts_that_make_no_sense_are_named() {
    let small = Small::new();
    let one = ["peer=[{network=\"resnet8\"}]"];
    assert_mentions(&small.error(&one), &["\"peer\" is one network", "two or more"]);
    assert_mentions(&small.error(&["peer=[]"]), &["\"peer\" is missing"]);
    let unknown = small.error(&["peer.1.network=resnet8O"]);
    assert_mentions(&unknown, &["resnet8O", "did you mean"]);
    let vgg = small.error(&["cohort.method=l_mcl", "peer.0.network=vgg8"]);
    assert_mentions(&vgg, &["peer.0.network", "vgg8", "no auxiliary branches", "wrn_40_2"]);
    assert_mentions(&small.error(&["cohort.method=mlc"]), &["did you mean \"mcl\""]);
    assert_mentions(&small.error(&["train.batch_size=1"]), &["train.batch_size", "2 or more"]);
    assert_mentions(&small.error(&["cohort.tau=0"]), &["cohort.tau", "above 0"]);
    assert_mentions(&small.error(&["train.compare_alone=true"]), &["compare_alone"]);
    assert_mentions(&small.error(&["teacher.network=resnet8"]), &["unknown key \"teacher\""]);
    let decay = small.error(&["cohort.method=l_mcl", "optim.weight_decay_norm=0.0"]);
    assert_mentions(&decay, &["optim.weight_decay_norm", "virtual updates"]);
}

#[test]
fn images_that_never_meet_another_of_their_class_are_an_error_that_says_what_to_do() {
    let small = Small::new();
    let data = small.path("data/cifar-10-batches-bin");
    fs::write(data.join("data_batch_1.bin"), colours::rows(0..10)).unwrap();
    fs::remove_file(data.join("data_batch_2.bin")).unwrap();
    for order in ["class_pairs", "shuffled"] {
        let error = small.error(&[&format!("data.order={order}")]);
        assert_mentions(&error, &["no training image meets another one of its class", "class_pairs"]);
    }
    // A memory has other images.
    small.trained(&[
        "data.order=shuffled",
        "cohort.bank.negatives=3",
        "schedule.steps=1",
        "train.eval_every=1",
    ]);
}
