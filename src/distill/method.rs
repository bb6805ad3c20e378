//! A method that learns from a teacher as a section of the configuration.
//!
//! A method is a file with its section of the configuration, its [`Method`] and its formula, and a line in
//! `methods!` (`mod.rs`). Everything that lists methods is made from that line.

use candle_core::Device;
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::param::Builder;
use ckd_settings::{Key, Section};
use serde::Serialize;

use super::distiller::{DistillError, Distiller, Widths};
use super::place::RowsAt;

/// A section of the configuration that is a method of distillation: one `[[distill]]` entry.
pub trait Method: Section {
    /// The method's word: the entry's `method`, and the first part of its terms' names.
    const WORD: &'static str;

    /// The publication.
    const PAPER: &'static str;

    /// The rows that it can compare, if it compares rows.
    const ROWS: &'static [RowsAt] = RowsAt::VECTORS;

    /// Whether `levels` of its maps may end with "embedding", the pooled features: maps of one cell.
    const POOLED: bool = false;

    /// Weights in the loss, by key; the method is off if all are 0.
    fn weights(&self) -> Vec<(&'static str, f32)>;

    /// Makes the distiller; `builder` makes what it trains.
    ///
    /// # Errors
    /// Taps that do not exist or have no known width; anchors or classes that the method needs and `setting`
    /// lacks.
    fn build(
        &self,
        setting: &MethodSetting<'_>,
        builder: Builder,
    ) -> Result<Box<dyn Distiller>, DistillError>;
}

/// Facts about the networks and the data that methods need before the first step.
#[derive(Debug, Clone)]
pub struct MethodSetting<'a> {
    /// Initial values follow from it.
    pub seed: u64,
    /// Device of the parameters.
    pub device: &'a Device,
    /// Channels or columns at each tap.
    pub widths: Widths,
    /// The anchors of a detector.
    pub anchors: Option<AnchorGenerator>,
    /// Training images; 0 where they are not known.
    pub images: usize,
    /// The class of each training image of a classifier.
    pub classes: Vec<u32>,
}

/// A summary of a method: word, purpose, publication and keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodCard {
    /// The word of `method`.
    pub method: &'static str,
    /// Purpose of the method.
    pub about: String,
    /// The publication.
    pub paper: &'static str,
    /// The table of a configuration that uses it.
    pub entry: &'static str,
    /// Keys beside `method`.
    pub keys: Vec<Key>,
}

impl MethodCard {
    /// The summary of the method `M`.
    pub(super) fn of<M: Method>() -> Self {
        let mut keys = Vec::new();
        M::document_fields("", &mut keys);
        Self { method: M::WORD, about: M::about(), paper: M::PAPER, entry: "[[distill]]", keys }
    }
}
