//! Losses of rows, similarities and memory banks, against their formulas in f64 and central differences.

use candle_core::Tensor;
use ckd_kernels::bank::{drawn_similarities, partition, remember};
use ckd_kernels::row_losses::{
    Part, Positives, contrast, decoupled_divergence, noise_contrast, softened_divergence, weighted_mean,
};
use ckd_kernels::similarity::{row_products, similarities, with_diagonal};
use ckd_kernels::{Result, Value};

use crate::support::*;

/// Rows of a few columns, and rows that a block computes.
const SHAPES: [[usize; 2]; 4] = [[5, 5], [9, 40], [1, 1], [3, 2100]];

fn rows_of(x: &Tensor) -> Vec<Vec<f64>> {
    let columns = x.dims()[1];
    values(x).chunks(columns.max(1)).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

fn log_softmax(x: &[f64], temperature: f64) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| ((x - top) / temperature).exp()).sum();
    x.iter().map(|x| (x - top) / temperature - total.ln()).collect()
}

fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The losses of `formula`, and its slopes as the gradient of their sum with weights that tell the rows apart.
#[track_caller]
fn check(x: &Tensor, loss: impl Fn(&Value) -> Result<Value>, formula: impl Fn(usize, &[f64]) -> f64) {
    let leaf = Value::leaf("x", x.clone());
    let losses = loss(&leaf).unwrap();
    let rows = rows_of(x);
    for (i, (got, row)) in values(losses.tensor()).iter().zip(&rows).enumerate() {
        let want = formula(i, row);
        assert!((f64::from(*got) - want).abs() <= 2e-6 * (1.0 + want.abs()), "row {i}: {got}, want {want}");
    }
    let weights: Vec<f32> = (0..rows.len()).map(|i| 1.0 + (i % 3) as f32).collect();
    let weights = Value::leaf("w", tensor(weights, &[rows.len()]));
    let gradients = weighted_mean(&losses, Some(&weights)).unwrap().backward().unwrap();
    let gradient = rows_of(&gradients["x"]);
    let (weights, count) = (values(weights.tensor()), rows.len() as f64);
    for (i, row) in rows.iter().enumerate() {
        let share = f64::from(weights[i]) / count;
        for j in (0..row.len()).step_by(row.len().div_ceil(40)) {
            let at = |by: f64| {
                let mut moved = row.clone();
                moved[j] += by;
                formula(i, &moved)
            };
            let slope = share * (at(1e-4) - at(-1e-4)) / 2e-4;
            let got = gradient[i][j];
            assert!((got - slope).abs() <= 1e-6 * (1.0 + slope.abs()), "[{i}, {j}]: {got}, slope {slope}");
        }
    }
    for (by_weight, loss) in values(&gradients["w"]).iter().zip(values(losses.tensor())) {
        let want = f64::from(loss) / count;
        assert!((f64::from(*by_weight) - want).abs() < 1e-6 * (1.0 + want.abs()), "{by_weight} {want}");
    }
}

#[test]
fn divergences_of_rows_are_their_formulas() {
    for shape in SHAPES {
        let (target, x) = (noise(1, &shape), noise(2, &shape));
        let targets = rows_of(&target);
        for temperature in [1.0, 4.0, 0.3] {
            let square = temperature * temperature;
            check(
                &x,
                |x| softened_divergence(&target, x, temperature),
                |i, row| square * kl(&log_softmax(&targets[i], temperature), &log_softmax(row, temperature)),
            );
            let labels: Vec<u32> = (0..shape[0]).map(|i| ((i * 7 + 3) % shape[1]) as u32).collect();
            let parts = |x: &[f64], label: usize| {
                let logs = log_softmax(x, temperature);
                let rest: f64 = (0..x.len()).filter(|&j| j != label).map(|j| logs[j].exp()).sum();
                let others: Vec<f64> = (0..x.len()).filter(|&j| j != label).map(|j| x[j]).collect();
                (vec![logs[label], rest.ln()], log_softmax(&others, temperature))
            };
            let of = |part| {
                let (targets, labels) = (&targets, &labels);
                move |i: usize, row: &[f64]| {
                    let (t, s) = (parts(&targets[i], labels[i] as usize), parts(row, labels[i] as usize));
                    match part {
                        _ if row.len() == 1 => 0.0,
                        Part::Target => square * kl(&t.0, &s.0),
                        Part::Others => square * kl(&t.1, &s.1),
                    }
                }
            };
            for part in [Part::Target, Part::Others] {
                check(&x, |x| decoupled_divergence(&target, x, &labels, temperature, part), of(part));
            }
        }
    }
}

