//! The published recipes of image classification, one file a pair of networks, written from the tables here.
//!
//! `CKD_DET_WRITE_RECIPES=1 cargo test --test recipes` writes the files after a change of a table; otherwise the test
//! says which file differs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::config::{
    ClassifyConfig, CohortConfig, CohortMethod, Document, Experiment, LabelOrder, SameImage, ScheduleKind,
};
use ckd_detectors::classifier::Architecture;

/// A network: its short name in files, its name, what it is called in text, RepDistiller's folder of its weights.
struct Named {
    short: &'static str,
    network: &'static str,
    title: &'static str,
    weights: &'static str,
}

const fn named(
    short: &'static str,
    network: &'static str,
    title: &'static str,
    weights: &'static str,
) -> Named {
    Named { short, network, title, weights }
}

const CIFAR: [Named; 15] = [
    named("r20", "resnet20", "ResNet-20", "resnet20"),
    named("r32", "resnet32", "ResNet-32", "resnet32"),
    named("r56", "resnet56", "ResNet-56", "resnet56"),
    named("r110", "resnet110", "ResNet-110", "resnet110"),
    named("r8x4", "resnet8x4", "ResNet-8x4", "resnet8x4"),
    named("r32x4", "resnet32x4", "ResNet-32x4", "resnet32x4"),
    named("r50", "cifar_resnet50", "ResNet-50", "ResNet50"),
    named("w16_2", "wrn_16_2", "WRN-16-2", "wrn_16_2"),
    named("w40_1", "wrn_40_1", "WRN-40-1", "wrn_40_1"),
    named("w40_2", "wrn_40_2", "WRN-40-2", "wrn_40_2"),
    named("v8", "vgg8", "VGG-8", "vgg8"),
    named("v13", "vgg13", "VGG-13", "vgg13"),
    named("mv2", "cifar_mobilenet_v2", "MobileNetV2", "MobileNetV2"),
    named("sv1", "shufflenet_v1", "ShuffleNetV1", "ShuffleV1"),
    named("sv2", "shufflenet_v2", "ShuffleNetV2", "ShuffleV2"),
];

/// Teacher, student, weight, temperature, batch and learning rate of the released CKD configurations for CIFAR-100.
const CKD: [(&str, &str, f64, f64, u32, f64); 11] = [
    ("r56", "r20", 10.0, 1.0, 64, 0.05),
    ("r110", "r32", 10.0, 1.0, 64, 0.05),
    ("r32x4", "r8x4", 100.0, 1.0, 64, 0.05),
    ("w40_2", "w16_2", 100.0, 1.0, 64, 0.05),
    ("w40_2", "w40_1", 50.0, 2.0, 32, 0.05),
    ("v13", "v8", 100.0, 1.0, 64, 0.05),
    ("r32x4", "sv1", 100.0, 1.0, 32, 0.01),
    ("r32x4", "sv2", 100.0, 1.0, 64, 0.01),
    ("w40_2", "sv1", 100.0, 1.0, 32, 0.01),
    ("v13", "mv2", 50.0, 2.0, 32, 0.01),
    ("r50", "mv2", 100.0, 1.0, 32, 0.01),
];

/// The pairs of RepDistiller's tables.
const PAIRS: [(&str, &str); 13] = [
    ("w40_2", "w16_2"),
    ("w40_2", "w40_1"),
    ("r56", "r20"),
    ("r110", "r20"),
    ("r110", "r32"),
    ("r32x4", "r8x4"),
    ("v13", "v8"),
    ("v13", "mv2"),
    ("r50", "mv2"),
    ("r50", "v8"),
    ("r32x4", "sv1"),
    ("r32x4", "sv2"),
    ("w40_2", "sv1"),
];

/// The methods whose settings are the same for every pair, at 240 epochs: the word in the file's name, what it is called,
/// the weight of the cross-entropy, and the entries.
const METHODS: [(&str, &str, f64, &str); 5] = [
    ("kd", "KD", 0.1, "method = \"kd\"\nat = \"logits\"\nweight = 0.9\ntemperature = 4.0\n"),
    ("icd", "ICD", 1.0, "method = \"icd\"\nat = \"embedding\"\nweight = 1.0\n"),
    (
        "icd_kd",
        "ICD and KD",
        1.0,
        "method = \"icd\"\nat = \"embedding\"\nweight = 1.0\n\n[[distill]]\nmethod = \"kd\"\nat = \"logits\"\nweight = 1.0\n\
         temperature = 4.0\n",
    ),
    ("crd", "CRD", 1.0, "method = \"crd\"\nat = \"embedding\"\nweight = 0.8\n"),
    (
        "dist",
        "DIST",
        1.0,
        "method = \"dist\"\nat = \"logits\"\nweight = 2.0\nweight_intra = 2.0\ntemperature = 4.0\n",
    ),
];

