//! MCL and L-MCL: the losses of peers, the memory, and the gradient of the meta step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::Tensor;
use ckd_det::distill::mcl::{
    Instance, Likenesses, Pair, Targets, aggregate, icl, layer_weights, pair, soft_icl, soft_vcl, softened,
    vcl,
};
use ckd_det::distill::meta::{MetaStep, Objective, Parameters, meta_gradient};
use ckd_det::distill::{ByClass, DistillError, Term, contrast_columns, kd, likeness, remember};
use ckd_kernels::elementwise::{concatenate, weighted_sum};
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::normalize::l2_normalize_rows;
use ckd_kernels::{Value, linear};

use crate::golden;
use crate::support::*;

fn sum(terms: &[(Value, f64)]) -> Value {
    weighted_sum(&terms.iter().map(|(term, weight)| (term, *weight)).collect::<Vec<_>>()).unwrap()
}

fn ones(count: usize) -> Value {
    Value::constant(tensor(&vec![1.0; count], &[count]))
}

fn unit(x: &Value) -> Value {
    l2_normalize_rows(x, 1e-12).unwrap()
}

// ---- golden values

#[test]
fn the_terms_of_mcl_equal_pytorchs() {
    golden::each_case("mcl/", |case| {
        let (tau, temperature) = (case.attr_f64("tau"), case.attr_f64("T"));
        let labels = labels(case, "labels");
        check_case(case, "loss", &["U", "V", "w"], |leaves| {
            let [u, v, w] = leaves else { unreachable!("three inputs") };
            let targets = Targets::of(u.tensor(), v.tensor(), tau)?;
            let soft = (tau, temperature);
            match case.name.trim_start_matches("mcl/").trim_end_matches("_with_lonely_rows") {
                "vcl" => vcl(u, v, &labels, w, tau),
                "icl" => icl(u, v, &labels, w, tau, Instance::Excluded),
                "svcl" => soft_vcl(u, v, w, soft, &targets),
                "sicl" => soft_icl(u, v, w, soft, &targets),
                other => panic!("{other}"),
            }
        });
    });
}

#[test]
fn the_aggregated_teacher_equals_pytorchs() {
    golden::each_case("aggregated_kd", |case| {
        let constant = |key: &str| Value::constant(input(case, key));
        let logits = ["z0", "z1", "z2"].map(constant);
        let zbar = aggregate(&logits, &constant("agg_logits")).unwrap();
        case.check_close("zbar", &flat(zbar.tensor()));
        let temperature = case.attr_f64("T");
        check_case(case, "loss", &["student"], |leaves| kd(zbar.tensor(), &leaves[0], temperature));
    });
}