#[test]
fn contrast_sees_the_positives_that_are_named() {
    for shape in SHAPES {
        let x = noise(3, &shape);
        for count in [1, shape[1].min(4)] {
            check(
                &x,
                |x| contrast(x, Positives::First(count)),
                |_, row| {
                    let logs = log_softmax(row, 1.0);
                    -logs[..count].iter().sum::<f64>() / count as f64
                },
            );
        }
        check(&x, |x| contrast(x, Positives::Own), |i, row| -log_softmax(row, 1.0)[i]);
    }
    // The last row is alone in its class.
    let labels = [0, 1, 0, 1, 1, 2];
    let x = noise(4, &[6, 6]);
    for itself in [false, true] {
        check(
            &x,
            |x| contrast(x, Positives::Alike { labels: &labels, itself }),
            |i, row| {
                let seen: Vec<usize> = (0..6).filter(|&j| itself || j != i).collect();
                let logs = log_softmax(&seen.iter().map(|&j| row[j]).collect::<Vec<_>>(), 1.0);
                let alike = seen.iter().zip(&logs).filter(|(j, _)| labels[**j] == labels[i]);
                let alike: Vec<f64> = alike.map(|(_, log)| *log).collect();
                if alike.is_empty() { 0.0 } else { -alike.iter().sum::<f64>() / alike.len() as f64 }
            },
        );
    }
}

#[test]
fn noise_contrast_is_its_formula() {
    for shape in SHAPES {
        let (x, z, noise_of) = (noise(5, &shape), 7.5f32, 0.4);
        let kept = tensor(vec![z], &[1]);
        check(
            &x,
            |x| noise_contrast(x, &kept, noise_of),
            |_, row| {
                let term = |(k, x): (usize, &f64)| {
                    let o = x.exp() / f64::from(z);
                    -(if k == 0 { o } else { noise_of } / (o + noise_of + 1e-7)).ln()
                };
                row.iter().enumerate().map(term).sum()
            },
        );
        let mean = values(&x).iter().map(|&x| f64::from(x).exp()).sum::<f64>() / x.elem_count() as f64;
        let first = values(&partition(&x, &tensor(vec![0.0], &[1]), 100).unwrap())[0];
        assert!((f64::from(first) / (100.0 * mean) - 1.0).abs() < 1e-6, "{first}, want {}", 100.0 * mean);
        assert_eq!(values(&partition(&x, &kept, 100).unwrap()), [z]);
    }
}

