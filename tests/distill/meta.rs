//! The gradient of L-MCL's meta step.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use ckd_det::distill::DistillError;
use ckd_det::distill::mcl::{Pair, Targets, layer_weights, pair};
use ckd_det::distill::meta::{Loss, MetaStep, Objective, Parameters, Slope, meta_gradient};
use ckd_kernels::linear::Activation::Identity;
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::{Value, linear};

use super::support::*;
use ckd_golden as golden;

/// The two small networks of the golden case: f_l = tanh(f_{l-1} W_lᵀ), z = f Cᵀ, u = unit(f Eᵀ), weights of A f.
struct Peers {
    x: Tensor,
    labels: Vec<u32>,
    pair: Pair,
}

struct Layer {
    feature: Value,
    logits: Value,
    embedding: Value,
}

fn tanh(x: &Value) -> Value {
    let y = computed([x.tensor()], |[x]| x.tanh());
    Value::operation(&[x], y.clone(), move |g| {
        Ok(vec![Some(computed([g, &y], |[g, y]| g * (1.0 - y.sqr()?)?))])
    })
}

impl Peers {
    fn layers(&self, theta: &Parameters, network: usize) -> Vec<Layer> {
        let weight = |name: &str, layer: usize| {
            let name = format!("{name}_{network}_{layer}");
            Value::leaf(name.as_str(), theta[name.as_str()].clone())
        };
        let mut x = Value::constant(self.x.clone());
        let times = |x: &Value, w: &Value| linear(x, w, None, Identity).unwrap();
        let layer = |layer: usize| {
            x = tanh(&times(&x, &weight("W", layer)));
            Layer {
                feature: x.clone(),
                logits: times(&x, &weight("C", layer)),
                embedding: unit(&times(&x, &weight("E", layer))),
            }
        };
        (0..2).map(layer).collect()
    }

    fn pairs() -> impl Iterator<Item = (usize, usize)> {
        (0..4).map(|at| (at / 2, at % 2))
    }

    /// The gradients by everything, split into those by theta and those by phi.
    fn split(loss: &Value) -> (Parameters, Parameters) {
        loss.backward().unwrap().into_iter().partition(|(name, _)| !name.starts_with('A'))
    }
}

impl Peers {
    fn targets(&self, networks: &[Vec<Layer>; 2]) -> Result<Vec<Targets>, DistillError> {
        Self::pairs()
            .map(|(l, k)| {
                let (u, v) = (&networks[0][l].embedding, &networks[1][k].embedding);
                Targets::of(u.tensor(), v.tensor(), self.pair.tau)
            })
            .collect()
    }

    fn contrast(
        &self,
        networks: &[Vec<Layer>; 2],
        phi: &Parameters,
        targets: &[Targets],
    ) -> Result<Value, DistillError> {
        let mapped = |network: usize, layer: usize| {
            let name = format!("A_{network}_{layer}");
            let weight = Value::leaf(name.as_str(), phi[name.as_str()].clone());
            linear(&networks[network][layer].feature, &weight, None, Identity).unwrap()
        };
        let mut terms = Vec::new();
        for ((l, k), targets) in Self::pairs().zip(targets) {
            let weights = layer_weights(&mapped(0, l), &mapped(1, k))?;
            let (u, v) = (&networks[0][l].embedding, &networks[1][k].embedding);
            terms.push((pair(u, v, &self.labels, &weights, &self.pair, Some(targets))?, 2.0));
        }
        Ok(sum(&terms))
    }

    fn labelled(&self, networks: &[Vec<Layer>; 2]) -> Result<Value, DistillError> {
        let rows = self.labels.len() as f64;
        let of = |layer: &Layer| Ok((softmax_cross_entropy(&layer.logits, &self.labels, rows)?, 1.0));
        Ok(sum(&networks.iter().flatten().map(of).collect::<Result<Vec<_>, DistillError>>()?))
    }
}

impl Objective for Peers {
    type Held = Vec<Targets>;
    type Error = DistillError;

    fn slope(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
    ) -> Result<Slope<Vec<Targets>>, DistillError> {
        let networks = [0, 1].map(|network| self.layers(theta, network));
        let held = self.targets(&networks)?;
        let loss = match loss {
            Loss::Inner => self.contrast(&networks, phi, &held)?,
            Loss::Outer => self.labelled(&networks)?,
        };
        let (theta, phi) = Self::split(&loss);
        Ok(Slope { loss: loss.item()?.into(), theta, phi, held })
    }

