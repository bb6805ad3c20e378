//! What the student learns from the teacher: one `[[distill]]` table a method.
//!
//! A method has one line in `methods!`: its word, its section and its paper. Everything that lists methods,
//! `ckd-det methods` too, is made from there. The sections are in `rows` and `maps`, by where a method looks.

mod maps;
mod rows;

use super::Architecture;
use ckd_settings::{Check, Diagnostic, Fields, Key, Node, Read, Section, choices, join, section};
use serde::Serialize;

pub use maps::{At, Cwd, Fcka, FckaOf, Fgd, Fgfi, FitNet, Mimic, Pkd, PkdStd, Rcka, Regressor, ReviewKd};
pub use rows::{Ckd, Crd, Dist, Dkd, Icd, IcdDirection, IcdScale, Kd, Lcka, Negatives, Rkd, RowNorm};

/// Declares the methods: the section that holds a method's keys, its word, and where it comes from.
macro_rules! methods {
    ($( $(#[doc = $doc:literal])+ $name:ident = $word:literal, $paper:literal; )+) => {
        choices! {
            /// The names of the methods.
            pub enum Method {
                $( $(#[doc = $doc])+ $name = $word, )+
            }
        }

        impl Method {
            /// Where it comes from.
            pub fn paper(self) -> &'static str {
                match self {
                    $( Self::$name => $paper, )+
                }
            }

            /// What it does, and its keys.
            fn described(self) -> (String, Vec<Key>) {
                let mut keys = Vec::new();
                match self {
                    $( Self::$name => {
                        $name::document_fields("", &mut keys);
                        ($name::about(), keys)
                    } )+
                }
            }
        }

        /// A distillation method with its settings; `method` says which.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "method")]
        pub enum Distill {
            $( $(#[doc = $doc])+ #[serde(rename = $word)] $name($name), )+
        }

        impl Distill {
            /// Which method it is.
            pub fn method(&self) -> Method {
                match self {
                    $( Self::$name(_) => Method::$name, )+
                }
            }

            /// Where in the network it looks.
            pub fn place(&self) -> Place<'_> {
                match self {
                    $( Self::$name(entry) => (&entry.place).into(), )+
                }
            }

            /// Its weights in the loss, by key; all 0: it is off.
            pub fn weights(&self) -> Vec<(&'static str, f32)> {
                match self {
                    $( Self::$name(entry) => entry.weights(), )+
                }
            }

            fn take(method: Method, fields: &mut Fields<'_>) -> Option<Self> {
                match method {
                    $( Method::$name => $name::take(fields).map(Self::$name), )+
                }
            }
        }
    };
}

methods! {
    /// Contrastive knowledge distillation.
    Ckd = "ckd", "Zhu et al., arXiv 2404.14109";
    /// Kernel alignment of feature maps, patch by patch.
    Rcka = "rcka", "Zhou et al., IJCAI 2024, arXiv 2401.11824";
    /// Kernel alignment of logits.
    Lcka = "lcka", "Zhou et al., IJCAI 2024, arXiv 2401.11824";
    /// Kernel alignment of whole feature maps.
    Fcka = "fcka", "Zhou et al., IJCAI 2024, arXiv 2401.11824";
    /// Invariant consistency distillation.
    Icd = "icd", "Giakoumoglou and Stathaki, arXiv 2407.11802";
    /// Knowledge distillation of softened logits.
    Kd = "kd", "Hinton et al., arXiv 1503.02531";
    /// Decoupled knowledge distillation.
    Dkd = "dkd", "Zhao et al., CVPR 2022, arXiv 2203.08679";
    /// Distillation from a stronger teacher.
    Dist = "dist", "Huang et al., NeurIPS 2022, arXiv 2205.10536";
    /// FitNet: features through a regressor.
    FitNet = "fitnet", "Romero et al., ICLR 2015, arXiv 1412.6550";
    /// Feature mimicking of detectors.
    Mimic = "mimic", "Li et al., CVPR 2017";
    /// Attention transfer.
    At = "at", "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928";
    /// Relational knowledge distillation.
    Rkd = "rkd", "Park et al., CVPR 2019, arXiv 1904.05068";
    /// Contrastive representation distillation.
    Crd = "crd", "Tian et al., ICLR 2020, arXiv 1910.10699";
    /// Knowledge review.
    ReviewKd = "review_kd", "Chen et al., CVPR 2021, arXiv 2104.09044";
    /// Fine-grained feature imitation.
    Fgfi = "fgfi", "Wang et al., CVPR 2019, arXiv 1906.03609";
    /// Focal and global knowledge distillation.
    Fgd = "fgd", "Yang et al., CVPR 2022, arXiv 2111.11837";
    /// Pearson distillation of features.
    Pkd = "pkd", "Cao et al., NeurIPS 2022, arXiv 2207.02039";
    /// Channel-wise distillation.
    Cwd = "cwd", "Shu et al., ICCV 2021, arXiv 2011.13256";
}

/// What there is to know about a method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodCard {
    /// The word of `method`.
    pub method: &'static str,
    /// What it does.
    pub about: String,
    /// Where it comes from.
    pub paper: &'static str,
    /// The table of a configuration that uses it.
    pub entry: &'static str,
    /// Its keys beside `method`.
    pub keys: Vec<Key>,
}

impl Method {
    /// What there is to know about it.
    pub fn card(self) -> MethodCard {
        let (about, keys) = self.described();
        MethodCard { method: self.word(), about, paper: self.paper(), entry: "[[distill]]", keys }
    }
}

impl Distill {
    /// Whether it adds nothing to the loss.
    pub fn is_off(&self) -> bool {
        self.weights().iter().all(|(_, weight)| *weight == 0.0)
    }

    /// When it counts.
    pub fn timing(&self) -> &Timing {
        match self.place() {
            Place::Rows(rows) => &rows.timing,
            Place::Maps(maps) => &maps.timing,
        }
    }
}

impl Read for Distill {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut fields = Fields::of(node, path, findings)?;
        // Without the method, the other keys mean nothing yet.
        let method = fields.take("method", None)?;
        let entry = Self::take(method, &mut fields);
        fields.finish();
        entry
    }

    fn document(key: Key, keys: &mut Vec<Key>) {
        for method in Method::ALL {
            let MethodCard { method, about, paper, keys: own, .. } = method.card();
            keys.push(Key {
                path: join(&key.path, "method"),
                takes: format!("\"{method}\""),
                documentation: format!("{about}\n({paper})\nThe keys that follow belong to it."),
                default: None,
            });
            keys.extend(own.into_iter().map(|own| Key { path: join(&key.path, &own.path), ..own }));
        }
    }

    fn takes() -> String {
        "a table with a `method`".to_owned()
    }

    fn check_all(&self, check: &mut Check<'_>) {
        match self.place() {
            Place::Rows(rows) => rows.check_all(check),
            Place::Maps(maps) => maps.check_all(check),
        }
        for (key, weight) in self.weights() {
            check.not_negative(key, weight.into());
        }
        check_own(self, check);
    }
}

/// Where a method looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    /// At rows: logits or features, one row a sample.
    Rows(&'a Rows),
    /// At feature maps.
    Maps(&'a Maps),
}

impl<'a> From<&'a Rows> for Place<'a> {
    fn from(rows: &'a Rows) -> Self {
        Self::Rows(rows)
    }
}

impl<'a> From<&'a Maps> for Place<'a> {
    fn from(maps: &'a Maps) -> Self {
        Self::Maps(maps)
    }
}

section! {
    /// When a term counts, in steps of the optimiser.
    pub struct Timing {
        /// The weight is 0 before this step.
        pub from_step: u64 = 0,
        /// From there the weight rises linearly from 0 over this many steps.
        pub warmup_steps: u64 = 0,
        /// The weight is 0 from this step on. Default: never.
        pub until_step: Option<u64>,
        /// The weight falls linearly to 0 over this many steps before `until_step`.
        pub decay_steps: u64 = 0,
    }
}

impl Timing {
    fn check(&self, check: &mut Check<'_>) {
        if let Some(until) = self.until_step {
            check.that(
                until > self.from_step,
                "until_step",
                format!("is {until}, not after from_step = {}", self.from_step),
                "raise it, or leave the method out",
            );
        }
        check.that(
            self.decay_steps == 0 || self.until_step.is_some(),
            "decay_steps",
            "needs until_step, the step at which the weight reaches 0",
            "give until_step, or set decay_steps = 0",
        );
    }

    /// What the weights are multiplied with at `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        let until = self.until_step.unwrap_or(u64::MAX);
        if step < self.from_step || step >= until {
            return 0.0;
        }
        let (done, left) = (step - self.from_step, until - step);
        let share = |of: u64, all: u64| if of < all { (of + 1) as f64 / (all + 1) as f64 } else { 1.0 };
        share(done, self.warmup_steps) * share(left - 1, self.decay_steps)
    }
}