/// The weight of DKD's NCKD: 2 for these, 6 for the next, 8 for all others.
const DKD_2: [(&str, &str); 2] = [("r56", "r20"), ("r110", "r32")];
const DKD_6: [(&str, &str); 4] = [("v13", "v8"), ("v13", "mv2"), ("w40_2", "w16_2"), ("w40_2", "w40_1")];
/// DKD and knowledge review warm up over 20 epochs of 782 steps of 64 images.
const WARMUP_STEPS: u32 = 20 * 782;

/// The pairs of RCKA's table.
const RCKA: [(&str, &str); 9] = [
    ("r110", "r20"),
    ("r110", "r32"),
    ("w40_2", "w40_1"),
    ("w40_2", "w16_2"),
    ("r32x4", "r8x4"),
    ("v13", "v8"),
    ("w40_2", "sv1"),
    ("r32x4", "sv1"),
    ("v13", "mv2"),
];

/// The weights of knowledge review, as its authors have them.
const REVIEW: [(&str, &str, f64); 8] = [
    ("w40_2", "w16_2", 5.0),
    ("w40_2", "w40_1", 5.0),
    ("w40_2", "sv1", 5.0),
    ("r32x4", "r8x4", 5.0),
    ("r32x4", "sv1", 5.0),
    ("r32x4", "sv2", 8.0),
    ("r56", "r20", 0.6),
    ("r110", "r32", 1.0),
];

const IMAGENET: [Named; 4] = [
    named("r18", "resnet18", "ResNet-18", ""),
    named("r34", "resnet34", "ResNet-34", "resnet34-b627a593.pth"),
    named("r50", "resnet50", "ResNet-50", "resnet50-0676ba61.pth"),
    named("mv1", "mobilenet_v1", "MobileNetV1", ""),
];

/// Pairs of the released CKD configurations for ImageNet, with their weight.
const CKD_IMAGENET: [(&str, &str, f64); 2] = [("r34", "r18", 10.0), ("r50", "mv1", 10.0)];

/// Networks of CIFAR-100 whose equal copies learn from each other: by MCL two and four, by L-MCL two.
const COHORT: [&str; 6] = ["r32", "r56", "r110", "w16_2", "w40_2", "sv2"];
/// Different networks that learn from each other by L-MCL.
const LMCL: [(&str, &str); 6] = [
    ("r32", "r110"),
    ("r56", "r110"),
    ("w16_2", "w40_2"),
    ("r56", "w40_2"),
    ("sv2", "r110"),
    ("sv2", "w40_2"),
];
/// Networks of ImageNet: two and four equal ones by MCL with a memory, pairs by L-MCL.
const MCL_IMAGENET: [&str; 2] = ["r18", "r34"];
const LMCL_IMAGENET: [(&str, &str); 3] = [("r34", "r34"), ("r50", "r50"), ("r18", "r50")];

fn find<'a>(networks: &'a [Named], short: &str) -> &'a Named {
    networks.iter().find(|named| named.short == short).expect("a network of the table")
}