#[test]
fn the_whole_loss_of_lmcl_equals_pytorchs() {
    golden::each_case("lmcl_total", |case| {
        let labels = labels(case, "labels");
        let leaf = |key: String| Value::leaf(key.as_str(), input(case, &key));
        let at = |name: &str, m: usize, l: usize| leaf(format!("{name}_{m}_{l}"));
        let dense = |x: &Value, w: &Value, b: &Value, activation| linear(x, w, Some(b), activation).unwrap();
        let settings = Pair {
            vcl: case.attr_f64("alpha"),
            icl: case.attr_f64("beta"),
            soft_vcl: case.attr_f64("gamma"),
            soft_icl: case.attr_f64("lam"),
            tau: case.attr_f64("tau"),
            temperature: case.attr_f64("T"),
            instance: Instance::Excluded,
        };
        let (mut z, mut u, mut mapped, mut zbar) = (vec![], vec![], vec![], vec![]);
        for m in 0..2 {
            let features: Vec<Value> = (0..3).map(|l| at("f", m, l)).collect();
            let each = |f: &dyn Fn(usize, &Value) -> Value| -> Vec<Value> {
                features.iter().enumerate().map(|(l, x)| f(l, x)).collect()
            };
            let own = each(&|l, x| dense(x, &at("cls_w", m, l), &at("cls_b", m, l), Identity));
            u.push(each(&|l, x| {
                let hidden = dense(x, &at("emb1_w", m, l), &at("emb1_b", m, l), Relu);
                unit(&dense(&hidden, &at("emb2_w", m, l), &at("emb2_b", m, l), Identity))
            }));
            mapped.push(each(&|l, x| dense(x, &at("meta_w", m, l), &at("meta_b", m, l), Identity)));
            let all = concatenate(&features, 1).unwrap();
            let of = |name: &str| leaf(format!("{name}_{m}"));
            let hidden = dense(&all, &of("agg1_w"), &of("agg1_b"), Relu);
            zbar.push(aggregate(&own, &dense(&hidden, &of("agg2_w"), &of("agg2_b"), Identity)).unwrap());
            z.push(own);
        }
        let rows = labels.len() as f64;
        let cross_entropy = |z: &Value| (softmax_cross_entropy(z, &labels, rows).unwrap(), 1.0);
        let ce = sum(&z.iter().flatten().map(cross_entropy).collect::<Vec<_>>());
        let ce_aggregated = sum(&zbar.iter().map(cross_entropy).collect::<Vec<_>>());
        let mut kds = Vec::new();
        let mut pairs = Vec::new();
        for own in &z {
            for teacher in &zbar {
                kds.push((kd(teacher.tensor(), &own[2], case.attr_f64("kd_T")).unwrap(), 1.0));
            }
        }
        for l in 0..3 {
            for k in 0..3 {
                let w = layer_weights(&mapped[0][l], &mapped[1][k]).unwrap().detach();
                pairs.push((pair(&u[0][l], &u[1][k], &labels, &w, &settings, None).unwrap(), 2.0));
            }
        }
        let (kd, mcl) = (sum(&kds), sum(&pairs));
        for (key, value) in [("ce", &ce), ("ce_aggregated", &ce_aggregated), ("kd", &kd), ("mcl", &mcl)] {
            case.check_close(key, &[value.item().unwrap()]);
        }
        let total = sum(&[(ce, 1.0), (ce_aggregated, 1.0), (kd, 1.0), (mcl, 1.0)]);
        case.check_close("total", &[total.item().unwrap()]);
        let gradients = total.backward().unwrap();
        for key in case.outputs() {
            if let Some(name) = key.strip_prefix("grad_") {
                case.check_close(key, &flat(&gradients[name]));
            }
        }
    });
}

// ---- the meta step

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
    Value::from_candle(&[x], |x| x[0].tanh()).unwrap()
}

