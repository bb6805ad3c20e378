//! The typed points of a network that distillation attaches to.

use std::collections::BTreeMap;
use std::fmt;

use ckd_kernels::Value;

/// A pyramid level: P2 has stride 4, P3 stride 8, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// A point of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tap {
    /// A map of the pyramid, (N, C, H, W).
    Fpn(Level),
    /// Class logits of sampled regions, (R, K + 1), background first.
    RoiLogits,
    /// Class logits of selected anchors, (A, K).
    AnchorLogits,
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fpn(level) => level.fmt(f),
            Self::RoiLogits => f.write_str("roi_logits"),
            Self::AnchorLogits => f.write_str("anchor_logits"),
        }
    }
}

/// A network does not offer a point that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the network has no tap {tap}; it offers {offered}")]
pub struct MissingTap {
    /// What was asked for.
    pub tap: Tap,
    /// What there is.
    pub offered: String,
}

/// What a forward pass offers, in order.
#[derive(Debug, Clone, Default)]
pub struct Taps {
    values: BTreeMap<Tap, Value>,
}

impl Taps {
    /// Adds a point, replacing what was there.
    pub fn insert(&mut self, tap: Tap, value: Value) {
        self.values.insert(tap, value);
    }

    /// The value at `tap`.
    pub fn get(&self, tap: Tap) -> Option<&Value> {
        self.values.get(&tap)
    }

    /// The value at `tap`, or an error that names it.
    pub fn require(&self, tap: Tap) -> Result<&Value, MissingTap> {
        self.get(tap).ok_or_else(|| MissingTap {
            tap,
            offered: self.values.keys().map(Tap::to_string).collect::<Vec<_>>().join(", "),
        })
    }
}
