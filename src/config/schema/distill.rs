//! What the student learns from the teacher: one `[[distill]]` table a method.

use serde::Serialize;

use crate::config::diagnose::Diagnostic;
use crate::config::section::{Fields, Key, Read, choices, join, section};
use crate::config::tree::Node;

choices! {
    /// The names of the methods.
    pub enum Method {
        /// Contrastive knowledge distillation.
        Ckd = "ckd",
        /// Kernel-alignment distillation of features.
        Rcka = "rcka",
    }
}

/// A distillation method with its settings; `method` says which.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Distill {
    /// `method = "ckd"`.
    Ckd(Ckd),
    /// `method = "rcka"`.
    Rcka(Rcka),
}

impl Distill {
    /// The word of `method`.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Ckd(_) => Method::Ckd.word(),
            Self::Rcka(_) => Method::Rcka.word(),
        }
    }

    /// Whether it adds nothing to the loss.
    pub fn is_off(&self) -> bool {
        match self {
            Self::Ckd(ckd) => ckd.weight == 0.0,
            Self::Rcka(rcka) => rcka.weight == 0.0 && rcka.weight_inter == 0.0,
        }
    }
}

impl Read for Distill {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut fields = Fields::of(node, path, findings)?;
        // Without the method, the other keys mean nothing yet.
        let entry = match fields.take("method", None)? {
            Method::Ckd => Ckd::take(&mut fields).map(Self::Ckd),
            Method::Rcka => Rcka::take(&mut fields).map(Self::Rcka),
        };
        fields.finish();
        entry
    }

    fn document(key: Key, keys: &mut Vec<Key>) {
        for (method, document) in [
            (Method::Ckd, Ckd::document_fields as fn(&str, &mut Vec<Key>)),
            (Method::Rcka, Rcka::document_fields),
        ] {
            keys.push(Key {
                path: join(&key.path, "method"),
                takes: format!("\"{method}\""),
                documentation: "The method; the keys that follow belong to it.".to_owned(),
                default: None,
            });
            document(&key.path, keys);
        }
    }

    fn takes() -> String {
        "a table with a `method`".to_owned()
    }
}

choices! {
    /// The logits whose rows CKD compares.
    pub enum CkdAt {
        /// Faster R-CNN: both box heads on the student's sampled proposals.
        RoiLogits = "roi_logits",
        /// RetinaNet: the positive anchors and the teacher's highest-scoring others.
        AnchorLogits = "anchor_logits",
        /// A classifier's logits, a row an image.
        Logits = "logits",
    }
}

choices! {
    /// What a row is contrasted with.
    pub enum Negatives {
        /// Teacher row against the student's other rows (the authors' code).
        Cross = "cross",
        /// Student row against the student's other rows (the paper's summary).
        Student = "student",
    }
}

section! {
    /// Contrastive knowledge distillation (arXiv 2404.14109): each row of the student's logits must
    /// be closest to the teacher's row of the same sample.
    pub struct Ckd {
        /// The logits it compares.
        pub at: CkdAt,
        /// Weight in the total loss.
        pub weight: f32 = 0.1,
        /// Divides the cosines.
        pub temperature: f32 = 1.0,
        /// What a row is contrasted with.
        pub negatives: Negatives = Negatives::Cross,
        /// Anchors compared per image, at anchor_logits.
        pub anchors_per_image: usize = 512,
        /// The weight rises linearly from 0 over this many steps.
        pub warmup_steps: u64 = 0,
    }
}

choices! {
    /// The features that RCKA aligns.
    pub enum RckaAt {
        /// Levels of the feature pyramid.
        Fpn = "fpn",
    }
}

section! {
    /// Relaxed centred kernel alignment (arXiv 2401.11824) in its patch form, PCKA: per level and
    /// channel, the similarities between the patches of the student are to equal the teacher's.
    pub struct Rcka {
        /// The features it aligns.
        pub at: RckaAt = RckaAt::Fpn,
        /// Levels: p2 to p6 for Faster R-CNN, p3 to p7 for RetinaNet.
        pub levels: Vec<String>,
        /// Weight of the term between patches (intra).
        pub weight: f32 = 10.0,
        /// Weight of the term between pixels of a patch (inter); 0 leaves it out.
        pub weight_inter: f32 = 0.0,
        /// Height and width of a patch in cells of the level.
        pub patch: usize = 16,
        /// Centre the kernels. The authors' code does not, in spite of the name.
        pub center: bool = false,
        /// Divide each row of the kernels by its norm. The authors' detection configurations do not.
        pub row_norm: bool = false,
        /// The weight rises linearly from 0 over this many steps.
        pub warmup_steps: u64 = 0,
    }
}
