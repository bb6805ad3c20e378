//! torchvision's names before its version 0.13 (`_version` 1 of the state dicts), as the published detectors have them.

use super::Ours;

/// Older names gained the numbers of a convolution's place in `Conv2dNormActivation`.
///
/// FCOS has its convolutions, norms and activations in one row to this day: they keep their names.
pub(super) fn ours(name: &str, known: &[String]) -> Ours {
    let parts: Vec<&str> = name.split('.').collect();
    Ours::Is(match parts.as_slice() {
        ["rpn", "head", "conv", last @ ("weight" | "bias")] => format!("rpn.head.conv.0.0.{last}"),
        ["backbone", "fpn", blocks @ ("inner_blocks" | "layer_blocks"), at, last @ ("weight" | "bias")] => {
            format!("backbone.fpn.{blocks}.{at}.0.{last}")
        }
        // Every second layer was a ReLU.
        ["head", head, "conv", at, last @ ("weight" | "bias")] if !is_fcos(known) => {
            match at.parse::<usize>() {
                Ok(at) => format!("head.{head}.conv.{}.0.{last}", at / 2),
                Err(_) => return Ours::Unknown,
            }
        }
        _ => return Ours::Unknown,
    })
}

fn is_fcos(known: &[String]) -> bool {
    known.iter().any(|name| name == "head.regression_head.bbox_ctrness.weight")
}

/// A block's convolutions, norms and activations in one row: (expand, norm, relu,) filter, norm, relu, project, norm.
pub(super) fn ours_of_flat_mobilenet(name: &str) -> Ours {
    let parts: Vec<&str> = name.split('.').collect();
    let ["features", block, "conv", at, last] = *parts.as_slice() else { return Ours::Unknown };
    // The first block does not expand.
    let place = match (block, at) {
        (_, "0") => "0.0",
        (_, "1") => "0.1",
        ("1", "3") => "1",
        ("1", "4") => "2",
        (_, "3") => "1.0",
        (_, "4") => "1.1",
        (_, "6") => "2",
        (_, "7") => "3",
        _ => return Ours::Unknown,
    };
    Ours::Is(format!("features.{block}.conv.{place}.{last}"))
}
