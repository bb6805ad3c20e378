//! MMDetection's names (`mmdet/models`: `necks/fpn.py`, `dense_heads`, `roi_heads/bbox_heads`); its ResNet is torchvision's.

use super::Ours;

/// `known` are all names of the file.
pub(super) fn ours(name: &str, known: &[String]) -> Ours {
    let parts: Vec<&str> = name.split('.').collect();
    Ours::Is(match parts.as_slice() {
        ["backbone", rest @ ..] => format!("backbone.body.{}", rest.join(".")),
        ["neck", convs @ ("lateral_convs" | "fpn_convs"), at, layer, last] => {
            let Ok(at) = at.parse::<usize>() else { return Ours::Unknown };
            let levels = known.iter().filter(|name| is_lateral(name)).count();
            let place = match *layer {
                "conv" => 0,
                "bn" | "gn" => 1,
                _ => return Ours::Unknown,
            };
            match (*convs, at.checked_sub(levels)) {
                ("lateral_convs", _) => format!("backbone.fpn.inner_blocks.{at}.{place}.{last}"),
                (_, None) => format!("backbone.fpn.layer_blocks.{at}.{place}.{last}"),
                (_, Some(extra)) if place == 0 => {
                    format!("backbone.fpn.extra_blocks.p{}.{last}", extra + 6)
                }
                _ => return Ours::Unknown,
            }
        }
        ["rpn_head", "rpn_conv", last] => format!("rpn.head.conv.0.0.{last}"),
        ["rpn_head", "rpn_conv", at, "conv", last] => format!("rpn.head.conv.{at}.0.{last}"),
        ["rpn_head", "rpn_cls", last] => format!("rpn.head.cls_logits.{last}"),
        ["rpn_head", "rpn_reg", last] => format!("rpn.head.bbox_pred.{last}"),
        ["roi_head", "bbox_head", "shared_fcs", "0", last] => format!("roi_heads.box_head.fc6.{last}"),
        ["roi_head", "bbox_head", "shared_fcs", "1", last] => format!("roi_heads.box_head.fc7.{last}"),
        ["roi_head", "bbox_head", "fc_cls", last] => format!("roi_heads.box_predictor.cls_score.{last}"),
        ["roi_head", "bbox_head", "fc_reg", last] => format!("roi_heads.box_predictor.bbox_pred.{last}"),
        ["bbox_head", convs @ ("cls_convs" | "reg_convs"), at, "conv", last] => {
            format!("head.{}.conv.{at}.0.{last}", head(convs))
        }
        ["bbox_head", convs @ ("cls_convs" | "reg_convs"), at, "gn", last] => {
            format!("head.{}.conv.{at}.1.{last}", head(convs))
        }
        ["bbox_head", "retina_cls", last] => format!("head.classification_head.cls_logits.{last}"),
        ["bbox_head", "retina_reg", last] => format!("head.regression_head.bbox_reg.{last}"),
        ["data_preprocessor", _] | ["head", "fc", _] => return Ours::Unused,
        _ => return Ours::Unknown,
    })
}

fn is_lateral(name: &str) -> bool {
    name.starts_with("neck.lateral_convs.") && name.ends_with(".conv.weight")
}

fn head(convs: &str) -> &'static str {
    if convs == "cls_convs" { "classification_head" } else { "regression_head" }
}
