//! Memories of samples, and MCL and L-MCL that contrast with them.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_det::distill::mcl::{Likenesses, Pair, softened};
use ckd_det::distill::{ByClass, contrast_columns, likeness, remember};
use ckd_kernels::Value;

use super::support::*;

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
fn the_memorys_contrast_equals_pytorchs() {
    own_case("memory", |case| {
        let (memory, drawn) = (input(case, "memory"), labels(case, "drawn"));
        let (tau, positives) = (case.attr_f64("tau"), case.attr_usize("positives"));
        check_case(case, "loss", &["u", "weights"], |leaves| {
            contrast_columns(&likeness(&leaves[0], &memory, &drawn, tau)?, positives, &leaves[1])
        });
    });
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
    let weight = |at: usize| Value::constant(computed([&noise(40 + at as u64, &[2])], |[x]| x.sqr()));
    let likenesses =
        Likenesses::to_memories(&embeddings, &[&memories[0], &memories[1]], &drawn, settings.tau).unwrap();
    let weights: Vec<Value> = (0..likenesses.pairs().count()).map(weight).collect();
    let found = total(&likenesses.layer_wise(&[0, 0], &weights, &settings, None).unwrap()).unwrap();

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