fn recipes() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for network in &CIFAR {
        let mut text = format!(
            "# CIFAR-100: {} on its own, 240 epochs\nextends = \"../base/cifar100_240.toml\"\n\n[student]\nnetwork = \"{}\"\n",
            network.title, network.network
        );
        if ["mv2", "sv1", "sv2"].contains(&network.short) {
            text += "\n[optim]\nlr = 0.01\n";
        }
        files.insert(format!("cifar100/plain_{}.toml", network.short), text);
    }
    for (teacher, student, weight, temperature, batch, lr) in CKD {
        let (teacher, student) = (find(&CIFAR, teacher), find(&CIFAR, student));
        let mut text = taught(
            "CIFAR-100",
            (teacher, student),
            "../base/cifar100_480.toml",
            &format!("weights/cifar100/{}_vanilla/ckpt_epoch_240.pth", teacher.weights),
        );
        let _ = write!(text, "weight = {weight:.1}\ntemperature = {temperature:.1}\n");
        if lr != 0.05 {
            let _ = write!(text, "\n[optim]\nlr = {lr}\n");
        }
        if batch != 64 {
            let _ = write!(text, "\n[train]\nbatch_size = {batch}\n");
        }
        files.insert(format!("cifar100/ckd_{}_{}.toml", teacher.short, student.short), text);
    }
    for pair in PAIRS {
        for (word, title, loss_weight, entries) in METHODS {
            add_240(&mut files, pair, (word, title), loss_weight, entries);
        }
        let beta = if DKD_2.contains(&pair) {
            2.0
        } else if DKD_6.contains(&pair) {
            6.0
        } else {
            8.0
        };
        let entries = format!(
            "method = \"dkd\"\nat = \"logits\"\nweight = 1.0\nalpha = 1.0\nbeta = {beta:.1}\ntemperature = 4.0\n\
             warmup_steps = {WARMUP_STEPS}\n"
        );
        add_240(&mut files, pair, ("dkd", "DKD"), 1.0, &entries);
    }
    for pair in RCKA {
        let entries = format!(
            "method = \"lcka\"\nat = \"logits\"\nweight = 15.0\nweight_inter = 15.0\n\n[[distill]]\nmethod = \"fcka\"\n\
             at = \"stages\"\nlevels = [{}]\nweight = 1.0\n",
            stages(pair)
        );
        add_240(&mut files, pair, ("rcka", "RCKA"), 1.0, &entries);
    }
    for (teacher, student, weight) in REVIEW {
        let pair = (teacher, student);
        let entries = format!(
            "method = \"review_kd\"\nat = \"stages\"\nlevels = [{}]\nweight = {weight:.1}\nwarmup_steps = {WARMUP_STEPS}\n",
            stages(pair)
        );
        add_240(&mut files, pair, ("review", "knowledge review"), 1.0, &entries);
    }
    for network in ["r18", "mv1"].map(|short| find(&IMAGENET, short)) {
        let text = format!(
            "# ImageNet: {} on its own, 100 epochs\nextends = \"../base/imagenet_100.toml\"\n\n[student]\nnetwork = \"{}\"\n",
            network.title, network.network
        );
        files.insert(format!("imagenet/plain_{}.toml", network.short), text);
    }
    for (teacher, student, weight) in CKD_IMAGENET {
        let (teacher, student) = (find(&IMAGENET, teacher), find(&IMAGENET, student));
        let mut text = taught(
            "ImageNet",
            (teacher, student),
            "../base/imagenet_200.toml",
            &format!("weights/{}", teacher.weights),
        );
        let _ = writeln!(text, "weight = {weight:.1}");
        files.insert(format!("imagenet/ckd_{}_{}.toml", teacher.short, student.short), text);
    }
    for (set, title, kind) in
        [("stl10", "STL-10", "stl10"), ("tiny_imagenet", "Tiny-ImageNet-200", "tiny_imagenet")]
    {
        let text = format!(
            "# {title}: a linear layer on the WRN-16-2 that learned CIFAR-100 from a WRN-40-2\n\
             extends = \"../base/probe.toml\"\n\n[data]\nkind = \"{kind}\"\nroot = \"data/{set}\"\n\n[student]\n\
             network = \"wrn_16_2\"\ninit = \"runs/ckd_w40_2_w16_2/last.safetensors\"\n"
        );
        files.insert(format!("cifar100/probe_{set}.toml"), text);
    }
    files.extend(cohorts());
    files
}

/// The recipes of networks that learn from each other.
fn cohorts() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let copies = |short: &'static str, count: usize| vec![short; count];
    let mcl = COHORT.iter().flat_map(|short| [2, 4].map(|count| (copies(short, count), "mcl", "MCL")));
    let lmcl = COHORT.iter().map(|short| (*short, *short)).chain(LMCL);
    let lmcl = lmcl.map(|(first, second)| (vec![first, second], "l_mcl", "L-MCL"));
    for (peers, method, title) in mcl.chain(lmcl) {
        let head = format!("learn from each other by {title}, 300 epochs");
        let note = match peers.contains(&"r110") {
            true => {
                "\n#\n# This ResNet-110 has basic blocks, the authors' has bottlenecks: their table is of another network."
            }
            false => "",
        };
        add_cohort(&mut files, ("CIFAR-100", &CIFAR), &peers, method, (&head, note), "");
    }
    for short in MCL_IMAGENET {
        for count in [2, 4] {
            let head = "learn from each other by MCL with a memory, 90 epochs";
            let more = "\n[cohort.bank]\nnegatives = 8192\n\n[schedule]\nepochs = 90\n";
            add_cohort(&mut files, ("ImageNet", &IMAGENET), &copies(short, count), "mcl", (head, ""), more);
        }
    }
    for (first, second) in LMCL_IMAGENET {
        let head = "learn from each other by L-MCL with a memory, 100 epochs";
        let more = "alpha = 0.01\nbeta = 0.01\n\n[cohort.bank]\nnegatives = 8192\n\n[cohort.layers]\nbranch_blocks = 1\n\
                    meta_every = 500\n";
        add_cohort(&mut files, ("ImageNet", &IMAGENET), &[first, second], "l_mcl", (head, ""), more);
    }
    files
}

