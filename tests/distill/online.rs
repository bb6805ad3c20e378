//! MCL and L-MCL: the losses of peers in a batch.

use candle_core::Tensor;
use ckd_det::distill::mcl::{
    Instance, Likenesses, Pair, Targets, aggregate, icl, layer_weights, pair, soft_icl, soft_vcl, vcl,
};
use ckd_det::distill::{DistillError, kd};
use ckd_kernels::elementwise::concatenate;
use ckd_kernels::linear::Activation::{Identity, Relu};
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::{Value, linear};

use super::support::*;
use ckd_golden as golden;

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
        let settings = settings_of(case);
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
fn icl_with_the_image_itself_equals_pytorchs() {
    own_case("mcl/icl_included", |case| {
        let labels = labels(case, "labels");
        let (w, tau) = (ones(labels.len()), case.attr_f64("tau"));
        check_case(case, "loss", &["u", "v"], |leaves| {
            icl(&leaves[0], &leaves[1], &labels, &w, tau, Instance::Included)
        });
    });
}

// ---- whole cohorts

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
    let weight = |at: usize| Value::constant(computed([&noise(40 + at as u64, &[6])], |[x]| x.sqr()));
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
        total(&likenesses.layer_wise(&labels, &weights, &settings, None).unwrap()).unwrap()
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
        total(&likenesses.mcl(&labels, settings).unwrap()).unwrap().item().unwrap()
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
