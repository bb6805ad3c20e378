//! Comparisons of feature maps, against their definitions in f64 and against differences.

use candle_core::Tensor;
use ckd_kernels::maps::{
    Weights, add_to_channels, attention_difference, attention_pool, attention_weights, channel_divergence,
    energy_difference, gated_sum, squared_difference, standardized_difference,
};
use ckd_kernels::{Result, Value};

use crate::support::*;

/// A map's numbers in f64, channel by channel of each image: `[image][channel][cell]`.
fn channels_of(map: &Tensor) -> Vec<Vec<Vec<f64>>> {
    let (_, c, h, w) = map.dims4().unwrap();
    let numbers: Vec<f64> = values(map).into_iter().map(f64::from).collect();
    let image = |image: &[f64]| image.chunks(h * w).map(<[f64]>::to_vec).collect();
    numbers.chunks(c * h * w).map(image).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / total).collect()
}

fn constant(tensor: &Tensor) -> Value {
    Value::constant(tensor.clone())
}

fn value_of(out: Result<Value>) -> f64 {
    f64::from(out.unwrap().item().unwrap())
}

#[track_caller]
fn assert_near(got: f64, want: f64) {
    assert!((got - want).abs() <= 2e-6 * want.abs().max(0.1), "{got}, expected {want}");
}

/// Shapes with more cells than a chunk has, more channels than a warp, and remainders of both.
const SHAPES: [[usize; 4]; 4] = [[2, 5, 6, 4], [1, 33, 31, 37], [3, 70, 3, 2], [2, 1, 1, 1]];

fn pair(shape: &[usize; 4]) -> (Tensor, Tensor) {
    (noise(1, shape), noise(2, shape))
}

fn weights(shape: &[usize; 4]) -> (Tensor, Tensor) {
    let [n, c, h, w] = *shape;
    // Every third cell is masked out.
    let cells = (0..n * h * w).map(|i| (i % 3) as f32 / 5.0).collect();
    (tensor(cells, &[n, h, w]), noise(3, &[n, c]))
}

#[test]
fn a_squared_difference_is_that_of_its_definition() {
    for shape in &SHAPES {
        let (t, x) = pair(shape);
        let (cells, channels) = weights(shape);
        let (by_cell, by_channel) = (values(&cells), values(&channels));
        let [_, c, h, w] = *shape;
        let (t64, x64) = (channels_of(&t), channels_of(&x));
        for (with_cells, with_channels) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut want = 0.0;
            for (image, (t, x)) in t64.iter().zip(&x64).enumerate() {
                for (channel, (t, x)) in t.iter().zip(x).enumerate() {
                    for (cell, (t, x)) in t.iter().zip(x).enumerate() {
                        let of_cell = if with_cells { by_cell[image * h * w + cell] } else { 1.0 };
                        let of_channel = if with_channels { by_channel[image * c + channel] } else { 1.0 };
                        want += f64::from(of_cell) * f64::from(of_channel) * (x - t) * (x - t) / 7.0;
                    }
                }
            }
            let weights = Weights {
                cells: with_cells.then(|| cells.clone()),
                channels: with_channels.then(|| channels.clone()),
            };
            assert_near(value_of(squared_difference(&t, &constant(&x), weights.clone(), 7.0)), want);
            let last = squared_difference(&nhwc(&t), &constant(&nhwc(&x)), weights, 7.0);
            assert_near(value_of(last), want);
        }
    }
}

#[test]
fn a_standardized_difference_is_one_minus_the_mean_correlation() {
    for shape in &SHAPES[..3] {
        let (t, x) = pair(shape);
        let (t64, x64) = (channels_of(&t), channels_of(&x));
        let [_, c, h, w] = *shape;
        let count = (shape[0] * h * w) as f64;
        let correlation = |channel: usize| {
            let all = |map: &[Vec<Vec<f64>>]| -> Vec<f64> {
                let all: Vec<f64> = map.iter().flat_map(|image| image[channel].clone()).collect();
                let mean = all.iter().sum::<f64>() / count;
                all.iter().map(|x| x - mean).collect()
            };
            let (t, x) = (all(&t64), all(&x64));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(&t, &x) / (dot(&t, &t) * dot(&x, &x)).sqrt()
        };
        let want = 1.0 - (0..c).map(correlation).sum::<f64>() / c as f64;
        assert_near(value_of(standardized_difference(&t, &constant(&x), count, 0.0)), want);
    }
}