choices! {
    /// Rows that both networks have: one a sample.
    pub enum RowsAt {
        /// Faster R-CNN: class logits of both box heads on the student's sampled proposals, background first.
        RoiLogits = "roi_logits",
        /// RetinaNet: class logits of the positive anchors and of the teacher's highest-scoring others.
        AnchorLogits = "anchor_logits",
        /// A classifier's logits.
        Logits = "logits",
        /// A classifier's pooled features.
        Embedding = "embedding",
    }
}

section! {
    /// The rows that a method compares.
    pub struct Rows with timing: Timing {
        /// The rows: logits of regions or images, or pooled features.
        pub at: RowsAt,
        /// Anchors compared per image, at anchor_logits.
        pub anchors_per_image: usize = 512,
    }
}

impl Rows {
    fn check(&self, check: &mut Check<'_>) {
        check.at_least_one("anchors_per_image", self.anchors_per_image);
    }
}

choices! {
    /// Feature maps that both networks have.
    pub enum MapsAt {
        /// A detector's feature pyramid.
        Fpn = "fpn",
        /// The stages of a classifier.
        Stages = "stages",
    }
}

section! {
    /// The feature maps that a method compares.
    pub struct Maps with timing: Timing {
        /// The feature maps.
        pub at: MapsAt = MapsAt::Fpn,
        /// Which of them: p2 to p6 for Faster R-CNN, p3 to p7 for RetinaNet; stage1, stage2, .. for classifiers.
        pub levels: Vec<String>,
    }
}

