//! Methods of knowledge distillation, one a file: keys, formula and gradient.
//!
//! | file | what lives there |
//! |---|---|
//! | `ckd` | [`ckd()`]: contrastive distillation over rows (RoIs, anchors, samples) |
//! | `rcka`, `lcka`, `fcka` | kernel alignment of feature maps patch by patch ([`patch_cka`]), of logits, of whole maps |
//! | `ka` | [`ka()`]: kernel alignment of two matrices |
//! | `icd` | [`icd()`]: contrast and invariance through trained heads |
//! | `kd`, `dkd`, `dist` | [`kd()`], [`dkd()`], [`dist()`]: logits by divergence, decoupled, by correlation |
//! | `rkd`, `crd` | [`rkd()`]: relations of samples; [`crd()`]: contrast with a memory |
//! | `fitnet`, `at`, `review`, `pkd`, `cwd` | feature maps: through a regressor, attention, review ([`hcl`]), [`pkd()`], [`cwd()`] |
//! | `mgd` | [`mgd()`]: feature maps generated from a part of them |
//! | `tbr`, `box_imitation` | box deltas: [`bounded`] by the teacher, [`imitated`] |
//! | `cross_kd` | predictions of the teacher's head from the student's features: [`aligned`], [`class_difference`] |
//! | `dense`, `queue`, `local`, `projector` | without labels: [`dense()`], [`queue()`], [`local()`] through a [`Projector`] |
//! | `fgfi`, `fgd`, `context` | feature maps where the objects are |
//! | `mcl`, `meta` | online learning: [`mcl`]'s losses, the gradient of its meta step |
//! | `bank` | memory banks of samples: [`ByClass`], [`remember`], [`likeness`] |
//! | `method`, `place` | [`Method`]: a section that is a method; [`Rows`], [`Maps`]: its taps; [`Timing`] |
//! | `distiller` | [`Distiller`], [`Lesson`], [`Term`]: a method in training |
//! | `parts` | [`Parts`]: rows of all parts of an update; [`NegativesFrom`] |
//! | `on_rows`, `on_maps` | distillers of methods that are a formula |
//! | `prepared` | [`Prepared`]: rows standardised or centred before they are compared |
//!
//! A [`Distiller`] names the taps that it reads and turns what teacher and student found there into loss
//! [`Term`]s. It knows no detector. The teacher is a constant: a teacher that would get a gradient is an
//! error. What a method trains along with the student (heads, regressors, memories) is in its `ParamStore`.

mod bank;
mod context;
mod distiller;
mod ka;
mod layers;
mod maps;
pub mod mcl;
pub mod meta;
mod method;
mod on_maps;
mod on_rows;
pub mod parts;
mod place;
mod prepared;
mod projector;
mod rows;
mod scalar;

pub use bank::{ByClass, contrast_columns, likeness, remember};
pub use ckd_kernels::alignment::PatchRows;
pub use distiller::{
    BoxRows, Crossing, DistillError, Distiller, Heads, Lesson, Predictions, Term, Width, Widths,
};
pub use ka::{Kernel, RowNorm, ka};
pub use maps::mean_squared_difference;
pub use method::{Method, MethodCard, MethodSetting};
pub use parts::{AllRows, NegativesFrom, Parts, PartsError};
use place::Compared;
pub use place::{Maps, MapsAt, Offer, Place, Rows, RowsAt, Timing};
pub use prepared::Prepared;
pub use projector::Projector;

use ckd_detectors::param::Builder;
use ckd_settings::{Check, Diagnostic, Fields, Key, Node, Read, Section, join, unknown_word};
use serde::{Serialize, Serializer};

/// Declares the methods: the file of each, and its section there.
macro_rules! methods {
    ($( $file:ident: $($name:ident),+; )+) => {
        $(
            mod $file;
            pub use $file::*;
        )+

        /// A method of distillation with its settings: one `[[distill]]` entry, whose `method` says which.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Distill {
            $($(
                #[doc = concat!("The method of [`", stringify!($name), "`].")]
                $name($name),
            )+)+
        }

        $($(
            impl From<$name> for Distill {
                fn from(entry: $name) -> Self {
                    Self::$name(entry)
                }
            }
        )+)+

        /// Evaluates an expression with the section of an entry.
        macro_rules! with_section {
            ($distill:expr, $entry:ident => $result:expr) => {
                match $distill {
                    $($( Distill::$name($entry) => $result, )+)+
                }
            };
        }

        /// The summaries of all methods that learn from a teacher.
        pub fn taught() -> Vec<MethodCard> {
            vec![$($( MethodCard::of::<$name>(), )+)+]
        }

        /// Reads the keys of the method called `word`; nothing if there is none.
        fn take(word: &str, fields: &mut Fields<'_>) -> Option<Option<Distill>> {
            $($(
                if word == <$name as Method>::WORD {
                    return Some($name::take(fields).map(Distill::$name));
                }
            )+)+
            None
        }
    };
}

