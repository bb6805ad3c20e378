//! Where distillation looks: named points of a network, with what a forward pass found there.
//!
//! A detector fills [`Taps`]; a distillation method asks for the [`Tap`]s that it reads and knows no
//! detector. Two networks that are compared offer the same taps of the same images and regions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ckd_kernels::Value;

/// A pyramid level: `Level(3)` is p3, of stride 2³.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

/// A point of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tap {
    /// A level of the feature pyramid, (N, C, H, W).
    Fpn(Level),
    /// The output of a stage of the trunk, counted from 1 (`layer1`), (N, C, H, W).
    Backbone(u8),
    /// The output of a stage before its last ReLU; where a norm and a ReLU begin the next stage, behind that norm, (N, C, H, W).
    PreActivation(u8),
    /// Class logits of the box head on sampled proposals, (R, K + 1), background first.
    RoiLogits,
    /// Class logits of chosen anchors (RetinaNet) or points (FCOS), (R, K).
    AnchorLogits,
    /// Box deltas of the box head on sampled proposals, (R, 4): those of each proposal's class.
    RoiBoxes,
    /// Box deltas of chosen anchors (RetinaNet), or distances from chosen points (FCOS), (R, 4).
    AnchorBoxes,
    /// A classifier's logits, (N, K).
    Logits,
    /// A classifier's pooled features, (N, D).
    Embedding,
}

/// Maps, features and logits found at the taps of a forward pass, in the order of [`Tap`].
#[derive(Debug, Clone, Default)]
pub struct Taps(BTreeMap<Tap, Value>);

/// A tap that a network does not offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no tap {tap} here; this network offers {}", list(offered))]
pub struct MissingTap {
    /// Requested tap.
    pub tap: Tap,
    /// Taps that the network offers.
    pub offered: Vec<Tap>,
}

/// A name that is no tap's or level's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name:?}; expected {expected}")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    expected: &'static str,
}

impl Taps {
    /// Offers `value` at `tap`, in place of what was there.
    pub fn insert(&mut self, tap: Tap, value: Value) {
        self.0.insert(tap, value);
    }

    /// Returns the value at `tap`, if the network offers it.
    pub fn get(&self, tap: Tap) -> Option<&Value> {
        self.0.get(&tap)
    }

    /// Returns the value at `tap`.
    pub fn require(&self, tap: Tap) -> Result<&Value, MissingTap> {
        self.get(tap).ok_or_else(|| MissingTap { tap, offered: self.0.keys().copied().collect() })
    }

    /// All taps with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Tap, &Value)> {
        self.0.iter().map(|(tap, value)| (*tap, value))
    }
}

impl FromIterator<(Tap, Value)> for Taps {
    fn from_iter<I: IntoIterator<Item = (Tap, Value)>>(taps: I) -> Self {
        Self(taps.into_iter().collect())
    }
}

impl Level {
    /// The lowest level of a pyramid that a configuration may name.
    const LOWEST: u8 = 2;
    /// The highest.
    const HIGHEST: u8 = 7;
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl FromStr for Level {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let level = match name.as_bytes() {
            [b'p', digit @ b'0'..=b'9'] => digit - b'0',
            _ => 0,
        };
        if (Self::LOWEST..=Self::HIGHEST).contains(&level) {
            return Ok(Self(level));
        }
        Err(UnknownName { kind: "pyramid level", name: name.to_owned(), expected: "p2 to p7" })
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fpn(level) => level.fmt(f),
            Self::Backbone(stage) => write!(f, "stage{stage}"),
            Self::PreActivation(stage) => write!(f, "stage{stage}{BEFORE_RELU}"),
            Self::RoiLogits => f.write_str("roi_logits"),
            Self::AnchorLogits => f.write_str("anchor_logits"),
            Self::RoiBoxes => f.write_str("roi_boxes"),
            Self::AnchorBoxes => f.write_str("anchor_boxes"),
            Self::Logits => f.write_str("logits"),
            Self::Embedding => f.write_str("embedding"),
        }
    }
}

/// End of a pre-activation's name.
const BEFORE_RELU: &str = "_before_relu";

impl FromStr for Tap {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        const EXPECTED: &str = "p2 to p7, stage1 to stage9 (stage1_before_relu ..), roi_logits, anchor_logits, roi_boxes, anchor_boxes, logits or embedding";
        match name {
            "roi_logits" => Ok(Self::RoiLogits),
            "anchor_logits" => Ok(Self::AnchorLogits),
            "roi_boxes" => Ok(Self::RoiBoxes),
            "anchor_boxes" => Ok(Self::AnchorBoxes),
            "logits" => Ok(Self::Logits),
            "embedding" => Ok(Self::Embedding),
            _ => match name.strip_prefix("stage").map(|rest| rest.as_bytes().split_at_checked(1)) {
                Some(Some((&[digit @ b'1'..=b'9'], b""))) => Ok(Self::Backbone(digit - b'0')),
                Some(Some((&[digit @ b'1'..=b'9'], rest))) if rest == BEFORE_RELU.as_bytes() => {
                    Ok(Self::PreActivation(digit - b'0'))
                }
                _ => name.parse().map(Self::Fpn).map_err(|_| UnknownName {
                    kind: "tap",
                    name: name.to_owned(),
                    expected: EXPECTED,
                }),
            },
        }
    }
}

fn list(taps: &[Tap]) -> String {
    match taps {
        [] => "none".to_owned(),
        taps => taps.iter().map(Tap::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn every_tap_is_found_again_by_its_name() {
        let all = [
            Tap::Fpn(Level(2)),
            Tap::Fpn(Level(7)),
            Tap::Backbone(4),
            Tap::PreActivation(3),
            Tap::RoiLogits,
            Tap::AnchorLogits,
            Tap::RoiBoxes,
            Tap::AnchorBoxes,
            Tap::Logits,
            Tap::Embedding,
        ];
        for tap in all {
            assert_eq!(tap.to_string().parse(), Ok(tap));
        }
        for wrong in [
            "",
            "p1",
            "p8",
            "p10",
            "p",
            "P3",
            "stage0",
            "stage12",
            "stage0_before_relu",
            "fpn",
            "roi logits",
            "é3",
        ] {
            let message = wrong.parse::<Tap>().unwrap_err().to_string();
            assert!(message.contains("p2 to p7"), "{message}");
        }
    }

    #[test]
    fn a_missing_tap_is_an_error_that_lists_what_there_is() {
        let zero = || Value::constant(Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let taps: Taps = [(Tap::RoiLogits, zero()), (Tap::Fpn(Level(3)), zero())].into_iter().collect();
        assert!(taps.require(Tap::RoiLogits).is_ok());
        let message = taps.require(Tap::Fpn(Level(6))).unwrap_err().to_string();
        assert_eq!(message, "no tap p6 here; this network offers p3, roi_logits");
        assert!(Taps::default().require(Tap::Logits).unwrap_err().to_string().ends_with("offers none"));
    }
}
