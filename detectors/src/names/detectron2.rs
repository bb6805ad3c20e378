//! Detectron2's names (`modeling/backbone/resnet.py`, `fpn.py`, `proposal_generator/rpn.py`, `roi_heads`, `retinanet.py`),
//! and Caffe2's, which it reads itself (`checkpoint/c2_model_loading.py`).

use super::Ours;

/// `known` are all names of the file.
pub(super) fn ours(name: &str, known: &[String]) -> Ours {
    let has = |start: &str| known.iter().any(|name| name.starts_with(start));
    if name.ends_with("pixel_mean")
        || name.ends_with("pixel_std")
        || name.contains("anchor_generator.cell_anchors.")
    {
        return Ours::Unused;
    }
    if let Some(rest) = name.strip_prefix("backbone.bottom_up.") {
        return trunk(rest, "backbone.body.");
    }
    let parts: Vec<&str> = name.split('.').collect();
    Ours::Is(match parts.as_slice() {
        // A backbone alone.
        ["stem" | "res2" | "res3" | "res4" | "res5", ..] => return trunk(name, ""),
        ["fc1000" | "linear" | "fc", _] => return Ours::Unused,
        ["backbone", "top_block", level, last] => format!("backbone.fpn.extra_blocks.{level}.{last}"),
        ["backbone", block, rest @ ..] => {
            let (blocks, level) = match (block.strip_prefix("fpn_lateral"), block.strip_prefix("fpn_output"))
            {
                (Some(level), _) => ("inner_blocks", level),
                (_, Some(level)) => ("layer_blocks", level),
                _ => return Ours::Unknown,
            };
            let finest = if has("backbone.fpn_lateral2.") { 2 } else { 3 };
            let Some(at) = level.parse::<usize>().ok().and_then(|level| level.checked_sub(finest)) else {
                return Ours::Unknown;
            };
            match rest {
                ["norm", last] => format!("backbone.fpn.{blocks}.{at}.1.{last}"),
                [last] => format!("backbone.fpn.{blocks}.{at}.0.{last}"),
                _ => return Ours::Unknown,
            }
        }
        ["proposal_generator", "rpn_head", rest @ ..] => match rest {
            ["conv", last] => format!("rpn.head.conv.0.0.{last}"),
            ["conv", conv, last] => match conv.strip_prefix("conv") {
                Some(at) => format!("rpn.head.conv.{at}.0.{last}"),
                None => return Ours::Unknown,
            },
            ["objectness_logits", last] => format!("rpn.head.cls_logits.{last}"),
            ["anchor_deltas", last] => format!("rpn.head.bbox_pred.{last}"),
            _ => return Ours::Unknown,
        },
        ["roi_heads", "box_head", layer, rest @ ..] => {
            let convolves = has("roi_heads.box_head.conv1.");
            let number = |start: &str| layer.strip_prefix(start)?.parse::<usize>().ok()?.checked_sub(1);
            match (number("conv"), number("fc"), rest) {
                (Some(at), _, ["norm", last]) => format!("roi_heads.box_head.{at}.1.{last}"),
                (Some(at), _, [last]) => format!("roi_heads.box_head.{at}.0.{last}"),
                (_, Some(0), [last]) if convolves => format!("roi_heads.box_head.5.{last}"),
                (_, Some(at), [last]) if !convolves => format!("roi_heads.box_head.fc{}.{last}", at + 6),
                _ => return Ours::Unknown,
            }
        }
        ["head", "cls_score", last] => format!("head.classification_head.cls_logits.{last}"),
        ["head", "bbox_pred", last] => format!("head.regression_head.bbox_reg.{last}"),
        ["head", subnet @ ("cls_subnet" | "bbox_subnet"), at, last] => {
            let Ok(at) = at.parse::<usize>() else { return Ours::Unknown };
            // Convolution, (norm,) ReLU.
            let layers = if has("head.cls_subnet.1.") { 3 } else { 2 };
            let head = if *subnet == "cls_subnet" { "classification_head" } else { "regression_head" };
            format!("head.{head}.conv.{}.{}.{last}", at / layers, at % layers)
        }
        _ => return Ours::Unknown,
    })
}

/// A name of the ResNet, under `prefix` here.
fn trunk(name: &str, prefix: &str) -> Ours {
    let parts: Vec<&str> = name.split('.').collect();
    let within =
        |stage: &str| -> Option<usize> { stage.strip_prefix("res")?.parse::<usize>().ok()?.checked_sub(1) };
    let numbered = |conv: &str| conv.strip_prefix("conv").map(str::to_owned);
    let place = match parts.as_slice() {
        ["stem", "conv1", "norm", last] => Some(format!("bn1.{last}")),
        ["stem", "conv1", last] => Some(format!("conv1.{last}")),
        ["stem", "fc", _] => return Ours::Unused,
        [stage, block, "shortcut", "norm", last] => {
            within(stage).map(|stage| format!("layer{stage}.{block}.downsample.1.{last}"))
        }
        [stage, block, "shortcut", last] => {
            within(stage).map(|stage| format!("layer{stage}.{block}.downsample.0.{last}"))
        }
        [stage, block, conv, "norm", last] => within(stage)
            .zip(numbered(conv))
            .map(|(stage, conv)| format!("layer{stage}.{block}.bn{conv}.{last}")),
        [stage, block, conv, last] => within(stage)
            .zip(numbered(conv))
            .map(|(stage, conv)| format!("layer{stage}.{block}.conv{conv}.{last}")),
        _ => None,
    };
    place.map_or(Ours::Unknown, |place| Ours::Is(format!("{prefix}{place}")))
}

/// Detectron2's name for a tensor of Caffe2; `None` for an optimiser's state.
pub(super) fn of_caffe2(name: &str) -> Option<String> {
    if name.ends_with("_momentum") {
        return None;
    }
    let mut name = name.replace('_', ".");
    for (end, ours) in [
        ("bn.s", "norm.weight"),
        ("bn.b", "norm.bias"),
        ("bn.rm", "norm.running_mean"),
        ("bn.riv", "norm.running_var"),
        (".w", ".weight"),
        (".b", ".bias"),
    ] {
        if let Some(start) = name.strip_suffix(end) {
            name = format!("{start}{ours}");
            break;
        }
    }
    if let Some(rest) = name.strip_prefix("res.conv1.norm.") {
        name = format!("stem.conv1.norm.{rest}");
    } else if let Some(rest) = name.strip_prefix("conv1.") {
        name = format!("stem.conv1.{rest}");
    }
    for (theirs, ours) in [
        (".branch1.", ".shortcut."),
        (".branch2a.", ".conv1."),
        (".branch2b.", ".conv2."),
        (".branch2c.", ".conv3."),
    ] {
        name = name.replace(theirs, ours);
    }
    Some(name)
}