/// Adds the recipe of a cohort of `peers`.
fn add_cohort(
    files: &mut BTreeMap<String, String>,
    (set, networks): (&str, &[Named]),
    peers: &[&str],
    method: &str,
    (head, note): (&str, &str),
    more: &str,
) {
    let named: Vec<&Named> = peers.iter().map(|short| find(networks, short)).collect();
    let first = named[0];
    let equal = named.iter().all(|own| own.short == first.short);
    let titles: Vec<String> = named.iter().map(|own| format!("a {}", own.title)).collect();
    let (titles, stem) = match (equal, peers.len()) {
        (true, 2) => (format!("two {}", first.title), peers.join("_")),
        (true, count) => (format!("four {}", first.title), format!("{}_x{count}", first.short)),
        (false, _) => (titles.join(" and "), peers.join("_")),
    };
    let folder = set.to_lowercase().replace('-', "");
    let mut text = format!("# {set}: {titles} {head}{note}\nextends = \"../base/{folder}_cohort.toml\"\n");
    for own in named {
        let _ = write!(text, "\n[[peer]]\nnetwork = \"{}\"\n", own.network);
    }
    let _ = write!(text, "\n[cohort]\nmethod = \"{method}\"\n{more}");
    files.insert(format!("{folder}/{}_{stem}.toml", method.replace('_', "")), text);
}

/// The stages that both networks of a pair have, as a TOML array's items.
fn stages((teacher, student): (&str, &str)) -> String {
    let of = |short: &str| find(&CIFAR, short).network.parse::<Architecture>().expect("a network").stages();
    let stages: Vec<String> =
        (1..=of(teacher).min(of(student))).map(|stage| format!("\"stage{stage}\"")).collect();
    stages.join(", ")
}

/// Adds the recipe of a method for a pair: RepDistiller's 240 epochs.
fn add_240(
    files: &mut BTreeMap<String, String>,
    (teacher, student): (&str, &str),
    (word, title): (&str, &str),
    loss_weight: f64,
    entries: &str,
) {
    let (teacher, student) = (find(&CIFAR, teacher), find(&CIFAR, student));
    let mut text = format!(
        "# CIFAR-100: {} teaches {} by {title}, 240 epochs\nextends = \"../base/cifar100_240.toml\"\n",
        teacher.title, student.title
    );
    if loss_weight != 1.0 {
        let _ = writeln!(text, "loss_weight = {loss_weight}");
    }
    let _ = write!(
        text,
        "\n[teacher]\nnetwork = \"{}\"\nweights = \"weights/cifar100/{}_vanilla/ckpt_epoch_240.pth\"\n\n[student]\n\
         network = \"{}\"\n\n[[distill]]\n{entries}",
        teacher.network, teacher.weights, student.network
    );
    if ["mv2", "sv1", "sv2"].contains(&student.short) {
        text += "\n[optim]\nlr = 0.01\n";
    }
    files.insert(format!("cifar100/{word}_{}_{}.toml", teacher.short, student.short), text);
}

/// The head of a recipe of CKD.
fn taught(set: &str, (teacher, student): (&Named, &Named), base: &str, weights: &str) -> String {
    format!(
        "# {set}: {} teaches {} by CKD, as in the released configurations\nextends = \"{base}\"\n\n[teacher]\n\
         network = \"{}\"\nweights = \"{weights}\"\n\n[student]\nnetwork = \"{}\"\n\n[[distill]]\nmethod = \"ckd\"\n\
         at = \"logits\"\n",
        teacher.title, student.title, teacher.network, student.network
    )
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

#[test]
fn every_recipe_is_as_its_table_says_and_there_is_no_other() {
    let recipes = recipes();
    if std::env::var_os("CKD_DET_WRITE_RECIPES").is_some() {
        for (name, text) in &recipes {
            let path = configs().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
            // The other tests are reading.
            if fs::read_to_string(&path).ok().as_ref() != Some(text) {
                fs::write(path, text).expect("a recipe");
            }
        }
    }
    for (name, text) in &recipes {
        let written = fs::read_to_string(configs().join(name)).unwrap_or_default();
        assert_eq!(
            &written, text,
            "configs/{name} differs from its table: write it with CKD_DET_WRITE_RECIPES=1"
        );
    }
    for folder in ["cifar100", "imagenet"] {
        for entry in fs::read_dir(configs().join(folder)).expect("a folder of recipes") {
            let name = format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy());
            assert!(recipes.contains_key(&name), "configs/{name} is in no table");
        }
    }
}