#[test]
fn hostile_rows_are_seen_and_no_rows_are_nothing() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut numbers = values(&noise(6, &[3, 4]));
        numbers[5] = bad;
        let (x, target) = (Value::constant(tensor(numbers, &[3, 4])), noise(7, &[3, 4]));
        let losses = [
            softened_divergence(&target, &x, 2.0),
            decoupled_divergence(&target, &x, &[0, 1, 2], 2.0, Part::Target),
            decoupled_divergence(&target, &x, &[0, 2, 2], 2.0, Part::Others),
            contrast(&x, Positives::Own),
            contrast(&x, Positives::First(1)),
        ];
        for loss in losses {
            let loss = values(loss.unwrap().tensor());
            assert!(loss[0].is_finite() && !loss[1].is_finite() && loss[2].is_finite(), "{bad}: {loss:?}");
        }
    }
    // Numbers whose exponentials are 0 or infinite.
    let far = |stream| {
        let far = values(&noise(stream, &[3, 4])).into_iter().map(|x| 1e5 * x).collect();
        tensor(far, &[3, 4])
    };
    let (target, x) = (far(8), Value::leaf("x", far(9)));
    for part in [Part::Target, Part::Others] {
        let losses = decoupled_divergence(&target, &x, &[0, 1, 2], 1.0, part).unwrap();
        let gradients = weighted_mean(&losses, None).unwrap().backward().unwrap();
        assert!(values(losses.tensor()).iter().chain(&values(&gradients["x"])).all(|x| x.is_finite()));
    }
    let none = Value::constant(tensor(vec![], &[0, 4]));
    let losses = softened_divergence(none.tensor(), &none, 1.0).unwrap();
    assert_eq!((losses.dims(), weighted_mean(&losses, None).unwrap().item().unwrap()), (&[0][..], 0.0));
    let empty = Value::constant(tensor(vec![], &[3, 0]));
    assert_eq!(values(softened_divergence(empty.tensor(), &empty, 1.0).unwrap().tensor()), [0.0; 3]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = Value::constant(noise(1, &[3, 4]));
    let square = Value::constant(noise(1, &[3, 3]));
    assert!(softened_divergence(&noise(1, &[3, 5]), &x, 1.0).is_err());
    assert!(softened_divergence(x.tensor(), &x, 0.0).is_err());
    assert!(decoupled_divergence(x.tensor(), &x, &[0, 1], 1.0, Part::Target).is_err());
    assert!(decoupled_divergence(x.tensor(), &x, &[0, 1, 4], 1.0, Part::Target).is_err());
    assert!(contrast(&x, Positives::First(5)).is_err());
    assert!(contrast(&x, Positives::Alike { labels: &[0; 3], itself: true }).is_err());
    assert!(contrast(&square, Positives::Alike { labels: &[0; 2], itself: true }).is_err());
    assert!(contrast(&Value::constant(noise(1, &[4, 3])), Positives::Own).is_err());
    assert!(weighted_mean(&x, None).is_err());
    assert!(similarities(&x, &square, 1.0).is_err() && row_products(&x, &square).is_err());
    assert!(with_diagonal(&x, &Value::constant(noise(1, &[3]))).is_err());
    assert!(drawn_similarities(&x, square.tensor(), &[0; 3], 1.0).is_err());
    assert!(drawn_similarities(&x, x.tensor(), &[0, 1, 3], 1.0).is_err());
    assert!(drawn_similarities(&x, x.tensor(), &[0; 4], 1.0).is_err());
    assert!(remember(x.tensor(), &[3], &noise(1, &[1, 4]), 0.5).is_err());
    assert!(remember(x.tensor(), &[0], &noise(1, &[2, 4]), 0.5).is_err());
    assert!(partition(x.tensor(), &noise(1, &[2]), 4).is_err());
    assert!(noise_contrast(&x, &noise(1, &[2]), 0.5).is_err());
}

/// Σ of the results, each with a weight of its own.
fn apart(y: &Value) -> Value {
    let count = y.tensor().elem_count();
    let flat = ckd_kernels::elementwise::reshape(y, &[count]).unwrap();
    let weights = (0..count).map(|i| 1.0 + (i % 5) as f32 / 4.0).collect();
    weighted_mean(&flat, Some(&Value::constant(tensor(weights, &[count])))).unwrap()
}

