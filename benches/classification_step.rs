//! How long a classifier's training step takes: the work of a step in PyTorch, on random images.
//!
//! ```text
//! cargo bench --bench classification_step -- cifar|resnet18 [--steps N] [--warmup N] [--batch N] [--threads N] [--cuda]
//! ```
//!
//! | workload | a step |
//! |---|---|
//! | `cifar` | ResNet-56 teaches ResNet-20 on 64 images of 32x32: cross-entropy + CKD on the logits, 100 classes |
//! | `resnet18` | ResNet-18 alone on 8 images of 224x224: cross-entropy, 1000 classes |
//!
//! Each ends with an update: SGD, learning rate 0.05, momentum 0.9, weight decay 5e-4. Printed is one JSON line with the
//! keys of `ckd-det bench step --json`; `tools/bench_vs_torch cifar resnet18` runs PyTorch beside it.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use ckd_det::distill::{Negatives, ckd};
use ckd_det::optim::groups::grouped;
use ckd_det::optim::{Optim, Optimizer};
use ckd_detectors::classifier::{Architecture, Network};
use ckd_detectors::nn::Mode;
use ckd_detectors::param::Builder;
use ckd_detectors::taps::Tap;
use ckd_kernels::allocator::KeepLarge;
use ckd_kernels::elementwise::weighted_sum;
use ckd_kernels::losses::softmax_cross_entropy;
use ckd_kernels::transfers::peak_memory;
use ckd_kernels::{Simd, Value, flops};
use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: KeepLarge<MiMalloc> = KeepLarge::new(MiMalloc);

const LEARNING_RATE: f64 = 0.05;

#[derive(Parser)]
struct Options {
    workload: Workload,
    /// Steps that count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Images of a step [default: the workload's].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Compute on the first NVIDIA GPU (of a build with the feature `cuda`).
    #[arg(long)]
    cuda: bool,
    /// Threads [default: as many as there are processors].
    #[arg(long)]
    threads: Option<usize>,
    /// Taken as `ckd-det bench` takes it; the result is JSON in any case.
    #[arg(long, hide = true)]
    json: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Workload {
    Cifar,
    Resnet18,
}

impl Workload {
    fn batch(self) -> usize {
        match self {
            Self::Cifar => 64,
            Self::Resnet18 => 8,
        }
    }

    fn side_px(self) -> usize {
        match self {
            Self::Cifar => 32,
            Self::Resnet18 => 224,
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Cifar => 100,
            Self::Resnet18 => 1000,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    // On a thread of the pool, as the program's verbs run.
    rayon::scope(|_| measure(&options))
}

fn measure(options: &Options) -> Result<()> {
    let workload = options.workload;
    let batch = options.batch.map_or(workload.batch(), usize::from);
    let device = if options.cuda { gpu()? } else { Device::Cpu };
    let mut step = Step::new(workload, batch, device)?;
    let mut times = Vec::new();
    let mut multiply_adds = 0;
    for number in 0..u64::from(options.warmup) + u64::from(options.steps) {
        let (time, work) = flops::counted(|| step.run());
        let time = time?;
        multiply_adds = work;
        if number >= u64::from(options.warmup) {
            times.push(time);
        }
    }
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_micros() as f64 / 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let ms_median = (ms[(ms.len() - 1) / 2] + ms[ms.len() / 2]) / 2.0;
    let report = json!({
        "config": format!("{workload:?}").to_lowercase(),
        "work": "training step",
        "batch": batch,
        "size": [workload.side_px(), workload.side_px()],
        "classes": workload.classes(),
        "steps": options.steps,
        "ms_median": ms_median,
        "ms_min": ms[0],
        "ms_max": ms[ms.len() - 1],
        "images_per_s": batch as f64 * 1e3 / ms_median,
        "gflop_per_image": (multiply_adds / batch as u64) as f64 / 1e9,
        "peak_rss_mib": peak_memory_mib(),
        "peak_gpu_mib": peak_memory(&step.device)?.map(|bytes| bytes >> 20),
        "threads": rayon::current_num_threads(),
        "simd": Simd::level().name(),
        "precision": "f32",
    });
    println!("{report}");
    Ok(())
}

/// Networks, their data, and the optimiser.
struct Step {
    student: Box<dyn Network>,
    teacher: Option<Box<dyn Network>>,
    optimizer: Box<dyn Optimizer>,
    images: Value,
    labels: Vec<u32>,
    device: Device,
}

#[cfg(feature = "cuda")]
fn gpu() -> Result<Device> {
    Ok(ckd_kernels::cuda::open(0)?)
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> Result<Device> {
    anyhow::bail!("this benchmark was built without the feature `cuda`")
}

impl Step {
    fn new(workload: Workload, batch: usize, device: Device) -> Result<Self> {
        let network = |name: &str, builder| name.parse::<Architecture>()?.build(builder, workload.classes());
        let builder = |seed| Builder::new(seed, &device);
        let (student, teacher) = match workload {
            Workload::Cifar => {
                (network("resnet20_a", builder(0))?, Some(network("resnet56_a", builder(1).frozen())?))
            }
            Workload::Resnet18 => (network("resnet18", builder(0))?, None),
        };
        let optim = Optim { weight_decay: 5e-4, ..Optim::new(LEARNING_RATE) };
        let optimizer = optim.over(grouped(&[student.params()], &optim, |_| false))?;
        let (images, labels) = data(workload, batch, &device)?;
        Ok(Self { student, teacher, optimizer, images, labels, device })
    }

    fn run(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let taught = self
            .teacher
            .as_ref()
            .map(|teacher| teacher.forward(&self.images, Mode::Inference))
            .transpose()?;
        let taps = self.student.forward(&self.images, Mode::Train)?;
        let logits = taps.require(Tap::Logits)?;
        let divisor = self.labels.len() as f64;
        let mut loss = softmax_cross_entropy(logits, &self.labels, divisor)?;
        if let Some(taught) = &taught {
            let teacher = taught.require(Tap::Logits)?.tensor();
            let value = ckd(teacher, logits, 1.0, Negatives::Cross)?;
            loss = weighted_sum(&[(&loss, 1.0), (&value, 1.0)])?;
        }
        // What the graph does not need goes before the walk back, which frees the rest.
        drop((taps, taught));
        ensure!(loss.item()?.is_finite(), "the loss is {}", loss.item()?);
        let gradients = loss.backward()?;
        // Nothing is clipped, so no norm is asked for.
        self.optimizer.step(&gradients, LEARNING_RATE, 1.0)?;
        drop((loss, gradients));
        self.device.synchronize()?;
        Ok(started.elapsed())
    }
}

/// Pixels of mean 0 and variance 1, and labels.
fn data(workload: Workload, batch: usize, device: &Device) -> Result<(Value, Vec<u32>)> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let side = workload.side_px();
    let pixel = |random: &mut ChaCha8Rng| (random.random::<f32>() - 0.5) * 12f32.sqrt();
    let pixels: Vec<f32> = (0..batch * side * side * 3).map(|_| pixel(&mut random)).collect();
    let labels = (0..batch).map(|_| random.random_range(0..workload.classes() as u32)).collect();
    let images = Tensor::from_vec(pixels, (batch, side, side, 3), device).context("pixels")?;
    Ok((Value::constant(images.permute((0, 3, 1, 2))?), labels))
}

/// The peak of the resident set; nothing elsewhere than on Linux.
fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024.0)
}
