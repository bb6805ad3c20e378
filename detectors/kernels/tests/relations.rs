//! Relations of rows, against their formulas in f64 and central differences.

use candle_core::Tensor;
use ckd_kernels::elementwise::sigmoid;
use ckd_kernels::relations::{
    Probabilities, Relation, angles, correlation, mixture, mutual_divergence, relative_distances,
    times_exponential,
};
use ckd_kernels::{Result, Value};

use crate::support::*;

fn rows_of(x: &Tensor) -> Vec<Vec<f64>> {
    values(x).chunks(x.dims()[1]).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x - total.ln()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn huber(x: f64) -> f64 {
    if x.abs() < 1.0 { 0.5 * x * x } else { x.abs() - 0.5 }
}

#[track_caller]
fn assert_scalar(got: Result<Value>, want: f64) {
    let got = f64::from(got.unwrap().item().unwrap());
    assert!((got - want).abs() <= 2e-6 * (1.0 + want.abs()), "{got}, want {want}");
}

#[test]
fn correlations_are_pearsons_of_rows_and_of_columns() {
    // Rows of a warp and of a block, columns of both.
    for shape in [[5, 4], [3, 2100], [2100, 2], [1, 7]] {
        let (t, s) = (noise(1, &shape), noise(2, &shape));
        for (probabilities, temperature) in [(Probabilities::Softmax, 2.0), (Probabilities::Sigmoid, 1.0)] {
            let probable = |x: &Tensor| -> Vec<Vec<f64>> {
                let of_row = |row: Vec<f64>| -> Vec<f64> {
                    let row: Vec<f64> = row.iter().map(|x| x / temperature).collect();
                    match probabilities {
                        Probabilities::Softmax => log_softmax(&row).iter().map(|log| log.exp()).collect(),
                        Probabilities::Sigmoid => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
                    }
                };
                rows_of(x).into_iter().map(of_row).collect()
            };
            let turned = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
                (0..shape[1]).map(|c| rows.iter().map(|row| row[c]).collect()).collect()
            };
            for relation in [Relation::Inter, Relation::Intra] {
                let lines = |x: &Tensor| match relation {
                    Relation::Inter => probable(x),
                    Relation::Intra => turned(probable(x)),
                };
                let (x, y) = (lines(&t), lines(&s));
                let centred = |line: &[f64]| -> Vec<f64> {
                    let mean = line.iter().sum::<f64>() / line.len() as f64;
                    line.iter().map(|x| x - mean).collect()
                };
                let pearson = |(x, y): (&Vec<f64>, &Vec<f64>)| {
                    let (x, y) = (centred(x), centred(y));
                    dot(&x, &y) / ((dot(&x, &x) * dot(&y, &y)).sqrt() + 1e-8)
                };
                let mean = x.iter().zip(&y).map(pearson).sum::<f64>() / x.len() as f64;
                let of = |s: &Value| correlation(&t, s, temperature, probabilities, relation);
                assert_scalar(of(&Value::constant(s.clone())), temperature * temperature * (1.0 - mean));
                if shape[0] == 5 {
                    check_gradients(std::slice::from_ref(&s), 1e-2, 1e-4, |s| of(&s[0]).unwrap());
                }
            }
        }
    }
    let refused = |t: &Tensor, s: Tensor, temperature| {
        let s = Value::constant(s);
        correlation(t, &s, temperature, Probabilities::Softmax, Relation::Inter).is_err()
    };
    let t = noise(1, &[3, 2]);
    assert!(refused(&t, noise(1, &[2, 3]), 1.0) && refused(&t, noise(1, &[3, 2]), 0.0));
}

