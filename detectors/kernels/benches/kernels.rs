//! The kernels one by one, with their share of the measured multiply-add peak.
//!
//!     cargo bench -p ckd-kernels -- [--json] [--bf16 | --int8] [NAME...]
//!
//! Times are medians of interleaved rounds: a drift of the machine's speed reaches all kernels alike. The
//! share is that of the textbook number of multiply-adds, so Winograd's form can exceed 100 %. With `--int8` the columns are
//! forward passes in 8 bits: from steps to steps, from f32 to steps and from f32 to f32.

#![allow(clippy::print_stdout, reason = "it prints its table")]

use std::alloc::System;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use ckd_kernels::allocator::KeepLarge;
use ckd_kernels::eight_bits::{Conv2dInt8, Grid, Map};
use ckd_kernels::linear::Activation;
use ckd_kernels::{Conv2dConfig, Epilogue, Precision, Simd, Value, conv2d, linear};

// What the program uses: without it, fresh pages would be measured.
#[global_allocator]
static ALLOCATOR: KeepLarge<System> = KeepLarge::new(System);

/// One convolution: name, (n, c, h, w), k, kernel, stride, groups.
type Shape = (&'static str, (usize, usize, usize, usize), usize, usize, usize, usize);

const CONVOLUTIONS: [Shape; 25] = [
    ("stem 7x7/2", (1, 3, 800, 1344), 64, 7, 2, 1),
    ("3x3 64 200x336", (1, 64, 200, 336), 64, 3, 1, 1),
    ("3x3 128 100x168", (1, 128, 100, 168), 128, 3, 1, 1),
    ("3x3 256 50x84", (1, 256, 50, 84), 256, 3, 1, 1),
    ("3x3 512 25x42", (1, 512, 25, 42), 512, 3, 1, 1),
    ("3x3 256 200x336", (1, 256, 200, 336), 256, 3, 1, 1),
    ("3x3 256 100x168", (1, 256, 100, 168), 256, 3, 1, 1),
    ("3x3 256 25x42", (1, 256, 25, 42), 256, 3, 1, 1),
    ("3x3 256 13x21", (1, 256, 13, 21), 256, 3, 1, 1),
    ("3x3/2 128 100x168", (1, 128, 200, 336), 128, 3, 2, 1),
    ("3x3/2 256 50x84", (1, 256, 100, 168), 256, 3, 2, 1),
    ("1x1 64-256 200x336", (1, 64, 200, 336), 256, 1, 1, 1),
    ("1x1 256-64 200x336", (1, 256, 200, 336), 64, 1, 1, 1),
    ("1x1 512-128 100x168", (1, 512, 100, 168), 128, 1, 1, 1),
    ("1x1 256-1024 50x84", (1, 256, 50, 84), 1024, 1, 1, 1),
    ("1x1 1024-256 50x84", (1, 1024, 50, 84), 256, 1, 1, 1),
    ("1x1 2048-512 25x42", (1, 2048, 25, 42), 512, 1, 1, 1),
    ("1x1/2 512-1024 50x84", (1, 512, 100, 168), 1024, 1, 2, 1),
    ("imagenet 3x3 128 28x28 b8", (8, 128, 28, 28), 128, 3, 1, 1),
    ("imagenet 3x3 256 14x14 b8", (8, 256, 14, 14), 256, 3, 1, 1),
    ("imagenet 3x3 512 7x7 b8", (8, 512, 7, 7), 512, 3, 1, 1),
    ("cifar 3x3 32 16x16 b64", (64, 32, 16, 16), 32, 3, 1, 1),
    ("cifar 3x3 16 32x32 b64", (64, 16, 32, 32), 16, 3, 1, 1),
    ("cifar 3x3 64 8x8 b64", (64, 64, 8, 8), 64, 3, 1, 1),
    ("depthwise 3x3 96 200x336", (1, 96, 200, 336), 96, 3, 1, 96),
];

const LINEARS: [(&str, usize, usize, usize); 2] =
    [("fc6 512x12544-1024", 512, 12544, 1024), ("fc7 512x1024-1024", 512, 1024, 1024)];

struct Kernel {
    name: String,
    multiply_adds: f64,
    run: Box<dyn Fn() -> Vec<f64>>,
    times: Vec<Vec<f64>>,
}

impl Kernel {
    /// Runs of a round: a kernel of less than a millisecond is hardly ever the first after a pause.
    fn repeats(&self) -> usize {
        (4e9 / self.multiply_adds).clamp(1.0, 20.0) as usize
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    let int8 = arguments.iter().any(|argument| argument == "--int8");
    let mut kernels: Vec<Kernel> = match int8 {
        true => CONVOLUTIONS.iter().filter(|shape| shape.5 == 1).map(in_8_bits).collect(),
        false => CONVOLUTIONS.iter().map(convolution).collect(),
    };
    if !int8 {
        kernels.extend(LINEARS.iter().map(fully_connected));
    }
    kernels.retain(|kernel| wanted(&kernel.name));
    let peak = peak();
    let precision = match arguments.iter().any(|argument| argument == "--bf16") {
        true => Precision::Bf16,
        false => Precision::F32,
    };
    for _ in 0..7 {
        for kernel in &mut kernels {
            for _ in 0..kernel.repeats() {
                let times = precision.scope(|| (kernel.run)());
                kernel.times.push(times);
            }
        }
    }
    if !json {
        println!(
            "{} threads, {}, peak {:.0} GFLOP/s",
            rayon::current_num_threads(),
            Simd::level(),
            peak / 1e9
        );
        let [a, b, c] = if int8 { ["u8-u8", "f32-u8", "f32-f32"] } else { ["forward", "dx", "dw"] };
        println!("{:26} {a:>8} {:>5} {b:>8} {:>5} {c:>8} {:>5}", "ms", "%", "%", "%");
    }
    for kernel in kernels {
        let medians: Vec<f64> =
            (0..3).map(|part| median(kernel.times.iter().map(|times| times[part]))).collect();
        let share = |seconds: f64| 200.0 * kernel.multiply_adds / seconds / peak;
        let [forward, dx, dw] = medians[..] else { unreachable!("three parts") };
        if json {
            println!(
                r#"{{"kernel":"{}","ms":[{:.3},{:.3},{:.3}],"share":[{:.1},{:.1},{:.1}]}}"#,
                kernel.name,
                1e3 * forward,
                1e3 * dx,
                1e3 * dw,
                share(forward),
                share(dx),
                share(dw)
            );
        } else {
            println!(
                "{:26} {:8.2} {:4.0}% {:8.2} {:4.0}% {:8.2} {:4.0}%",
                kernel.name,
                1e3 * forward,
                share(forward),
                1e3 * dx,
                share(dx),
                1e3 * dw,
                share(dw)
            );
        }
    }
}

fn convolution(&(name, (n, c, h, w), k, kernel, stride, groups): &Shape) -> Kernel {
    let config = Conv2dConfig { groups, ..Conv2dConfig::new(stride, kernel / 2) };
    let x = noise(&[n, h, w, c]).permute((0, 3, 1, 2)).unwrap();
    let weight = noise(&[k, kernel, kernel, c / groups]).permute((0, 3, 1, 2)).unwrap();
    let shift = Value::constant(noise(&[k]));
    let (oh, ow) = (config.output_size(0, h, kernel).unwrap(), config.output_size(1, w, kernel).unwrap());
    let g = noise(&[n, oh, ow, k]).permute((0, 3, 1, 2)).unwrap();
    let run = move || {
        let forward = |x: &Value, weight: &Value| {
            let epilogue =
                Epilogue { shift: Some(&shift), activation: Activation::Relu, ..Epilogue::default() };
            conv2d(x, weight, config, epilogue).unwrap()
        };
        let (frozen_x, frozen_w) = (Value::constant(x.clone()), Value::constant(weight.clone()));
        let (leaf_x, leaf_w) = (Value::leaf("x", x.clone()), Value::leaf("w", weight.clone()));
        let plain = |x: &Value, weight: &Value| conv2d(x, weight, config, Epilogue::default()).unwrap();
        let (for_x, for_w) = (plain(&leaf_x, &frozen_w), plain(&frozen_x, &leaf_w));
        vec![
            seconds(|| forward(&frozen_x, &frozen_w)),
            seconds(|| for_x.backward_from(&g).unwrap()),
            seconds(|| for_w.backward_from(&g).unwrap()),
        ]
    };
    let multiply_adds = (n * oh * ow * k * kernel * kernel * (c / groups)) as f64;
    Kernel { name: name.to_owned(), multiply_adds, run: Box::new(run), times: Vec::new() }
}

/// A convolution between maps in steps, from f32 to steps, and between maps in f32.
fn in_8_bits(&(name, (n, c, h, w), k, kernel, stride, groups): &Shape) -> Kernel {
    let config = Conv2dConfig { groups, ..Conv2dConfig::new(stride, kernel / 2) };
    let x = noise(&[n, h, w, c]).permute((0, 3, 1, 2)).unwrap();
    let weight = noise(&[k, kernel, kernel, c / groups]).permute((0, 3, 1, 2)).unwrap();
    let grid = Grid::of_range(-1.0, 1.0);
    let layer = Conv2dInt8::new(&weight, None, Some(&noise(&[k])), config, grid).unwrap();
    let (oh, ow) = (config.output_size(0, h, kernel).unwrap(), config.output_size(1, w, kernel).unwrap());
    let real = Map::Real(x);
    let steps = match c.is_multiple_of(4) {
        true => rounded(&real, c, grid),
        false => real.clone(),
    };
    let run = move || {
        let forward = |x: &Map, output: Option<Grid>| {
            seconds(|| layer.forward(x, None, Activation::Relu, output).unwrap())
        };
        vec![forward(&steps, Some(grid)), forward(&real, Some(grid)), forward(&real, None)]
    };
    let multiply_adds = (n * oh * ow * k * kernel * kernel * (c / groups)) as f64;
    Kernel { name: name.to_owned(), multiply_adds, run: Box::new(run), times: Vec::new() }
}

/// A map in steps: what a layer that passes it on gives.
fn rounded(map: &Map, c: usize, grid: Grid) -> Map {
    let identity = Tensor::eye(c, DType::F32, &Device::Cpu).unwrap().reshape((c, c, 1, 1)).unwrap();
    let layer = Conv2dInt8::new(&identity, None, None, Conv2dConfig::default(), grid).unwrap();
    layer.forward(map, None, Activation::Identity, Some(grid)).unwrap()
}

fn fully_connected(&(name, m, i, o): &(&str, usize, usize, usize)) -> Kernel {
    let (x, weight, g) = (noise(&[m, i]), noise(&[o, i]), noise(&[m, o]));
    let run = move || {
        let (frozen_x, frozen_w) = (Value::constant(x.clone()), Value::constant(weight.clone()));
        let (leaf_x, leaf_w) = (Value::leaf("x", x.clone()), Value::leaf("w", weight.clone()));
        let plain = |x: &Value, w: &Value| linear(x, w, None, Activation::Identity).unwrap();
        let (for_x, for_w) = (plain(&leaf_x, &frozen_w), plain(&frozen_x, &leaf_w));
        vec![
            seconds(|| plain(&frozen_x, &frozen_w)),
            seconds(|| for_x.backward_from(&g).unwrap()),
            seconds(|| for_w.backward_from(&g).unwrap()),
        ]
    };
    Kernel { name: name.to_owned(), multiply_adds: (m * i * o) as f64, run: Box::new(run), times: Vec::new() }
}

/// Numbers in [-1, 1) that depend on the shape alone.
fn noise(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ count as u64;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
}

fn seconds<T>(f: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    let result = f();
    let seconds = start.elapsed().as_secs_f64();
    drop(result);
    seconds
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Multiply-adds of all threads, as floating-point operations a second: the best of a few tries.
fn peak() -> f64 {
    fn each(_: rayon::BroadcastContext) -> f64 {
        let start = Instant::now();
        let operations = ckd_kernels::peak::multiply_adds(20_000_000);
        2.0 * operations as f64 / start.elapsed().as_secs_f64()
    }
    let once = || rayon::broadcast(each).into_iter().sum::<f64>();
    (0..5).map(|_| once()).fold(0.0, f64::max)
}