methods! {
    ckd: Ckd;
    rcka: Rcka;
    lcka: Lcka;
    fcka: Fcka;
    icd: Icd;
    kd: Kd;
    dkd: Dkd;
    dist: Dist;
    fitnet: FitNet, Mimic;
    at: At;
    rkd: Rkd;
    crd: Crd;
    review: ReviewKd;
    fgfi: Fgfi;
    fgd: Fgd;
    pkd: Pkd;
    cwd: Cwd;
    mgd: Mgd;
    tbr: Tbr;
    box_imitation: BoxImitation;
    cross_kd: CrossKd;
    dense: DenseFeatures;
    queue: FeatureQueue;
    local: LocalFeatures;
}

/// The summaries of all methods: those that learn from a teacher, then those of cohorts.
pub fn methods() -> Vec<MethodCard> {
    taught().into_iter().chain(mcl::CohortMethod::ALL.iter().map(|method| method.card())).collect()
}

impl Distill {
    /// The method's word.
    pub fn word(&self) -> &'static str {
        fn word<M: Method>(_: &M) -> &'static str {
            M::WORD
        }
        with_section!(self, entry => word(entry))
    }

    /// The taps that its entry names.
    pub fn place(&self) -> Place<'_> {
        with_section!(self, entry => (&entry.place).into())
    }

    /// Schedule of its weights.
    pub fn timing(&self) -> &Timing {
        self.place().timing()
    }

    /// Weights in the loss, by key.
    pub fn weights(&self) -> Vec<(&'static str, f32)> {
        with_section!(self, entry => entry.weights())
    }

    /// True if all its weights are 0.
    pub fn is_off(&self) -> bool {
        self.weights().iter().all(|(_, weight)| *weight == 0.0)
    }

    /// Anchors compared per image, if it compares anchors.
    pub fn anchors_per_image(&self) -> Option<usize> {
        match self.place() {
            Place::Rows(rows) if matches!(rows.at, RowsAt::AnchorLogits | RowsAt::AnchorBoxes) => {
                Some(rows.anchors_per_image)
            }
            _ => None,
        }
    }

    /// Checks whether the method finds what its entry names in networks that offer `offer`.
    pub fn check_place(&self, offer: &Offer, check: &mut Check<'_>) {
        fn compared<M: Method>(_: &M) -> Compared {
            Compared { rows: M::ROWS, pooled: M::POOLED }
        }
        offer.check(self.word(), with_section!(self, entry => compared(entry)), self.place(), check);
    }

    /// The distiller of the entry at `index` of `[[distill]]`; what it trains is called `distill.INDEX...`.
    ///
    /// # Errors
    /// Taps that do not exist or have no known width; anchors or classes that the method needs and `setting`
    /// lacks.
    pub fn distiller(
        &self,
        index: usize,
        setting: &MethodSetting<'_>,
    ) -> Result<Box<dyn Distiller>, DistillError> {
        let builder = Builder::new(setting.seed, setting.device).within("distill").within(index);
        with_section!(self, entry => entry.build(setting, builder))
    }
}

impl Serialize for Distill {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// An entry with its word, as a document holds it.
        #[derive(Serialize)]
        struct Tagged<'a, E> {
            method: &'static str,
            #[serde(flatten)]
            entry: &'a E,
        }
        let method = self.word();
        with_section!(self, entry => Tagged { method, entry }.serialize(serializer))
    }
}

impl Read for Distill {
    fn read(node: &Node, path: &str, findings: &mut Vec<Diagnostic>) -> Option<Self> {
        let mut fields = Fields::of(node, path, findings)?;
        // Without the method, the other keys mean nothing yet.
        let method: String = fields.take("method", None)?;
        let Some(entry) = take(&method, &mut fields) else {
            let words: Vec<&str> = taught().iter().map(|card| card.method).collect();
            let place = node.at("method").unwrap_or(node);
            findings.push(unknown_word(place, &join(path, "method"), &method, words.into_iter()));
            return None;
        };
        fields.finish();
        entry
    }

    fn document(key: Key, keys: &mut Vec<Key>) {
        for MethodCard { method, about, paper, keys: own, .. } in taught() {
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
        with_section!(self, entry => entry.check_all(check));
        for (key, weight) in self.weights() {
            check.not_negative(key, weight.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_says_what_it_does_where_it_looks_and_what_its_weight_is() {
        for card in taught() {
            let has = |name: &str| card.keys.iter().any(|key| key.path == name);
            assert!(has("at") || has("levels"), "{}", card.method);
            assert!(has("weight") && has("warmup_steps") && has("until_step"), "{}", card.method);
        }
    }
}
