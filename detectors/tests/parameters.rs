//! Parameters of the detectors: their names and shapes are torchvision's, and so are the distributions of their
//! initial values.

use crate::golden;
use crate::support;
use std::collections::{BTreeMap, BTreeSet};

use crate::support::{CLASSES, bits, build, each_detector, values};
use ckd_detectors::Result;
use ckd_detectors::backbone::Trunk;
use ckd_detectors::nn::NormKind;
use ckd_detectors::param::{Builder, ParamStore};

#[test]
fn parameters_and_statistics_are_called_as_in_torchvision() -> Result<()> {
    for (model, want) in torchvision_names() {
        let depth = support::RESNETS.into_iter().find(|depth| model.contains(depth));
        let depth = depth.expect("a known trunk");
        let got = match model.split('_').next() {
            Some("fasterrcnn") => names(build(0, support::faster_rcnn(depth, 4))?.params()),
            Some("retinanet") => names(build(0, support::retinanet(depth, 5))?.params()),
            _ => {
                let builder = Builder::new(0, crate::support::device());
                Trunk::new(&builder, &support::backbone(depth))?;
                names(&builder.finish())
            }
        };
        assert_eq!(got, want, "{model}");
    }
    Ok(())
}

#[test]
fn initial_values_follow_the_seed_and_the_name_alone() {
    each_detector(|name, config| {
        let (first, again, other) = (build(1, config.clone())?, build(1, config.clone())?, build(2, config)?);
        assert_eq!(bits(first.params()), bits(again.params()), "{name}: the same seed");
        for ((parameter, a), b) in bits(first.params()).into_iter().zip(bits(other.params()).into_values()) {
            let constant = a.iter().all(|value| *value == a[0]);
            assert_eq!(a == b, constant, "{name}: {parameter} with another seed");
        }
        Ok(())
    });
}

#[test]
fn another_layer_changes_no_initial_value() -> Result<()> {
    let (mut deeper, mut richer) = (support::tiny_retinanet(CLASSES), support::tiny_retinanet(CLASSES + 4));
    deeper.settings.retina.head_convs += 2;
    deeper.backbone = support::backbone("resnet34").with_stem_channels(8);
    richer.backbone.norm = NormKind::Bn;
    richer.backbone.freeze_at = 2;
    let small = bits(build(1, support::tiny_retinanet(CLASSES))?.params());
    let deeper = bits(build(1, deeper)?.params());
    let richer = bits(build(1, richer)?.params());
    for (name, values) in &small {
        assert_eq!(values, &deeper[name], "{name}: among more layers");
        let of_a_class = name.contains("cls_logits");
        assert_eq!(values == &richer[name], !of_a_class, "{name}: with more classes");
    }
    Ok(())
}