#[test]
fn every_recipe_loads_and_is_found_by_its_name_from_any_folder() {
    for name in recipes().keys() {
        if cohorts().contains_key(name) {
            let loaded = CohortConfig::load(name, &[]).unwrap_or_else(|error| panic!("{error}"));
            let again = CohortConfig::from_toml(&loaded.resolved_toml(), name).expect("it reads back");
            assert_eq!(again, loaded.config);
            assert!(matches!(Experiment::load(name, &[]), Ok(Experiment::Cohort(_))));
            continue;
        }
        let loaded = ClassifyConfig::load(name, &[]).unwrap_or_else(|error| panic!("{error}"));
        let again = ClassifyConfig::from_toml(&loaded.resolved_toml(), name).expect("it reads back");
        assert_eq!(again.student, loaded.config.student);
        assert!(matches!(Experiment::load(name, &[]), Ok(Experiment::Classify(_))));
    }
}

#[test]
fn the_recipes_are_the_published_ones() {
    let load = |name: &str| ClassifyConfig::load(name, &[]).expect("a recipe").config;
    let ckd = load("cifar100/ckd_w40_2_w40_1.toml");
    assert_eq!((ckd.schedule.epochs, ckd.train.batch_size, ckd.optim.lr), (Some(480), 32, 0.05));
    assert!(ckd.schedule.kind == ScheduleKind::Cosine && !ckd.optim.nesterov);
    let plain = load("cifar100/plain_sv1.toml");
    assert_eq!((plain.schedule.epochs, plain.train.batch_size, plain.optim.lr), (Some(240), 64, 0.01));
    assert_eq!(plain.schedule.milestones, [150.0, 180.0, 210.0]);
    assert_eq!(plain.student_normalization().mean, [0.5071, 0.4867, 0.4408]);
    let imagenet = load("imagenet/plain_r18.toml");
    assert_eq!(
        (imagenet.schedule.epochs, imagenet.train.batch_size, imagenet.optim.lr),
        (Some(100), 512, 0.2)
    );
    assert_eq!((imagenet.input.side_px, imagenet.input.eval_resize_px), (224, Some(256)));
}

#[test]
fn the_recipes_of_cohorts_are_the_authors() {
    let load = |name: &str| CohortConfig::load(name, &[]).expect("a recipe").config;
    let cifar = load("cifar100/lmcl_w16_2_w40_2.toml");
    assert_eq!((cifar.schedule.epochs, cifar.train.batch_size, cifar.optim.lr), (Some(300), 128, 0.1));
    assert!(cifar.schedule.kind == ScheduleKind::Cosine && cifar.optim.nesterov);
    assert_eq!((cifar.optim.weight_decay, cifar.data.order), (5e-4, LabelOrder::ClassPairs));
    assert_eq!(
        cifar.peer.iter().map(|peer| peer.network.name()).collect::<Vec<_>>(),
        ["wrn_16_2", "wrn_40_2"]
    );
    let own = &cifar.cohort;
    assert_eq!(
        (own.method, own.alpha, own.beta, own.gamma, own.lambda),
        (CohortMethod::LMcl, 0.1, 0.1, 1.0, 1.0)
    );
    assert_eq!((own.tau, own.temperature, own.width), (0.1, 3.0, 128));
    assert_eq!((own.layers.meta_every, own.layers.meta_steps, own.layers.kd_temperature), (50, 2, 3.0));
    assert_eq!(load("cifar100/mcl_sv2_x4.toml").peer.len(), 4);
    let imagenet = load("imagenet/mcl_r18_r18.toml");
    assert_eq!(
        (imagenet.schedule.epochs, imagenet.train.batch_size, imagenet.optim.lr),
        (Some(90), 256, 0.1)
    );
    assert_eq!((imagenet.cohort.alpha, imagenet.cohort.tau), (0.1, 0.07));
    assert_eq!(imagenet.cohort.bank.map(|bank| (bank.negatives, bank.momentum)), Some((8192, 0.5)));
    let deep = load("imagenet/lmcl_r50_r50.toml");
    assert_eq!(
        (deep.schedule.epochs, deep.cohort.alpha, deep.cohort.same_image),
        (Some(100), 0.01, SameImage::Included)
    );
    assert_eq!((deep.cohort.layers.meta_every, deep.cohort.layers.branch_blocks), (500, Some(1)));
    assert!(deep.cohort.bank.is_some() && deep.data.order == LabelOrder::Shuffled);
}
