//! The methods of distillation: where they may look in these networks, and the ranges of their keys.

use super::{Check, Problem};
use crate::config::schema::{Architecture, Config, Distill, Maps, MapsAt, Place, Rows, RowsAt};

/// The entries of a detector's configuration.
pub(super) fn check_all(config: &Config, found: &mut Vec<Problem>) {
    let offer = Offer::of_detectors(config.detector.architecture);
    for (index, entry) in config.distill.iter().enumerate() {
        let section = format!("distill.{index}");
        Check { section: &section, found }.that(
            config.teacher.is_some(),
            "method",
            format!("is {:?}, but there is no teacher to learn from", entry.method().word()),
            "add a [teacher] table, or remove [[distill]]",
        );
        check(&section, entry, &offer, found);
    }
}

/// One entry, for networks that offer `offer`.
pub(super) fn check(section: &str, entry: &Distill, offer: &Offer, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    match entry.place() {
        Place::Rows(place) => rows(&mut check, entry, place, offer),
        Place::Maps(place) => maps(&mut check, place, offer),
    }
    timing(&mut check, entry);
    for (key, weight) in entry.weights() {
        check.not_negative(key, weight.into());
    }
    own_keys(&mut check, entry);
}

/// Where the networks of a configuration can be looked at.
pub(super) struct Offer {
    /// What they are, in words.
    pub(super) networks: String,
    /// The rows that they have.
    pub(super) rows: Vec<RowsAt>,
    /// The maps that they have.
    pub(super) maps: MapsAt,
    /// The names of these maps.
    pub(super) levels: Vec<&'static str>,
}

impl Offer {
    fn of_detectors(architecture: Architecture) -> Self {
        let rows = match architecture {
            Architecture::FasterRcnn => RowsAt::RoiLogits,
            Architecture::RetinaNet => RowsAt::AnchorLogits,
        };
        let levels = architecture.levels().to_vec();
        Self { networks: architecture.to_string(), rows: vec![rows], maps: MapsAt::Fpn, levels }
    }

    /// Classifiers that both have so many stages.
    pub(super) fn of_classifiers(stages: usize) -> Self {
        let levels = ["stage1", "stage2", "stage3", "stage4"].into_iter().take(stages).collect();
        let rows = vec![RowsAt::Logits, RowsAt::Embedding];
        Self { networks: "a pair of these classifiers".to_owned(), rows, maps: MapsAt::Stages, levels }
    }
}

/// The rows that a method can compare at all.
fn sensible(entry: &Distill) -> &'static [RowsAt] {
    match entry {
        // These compare softmaxes, which a RetinaNet's sigmoids are not.
        Distill::Kd(_) | Distill::Dkd(_) => &[RowsAt::RoiLogits, RowsAt::Logits],
        // Relations of triples, and a memory of samples: of images, not of regions.
        Distill::Rkd(_) => &[RowsAt::Logits, RowsAt::Embedding],
        Distill::Crd(_) => &[RowsAt::Embedding],
        Distill::Dist(_) => &[RowsAt::RoiLogits, RowsAt::AnchorLogits, RowsAt::Logits],
        _ => RowsAt::ALL,
    }
}

fn rows(check: &mut Check<'_>, entry: &Distill, rows: &Rows, offer: &Offer) {
    let method = entry.method();
    let sensible = sensible(entry);
    let fitting: Vec<String> =
        offer.rows.iter().filter(|at| sensible.contains(at)).map(|at| format!("at = \"{at}\"")).collect();
    let help = match fitting.as_slice() {
        [] => format!("{method} has nothing to look at in {}; use another method", offer.networks),
        fitting => format!("set {}", fitting.join(" or ")),
    };
    let message = match offer.rows.contains(&rows.at) {
        true => format!("is \"{}\", which {method} cannot compare", rows.at),
        false => format!("is \"{}\", which {} does not have", rows.at, offer.networks),
    };
    check.that(offer.rows.contains(&rows.at) && sensible.contains(&rows.at), "at", message, help);
    check.at_least_one("anchors_per_image", rows.anchors_per_image);
}

fn maps(check: &mut Check<'_>, maps: &Maps, offer: &Offer) {
    check.that(
        maps.at == offer.maps,
        "at",
        format!("is \"{}\", which {} does not have", maps.at, offer.networks),
        format!("set at = \"{}\"", offer.maps),
    );
    let choose = || format!("choose from {}", offer.levels.join(", "));
    check.that(!maps.levels.is_empty(), "levels", "is empty", choose());
    for (index, level) in maps.levels.iter().enumerate() {
        let key = format!("levels.{index}");
        check.that(
            offer.levels.contains(&level.as_str()),
            &key,
            format!("is \"{level}\", which {} does not have", offer.networks),
            choose(),
        );
        check.that(
            !maps.levels[..index].contains(level),
            &key,
            format!("names \"{level}\" a second time"),
            "name each level once",
        );
    }
}

fn timing(check: &mut Check<'_>, entry: &Distill) {
    let timing = entry.timing();
    if let Some(until) = timing.until_step {
        check.that(
            until > timing.from_step,
            "until_step",
            format!("is {until}, not after from_step = {}", timing.from_step),
            "raise it, or leave the method out",
        );
    }
    check.that(
        timing.decay_steps == 0 || timing.until_step.is_some(),
        "decay_steps",
        "needs until_step, the step at which the weight reaches 0",
        "give until_step, or set decay_steps = 0",
    );
}

fn own_keys(check: &mut Check<'_>, entry: &Distill) {
    match entry {
        Distill::Ckd(ckd) => check.positive("temperature", ckd.temperature.into()),
        Distill::Rcka(rcka) => check.at_least_one("patch", rcka.patch),
        Distill::Icd(icd) => {
            check.not_negative("alpha", icd.alpha.into());
            check.at_least_one("width", icd.width);
        }
        Distill::Kd(kd) => check.positive("temperature", kd.temperature.into()),
        Distill::Dkd(dkd) => {
            check.not_negative("alpha", dkd.alpha.into());
            check.not_negative("beta", dkd.beta.into());
            check.positive("temperature", dkd.temperature.into());
        }
        Distill::Dist(dist) => check.positive("temperature", dist.temperature.into()),
        Distill::Crd(crd) => {
            check.at_least_one("negatives", crd.negatives);
            check.at_least_one("width", crd.width);
            check.positive("temperature", crd.temperature.into());
            check.fraction("momentum", crd.momentum.into());
        }
        Distill::ReviewKd(review) => check.at_least_one("width", review.width.unwrap_or(1)),
        Distill::Fgfi(fgfi) => check.fraction("threshold", fgfi.threshold.into()),
        Distill::Fgd(fgd) => check.positive("temperature", fgd.temperature.into()),
        Distill::Cwd(cwd) => check.positive("temperature", cwd.temperature.into()),
        Distill::Lcka(_)
        | Distill::Fcka(_)
        | Distill::FitNet(_)
        | Distill::Mimic(_)
        | Distill::At(_)
        | Distill::Rkd(_)
        | Distill::Pkd(_) => {}
    }
}