#[test]
fn an_energy_difference_is_that_of_its_definition() {
    for shape in &SHAPES {
        let [n, _, h, w] = *shape;
        let (t, x) = (noise(1, &[n, 3, h, w]), noise(2, shape));
        let unit = |image: &Vec<Vec<f64>>| -> Vec<f64> {
            let mean =
                |cell: usize| image.iter().map(|c| c[cell] * c[cell]).sum::<f64>() / image.len() as f64;
            let means: Vec<f64> = (0..h * w).map(mean).collect();
            let length = means.iter().map(|m| m * m).sum::<f64>().sqrt();
            means.iter().map(|m| m / length).collect()
        };
        let images = channels_of(&t).into_iter().zip(channels_of(&x));
        let squares = images.map(|(t, x)| {
            unit(&t).iter().zip(unit(&x)).map(|(t, x)| (t - x) * (t - x)).sum::<f64>() / (n * h * w) as f64
        });
        assert_near(value_of(energy_difference(&t, &constant(&x))), squares.sum());
    }
}

/// S and C of an image.
fn attention(image: &[Vec<f64>], temperature: f64) -> (Vec<f64>, Vec<f64>) {
    let (c, cells) = (image.len(), image[0].len());
    let of_cell = |cell: usize| image.iter().map(|x| x[cell].abs()).sum::<f64>() / c as f64 / temperature;
    let of_channel = |x: &Vec<f64>| x.iter().map(|x| x.abs()).sum::<f64>() / cells as f64 / temperature;
    let by_cell: Vec<f64> = (0..cells).map(of_cell).collect();
    let by_channel: Vec<f64> = image.iter().map(of_channel).collect();
    let stretched = |p: Vec<f64>| {
        let len = p.len() as f64;
        p.into_iter().map(|p| p * len).collect::<Vec<f64>>()
    };
    (stretched(softmax(&by_cell)), stretched(softmax(&by_channel)))
}

#[test]
fn attention_is_the_softmax_of_mean_sizes_over_cells_and_over_channels() {
    for shape in &SHAPES {
        let [n, _, h, w] = *shape;
        let (t, x) = pair(shape);
        let (mask, _) = weights(shape);
        let (cells, channels) = attention_weights(&x, &mask, 0.5).unwrap();
        assert_eq!((cells.dims(), channels.dims()), (&[n, h, w][..], &shape[..2]));
        let images: Vec<_> = channels_of(&x).iter().map(|image| attention(image, 0.5)).collect();
        let want = images.iter().flat_map(|image| &image.0).zip(values(&mask));
        for (got, (want, mask)) in values(&cells).into_iter().zip(want) {
            assert_near(f64::from(got), want * f64::from(mask));
        }
        for (got, want) in values(&channels).into_iter().zip(images.iter().flat_map(|image| &image.1)) {
            assert_near(f64::from(got), *want);
        }
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>();
        let targets = channels_of(&t);
        let parts = targets.iter().zip(&images).map(|(t, x)| {
            let t = attention(t, 0.5);
            (distance(&t.0, &x.0) + distance(&t.1, &x.1)) / n as f64
        });
        assert_near(value_of(attention_difference(&t, &constant(&x), 0.5)), parts.sum());
    }
}

#[test]
fn a_channel_is_a_distribution_over_its_cells() {
    for shape in &SHAPES {
        let (t, x) = pair(shape);
        let (t, x) = (nhwc(&t), nhwc(&x));
        for temperature in [0.5, 1.0, 4.0] {
            let softened = |map: &Tensor| -> Vec<Vec<f64>> {
                let channels = channels_of(map).into_iter().flatten();
                channels.map(|x| softmax(&x.iter().map(|x| x / temperature).collect::<Vec<_>>())).collect()
            };
            let (p, q) = (softened(&t), softened(&x));
            let kl = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
                p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
            };
            let want = temperature * temperature * p.iter().zip(&q).map(kl).sum::<f64>() / p.len() as f64;
            assert_near(value_of(channel_divergence(&t, &constant(&x), temperature)), want);
        }
    }
}

