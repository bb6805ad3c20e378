//! What the student learns from the teacher: one `[[distill]]` table a method.
//!
//! A method has one line in `methods!`: its word, its section and its paper. Everything that lists methods,
//! `ckd-det methods` too, is made from there. The sections are in `rows` and `maps`, by where a method looks.

mod maps;
mod rows;

use serde::Serialize;

pub use maps::{At, Cwd, Fcka, FckaOf, Fgd, Fgfi, FitNet, Mimic, Pkd, PkdStd, Rcka, Regressor, ReviewKd};
pub use rows::{Ckd, Crd, Dist, Dkd, Icd, IcdDirection, IcdScale, Kd, Lcka, Negatives, Rkd, RowNorm};

use crate::config::diagnose::Diagnostic;
use crate::config::section::{Fields, Key, Read, choices, join, section};
use crate::config::tree::Node;

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
