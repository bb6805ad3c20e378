//! What the student learns from the teacher: one `[[distill]]` table a method.
//!
//! A method has one line in `methods!`: its word, its section and its paper. Everything that lists methods,
//! `ckd-det methods` too, is made from there.

use serde::Serialize;

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
    /// Its keys beside `method`.
    pub keys: Vec<Key>,
}

impl Method {
    /// What there is to know about it.
    pub fn card(self) -> MethodCard {
        let (about, keys) = self.described();
        MethodCard { method: self.word(), about, paper: self.paper(), keys }
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
            let MethodCard { method, about, paper, keys: own } = method.card();
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
    /// Contrastive knowledge distillation: each row of the student's logits must
    /// be closer to the teacher's row of the same sample than the student's other rows are.
    pub struct Ckd with place: Rows {
        /// Weight in the total loss: 0.1 for the authors' detectors, 10 to 100 on CIFAR-100.
        pub weight: f32 = 0.1,
        /// Divides the cosines.
        pub temperature: f32 = 1.0,
        /// What a row is contrasted with.
        pub negatives: Negatives = Negatives::Cross,
    }
}

choices! {
    /// What the length of a row does to the similarities of rows.
    pub enum RowNorm {
        /// x_i·x_j.
        Off = "off",
        /// x_i·x_j / |x_i|, not symmetric (the authors' choice for logits).
        Rows = "rows",
        /// x_i·x_j / (|x_i| |x_j|).
        Cosine = "cosine",
    }
}

section! {
    /// Relaxed centred kernel alignment in its patch form, PCKA: per level and
    /// channel, the similarities between the patches of the student are to equal the teacher's.
    pub struct Rcka with place: Maps {
        /// Weight of the term between patches (intra).
        pub weight: f32 = 10.0,
        /// Weight of the term between pixels of a patch (inter); 0 leaves it out. A weight of its own: in the
        /// authors' code it only switches the term on.
        pub weight_inter: f32 = 0.0,
        /// Height and width of a patch in cells of the level.
        pub patch: usize = 16,
        /// Centre the kernels. The authors' code does not, in spite of the name.
        pub center: bool = false,
        /// What the length of a row does. The authors' detection configurations leave it alone.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

section! {
    /// The logits' part of RCKA, LCKA: the similarities of the samples (intra), and those of the classes (inter),
    /// are to equal the teacher's.
    pub struct Lcka with place: Rows {
        /// Weight of the term between samples (intra).
        pub weight: f32 = 15.0,
        /// Weight of the term between classes (inter); 0 leaves it out.
        pub weight_inter: f32 = 15.0,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// What the length of a row does.
        pub row_norm: RowNorm = RowNorm::Rows,
    }
}

choices! {
    /// What FCKA takes the alignment of.
    pub enum FckaOf {
        /// The matrices of similarities between samples, rows of length 1: a kernel of kernels (the authors' code).
        Similarities = "similarities",
        /// The features (the figure in their description).
        Features = "features",
    }
}

section! {
    /// The features' part of RCKA, FCKA: the similarities of the samples' whole maps are to equal the teacher's.
    /// With `lcka` it makes RCKA for classifiers. It needs no adapter: channels and sizes may differ.
    pub struct Fcka with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// What the alignment is taken of.
        pub of: FckaOf = FckaOf::Similarities,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// What the length of a row does.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

choices! {
    /// The direction of ICD's invariance term.
    pub enum IcdDirection {
        /// KL(p(student | teacher) || p(teacher | student)): the authors' code.
        TeacherAnchors = "teacher_anchors",
        /// KL(p(teacher | student) || p(student | teacher)).
        StudentAnchors = "student_anchors",
    }
}

choices! {
    /// Whether ICD's scale is trained.
    pub enum IcdScale {
        /// theta and b are trained (the authors' CIFAR code). b has no gradient: a shift changes nothing.
        Trained = "trained",
        /// They stay as they are (the authors' ImageNet code).
        Fixed = "fixed",
    }
}

section! {
    /// Invariant consistency distillation: through a trained linear head on each side, the teacher's row of a sample
    /// must be found among all of the batch (contrast), equally well from both sides (invariance).
    pub struct Icd with place: Rows {
        /// Weight of contrast + alpha invariance.
        pub weight: f32 = 1.0,
        /// Weight of the invariance term within it.
        pub alpha: f32 = 0.5,
        /// Width of the heads.
        pub width: usize = 128,
        /// Cosines are multiplied with exp(theta), at most 10: where theta starts.
        pub theta: f32 = 1.0,
        /// Whether theta and b are trained.
        pub scale: IcdScale = IcdScale::Trained,
        /// The direction of the invariance term.
        pub direction: IcdDirection = IcdDirection::TeacherAnchors,
    }
}

section! {
    /// KL divergence of softened class probabilities, times the squared temperature.
    pub struct Kd with place: Rows {
        /// Weight in the total loss. No detector has a published one.
        pub weight: f32 = 1.0,
        /// Divides the logits: 4 on CIFAR, 1 on ImageNet and for regions.
        pub temperature: f32 = 1.0,
    }
}

section! {
    /// Decoupled knowledge distillation: the probability of the true class (TCKD) and the distribution over
    /// the others (NCKD), weighted apart. At roi_logits the true class of a region may be the background.
    pub struct Dkd with place: Rows {
        /// Weight of alpha TCKD + beta NCKD.
        pub weight: f32 = 1.0,
        /// Weight of TCKD within it.
        pub alpha: f32 = 1.0,
        /// Weight of NCKD within it: 0.25 for the authors' detectors, 2 to 8 on CIFAR-100, 0.5 to 2 on ImageNet.
        pub beta: f32 = 0.25,
        /// Divides the logits: 4 on CIFAR, 1 elsewhere.
        pub temperature: f32 = 1.0,
    }
}

section! {
    /// Correlation instead of equality: of each sample's class probabilities (inter) and of each class over the
    /// samples (intra). At anchor_logits probabilities are sigmoids, elsewhere softmaxes.
    pub struct Dist with place: Rows {
        /// Weight of the term over each sample's classes (inter): 1 for detectors, 2 on CIFAR.
        pub weight: f32 = 1.0,
        /// Weight of the term over each class's samples (intra); 0 leaves it out.
        pub weight_intra: f32 = 1.0,
        /// Divides the logits; its square multiplies the terms. 4 on CIFAR.
        pub temperature: f32 = 1.0,
    }
}

choices! {
    /// What the student's map goes through before it is compared. Trained with the student, dropped afterwards.
    pub enum Regressor {
        /// A 1x1 convolution, batch norm, ReLU.
        ConvBnRelu = "conv_bn_relu",
        /// A 1x1 convolution.
        Conv = "conv",
        /// Nothing: both maps must have the same channels.
        Identity = "identity",
    }
}

section! {
    /// Mean squared difference of feature maps, the student's through a regressor. Maps of different size are
    /// compared at the smaller size.
    pub struct FitNet with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 100.0,
        /// What the student's map goes through.
        pub regressor: Regressor = Regressor::ConvBnRelu,
    }
}

section! {
    /// Mean squared difference of pyramid levels through a 1x1 convolution, as DIST's and PCKA's tables add it.
    pub struct Mimic with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// What the student's map goes through.
        pub regressor: Regressor = Regressor::Conv,
    }
}

section! {
    /// Attention transfer: where the squared activations are, as a unit vector over the cells.
    pub struct At with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1000.0,
    }
}

section! {
    /// Relations between the samples of a batch: distances, relative to their mean, and angles of triples.
    pub struct Rkd with place: Rows {
        /// Weight of the distances.
        pub weight: f32 = 25.0,
        /// Weight of the angles; 0 leaves them out. Their cost grows with the cube of the rows.
        pub weight_angle: f32 = 50.0,
    }
}

section! {
    /// Contrast with a memory of all training samples, in both directions, through a trained linear head on each
    /// side. Negatives are of other classes.
    pub struct Crd with place: Rows {
        /// Weight of both directions together.
        pub weight: f32 = 0.8,
        /// Negatives drawn for each sample.
        pub negatives: usize = 16384,
        /// Divides the cosines.
        pub temperature: f32 = 0.07,
        /// Share of the old memory when a sample is seen again.
        pub momentum: f32 = 0.5,
        /// Width of the heads and of the memory.
        pub width: usize = 128,
    }
}

section! {
    /// Knowledge review: from the deepest level to the finest, the student's maps are fused by trained attention
    /// (ABF) and compared with the teacher's at several scales (HCL).
    pub struct ReviewKd with place: Maps {
        /// Weight of all levels together: 1 to 2 for detectors, 0.6 to 8 on CIFAR-100.
        pub weight: f32 = 1.0,
        /// Width of the fused maps. Default: that of the student's deepest map, at most 512.
        pub width: Option<usize>,
    }
}

section! {
    /// Fine-grained feature imitation: squared differences where anchors overlap an object, the student's map
    /// through a trained 3x3 convolution and ReLU. The authors begin after 400 steps (`from_step`).
    pub struct Fgfi with place: Maps {
        /// Weight in the total loss.
        pub weight: f32 = 0.01,
        /// An anchor counts if its IoU with an object exceeds this share of the object's best.
        pub threshold: f32 = 0.5,
    }
}

section! {
    /// Focal and global distillation: squared differences inside the boxes and outside, weighted by the teacher's
    /// attention (focal), the attentions, and the maps with their context through trained blocks (global).
    /// Published: as below for Faster R-CNN; 1e-3, 5e-4, 5e-4, 5e-6 for RetinaNet.
    pub struct Fgd with place: Maps {
        /// Weight of the differences inside boxes.
        pub weight: f32 = 5e-5,
        /// Weight of those outside.
        pub weight_background: f32 = 2.5e-5,
        /// Weight of the attentions.
        pub weight_attention: f32 = 5e-5,
        /// Weight of the maps with context; 0 leaves the trained blocks out.
        pub weight_context: f32 = 5e-7,
        /// Divides mean activations before the attention's softmax.
        pub temperature: f32 = 0.5,
    }
}

choices! {
    /// What a channel's standard deviation divides by.
    pub enum PkdStd {
        /// n: the loss is 1 - Pearson's r.
        Population = "population",
        /// n - 1: the authors' code.
        Sample = "sample",
    }
}

section! {
    /// Half the mean squared difference of maps whose channels have mean 0 and deviation 1: 1 - Pearson's r.
    pub struct Pkd with place: Maps {
        /// Weight of each level's term: 6 for two-stage detectors, 10 for RetinaNet.
        pub weight: f32 = 6.0,
        /// What the deviation divides by.
        pub std: PkdStd = PkdStd::Population,
    }
}

section! {
    /// Channel-wise distillation: each channel as a distribution over the cells; KL divergence times the squared
    /// temperature.
    pub struct Cwd with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 5.0,
        /// Divides the activations.
        pub temperature: f32 = 1.0,
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