#[test]
fn distances_and_angles_of_rows_are_their_formulas() {
    for (b, p, q) in [(5, 3, 4), (1, 2, 2), (40, 33, 3), (20, 2, 2100)] {
        let (t, s) = (noise(3, &[b, p]), noise(4, &[b, q]));
        let (x, y) = (rows_of(&t), rows_of(&s));
        let away = |rows: &[Vec<f64>], i: usize, j: usize| -> Vec<f64> {
            rows[j].iter().zip(&rows[i]).map(|(b, a)| b - a).collect()
        };
        let distances = |rows: &[Vec<f64>]| -> Vec<f64> {
            let between = |at: usize| {
                let d = away(rows, at / b, at % b);
                dot(&d, &d).sqrt()
            };
            let all: Vec<f64> = (0..b * b).map(between).collect();
            let mean = all.iter().sum::<f64>() / (b * b - b).max(1) as f64;
            all.into_iter().map(|d| if b == 1 { d } else { d / mean }).collect()
        };
        let pairs: Vec<f64> = distances(&x).iter().zip(distances(&y)).map(|(t, s)| huber(s - t)).collect();
        let mean = pairs.iter().sum::<f64>() / (b * b) as f64;
        assert_scalar(relative_distances(&t, &Value::constant(s.clone())), mean);

        let cosine = |rows: &[Vec<f64>], i: usize, j: usize, k: usize| {
            let (a, b) = (away(rows, i, j), away(rows, i, k));
            let size = (dot(&a, &a) * dot(&b, &b)).sqrt();
            if size == 0.0 { 0.0 } else { dot(&a, &b) / size }
        };
        let mut sum = 0.0;
        for at in 0..b * b * b {
            let (i, j, k) = (at / b / b, at / b % b, at % b);
            sum += huber(cosine(&y, i, j, k) - cosine(&x, i, j, k));
        }
        assert_scalar(angles(&t, &Value::constant(s.clone())), sum / (b * b * b) as f64);
        if b == 5 {
            let s = std::slice::from_ref(&s);
            check_gradients(s, 1e-2, 1e-4, |s| relative_distances(&t, &s[0]).unwrap());
            check_gradients(s, 1e-3, 1e-3, |s| angles(&t, &s[0]).unwrap());
        }
    }
    // Equal rows have no direction, and no gradient from each other.
    let same = Value::leaf("x", tensor(vec![1.0, 2.0, 1.0, 2.0, 3.0, -1.0], &[3, 2]));
    for loss in [relative_distances(&noise(5, &[3, 2]), &same), angles(&noise(5, &[3, 2]), &same)] {
        let gradients = loss.unwrap().backward().unwrap();
        assert!(values(&gradients["x"]).iter().all(|g| g.is_finite()));
    }
    let other = Value::constant(noise(1, &[4, 2]));
    assert!(relative_distances(&noise(5, &[3, 2]), &other).is_err());
    assert!(angles(&noise(5, &[3, 2]), &other).is_err());
}

#[test]
fn a_divergence_of_two_distributions_moves_both() {
    for shape in [[4, 5], [2, 2100], [0, 3]] {
        let (a, c) = (noise(6, &shape), noise(7, &shape));
        let losses = mutual_divergence(&Value::constant(a.clone()), &Value::constant(c.clone())).unwrap();
        for (got, (a, c)) in values(losses.tensor()).iter().zip(rows_of(&a).iter().zip(rows_of(&c))) {
            let (p, q) = (log_softmax(a), log_softmax(&c));
            let want: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            assert!((f64::from(*got) - want).abs() <= 1e-6, "{got}, want {want}");
        }
    }
    let inputs = [noise(6, &[4, 5]), noise(7, &[4, 5])];
    check_gradients(&inputs, 1e-2, 1e-4, |x| mutual_divergence(&x[0], &x[1]).unwrap());
    assert!(
        mutual_divergence(&Value::constant(noise(1, &[2, 3])), &Value::constant(noise(1, &[3, 2]))).is_err()
    );
}

#[test]
fn a_trained_scale_is_an_exponential_up_to_its_bound() {
    let (x, low, high) = (noise(8, &[3, 4]), tensor(vec![0.5], &[1]), tensor(vec![3.0], &[1]));
    let of = |x: &Value, exponent: &Value| times_exponential(x, exponent, 10.0).unwrap();
    let scaled = of(&Value::constant(x.clone()), &Value::constant(high.clone()));
    assert_close(scaled.tensor(), &x.affine(10.0, 0.0).unwrap(), 1e-6);
    check_gradients(&[x.clone(), low], 1e-2, 1e-4, |x| of(&x[0], &x[1]));
    check_gradients(&[x.clone(), high], 1e-2, 1e-4, |x| of(&x[0], &x[1]));
    assert!(times_exponential(&Value::constant(x), &Value::constant(noise(1, &[2])), 10.0).is_err());
    check_gradients(&[noise(9, &[3, 4])], 1e-2, 1e-4, |x| sigmoid(&x[0]).unwrap());
}

#[test]
fn a_mixture_has_the_shares_of_a_softmax_in_each_row() {
    let parts = [noise(10, &[4, 3]), noise(11, &[4, 3]), noise(12, &[4, 3])];
    let weights = noise(13, &[4, 3]);
    let of = |x: &[Value]| mixture(&x[..3], &x[3]).unwrap();
    let inputs: Vec<Tensor> = parts.iter().chain([&weights]).cloned().collect();
    let constants: Vec<Value> = inputs.iter().cloned().map(Value::constant).collect();
    let rows = parts.each_ref().map(rows_of);
    let want = rows_of(&weights).into_iter().enumerate().flat_map(|(i, weights)| {
        let shares: Vec<f64> = log_softmax(&weights).iter().map(|log| log.exp()).collect();
        let at = |c: usize| (0..3).map(|l| shares[l] * rows[l][i][c]).sum::<f64>() as f32;
        (0..3).map(at).collect::<Vec<_>>()
    });
    assert_close(of(&constants).tensor(), &tensor(want.collect(), &[4, 3]), 1e-6);
    check_gradients(&inputs, 1e-2, 1e-4, of);
    assert!(mixture(&constants[..2], &constants[3]).is_err());
    assert!(mixture(&[], &constants[3]).is_err());
}