#[test]
fn cells_are_pooled_by_the_softmax_of_their_logits() {
    for shape in &SHAPES {
        let [n, c, h, w] = *shape;
        let (x, logits) = (noise(1, shape), noise(2, &[n, 1, h, w]));
        let got = attention_pool(&constant(&nhwc(&x)), &constant(&logits)).unwrap();
        assert_eq!(got.dims(), [n, c]);
        let images = channels_of(&x).into_iter().zip(channels_of(&logits));
        let want = images.flat_map(|(x, logits)| {
            let shares = softmax(&logits[0]);
            x.into_iter().map(move |x| x.iter().zip(&shares).map(|(x, share)| x * share).sum::<f64>())
        });
        for (got, want) in values(got.tensor()).into_iter().zip(want) {
            assert_near(f64::from(got), want);
        }
        let shifts = noise(3, &[n, c]);
        let shifted = add_to_channels(&constant(&nhwc(&x)), &constant(&shifts)).unwrap();
        let want = values(&x).into_iter().enumerate().map(|(i, x)| x + values(&shifts)[i / (h * w)]);
        assert_eq!(values(shifted.tensor()), want.collect::<Vec<f32>>());
    }
}

#[test]
fn two_maps_are_added_through_the_gates_of_their_cells() {
    for shape in &SHAPES {
        let [n, c, h, w] = *shape;
        let (x, y) = pair(shape);
        let logits = noise(3, &[n, 2, h, w]);
        let got = gated_sum(&constant(&x), &constant(&nhwc(&y)), &constant(&logits)).unwrap();
        let (x, y, a) = (values(&x), values(&y), values(&logits));
        let gate = |a: f32| (1.0 + (-f64::from(a)).exp()).recip();
        for (i, got) in values(got.tensor()).into_iter().enumerate() {
            let (image, cell) = (i / (c * h * w), i % (h * w));
            let [of_x, of_y] = [0, 1].map(|k| gate(a[(2 * image + k) * h * w + cell]));
            assert_near(f64::from(got), of_x * f64::from(x[i]) + of_y * f64::from(y[i]));
        }
    }
}

type Comparison = fn(&Tensor, &Value) -> Result<Value>;

/// Comparisons, with a step of differences that crosses no kink and leaves digits enough.
const COMPARISONS: [(&str, f32, Comparison); 6] = [
    ("squared", 0.02, |t, x| squared_difference(t, x, Weights::default(), 3.0)),
    ("weighted", 0.02, |t, x| {
        let &[n, c, h, w] = x.dims() else { unreachable!("a map") };
        let (cells, channels) = weights(&[n, c, h, w]);
        squared_difference(t, x, Weights { cells: Some(cells), channels: Some(channels) }, 3.0)
    }),
    ("standardized", 0.02, |t, x| standardized_difference(t, x, 20.0, 1e-6)),
    ("energy", 0.02, energy_difference),
    ("attention", 0.002, |t, x| attention_difference(t, x, 0.5)),
    ("divergence", 0.02, |t, x| channel_divergence(t, x, 2.0)),
];

#[test]
fn gradients_of_comparisons_agree_with_differences_in_either_memory() {
    for shape in [[2, 3, 4, 5], [1, 33, 2, 3]] {
        // Nothing near 0, where sizes have a kink.
        let away = |stream| {
            let numbers = values(&noise(stream, &shape));
            tensor(numbers.iter().map(|x| x + x.signum() * 0.2).collect(), &shape)
        };
        let (t, x) = (away(1), away(2));
        for (name, step, compare) in COMPARISONS {
            check_gradients(std::slice::from_ref(&x), step, 2e-4, |v| compare(&t, &v[0]).unwrap());
            let gradient = |t: &Tensor, x: &Tensor| {
                let loss = compare(t, &Value::leaf("x", x.clone())).unwrap();
                values(&loss.backward_from(&tensor(vec![3.0], &[])).unwrap()["x"])
            };
            assert_eq!(gradient(&nhwc(&t), &nhwc(&x)), gradient(&t, &x), "{name}");
        }
    }
}

#[test]
fn gradients_of_fusions_agree_with_differences() {
    let (map, other) = (noise(1, &[2, 33, 1, 2]), noise(2, &[2, 33, 1, 2]));
    check_gradients(&[map.clone(), noise(3, &[2, 1, 1, 2])], 0.05, 1e-4, |v| {
        attention_pool(&v[0], &v[1]).unwrap()
    });
    check_gradients(&[map.clone(), noise(4, &[2, 33])], 0.05, 1e-4, |v| {
        add_to_channels(&v[0], &v[1]).unwrap()
    });
    check_gradients(&[map, other, noise(5, &[2, 2, 1, 2])], 0.05, 1e-4, |v| {
        gated_sum(&v[0], &v[1], &v[2]).unwrap()
    });
}

