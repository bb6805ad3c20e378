//! Parameter groups: which learning rate and which weight decay a parameter has.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;

use super::Optim;

/// A parameter as an optimiser sees it.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name of the parameter.
    pub name: Arc<str>,
    /// Values of the parameter, which an update changes in place.
    pub tensor: Tensor,
    /// Factor on the learning rate.
    pub lr_factor: f64,
    /// Weight decay of the parameter.
    pub weight_decay: f64,
}

/// The trainable parameters of several stores, whose names differ, in the order of their names, with the group of each.
/// `in_backbone` names those whose learning rate is multiplied by `backbone_lr_factor`.
pub fn grouped(
    stores: &[&ParamStore],
    settings: &Optim,
    in_backbone: impl Fn(&str) -> bool,
) -> Vec<Parameter> {
    let mut parameters = BTreeMap::new();
    for params in stores {
        for (name, tensor) in params.trainable() {
            let weight_decay = match kind(name, params) {
                Kind::Weight => settings.weight_decay,
                Kind::Bias => settings.bias_decay(),
                Kind::Norm => settings.norm_decay(),
            };
            let lr_factor = if in_backbone(name) { settings.backbone_lr_factor } else { 1.0 };
            let tensor = tensor.clone();
            let parameter = Parameter { name: name.clone(), tensor, lr_factor, weight_decay };
            parameters.insert(name.clone(), parameter);
        }
    }
    parameters.into_values().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Weight,
    Bias,
    Norm,
}

/// A norm's weight has one dimension; its bias belongs to it.
fn kind(name: &str, params: &ParamStore) -> Kind {
    let rank = |name: &str| params.get(name).map(|param| param.value.dims().len());
    let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
    match rank(&format!("{layer}.weight")) {
        Some(1) => Kind::Norm,
        _ if name.ends_with(".bias") => Kind::Bias,
        _ => Kind::Weight,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ckd_detectors::init::Init;
    use ckd_detectors::param::Builder;

    use super::*;

    fn store() -> ParamStore {
        let builder = Builder::new(0, &Device::Cpu);
        builder.within("backbone.body.conv").weight("weight", &[2, 2, 1, 1], Init::Constant(1.0)).unwrap();
        builder.within("head").weight("weight", &[2, 2, 1, 1], Init::Constant(1.0)).unwrap();
        builder.within("head").weight("bias", &[2], Init::Constant(1.0)).unwrap();
        builder.within("bn").weight("weight", &[2], Init::Constant(1.0)).unwrap();
        builder.within("bn").weight("bias", &[2], Init::Constant(1.0)).unwrap();
        builder.within("bn").buffer("running_mean", &[2], Init::Constant(0.0)).unwrap();
        builder.finish()
    }

    #[test]
    fn weights_biases_and_norms_are_told_apart_by_their_layer() {
        let store = store();
        assert_eq!(kind("head.weight", &store), Kind::Weight);
        assert_eq!(kind("head.bias", &store), Kind::Bias);
        assert_eq!(kind("bn.weight", &store), Kind::Norm);
        assert_eq!(kind("bn.bias", &store), Kind::Norm);
    }

    #[test]
    fn each_group_has_its_decay_and_the_backbone_its_learning_rate() {
        let settings = Optim {
            backbone_lr_factor: 0.1,
            weight_decay: 0.01,
            weight_decay_norm: Some(0.0),
            weight_decay_bias: Some(0.5),
            ..Optim::new(0.1)
        };
        let grouped = grouped(&[&store()], &settings, |name| name.starts_with("backbone.body."));
        let told: Vec<(&str, f64, f64)> = grouped
            .iter()
            .map(|parameter| (&*parameter.name, parameter.lr_factor, parameter.weight_decay))
            .collect();
        assert_eq!(
            told,
            [
                ("backbone.body.conv.weight", 0.1, 0.01),
                ("bn.bias", 1.0, 0.0),
                ("bn.weight", 1.0, 0.0),
                ("head.bias", 1.0, 0.5),
                ("head.weight", 1.0, 0.01),
            ]
        );
    }
}
