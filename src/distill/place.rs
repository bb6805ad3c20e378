//! Taps of a method as configurations name them: rows or feature maps, when its terms count, and whether the
//! networks offer what it compares.

use ckd_detectors::taps::{Tap, UnknownName};
use ckd_settings::{Check, choices, section};

section! {
    /// Schedule of the weights, in steps of the optimiser: warm-up, decay, first and last step.
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

    /// Factor of the weights at `step`, counted from 0.
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
    #[non_exhaustive]
    pub enum RowsAt {
        /// Faster R-CNN: class logits of both box heads on the student's sampled proposals, background first.
        RoiLogits = "roi_logits",
        /// RetinaNet, FCOS: class logits of the positive anchors (points) and of the teacher's highest-scoring others.
        AnchorLogits = "anchor_logits",
        /// Faster R-CNN: box deltas of both box heads on the student's sampled proposals, of each proposal's class.
        RoiBoxes = "roi_boxes",
        /// RetinaNet: box deltas of the anchors of anchor_logits; FCOS: distances from the points, in strides.
        AnchorBoxes = "anchor_boxes",
        /// A classifier's logits.
        Logits = "logits",
        /// A classifier's pooled features.
        Embedding = "embedding",
    }
}

impl RowsAt {
    /// Rows that a method may compare by their numbers alone: logits and features.
    pub const VECTORS: &'static [Self] =
        &[Self::RoiLogits, Self::AnchorLogits, Self::Logits, Self::Embedding];

    /// Rows of box deltas.
    pub const BOXES: &'static [Self] = &[Self::RoiBoxes, Self::AnchorBoxes];

    /// The tap where these rows are found.
    pub fn tap(self) -> Tap {
        match self {
            Self::RoiLogits => Tap::RoiLogits,
            Self::AnchorLogits => Tap::AnchorLogits,
            Self::RoiBoxes => Tap::RoiBoxes,
            Self::AnchorBoxes => Tap::AnchorBoxes,
            Self::Logits => Tap::Logits,
            Self::Embedding => Tap::Embedding,
        }
    }
}

section! {
    /// The rows that a method compares.
    pub struct Rows with timing: Timing = default {
        /// The rows: logits of regions or images, or pooled features.
        pub at: RowsAt,
        /// Anchors compared per image, at anchor_logits and anchor_boxes.
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
    #[non_exhaustive]
    pub enum MapsAt {
        /// A detector's feature pyramid.
        Fpn = "fpn",
        /// The stages of a classifier.
        Stages = "stages",
    }
}

section! {
    /// The feature maps that a method compares.
    pub struct Maps with timing: Timing = default {
        /// The feature maps.
        pub at: MapsAt = MapsAt::Fpn,
        /// Levels that are compared, which both networks have with the same stride: p2 to p6 for Faster R-CNN
        /// (p5 to p7 on a mobilenet_v3_large, of which a ResNet has p5), p3 to p7 for RetinaNet and FCOS;
        /// stage1, stage2, .. for classifiers.
        pub levels: Vec<String>,
    }
}

impl Maps {
    /// The taps of the levels in the order of [`Tap`]: fine to coarse.
    ///
    /// # Errors
    /// A level that is no tap's name.
    pub fn taps(&self) -> Result<Vec<Tap>, UnknownName> {
        let mut taps = self.levels.iter().map(|level| level.parse()).collect::<Result<Vec<Tap>, _>>()?;
        taps.sort_unstable();
        Ok(taps)
    }
}

/// The taps of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    /// Rows: logits or features, one row a sample.
    Rows(&'a Rows),
    /// Feature maps.
    Maps(&'a Maps),
}

impl<'a> Place<'a> {
    /// Schedule of the method's weights.
    pub fn timing(self) -> &'a Timing {
        match self {
            Self::Rows(rows) => &rows.timing,
            Self::Maps(maps) => &maps.timing,
        }
    }
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

/// Rows and levels that a method can compare.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) rows: &'static [RowsAt],
    /// Whether pooled features may be its deepest map.
    pub(super) pooled: bool,
}

/// Rows and maps that the networks of a configuration have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The networks, in words.
    pub networks: String,
    /// Their rows.
    pub rows: Vec<RowsAt>,
    /// Their maps.
    pub maps: MapsAt,
    /// The names of these maps.
    pub levels: Vec<String>,
}

impl Offer {
    /// Checks whether `method` finds in these networks what its entry names and what it can compare.
    pub(super) fn check(&self, method: &str, compared: Compared, place: Place<'_>, check: &mut Check<'_>) {
        match place {
            Place::Rows(rows) => self.check_rows(method, compared.rows, rows.at, check),
            Place::Maps(maps) => self.check_maps(maps, compared.pooled, check),
        }
    }

    fn check_rows(&self, method: &str, comparable: &[RowsAt], at: RowsAt, check: &mut Check<'_>) {
        let fitting: Vec<String> = self
            .rows
            .iter()
            .filter(|at| comparable.contains(at))
            .map(|at| format!("at = \"{at}\""))
            .collect();
        let help = match fitting.as_slice() {
            [] => format!("{method} has nothing to look at in {}; use another method", self.networks),
            fitting => format!("set {}", fitting.join(" or ")),
        };
        let message = match self.rows.contains(&at) {
            true => format!("is \"{at}\", which {method} cannot compare"),
            false => format!("is \"{at}\", which {} does not have", self.networks),
        };
        check.that(self.rows.contains(&at) && comparable.contains(&at), "at", message, help);
    }

    fn check_maps(&self, maps: &Maps, pooled: bool, check: &mut Check<'_>) {
        let mut known = self.levels.clone();
        if pooled && self.rows.contains(&RowsAt::Embedding) {
            known.push(RowsAt::Embedding.to_string());
        }
        check.that(
            maps.at == self.maps,
            "at",
            format!("is \"{}\", which {} does not have", maps.at, self.networks),
            format!("set at = \"{}\"", self.maps),
        );
        let choose = || format!("choose from {}", known.join(", "));
        check.that(!maps.levels.is_empty(), "levels", "is empty", choose());
        for (index, level) in maps.levels.iter().enumerate() {
            let key = format!("levels.{index}");
            check.that(
                known.contains(level),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_rises_stays_falls_and_ends() {
        let timing = Timing { from_step: 2, warmup_steps: 3, until_step: Some(10), decay_steps: 1 };
        let factors: Vec<f64> = (0..12).map(|step| timing.factor(step)).collect();
        assert_eq!(factors, [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]);
        let always = Timing::default();
        assert!([0, 1, u64::MAX - 1].iter().all(|&step| always.factor(step) == 1.0));
    }
}