#[test]
fn maps_of_nothing_give_zero_and_other_shapes_are_errors() {
    for (name, _, compare) in COMPARISONS {
        for shape in [[0, 3, 2, 2], [2, 0, 2, 2], [2, 3, 0, 2], [2, 3, 2, 0]] {
            let loss = compare(&noise(1, &shape), &Value::leaf("x", noise(2, &shape))).unwrap();
            assert_eq!(loss.item().unwrap(), 0.0, "{name} of {shape:?}");
            assert_eq!(loss.backward().unwrap()["x"].dims(), shape, "{name}");
        }
        let x = constant(&noise(2, &[2, 3, 4, 4]));
        for wrong in [&[2, 3, 4, 5][..], &[1, 3, 4, 4], &[2, 3, 16]] {
            let error = compare(&noise(1, wrong), &x).unwrap_err().to_string();
            assert!(error.contains("[2, 3, 4, 4]"), "{name}: {error}");
        }
    }
    let leaf = |name: &str, shape: &[usize]| Value::leaf(name, noise(1, shape));
    for [n, c, h, w] in [[0, 3, 2, 2], [2, 0, 2, 2], [2, 3, 0, 2]] {
        let map = leaf("x", &[n, c, h, w]);
        for out in [
            attention_pool(&map, &leaf("other", &[n, 1, h, w])).unwrap(),
            add_to_channels(&map, &leaf("other", &[n, c])).unwrap(),
            gated_sum(&map, &leaf("y", &[n, c, h, w]), &leaf("other", &[n, 2, h, w])).unwrap(),
        ] {
            let gradients = out.backward_from(out.tensor()).unwrap();
            assert_eq!(gradients["x"].dims(), [n, c, h, w]);
            assert!(values(&gradients["other"]).iter().all(|g| *g == 0.0));
        }
    }
    let map = constant(&noise(1, &[2, 3, 4, 4]));
    for wrong in [&[2, 3][..], &[2, 4], &[2, 3, 4, 4], &[1, 1, 4, 4]] {
        let other = constant(&noise(2, wrong));
        assert!(attention_pool(&map, &other).is_err());
        assert!(gated_sum(&map, &map, &other).is_err());
        assert_eq!(add_to_channels(&map, &other).is_err(), wrong != [2, 3]);
        let weights = Weights { cells: Some(noise(3, wrong)), channels: None };
        let error = squared_difference(map.tensor(), &map, weights, 1.0).unwrap_err().to_string();
        assert!(error.contains("weights"), "{error}");
        assert!(attention_weights(map.tensor(), &noise(3, wrong), 1.0).is_err());
    }
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(channel_divergence(map.tensor(), &map, temperature).is_err());
        assert!(attention_difference(map.tensor(), &map, temperature).is_err());
    }
}

/// A mask is no cure for NaN elsewhere, but what it covers does not count.
#[test]
fn a_number_that_is_none_shows_unless_it_is_masked_out() {
    let shape = [2, 3, 5, 4];
    let (t, x) = pair(&shape);
    let mut broken = values(&x);
    // Cell 9 of the first image's second channel; every third cell has weight 0.
    broken[29] = f32::NAN;
    let x = tensor(broken, &shape);
    for (name, _, compare) in COMPARISONS {
        let loss = compare(&t, &constant(&x)).unwrap().item().unwrap();
        assert_eq!(loss.is_nan(), name != "weighted", "{name}: {loss}");
    }
    let loss = COMPARISONS[1].2(&t, &Value::leaf("x", x)).unwrap();
    assert!(values(&loss.backward().unwrap()["x"]).iter().all(|g| g.is_finite()));
}

#[test]
fn comparisons_have_the_same_bits_on_any_number_of_threads() {
    let (t, x) = pair(&[2, 33, 45, 52]);
    let (t, x) = (nhwc(&t), nhwc(&x));
    for (name, _, compare) in COMPARISONS {
        let run = || {
            let loss = compare(&t, &Value::leaf("x", x.clone())).unwrap();
            let gradient = values(&loss.backward().unwrap()["x"]);
            (loss.item().unwrap().to_bits(), gradient.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let one = on_threads(1, run);
        assert!(on_threads(2, run) == one && on_threads(3, run) == one, "{name}");
    }
}