    fn slope_beside(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
        held: &Vec<Targets>,
    ) -> Result<(Parameters, Parameters), DistillError> {
        let networks = [0, 1].map(|network| self.layers(theta, network));
        Ok(Self::split(&match loss {
            Loss::Inner => self.contrast(&networks, phi, held)?,
            Loss::Outer => self.labelled(&networks)?,
        }))
    }
}

fn bits(parameters: &Parameters) -> Vec<Vec<u32>> {
    parameters.values().map(|tensor| flat(tensor).iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_meta_gradient_equals_the_unrolled_one_and_leaves_the_networks_as_they_were() {
    golden::each_case("meta_gradient/", |case| {
        let named = |letters: &[char]| -> Parameters {
            let inputs =
                case.inputs().into_iter().filter(|key| key.starts_with(letters) && key.contains('_'));
            inputs.map(|key| (Arc::from(key), input(case, key))).collect()
        };
        let (theta, phi) = (named(&['W', 'C', 'E']), named(&['A']));
        assert_eq!((theta.len(), phi.len()), (12, 4));
        let peers = Peers { x: input(case, "x"), labels: labels(case, "labels"), pair: settings_of(case) };
        let step = MetaStep {
            lr: case.attr_f64("lr"),
            momentum: case.attr_f64("momentum"),
            weight_decay: case.attr_f64("wd"),
            inner_steps: case.attr_usize("inner_steps"),
            difference: 1e-3,
        };
        let before = (bits(&theta), bits(&phi));
        let meta = meta_gradient(&peers, &theta, &phi, &step).unwrap();
        assert_eq!((bits(&theta), bits(&phi)), before, "theta and phi are untouched");
        case.check_close("F", &[meta.loss as f32]);
        for (name, tensor) in &meta.theta {
            case.check_close(&format!("theta3_{name}"), &flat(tensor));
        }
        assert_eq!(meta.phi.len(), phi.len());
        for (name, gradient) in &meta.phi {
            let key = format!("unroll_{name}");
            case.check_close(&key, &flat(gradient));
        }
    });
}

/// A quadratic with known derivatives: inner = (a theta² phi) / 2, outer = theta²/2; one inner step.
struct Quadratic;

impl Objective for Quadratic {
    type Held = ();
    type Error = DistillError;

    fn slope(&self, loss: Loss, theta: &Parameters, phi: &Parameters) -> Result<Slope<()>, DistillError> {
        let (t, p) = (flat(&theta["t"])[0], flat(&phi["p"])[0]);
        let one = |name: &str, value: f32| BTreeMap::from([(Arc::from(name), tensor(&[value], &[1]))]);
        Ok(match loss {
            Loss::Inner => Slope {
                loss: f64::from(t * t * p / 2.0),
                theta: one("t", t * p),
                phi: one("p", t * t / 2.0),
                held: (),
            },
            Loss::Outer => {
                Slope { loss: f64::from(t * t / 2.0), theta: one("t", t), phi: Parameters::new(), held: () }
            }
        })
    }

    fn slope_beside(
        &self,
        loss: Loss,
        theta: &Parameters,
        phi: &Parameters,
        (): &(),
    ) -> Result<(Parameters, Parameters), DistillError> {
        let Slope { theta, phi, .. } = self.slope(loss, theta, phi)?;
        Ok((theta, phi))
    }
}

#[test]
fn momentum_and_weight_decay_go_back_through_the_steps() {
    let (lr, mu, wd) = (0.1, 0.9, 0.05);
    let outer = |phi: f64| {
        let (mut t, mut v) = (1.5, 0.0);
        for gradient in [|t: f64, p: f64| t * p, |t: f64, p: f64| t * p, |t: f64, _: f64| t] {
            v = mu * v + gradient(t, phi) + wd * t;
            t -= lr * v;
        }
        t * t / 2.0
    };
    let want = (outer(0.7 + 1e-5) - outer(0.7 - 1e-5)) / 2e-5;
    let one = |name: &str, value: f32| BTreeMap::from([(Arc::from(name), tensor(&[value], &[1]))]);
    let step = MetaStep { lr, momentum: mu, weight_decay: wd, inner_steps: 2, difference: 1e-2 };
    let meta = meta_gradient(&Quadratic, &one("t", 1.5), &one("p", 0.7), &step).unwrap();
    let got = f64::from(flat(&meta.phi["p"])[0]);
    assert!((got - want).abs() < 1e-4 * want.abs(), "{got} {want}");
    assert!((meta.loss - outer(0.7)).abs() < 1e-6);
}