#[test]
fn initial_values_follow_torchvisions_rules() -> Result<()> {
    let (mut two, mut one) = (support::tiny_faster_rcnn(CLASSES), support::tiny_retinanet(CLASSES));
    (two.backbone, two.settings.fpn_channels) = (two.backbone.with_stem_channels(32), 64);
    two.settings.roi.head_width = 64;
    (one.backbone, one.settings.fpn_channels) = (one.backbone.with_stem_channels(32), 64);
    let mut points = support::tiny_fcos(CLASSES);
    (points.backbone, points.settings.fpn_channels) = (points.backbone.with_stem_channels(32), 64);
    for config in [two, one, points] {
        let detector = build(5, config)?;
        let mut drawn = BTreeSet::new();
        for (name, param) in detector.params().iter() {
            let tensor = param.value.tensor();
            check_rule(name, torchvisions_rule(name, detector.params()), &values(tensor));
            let start: Vec<u32> = values(tensor).iter().take(8).map(|value| value.to_bits()).collect();
            let constant = start.iter().all(|value| *value == start[0]);
            assert!(constant || drawn.insert(start), "{name} repeats another parameter's numbers");
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    Constant(f64),
    Normal(f64),
    Uniform(f64),
}

/// What torchvision's constructors do to the parameter called `name`.
fn torchvisions_rule(name: &str, params: &ParamStore) -> Rule {
    let weight = name.rsplit_once('.').map(|(layer, _)| format!("{layer}.weight")).expect("a dotted name");
    let shape = params.get(&weight).map(|weight| weight.value.dims().to_vec()).unwrap_or_default();
    let kernel = shape.iter().skip(2).product::<usize>() as f64;
    let fan_in = shape.get(1).map_or(1.0, |inputs| *inputs as f64 * kernel);
    let is_bias = name.ends_with(".bias");
    let norm = shape.len() == 1;
    match name {
        _ if name.ends_with("running_mean") => Rule::Constant(0.0),
        _ if name.ends_with("running_var") => Rule::Constant(1.0),
        _ if norm => Rule::Constant(if is_bias { 0.0 } else { 1.0 }),
        // kaiming_normal_(mode="fan_out", nonlinearity="relu")
        _ if name.starts_with("backbone.body") => Rule::Normal((2.0 / (shape[0] as f64 * kernel)).sqrt()),
        // nn.Linear's own
        _ if name.starts_with("roi_heads") => Rule::Uniform(1.0 / fan_in.sqrt()),
        "head.classification_head.cls_logits.bias" => Rule::Constant(-(0.99_f64 / 0.01).ln()),
        _ if is_bias => Rule::Constant(0.0),
        // kaiming_uniform_(a=1)
        _ if name.starts_with("backbone.fpn") => Rule::Uniform((3.0 / fan_in).sqrt()),
        _ => Rule::Normal(0.01),
    }
}

/// Mean and spread within five standard errors; nothing outside a uniform's bounds.
fn check_rule(name: &str, rule: Rule, values: &[f32]) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let spread = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    // The kurtosis k of a distribution gives its sample deviation a relative error of sqrt((k - 1) / 4n).
    let (std, kurtosis) = match rule {
        Rule::Constant(value) => {
            assert!(values.iter().all(|&v| v == value as f32), "{name}: not all {value}");
            return;
        }
        Rule::Normal(std) => (std, 3.0),
        Rule::Uniform(bound) => {
            let largest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(f64::from(largest) <= bound * (1.0 + 1e-6), "{name}: {largest} is beyond {bound}");
            (bound / 3_f64.sqrt(), 1.8)
        }
    };
    assert!(mean.abs() < 5.0 * std / n.sqrt(), "{name}: mean {mean} of {rule:?}");
    let error = ((kurtosis - 1.0) / (4.0 * n)).sqrt();
    // A handful of numbers has no spread to speak of.
    assert!(n < 50.0 || (spread / std - 1.0).abs() < 5.0 * error, "{name}: deviation {spread} of {rule:?}");
}

type Names = Vec<(String, Vec<usize>)>;

fn names(params: &ParamStore) -> Names {
    params.iter().map(|(name, param)| (name.to_string(), param.value.dims().to_vec())).collect()
}

/// Names and shapes of torchvision's trunks and detectors, as the golden values list them. The detectors of
/// the two depths that have no golden values are put together from a trunk and a detector of the same width.
fn torchvision_names() -> BTreeMap<String, Names> {
    let table = std::fs::read(golden::repository().root().join("weights.json")).expect("weights.json");
    let table: serde_json::Value = serde_json::from_slice(&table).expect("JSON");
    let row = |row: &serde_json::Value| -> (String, Vec<usize>) {
        serde_json::from_value::<(u64, String, Vec<usize>, String)>(row.clone())
            .map(|(_, name, shape, _)| (name, shape))
            .expect("weights.json: stream, name, shape, rule")
    };
    let rows = |model: &str| -> Names {
        table["models"][model].as_array().expect("a list").iter().map(row).collect()
    };
    let mut models = BTreeMap::new();
    for depth in support::RESNETS {
        let mut trunk = rows(&format!("classifier_{depth}"));
        trunk.retain(|(name, _)| !name.starts_with("fc."));
        let alike = match depth {
            "resnet18" | "resnet34" => "resnet18",
            _ => "resnet50",
        };
        for kind in ["fasterrcnn", "retinanet"] {
            let mut detector = rows(&format!("{kind}_{alike}_fpn"));
            if alike != depth {
                detector.retain(|(name, _)| !name.starts_with("backbone.body."));
                detector.extend(
                    trunk.iter().map(|(name, shape)| (format!("backbone.body.{name}"), shape.clone())),
                );
                detector.sort();
            }
            models.insert(format!("{kind}_{depth}_fpn"), detector);
        }
        models.insert(depth.to_owned(), trunk);
    }
    models
}
