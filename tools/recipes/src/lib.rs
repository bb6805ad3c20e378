//! The published recipes of image classification: one configuration a pair of networks and a method, made from tables.
//!
//! `cargo run --release -p ckd-recipes` writes them below `configs/` after a change of a table.

mod tables;

use std::collections::BTreeMap;
use std::fmt::Write;

use ckd_detectors::classifier::Architecture;

use tables::*;

/// Name below `configs/` and content of every recipe.
pub fn recipes() -> BTreeMap<String, String> {
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
        let (temperature, weight) = standardised(pair);
        let entries = format!(
            "method = \"kd\"\nat = \"logits\"\nweight = {weight:.1}\ntemperature = {temperature:.1}\nstandardize = true\n"
        );
        add_240(&mut files, pair, ("kd_ls", "KD of standardised logits"), 0.1, &entries);
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
            "method = \"review_kd\"\nat = \"stages\"\nlevels = [{}, \"embedding\"]\nteacher_maps = \"before_relu\"\nweight = {weight:.1}\n\
             warmup_steps = {WARMUP_STEPS}\n",
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

/// The recipes of networks that learn from each other: some of [`recipes`].
pub fn cohorts() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let copies = |short: &'static str, count: usize| vec![short; count];
    let equal = || COHORT.iter().map(|network| network.short);
    let mcl = equal().flat_map(|short| [2, 4].map(|count| (copies(short, count), "mcl", "MCL")));
    let lmcl = equal().map(|short| (short, short)).chain(LMCL);
    let lmcl = lmcl.map(|(first, second)| (vec![first, second], "l_mcl", "L-MCL"));
    for (peers, method, title) in mcl.chain(lmcl) {
        let head = format!("learn from each other by {title}, 300 epochs");
        add_cohort(&mut files, ("CIFAR-100", &COHORT), &peers, method, &head, "");
    }
    for short in MCL_IMAGENET {
        for count in [2, 4] {
            let head = "learn from each other by MCL with a memory, 90 epochs";
            let more = "\n[cohort.bank]\nnegatives = 8192\n\n[schedule]\nepochs = 90\n";
            add_cohort(&mut files, ("ImageNet", &IMAGENET), &copies(short, count), "mcl", head, more);
        }
    }
    for (first, second) in LMCL_IMAGENET {
        let head = "learn from each other by L-MCL with a memory, 100 epochs";
        let more = "alpha = 0.01\nbeta = 0.01\n\n[cohort.bank]\nnegatives = 8192\n\n[cohort.layers]\nbranch_blocks = 1\n\
                    meta_every = 500\n";
        add_cohort(&mut files, ("ImageNet", &IMAGENET), &[first, second], "l_mcl", head, more);
    }
    files
}

/// Adds the recipe of a cohort of `peers`.
fn add_cohort(
    files: &mut BTreeMap<String, String>,
    (set, networks): (&str, &[Named]),
    peers: &[&str],
    method: &str,
    head: &str,
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
    let mut text = format!("# {set}: {titles} {head}\nextends = \"../base/{folder}_cohort.toml\"\n");
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

fn find<'a>(networks: &'a [Named], short: &str) -> &'a Named {
    networks.iter().find(|named| named.short == short).expect("a network of the table")
}