impl Peers {
    fn layers(&self, theta: &Parameters, network: usize, track: bool) -> Vec<Layer> {
        let weight = |name: &str, layer: usize| {
            let name = format!("{name}_{network}_{layer}");
            let tensor = theta[name.as_str()].clone();
            if track { Value::leaf(name.as_str(), tensor) } else { Value::constant(tensor) }
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

impl Objective for Peers {
    type Held = Vec<Targets>;
    type Error = DistillError;

    fn hold(&self, theta: &Parameters) -> Result<Vec<Targets>, DistillError> {
        let networks = [0, 1].map(|network| self.layers(theta, network, false));
        Self::pairs()
            .map(|(l, k)| {
                let (u, v) = (&networks[0][l].embedding, &networks[1][k].embedding);
                Targets::of(u.tensor(), v.tensor(), self.pair.tau)
            })
            .collect()
    }

    fn inner(
        &self,
        theta: &Parameters,
        phi: &Parameters,
        held: &Vec<Targets>,
    ) -> Result<(Parameters, Parameters), DistillError> {
        let networks = [0, 1].map(|network| self.layers(theta, network, true));
        let mapped = |network: usize, layer: usize| {
            let name = format!("A_{network}_{layer}");
            let weight = Value::leaf(name.as_str(), phi[name.as_str()].clone());
            linear(&networks[network][layer].feature, &weight, None, Identity).unwrap()
        };
        let mut terms = Vec::new();
        for ((l, k), targets) in Self::pairs().zip(held) {
            let weights = layer_weights(&mapped(0, l), &mapped(1, k))?;
            let (u, v) = (&networks[0][l].embedding, &networks[1][k].embedding);
            terms.push((pair(u, v, &self.labels, &weights, &self.pair, Some(targets))?, 2.0));
        }
        Ok(Self::split(&sum(&terms)))
    }

    fn outer(&self, theta: &Parameters) -> Result<(f64, Parameters), DistillError> {
        let mut terms = Vec::new();
        for network in 0..2 {
            for layer in self.layers(theta, network, true) {
                let rows = self.labels.len() as f64;
                terms.push((softmax_cross_entropy(&layer.logits, &self.labels, rows)?, 1.0));
            }
        }
        let loss = sum(&terms);
        Ok((f64::from(loss.item()?), Self::split(&loss).0))
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
        let peers = Peers {
            x: input(case, "x"),
            labels: labels(case, "labels"),
            pair: Pair {
                vcl: case.attr_f64("alpha"),
                icl: case.attr_f64("beta"),
                soft_vcl: case.attr_f64("gamma"),
                soft_icl: case.attr_f64("lam"),
                tau: case.attr_f64("tau"),
                temperature: case.attr_f64("T"),
                instance: Instance::Excluded,
            },
        };
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
        let mut largest_difference = 0f32;
        for (name, gradient) in &meta.phi {
            let key = format!("unroll_{name}");
            case.check_close(&key, &flat(gradient));
            // The golden tolerance is that of float32 through three steps; ours is tighter: 2e-4 of the largest element.
            let (want, _) = case.f32(&key);
            for (got, want) in flat(gradient).iter().zip(&want) {
                largest_difference = largest_difference.max((got - want).abs());
            }
            let allowed = 2e-4 * largest(&want).max(0.05);
            case.check_close_within(&key, &flat(gradient), f64::from(allowed));
        }
        assert!(largest_difference > 0.0, "nothing was compared");
    });
}

/// A quadratic with known derivatives: inner = (a theta² phi) / 2, outer = theta²/2; one inner step.
struct Quadratic;

impl Objective for Quadratic {
    type Held = ();
    type Error = DistillError;

    fn hold(&self, _: &Parameters) -> Result<(), DistillError> {
        Ok(())
    }

    fn inner(
        &self,
        theta: &Parameters,
        phi: &Parameters,
        (): &(),
    ) -> Result<(Parameters, Parameters), DistillError> {
        let (t, p) = (flat(&theta["t"])[0], flat(&phi["p"])[0]);
        let one = |name: &str, value: f32| BTreeMap::from([(Arc::from(name), tensor(&[value], &[1]))]);
        Ok((one("t", t * p), one("p", t * t / 2.0)))
    }

    fn outer(&self, theta: &Parameters) -> Result<(f64, Parameters), DistillError> {
        let t = flat(&theta["t"])[0];
        Ok((f64::from(t * t / 2.0), BTreeMap::from([(Arc::from("t"), tensor(&[t], &[1]))])))
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

// ---- identities

#[test]
fn equal_embeddings_have_no_soft_loss_and_swapping_networks_changes_nothing() {
    let (u, v) = (unit(&Value::constant(noise(1, &[8, 5]))), unit(&Value::constant(noise(2, &[8, 5]))));
    let labels = [0, 0, 1, 1, 2, 2, 3, 3];
    let w = ones(8);
    let soft = (0.1, 3.0);
    let targets = |u: &Value, v: &Value| Targets::of(u.tensor(), v.tensor(), 0.1).unwrap();
    let value = |value: Result<Value, DistillError>| value.unwrap().item().unwrap();
    assert!(value(soft_vcl(&u, &u, &w, soft, &targets(&u, &u))).abs() < 1e-6);
    assert!(value(soft_icl(&u, &u, &w, soft, &targets(&u, &u))).abs() < 1e-6);
    assert!(value(soft_vcl(&u, &v, &w, soft, &targets(&u, &v))) > 0.0);
    let own = value(vcl(&u, &u, &labels, &w, 0.1));
    assert_close(value(icl(&u, &u, &labels, &w, 0.1, Instance::Excluded)), own, 1e-5);
    let of = |u: &Value, v: &Value| value(pair(u, v, &labels, &w, &Pair::default(), None));
    let swapped = of(&v, &u);
    assert!((of(&u, &v) - swapped).abs() < 1e-5 * swapped.abs());
}

#[test]
fn two_images_a_class_that_all_look_the_same_are_at_log_of_the_others() {
    let same = unit(&Value::constant(tensor(&[1.0, 2.0].repeat(8), &[8, 2])));
    let labels = [0, 0, 1, 1, 2, 2, 3, 3];
    let loss = vcl(&same, &same, &labels, &ones(8), 0.1).unwrap().item().unwrap();
    assert_close(loss, 2.0 * 7f32.ln(), 1e-5);
}

#[test]
fn batches_without_partners_or_without_samples_lose_nothing() {
    let settings = Pair::default();
    for (rows, labels) in [(3, vec![0, 1, 2]), (1, vec![0]), (0, vec![])] {
        let u = Value::leaf("u", noise(1, &[rows, 4]));
        let v = Value::constant(noise(2, &[rows, 4]));
        let hard = Pair { soft_vcl: 0.0, soft_icl: 0.0, ..settings };
        let loss = pair(&unit(&u), &v, &labels, &ones(rows), &hard, None).unwrap();
        assert_eq!(loss.item().unwrap(), 0.0);
        let gradients = loss.backward().unwrap();
        assert!(flat(&gradients["u"]).iter().all(|&g| g == 0.0));
        let all = pair(&unit(&u), &v, &labels, &ones(rows), &settings, None).unwrap();
        assert!(all.item().unwrap().is_finite());
    }
}

#[test]
fn an_image_and_itself_across_networks_is_a_positive_only_if_included() {
    let (u, v) = (unit(&Value::constant(noise(1, &[4, 5]))), unit(&Value::constant(noise(2, &[4, 5]))));
    let alone = [0, 1, 2, 3];
    let of = |instance| icl(&u, &v, &alone, &ones(4), 0.5, instance).unwrap().item().unwrap();
    assert_eq!(of(Instance::Excluded), 0.0);
    assert!(of(Instance::Included) > 0.0);
    let s = noise(1, &[4, 5]);
    check_gradient(&s, 1, 2e-3, |s| icl(&unit(s), &v, &[0, 0, 1, 1], &ones(4), 0.5, Instance::Included));
}

#[test]
fn weights_of_layers_stay_within_their_bounds_and_their_gradient_is_right() {
    let (a, b) = (noise(1, &[6, 4]), noise(2, &[6, 4]));
    let opposite = a.neg().unwrap();
    let of = |a: &Tensor, b: &Tensor| {
        flat(layer_weights(&Value::constant(a.clone()), &Value::constant(b.clone())).unwrap().tensor())
    };
    for weight in of(&a, &b) {
        assert!((0.2689..=0.7311).contains(&weight));
    }
    assert!(of(&a, &a).iter().all(|w| (w - 0.731_058_6).abs() < 1e-6));
    assert!(of(&a, &opposite).iter().all(|w| (w - 0.268_941_4).abs() < 1e-6));
    assert!(of(&zeros(&[6, 4]), &b).iter().all(|w| *w == 0.5), "without a direction");
    let swapped: Vec<f32> = of(&b, &a);
    assert_eq!(of(&a, &b), swapped);
    let labels = [0, 0, 1, 1, 2, 2];
    let u = unit(&Value::constant(noise(3, &[6, 5])));
    check_gradient(&a, 1, 2e-3, |a| {
        let w = layer_weights(a, &Value::constant(b.clone()))?;
        vcl(&u, &u, &labels, &w, 0.5)
    });
}

#[test]
fn the_memorys_contrast_equals_its_definition() {
    let (rows, memory) = (noise(1, &[3, 4]), noise(2, &[10, 4]));
    let drawn: Vec<u32> = vec![0, 5, 7, 2, 1, 6, 8, 3, 2, 0, 9, 9];
    let w = Value::constant(tensor(&[1.0, 0.5, 2.0], &[3]));
    let loss = |s: &Value| contrast_columns(&likeness(s, &memory, &drawn, 0.5)?, 2, &w);
    let (value, _) = evaluate(&rows, loss);
    let (u, m) = (flat(&rows), flat(&memory));
    let mut want = 0.0;
    for i in 0..3 {
        let g = |k: usize| -> f64 {
            let at = drawn[i * 4 + k] as usize;
            (0..4).map(|d| f64::from(u[i * 4 + d]) * f64::from(m[at * 4 + d])).sum::<f64>() / 0.5
        };
        let total: f64 = (0..4).map(|k| g(k).exp()).sum();
        want += [1.0, 0.5, 2.0][i] * (total.ln() - (g(0) + g(1)) / 2.0) / 3.0;
    }
    assert_close(value, want as f32, 1e-5);
    check_gradient(&rows, 1, 1e-3, loss);
    let none = likeness(&Value::constant(noise(1, &[0, 4])), &memory, &[], 0.5).unwrap();
    assert_eq!(contrast_columns(&none, 1, &ones(0)).unwrap().item().unwrap(), 0.0);
    assert!(likeness(&Value::constant(rows.clone()), &memory, &[10; 12], 0.5).is_err(), "not in the memory");
}

#[test]
fn icl_with_the_image_itself_and_the_memorys_contrast_equal_pytorch() {
    own_case("mcl/icl_included", |case| {
        let labels = labels(case, "labels");
        let (w, tau) = (ones(labels.len()), case.attr_f64("tau"));
        check_case(case, "loss", &["u", "v"], |leaves| {
            icl(&leaves[0], &leaves[1], &labels, &w, tau, Instance::Included)
        });
    });
    own_case("memory", |case| {
        let (memory, drawn) = (input(case, "memory"), labels(case, "drawn"));
        let (tau, positives) = (case.attr_f64("tau"), case.attr_usize("positives"));
        check_case(case, "loss", &["u", "weights"], |leaves| {
            contrast_columns(&likeness(&leaves[0], &memory, &drawn, tau)?, positives, &leaves[1])
        });
    });
}

// ---- whole cohorts

fn total_of(terms: &[Term]) -> Value {
    sum(&terms.iter().map(|term| (term.value.clone(), term.weight)).collect::<Vec<_>>())
}

/// Three networks with two layers each: embeddings that are leaves.
fn cohort() -> Vec<Vec<Value>> {
    let layer = |network: usize, layer: usize| {
        let stream = (10 + 2 * network + layer) as u64;
        unit(&Value::leaf(format!("u{network}{layer}").as_str(), noise(stream, &[6, 5])))
    };
    (0..3).map(|network| (0..2).map(|at| layer(network, at)).collect()).collect()
}

#[test]
fn the_loss_of_a_cohort_is_the_sum_over_its_pairs_value_and_gradient() {
    let labels = [0, 0, 1, 1, 2, 2];
    let settings = Pair { vcl: 0.3, icl: 0.2, soft_vcl: 1.1, soft_icl: 0.7, ..Pair::default() };
    let weight = |at: usize| Value::constant(noise(40 + at as u64, &[6]).sqr().unwrap());
    let by_pairs = || {
        let networks = cohort();
        let mut terms = Vec::new();
        let pairs = (0..3).flat_map(|m| (m + 1..3).map(move |n| (m, n)));
        let layers = || (0..4).map(|at| (at / 2, at % 2));
        for (at, ((m, n), (l, k))) in pairs.flat_map(|pair| layers().map(move |own| (pair, own))).enumerate()
        {
            let (u, v) = (&networks[m][l], &networks[n][k]);
            terms.push((pair(u, v, &labels, &weight(at), &settings, None).unwrap(), 2.0));
        }
        sum(&terms)
    };
    let at_once = || {
        let likenesses = Likenesses::of(&cohort(), settings.tau).unwrap();
        let weights: Vec<Value> = (0..likenesses.pairs().count()).map(weight).collect();
        total_of(&likenesses.layer_wise(&labels, &weights, &settings, None).unwrap())
    };
    let (want, got) = (by_pairs(), at_once());
    let near = |a: f32, b: f32| assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} {b}");
    near(got.item().unwrap(), want.item().unwrap());
    let (want, got) = (want.backward().unwrap(), got.backward().unwrap());
    assert_eq!(want.len(), 6);
    for (name, want) in &want {
        let (want, got) = (flat(want), flat(&got[name]));
        let allowed = 1e-5 * largest(&want);
        assert!(want.iter().zip(&got).all(|(want, got)| (want - got).abs() <= allowed), "{name}");
    }

    // MCL of two networks is a pair; of three, each network's own contrast counts once.
    let last = |networks: usize| -> Vec<Vec<Value>> {
        cohort().into_iter().take(networks).map(|mut layers| vec![layers.pop().unwrap()]).collect()
    };
    let mcl = |networks: usize, settings: &Pair| {
        let likenesses = Likenesses::of(&last(networks), settings.tau).unwrap();
        total_of(&likenesses.mcl(&labels, settings).unwrap()).item().unwrap()
    };
    let two = last(2);
    let want = pair(&two[0][0], &two[1][0], &labels, &ones(6), &settings, None).unwrap();
    near(mcl(2, &settings), want.item().unwrap());
    let own = Pair { vcl: 1.0, icl: 0.0, soft_vcl: 0.0, soft_icl: 0.0, ..settings };
    let three = last(3);
    let of = |u: &Value| vcl(u, u, &labels, &ones(6), settings.tau).unwrap().item().unwrap() / 2.0;
    near(mcl(3, &own), three.iter().map(|layers| of(&layers[0])).sum());
    let likenesses = Likenesses::of(&three, settings.tau).unwrap();
    assert!(likenesses.layer_wise(&labels, &[ones(6)], &settings, None).is_err(), "three pairs, one weight");
}

#[test]
fn a_sample_of_the_memory_comes_first_then_one_of_its_class_then_others() {
    let classes = [0, 1, 0, 2, 1, 2, 0, 3];
    let samples = ByClass::new(classes.to_vec()).unwrap();
    let drawn = samples.partners(&[2, 4, 7], 3, 5).unwrap();
    assert_eq!(drawn.len(), 15);
    for (row, sample) in drawn.chunks_exact(5).zip([2u32, 4, 7]) {
        let class = |at: u32| classes[at as usize];
        assert_eq!(row[0], sample);
        let is_alone = sample == 7;
        assert!(class(row[1]) == class(sample) && (row[1] != sample || is_alone), "{row:?}");
        assert!(row[2..].iter().all(|&other| class(other) != class(sample)), "{row:?}");
    }
    assert_eq!(drawn, samples.partners(&[2, 4, 7], 3, 5).unwrap());
    assert_ne!(drawn, samples.partners(&[2, 4, 7], 3, 6).unwrap());
    assert!(samples.partners(&[8], 3, 5).is_err() && ByClass::new(vec![1, 1]).is_err());
    // Each other sample of a class, and of other classes, can be drawn.
    let seen: BTreeSet<u32> =
        (0..200).flat_map(|seed| samples.partners(&[2], 1, seed).unwrap().split_off(1)).collect();
    assert_eq!(seen, BTreeSet::from([0, 1, 3, 4, 5, 6, 7]));
}

/// Embeddings of two layers of two networks, a memory of each network, and the rows drawn for two images.
fn remembering() -> (Vec<Vec<Value>>, [Tensor; 2], [u32; 8]) {
    let layer = |stream: u64| unit(&Value::constant(noise(stream, &[2, 4])));
    let memory = |stream: u64| unit(&Value::constant(noise(stream, &[6, 4]))).tensor().clone();
    let embeddings = vec![vec![layer(1), layer(2)], vec![layer(3), layer(4)]];
    (embeddings, [memory(5), memory(6)], [0, 2, 1, 3, 5, 4, 2, 0])
}

#[test]
fn the_terms_with_memories_are_contrasts_with_ones_own_and_the_others_memory() {
    let (mut embeddings, [a, b], drawn) = remembering();
    embeddings.iter_mut().for_each(|layers| layers.truncate(1));
    let (u, v) = (&embeddings[0][0], &embeddings[1][0]);
    let settings = Pair { vcl: 0.5, icl: 0.25, ..Pair::default() };
    let terms = |embeddings: &[Vec<Value>], memories: &[&Tensor], drawn: &[u32]| {
        Likenesses::to_memories(embeddings, memories, drawn, settings.tau)?.mcl(&[0, 0], &settings)
    };
    let of_both = terms(&embeddings, &[&a, &b], &drawn).unwrap();
    let found: BTreeMap<&str, f32> =
        of_both.iter().map(|term| (term.name.as_str(), term.value.item().unwrap())).collect();
    let contrast = |rows: &Value, memory: &Tensor, drawn: &[u32], positives: usize| {
        let likenesses = likeness(rows, memory, drawn, settings.tau).unwrap();
        contrast_columns(&likenesses, positives, &ones(2)).unwrap().item().unwrap()
    };
    let own = [2, 1, 3, 4, 2, 0];
    assert_close(found["mcl/vcl"], contrast(u, &a, &own, 1) + contrast(v, &b, &own, 1), 1e-5);
    assert_close(found["mcl/icl"], contrast(u, &b, &drawn, 2) + contrast(v, &a, &drawn, 2), 1e-5);
    assert!(found["mcl/soft_vcl"] > 0.0 && found["mcl/soft_icl"] > 0.0);
    assert_eq!(of_both.iter().map(|term| term.weight).collect::<Vec<_>>(), [0.5, 0.25, 1.0, 1.0]);
    // The same network twice has nothing to take over.
    for term in terms(&[vec![u.clone()], vec![u.clone()]], &[&a, &a], &drawn).unwrap() {
        assert!(!term.name.contains("soft") || term.value.item().unwrap().abs() < 1e-6, "{}", term.name);
    }
    assert!(terms(&embeddings, &[&a, &b], &drawn[..5]).is_err(), "rows for two images and a half");
    assert!(terms(&embeddings, &[&a], &drawn).is_err(), "two networks, one memory");
}

#[test]
fn all_layers_contrast_with_the_memories_of_last_layers() {
    let (embeddings, memories, drawn) = remembering();
    let (own, temperature) = ([2, 1, 3, 4, 2, 0], 3.0);
    let settings =
        Pair { vcl: 0.5, icl: 0.25, soft_vcl: 1.5, soft_icl: 0.75, temperature, ..Pair::default() };
    let weight = |at: usize| Value::constant(noise(40 + at as u64, &[2]).sqr().unwrap());
    let likenesses =
        Likenesses::to_memories(&embeddings, &[&memories[0], &memories[1]], &drawn, settings.tau).unwrap();
    let weights: Vec<Value> = (0..likenesses.pairs().count()).map(weight).collect();
    let found = total_of(&likenesses.layer_wise(&[0, 0], &weights, &settings, None).unwrap());

    let mut want = 0.0;
    for (at, (l, k)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
        let (u, v, w) = (&embeddings[0][l], &embeddings[1][k], weight(at));
        let to = |rows: &Value, memory: usize, drawn: &[u32]| {
            likeness(rows, &memories[memory], drawn, settings.tau).unwrap()
        };
        let contrast = |g: &Value, positives| contrast_columns(g, positives, &w).unwrap().item().unwrap();
        let soft = |a: &Value, b: &Value| {
            let one =
                |a: &Value, b: &Value| softened(a, b.tensor(), &w, temperature).unwrap().item().unwrap();
            one(a, b) + one(b, a)
        };
        let (uu, vv, uv, vu) = (to(u, 0, &own), to(v, 1, &own), to(u, 1, &drawn), to(v, 0, &drawn));
        want += 0.5 * (contrast(&uu, 1) + contrast(&vv, 1)) + 0.25 * (contrast(&uv, 2) + contrast(&vu, 2));
        want += 1.5 * soft(&uu, &vv) + 0.75 * soft(&uv, &vu);
    }
    assert_close(found.item().unwrap(), 2.0 * want, 1e-5);
}

#[test]
fn a_remembered_row_moves_where_it_is_and_no_other_does() {
    let memory = noise(1, &[5, 3]);
    let (view, before) = (memory.clone(), flat(&memory));
    let new = unit(&Value::constant(noise(2, &[3, 3])));
    remember(&memory, &[4, 1, 4], new.tensor(), 0.25).unwrap();
    let (after, new) = (flat(&view), flat(new.tensor()));
    let mut want = before.clone();
    for (sample, new) in [4, 1, 4].into_iter().zip(new.chunks_exact(3)) {
        let row = &mut want[sample * 3..][..3];
        row.iter_mut().zip(new).for_each(|(old, new)| *old = 0.25 * *old + 0.75 * new);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    after.iter().zip(&want).for_each(|(after, want)| assert_close(*after, *want, 1e-6));
    assert_eq!(after[..3], before[..3]);
    assert!(remember(&memory, &[5], &noise(3, &[1, 3]), 0.5).is_err(), "not in the memory");
}
