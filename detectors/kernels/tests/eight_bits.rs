//! Layers in 8 bits against exact integer sums.

use candle_core::{Device, Tensor};
use ckd_kernels::eight_bits::{Conv2dInt8, Grid, Map, rounded_rows};
use ckd_kernels::{Activation, Conv2dConfig, Error};

use crate::support;

/// Numbers in [-1, 1), on the processor whatever device the tests run on.
fn noise(stream: u64, shape: &[usize]) -> Tensor {
    support::noise(stream, shape).to_device(&Device::Cpu).unwrap()
}

/// The step of a number: nearest, ties to even, by the product with 1 / scale.
fn step(grid: Grid, number: f32) -> u8 {
    let steps = (number * (1.0 / grid.scale)).round_ties_even() + f32::from(grid.zero);
    steps.clamp(0.0, 255.0) as u8
}

fn number(grid: Grid, step: u8) -> f32 {
    (i32::from(step) - i32::from(grid.zero)) as f32 * grid.scale
}

fn nhwc(map: &Tensor) -> Vec<f32> {
    map.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn map(seed: u64, (n, c, h, w): (usize, usize, usize, usize)) -> Tensor {
    noise(seed, &[n, h, w, c]).permute((0, 3, 1, 2)).unwrap()
}

/// A map in steps of `grid`, made by a layer that passes its input on.
fn in_steps(x: &Tensor, grid: Grid) -> Map {
    let c = x.dims4().unwrap().1;
    let mut one = vec![0f32; c * c];
    (0..c).for_each(|i| one[i * c + i] = 1.0);
    let weight = Tensor::from_vec(one, (c, c, 1, 1), &Device::Cpu).unwrap();
    let layer = Conv2dInt8::new(&weight, None, None, Conv2dConfig::default(), grid).unwrap();
    layer.forward(&Map::Real(x.clone()), None, Activation::Identity, Some(grid)).unwrap()
}

struct Case {
    x: (usize, usize, usize, usize),
    /// Outputs and kernel.
    k: usize,
    kernel: usize,
    config: Conv2dConfig,
}

const fn config(stride: usize, padding: usize, dilation: usize, groups: usize) -> Conv2dConfig {
    Conv2dConfig { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups }
}

const CASES: [Case; 14] = [
    Case { x: (1, 3, 17, 23), k: 64, kernel: 7, config: config(2, 3, 1, 1) },
    Case { x: (2, 16, 9, 11), k: 20, kernel: 3, config: config(1, 1, 1, 1) },
    Case { x: (1, 8, 1, 1), k: 33, kernel: 3, config: config(1, 1, 1, 1) },
    Case { x: (3, 12, 10, 7), k: 4, kernel: 3, config: config(2, 1, 1, 1) },
    Case { x: (2, 64, 13, 21), k: 70, kernel: 1, config: config(1, 0, 1, 1) },
    Case { x: (2, 32, 13, 21), k: 36, kernel: 1, config: config(2, 0, 1, 1) },
    Case { x: (1, 5, 6, 6), k: 7, kernel: 1, config: config(1, 1, 1, 1) },
    Case { x: (1, 16, 12, 9), k: 24, kernel: 3, config: config(1, 2, 2, 1) },
    Case { x: (1, 16, 12, 9), k: 24, kernel: 3, config: config(2, 1, 1, 2) },
    Case { x: (1, 128, 5, 5), k: 128, kernel: 3, config: config(1, 1, 1, 32) },
    Case { x: (1, 4, 9, 9), k: 8, kernel: 2, config: config(3, 0, 1, 1) },
    Case { x: (1, 256, 3, 2), k: 40, kernel: 1, config: config(1, 0, 1, 1) },
    Case { x: (1, 8, 40, 50), k: 96, kernel: 3, config: config(1, 1, 1, 1) },
    Case { x: (0, 8, 4, 5), k: 8, kernel: 3, config: config(1, 1, 1, 1) },
];

#[test]
fn every_shape_gives_the_bits_of_exact_sums() {
    for (index, case) in CASES.iter().enumerate() {
        let (n, c, h, w) = case.x;
        let Case { k, kernel, config, .. } = *case;
        let group_c = c / config.groups;
        let x = map(1, case.x);
        let weight = map(2, (k, group_c, kernel, kernel));
        let [scale, shift] = [3, 4].map(|seed| noise(seed, &[k]));
        let grid = Grid::of_range(-0.7, 0.9);
        let layer = Conv2dInt8::new(&weight, Some(&scale), Some(&shift), config, grid).unwrap();
        let (oh, ow) = (config.output_size(0, h, kernel).unwrap(), config.output_size(1, w, kernel).unwrap());
        let other = map(5, (n, k, oh, ow));

        // Expected sums, in integers.
        let width = kernel * kernel * group_c;
        let scale: Vec<f32> = scale.to_vec1().unwrap();
        let shift: Vec<f32> = shift.to_vec1().unwrap();
        let mut rows = nhwc(&weight);
        for (row, scale) in rows.chunks_mut(width).zip(&scale) {
            row.iter_mut().for_each(|weight| *weight *= scale);
        }
        let (weights, units) = rounded_rows(&rows, width);
        let steps: Vec<u8> = nhwc(&x).iter().map(|&number| step(grid, number)).collect();
        let mut sums = Vec::new();
        for (image, y, x) in (0..n).flat_map(|n| (0..oh).flat_map(move |y| (0..ow).map(move |x| (n, y, x)))) {
            for output in 0..k {
                let mut sum = 0i64;
                for (r, s) in (0..kernel).flat_map(|r| (0..kernel).map(move |s| (r, s))) {
                    let at = |place: usize, axis: usize, tap: usize, size: usize| {
                        (place * config.stride[axis] + tap * config.dilation[axis])
                            .checked_sub(config.padding[axis])
                            .filter(|at| *at < size)
                    };
                    let (Some(y), Some(x)) = (at(y, 0, r, h), at(x, 1, s, w)) else { continue };
                    let group = output / (k / config.groups);
                    for inner in 0..group_c {
                        let step = steps[((image * h + y) * w + x) * c + group * group_c + inner];
                        let weight = weights[output * width + (r * kernel + s) * group_c + inner];
                        sum += (i64::from(step) - i64::from(grid.zero)) * i64::from(weight);
                    }
                }
                sums.push((sum as f32).mul_add(units[output] * grid.scale, shift[output]));
            }
        }

        let out = Grid::of_range(-2.0, 5.0);
        let rounded = Grid::of_range(-1.0, 1.0);
        let inputs = match c.is_multiple_of(4) {
            true => vec![Map::Real(x.clone()), in_steps(&x, grid)],
            false => vec![Map::Real(x.clone())],
        };
        let mut residuals = vec![None, Some(Map::Real(other.clone()))];
        if k.is_multiple_of(4) {
            residuals.push(Some(in_steps(&other, rounded)));
        }
        for (input, residual) in inputs.iter().flat_map(|x| residuals.iter().map(move |r| (x, r.as_ref()))) {
            for (activation, output) in [(Activation::Relu, None), (Activation::Identity, Some(out))] {
                let got = layer.forward(input, residual, activation, output).unwrap();
                let expected: Vec<f32> = sums
                    .iter()
                    .zip(nhwc(&other))
                    .map(|(&sum, other)| {
                        let sum = match residual {
                            None => sum,
                            Some(Map::Real(_)) => sum + other,
                            Some(Map::Steps(_)) => sum + number(rounded, step(rounded, other)),
                        };
                        let sum = if activation == Activation::Relu && sum < 0.0 { 0.0 } else { sum };
                        match output.filter(|_| k.is_multiple_of(4)) {
                            Some(grid) => number(grid, step(grid, sum)),
                            None => sum,
                        }
                    })
                    .collect();
                assert_eq!(got.shape().unwrap(), [n, k, oh, ow]);
                assert_eq!(nhwc(&got.to_real().unwrap()), expected, "case {index}");
            }
        }
    }
}

#[test]
fn a_rounded_layer_is_near_the_layer_itself() {
    let (x, weight) = (map(1, (1, 64, 20, 30)), map(2, (32, 64, 3, 3)));
    let config = Conv2dConfig::new(1, 1);
    let layer = Conv2dInt8::new(&weight, None, None, config, Grid::of_range(-1.0, 1.0)).unwrap();
    let got = layer.forward(&Map::Real(x.clone()), None, Activation::Identity, None).unwrap();
    let [x, weight] = [x, weight].map(ckd_kernels::Value::constant);
    let exact = ckd_kernels::conv2d(&x, &weight, config, ckd_kernels::Epilogue::default()).unwrap();
    let (got, exact) = (nhwc(&got.to_real().unwrap()), nhwc(exact.tensor()));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
    let error = square(&mut got.iter().zip(&exact).map(|(got, exact)| got - exact));
    let size = square(&mut exact.iter().copied());
    // Steps of 1/127 of numbers spread evenly over -1 to 1: each factor is off by 0.4 % in the mean square.
    assert!((error / size).sqrt() < 0.006, "{}", (error / size).sqrt());
}

#[test]
fn rows_go_through_a_linear_layer() {
    let weight = noise(1, &[7, 12, 1, 1]);
    let layer =
        Conv2dInt8::new(&weight, None, None, Conv2dConfig::default(), Grid::of_range(-1.0, 1.0)).unwrap();
    let x = noise(2, &[5, 12]);
    let rows = layer.forward_rows(&x, Activation::Identity).unwrap();
    let exact = x.matmul(&weight.reshape((7, 12)).unwrap().t().unwrap()).unwrap();
    let off = (rows - exact).unwrap().sqr().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(off.sqrt() < 0.05, "{off}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let weight = map(1, (8, 1, 3, 3));
    let depthwise = Conv2dConfig { groups: 8, ..Conv2dConfig::new(1, 1) };
    assert!(!Conv2dInt8::suits(&weight, depthwise));
    let grid = Grid::of_range(-1.0, 1.0);
    let error = Conv2dInt8::new(&weight, None, None, depthwise, grid).unwrap_err().to_string();
    assert!(error.contains("groups of fewer than four channels"), "{error}");
    let layer = Conv2dInt8::new(&map(1, (8, 4, 3, 3)), None, None, Conv2dConfig::new(1, 1), grid).unwrap();
    let refused = |x: &Map, residual: Option<&Map>| -> Error {
        layer.forward(x, residual, Activation::Relu, None).unwrap_err()
    };
    let x = map(2, (1, 4, 5, 5));
    for (x, residual, part) in [
        (Map::Real(map(2, (1, 8, 5, 5))), None, "x has 8 channels"),
        (Map::Real(x.clone()), Some(Map::Real(x.clone())), "residual [1, 4, 5, 5], result [1, 8, 5, 5]"),
        (in_steps(&x, Grid::of_range(-2.0, 1.0)), None, "is expected"),
    ] {
        let error = refused(&x, residual.as_ref()).to_string();
        assert!(error.contains(part), "{error}");
    }
}
