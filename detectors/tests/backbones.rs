//! Every row of the registry of backbones: name, maps, gradients, and its recognition by its tensors.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_detectors::Result;
use ckd_detectors::backbone::{Backbone, BackboneConfig, Trunk};
use ckd_detectors::nn::{Mode, NormKind};
use ckd_detectors::param::{Builder, ParamStore};
use ckd_kernels::Value;
use ckd_kernels::elementwise::weighted_sum;

use crate::golden;

/// A narrow trunk of `backbone` with batch norms that train.
pub(crate) fn narrow(backbone: Backbone) -> Result<(Trunk, ParamStore)> {
    let config =
        BackboneConfig { width_multiplier: 0.25, norm: NormKind::Bn, ..BackboneConfig::new(backbone) };
    let builder = Builder::new(3, crate::support::device());
    let trunk = Trunk::new(&builder, &config)?;
    Ok((trunk, builder.finish()))
}

#[test]
fn every_backbone_is_found_by_its_name_and_no_other_is() {
    for backbone in Backbone::all() {
        assert_eq!(backbone.name().parse::<Backbone>().ok(), Some(backbone));
    }
    let error = "resnet19".parse::<Backbone>().unwrap_err().to_string();
    assert!(error.contains("resnet18") && error.contains("resnet19"), "{error}");
}

#[test]
fn maps_have_the_channels_and_strides_of_their_levels() -> Result<()> {
    for backbone in Backbone::all() {
        let (trunk, _) = narrow(backbone)?;
        assert_eq!(trunk.channels().len(), backbone.levels().len(), "{backbone}");
        for (h, w) in [(64, 96), (33, 47)] {
            let x = Value::constant(Tensor::from_vec(
                golden::tensor(5, 2 * 3 * h * w, 1.0, 0.0),
                (2, 3, h, w),
                crate::support::device(),
            )?);
            let maps = trunk.forward(&x, Mode::Inference)?;
            assert_eq!(maps.len(), backbone.levels().len(), "{backbone}");
            for ((map, &channels), level) in maps.iter().zip(trunk.channels()).zip(backbone.levels()) {
                let sides = [h, w].map(|side: usize| side.div_ceil(1 << level.0));
                assert_eq!(map.dims(), [2, channels, sides[0], sides[1]], "{backbone}: {level}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_gradient_reaches_every_weight_of_every_backbone() -> Result<()> {
    for backbone in Backbone::all() {
        let (trunk, params) = narrow(backbone)?;
        let x = Tensor::from_vec(
            golden::tensor(6, 2 * 3 * 64 * 64, 1.0, 0.0),
            (2, 3, 64, 64),
            crate::support::device(),
        )?;
        let maps = trunk.forward(&Value::constant(x), Mode::Train)?;
        let sums = maps
            .iter()
            .zip(20..)
            .map(|(map, stream)| {
                let count = map.dims().iter().product::<usize>();
                let weights = golden::tensor(stream, count, 1.0 / (count as f64).sqrt(), 0.0);
                let weights = Tensor::from_vec(weights, map.dims(), crate::support::device())?;
                Ok(Value::from_candle(&[map], |map| (&map[0] * weights)?.sum_all())?)
            })
            .collect::<Result<Vec<Value>>>()?;
        let terms: Vec<(&Value, f64)> = sums.iter().map(|sum| (sum, 1.0)).collect();
        let gradients = weighted_sum(&terms)?.backward()?;
        for (name, weight) in params.trainable() {
            let gradient = gradients.get(name).unwrap_or_else(|| panic!("{backbone}: {name}"));
            assert_eq!(gradient.dims(), weight.dims(), "{backbone}: {name}");
            let values = gradient.flatten_all()?.to_vec1::<f32>()?;
            assert!(values.iter().all(|value| value.is_finite()), "{backbone}: {name}");
        }
    }
    Ok(())
}

#[test]
fn a_backbone_is_told_by_its_tensors_at_any_width_and_inside_its_classifier() -> Result<()> {
    for backbone in Backbone::all() {
        let (_, params) = narrow(backbone)?;
        let shapes: BTreeMap<String, Vec<usize>> =
            params.iter().map(|(name, param)| (name.to_string(), param.value.dims().to_vec())).collect();
        let found = Backbone::recognise(&shapes)?.expect("its own tensors");
        assert_eq!(found.backbone, backbone);
        assert_eq!(found.stem_channels, backbone.stem_channels() / 4, "{backbone}");
        assert!(shapes.contains_key(&format!("{}.running_mean", found.first_norm)), "{backbone}");
        let within = backbone.classifier().trunk;
        let prefix = if within.is_empty() { String::new() } else { format!("{within}.") };
        let prefixed = shapes.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone()));
        let inside = Backbone::recognise(&prefixed.collect())?.expect("its classifier's tensors");
        assert_eq!((inside.backbone, inside.prefix), (backbone, prefix));
        let mut lacking = shapes.clone();
        let last = shapes.keys().rfind(|name| shapes[*name].len() == 4).expect("a convolution");
        lacking.remove(last);
        let found = Backbone::recognise(&lacking);
        let same = found.is_ok_and(|found| found.is_some_and(|found| found.backbone == backbone));
        assert!(!same, "{backbone} without {last}");
    }
    Ok(())
}

/// A ResNet with a block more than any that is known has all convolutions of a smaller one.
#[test]
fn a_trunk_with_a_convolution_left_over_is_not_taken_for_a_smaller_one() -> Result<()> {
    for backbone in Backbone::all() {
        let (_, params) = narrow(backbone)?;
        let mut shapes: BTreeMap<String, Vec<usize>> =
            params.iter().map(|(name, param)| (name.to_string(), param.value.dims().to_vec())).collect();
        shapes.insert("layer3.99.conv1.weight".to_owned(), vec![8, 8, 3, 3]);
        shapes.insert("fc.weight".to_owned(), vec![10, 8]);
        let error = Backbone::recognise(&shapes).expect_err("a convolution of no known network").to_string();
        assert!(error.contains("layer3.99.conv1.weight") && error.contains(backbone.name()), "{error}");
    }
    Ok(())
}

/// Channels and strides as in torchvision's `BackboneWithFPN`.
#[test]
fn the_pyramid_of_faster_rcnn_is_over_the_maps_that_torchvision_takes() -> Result<()> {
    for backbone in Backbone::all() {
        let plan = BackboneConfig::new(backbone).plan()?;
        match backbone.name() {
            "mobilenet_v3_large" => {
                assert_eq!((plan.pyramid_channels(), plan.pyramid_strides()), (vec![160, 960], vec![32, 32]));
            }
            _ => {
                assert_eq!(plan.pyramid_channels(), plan.channels(), "{backbone}");
                assert_eq!(plan.pyramid_strides(), [4, 8, 16, 32], "{backbone}");
            }
        }
        let (trunk, _) = narrow(backbone)?;
        for (h, w) in [(64, 96), (33, 47)] {
            let x = Value::constant(Tensor::zeros(
                (1, 3, h, w),
                candle_core::DType::F32,
                crate::support::device(),
            )?);
            let inputs = trunk.pyramid_inputs(&x, Mode::Inference)?;
            assert_eq!(inputs.len(), plan.pyramid_strides().len(), "{backbone}");
            for ((map, &channels), stride) in
                inputs.iter().zip(trunk.pyramid_channels()).zip(plan.pyramid_strides())
            {
                let sides = [h, w].map(|side: usize| side.div_ceil(stride));
                assert_eq!(map.dims(), [1, channels, sides[0], sides[1]], "{backbone}");
            }
        }
    }
    Ok(())
}