#[test]
fn similarities_of_rows_are_inner_products_with_their_gradients() {
    for (m, n, d) in [(4, 6, 5), (1, 1, 1), (33, 40, 300), (0, 3, 4), (3, 0, 4), (2, 3, 0)] {
        let (a, b) = (noise(1, &[m, d]), noise(2, &[n, d]));
        let (x, y) = (rows_of(&a), rows_of(&b));
        let (leaf_a, leaf_b) = (Value::leaf("a", a.clone()), Value::leaf("b", b));
        let out = similarities(&leaf_a, &leaf_b, 2.5).unwrap();
        assert_eq!(out.dims(), [m, n]);
        if d == 0 {
            assert_eq!(values(out.tensor()), vec![0.0; m * n]);
            continue;
        }
        let got = values(out.tensor());
        for (i, x) in x.iter().enumerate() {
            for (j, y) in y.iter().enumerate() {
                let want: f64 = 2.5 * x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                assert!((f64::from(got[i * n + j]) - want).abs() < 1e-4, "{i} {j}");
            }
        }
        let gradients = apart(&out).backward().unwrap();
        let weight =
            |i: usize, j: usize| (1.0 + ((i * n + j) % 5) as f64 / 4.0) * 2.5 / (m * n).max(1) as f64;
        for (name, own, other) in [("a", m, &y), ("b", n, &x)] {
            let got = values(&gradients[name]);
            for i in 0..own {
                for k in 0..d {
                    let weight = |j: usize| if name == "a" { weight(i, j) } else { weight(j, i) };
                    let want: f64 = other.iter().enumerate().map(|(j, row)| row[k] * weight(j)).sum();
                    assert!((f64::from(got[i * d + k]) - want).abs() < 1e-5, "{name} {i} {k}");
                }
            }
        }
    }
    let (a, b) = (noise(1, &[5, 70]), noise(2, &[5, 70]));
    let (leaf_a, leaf_b) = (Value::leaf("a", a.clone()), Value::leaf("b", b.clone()));
    let own = row_products(&leaf_a, &leaf_b).unwrap();
    let all = similarities(&leaf_a, &leaf_b, 1.0).unwrap();
    for (i, own) in values(own.tensor()).iter().enumerate() {
        assert!((own - values(all.tensor())[i * 6]).abs() < 1e-5);
    }
    let gradients = apart(&own).backward().unwrap();
    for (name, other) in [("a", &b), ("b", &a)] {
        for (at, (got, x)) in values(&gradients[name]).iter().zip(values(other)).enumerate() {
            let want = (1.0 + (at / 70 % 5) as f32 / 4.0) / 5.0 * x;
            assert!((got - want).abs() < 1e-6, "{name} {at}");
        }
    }
    let diagonal = Value::leaf("diagonal", noise(3, &[5]));
    let square = Value::leaf("square", noise(4, &[5, 5]));
    let out = with_diagonal(&square, &diagonal).unwrap();
    let gradients = apart(&out).backward().unwrap();
    for at in 0..25 {
        let (on, i) = (at % 6 == 0, at / 6);
        let from = if on { values(diagonal.tensor())[i] } else { values(square.tensor())[at] };
        assert_eq!(values(out.tensor())[at], from);
        let weight = (1.0 + (at % 5) as f32 / 4.0) / 25.0;
        let of_square = values(&gradients["square"])[at];
        assert!((of_square - if on { 0.0 } else { weight }).abs() < 1e-7);
        assert!(!on || (values(&gradients["diagonal"])[i] - weight).abs() < 1e-7);
    }
}

#[test]
fn rows_meet_what_was_drawn_of_a_bank() {
    let (b, n, d, columns) = (7, 20, 33, 12);
    let (x, bank) = (noise(1, &[b, d]), noise(2, &[n, d]));
    let drawn: Vec<u32> = (0..b * columns).map(|i| (i * 13 % n) as u32).collect();
    let leaf = Value::leaf("x", x.clone());
    let out = drawn_similarities(&leaf, &bank, &drawn, 0.5).unwrap();
    let (rows, remembered) = (rows_of(&x), rows_of(&bank));
    for (at, got) in values(out.tensor()).iter().enumerate() {
        let pairs = rows[at / columns].iter().zip(&remembered[drawn[at] as usize]);
        let want = 0.5 * pairs.map(|(x, y)| x * y).sum::<f64>();
        assert!((f64::from(*got) - want).abs() < 1e-5, "{at}: {got} {want}");
    }
    let gradients = apart(&out).backward().unwrap();
    for (at, got) in values(&gradients["x"]).iter().enumerate() {
        let (i, k) = (at / d, at % d);
        let term = |j: usize| {
            let place = i * columns + j;
            (1.0 + (place % 5) as f64 / 4.0) * 0.5 / (b * columns) as f64
                * remembered[drawn[place] as usize][k]
        };
        let want: f64 = (0..columns).map(term).sum();
        assert!((f64::from(*got) - want).abs() < 1e-6, "{at}: {got} {want}");
    }
}

#[test]
fn a_bank_moves_towards_new_rows_and_a_sample_that_comes_twice_moves_twice() {
    let (n, d) = (6, 40);
    let bank = noise(1, &[n, d]);
    let before = rows_of(&bank);
    let samples = [4, 1, 4, 0, 4];
    let new = noise(2, &[samples.len(), d]);
    let mut want = before;
    for (&sample, new) in samples.iter().zip(rows_of(&new)) {
        let row = &mut want[sample as usize];
        row.iter_mut().zip(new).for_each(|(row, new)| *row = 0.3 * *row + 0.7 * new);
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    remember(&bank, &samples, &new, 0.3).unwrap();
    for (got, want) in values(&bank).iter().zip(want.into_iter().flatten()) {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
    }
    remember(&bank, &[], &noise(2, &[0, d]), 0.3).unwrap();
}