/// Names the keys that are weights.
macro_rules! weights {
    ($( $section:ident: $($key:ident),+; )+) => {$(
        impl $section {
            fn weights(&self) -> Vec<(&'static str, f32)> {
                vec![$( (stringify!($key), self.$key) ),+]
            }
        }
    )+};
}

weights! {
    Ckd: weight;
    Rcka: weight, weight_inter;
    Lcka: weight, weight_inter;
    Fcka: weight;
    Icd: weight;
    Kd: weight;
    Dkd: weight;
    Dist: weight, weight_intra;
    FitNet: weight;
    Mimic: weight;
    At: weight;
    Rkd: weight, weight_angle;
    Crd: weight;
    ReviewKd: weight;
    Fgfi: weight;
    Fgd: weight, weight_background, weight_attention, weight_context;
    Pkd: weight;
    Cwd: weight;
}

/// Where the networks of a configuration can be looked at.
pub(super) struct Offer {
    /// What they are, in words.
    networks: String,
    /// The rows that they have.
    rows: Vec<RowsAt>,
    /// The maps that they have.
    maps: MapsAt,
    /// The names of these maps.
    levels: Vec<&'static str>,
}

impl Offer {
    /// Detectors of one architecture.
    pub(super) fn of_detectors(architecture: Architecture) -> Self {
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

    /// Whether a method can look where its entry says.
    pub(super) fn check(&self, entry: &Distill, check: &mut Check<'_>) {
        match entry.place() {
            Place::Rows(rows) => self.check_rows(entry, rows, check),
            Place::Maps(maps) => self.check_maps(maps, check),
        }
    }

    fn check_rows(&self, entry: &Distill, rows: &Rows, check: &mut Check<'_>) {
        let method = entry.method();
        let sensible = sensible(entry);
        let fitting: Vec<String> =
            self.rows.iter().filter(|at| sensible.contains(at)).map(|at| format!("at = \"{at}\"")).collect();
        let help = match fitting.as_slice() {
            [] => format!("{method} has nothing to look at in {}; use another method", self.networks),
            fitting => format!("set {}", fitting.join(" or ")),
        };
        let message = match self.rows.contains(&rows.at) {
            true => format!("is \"{}\", which {method} cannot compare", rows.at),
            false => format!("is \"{}\", which {} does not have", rows.at, self.networks),
        };
        check.that(self.rows.contains(&rows.at) && sensible.contains(&rows.at), "at", message, help);
    }

    fn check_maps(&self, maps: &Maps, check: &mut Check<'_>) {
        check.that(
            maps.at == self.maps,
            "at",
            format!("is \"{}\", which {} does not have", maps.at, self.networks),
            format!("set at = \"{}\"", self.maps),
        );
        let choose = || format!("choose from {}", self.levels.join(", "));
        check.that(!maps.levels.is_empty(), "levels", "is empty", choose());
        for (index, level) in maps.levels.iter().enumerate() {
            let key = format!("levels.{index}");
            check.that(
                self.levels.contains(&level.as_str()),
                &key,
                format!("is \"{level}\", which {} does not have", self.networks),
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

fn check_own(entry: &Distill, check: &mut Check<'_>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_rises_stays_falls_and_ends() {
        let timing = Timing { from_step: 2, warmup_steps: 3, until_step: Some(10), decay_steps: 1 };
        let factors: Vec<f64> = (0..12).map(|step| timing.factor(step)).collect();
        assert_eq!(factors, [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]);
        let always = Timing { from_step: 0, warmup_steps: 0, until_step: None, decay_steps: 0 };
        assert!([0, 1, u64::MAX - 1].iter().all(|&step| always.factor(step) == 1.0));
    }

    #[test]
    fn every_method_says_what_it_does_where_it_looks_and_what_its_weight_is() {
        for method in Method::ALL {
            let card = method.card();
            assert!(card.about.len() > 40 && card.paper.len() > 8, "{method}");
            let has = |name: &str| card.keys.iter().any(|key| key.path == name);
            assert!(has("at") || has("levels"), "{method}");
            assert!(has("weight") && has("warmup_steps") && has("until_step"), "{method}");
        }
    }
}
