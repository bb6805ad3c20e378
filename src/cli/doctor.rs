//! `ckd-det doctor`: what this machine and this program have, and what is missing.

use std::path::{Path, PathBuf};
use std::thread;

use candle_core::DeviceLocation;
use ckd_kernels::Simd;

use super::{Context, say};
use crate::config::{ClassifyConfig, Config, DataKind, Experiment, Loaded, PretrainConfig, list};
use crate::data::decode::DECODER;
use crate::data::synth::Split;
use crate::fsx;
use crate::machine::{field, mebibytes};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lines marked `missing` name what a configuration needs and how to get it; lines marked `problem` stop a run.

Examples:
  ckd-det doctor                    this machine and this program
  ckd-det doctor coco_r101_r18      and the data and weights of an experiment")]
pub struct Args {
    /// Experiments whose data and weights are looked for
    #[arg(value_name = "CONFIG")]
    configs: Vec<String>,
}

/// Prints the report.
///
/// # Errors
/// A configuration that is named and cannot be read; no folder to write to.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    program()?;
    machine(context)?;
    configurations()?;
    args.configs.iter().try_for_each(|name| inputs(name))?;
    writable_folder()
}

fn program() -> anyhow::Result<()> {
    say(format!("ckd-det      {}", env!("CARGO_PKG_VERSION")))?;
    for name in ["candle-core", "hotcoco"] {
        say(format!("{name:<12} {}", locked_version(name).unwrap_or("unknown")))?;
    }
    let cuda = match cfg!(feature = "cuda") {
        true => "cuda: yes, --device cuda computes on the first NVIDIA GPU",
        false => "cuda: no, this program computes on the CPU (docs/GPU.md says how to build for GPUs)",
    };
    say(format!("features     {cuda}"))?;
    Ok(say(format!("jpeg         {DECODER}"))?)
}

/// The version of a dependency that this program was built with.
fn locked_version(package: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let (_, after) = lock.split_once(&format!("\nname = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

fn machine(context: &Context) -> anyhow::Result<()> {
    say(format!("system       {} {}", std::env::consts::OS, std::env::consts::ARCH))?;
    if let Some(model) = field("/proc/cpuinfo", "model name") {
        say(format!("processor    {model}"))?;
    }
    say(format!("vectors      {}", vector_instructions()))?;
    let cores = thread::available_parallelism().map_or("unknown".to_owned(), |cores| cores.to_string());
    say(format!(
        "cores        {cores}, computing with {} threads (--threads)",
        rayon::current_num_threads()
    ))?;
    let memory = |name: &str| mebibytes("/proc/meminfo", name);
    if let (Some(total), Some(free)) = (memory("MemTotal"), memory("MemAvailable")) {
        say(format!("memory       {:.1} GiB, {:.1} GiB free", total / 1024.0, free / 1024.0))?;
    }
    match context.device.location() {
        DeviceLocation::Cuda { gpu_id } => say(format!("device       cuda:{gpu_id}"))?,
        _ => say("device       cpu")?,
    }
    #[cfg(feature = "cuda")]
    gpus()?;
    Ok(())
}

/// The GPUs that the driver shows, and the libraries that were loaded with this program.
#[cfg(feature = "cuda")]
fn gpus() -> anyhow::Result<()> {
    let machine = match ckd_kernels::cuda::machine() {
        Ok(machine) => machine,
        Err(error) => {
            return Ok(say(format!(
                "problem      no GPU answers: {error}; `nvidia-smi` shows whether the driver runs"
            ))?);
        }
    };
    let version = |number: i32| format!("{}.{}", number / 1000, number % 1000 / 10);
    say(format!(
        "cuda         driver for CUDA {}, built for {}, NVRTC {}, cuDNN {}",
        version(machine.driver),
        version(machine.built_for),
        machine.nvrtc.map_or("unknown".to_owned(), |(major, minor)| format!("{major}.{minor}")),
        machine.cudnn
    ))?;
    match ckd_kernels::cuda::nccl::version() {
        Ok(version) => say(format!("nccl         {version}: train --gpus N, or --device cuda under mpirun"))?,
        Err(error) => say(format!("nccl         none: {error}"))?,
    }
    if machine.driver / 1000 < machine.built_for / 1000 {
        say(format!(
            "problem      the driver knows CUDA {} only; install one for CUDA {} or newer",
            version(machine.driver),
            version(machine.built_for)
        ))?;
    }
    for gpu in machine.gpus {
        let (major, minor) = gpu.compute_capability;
        say(format!(
            "gpu          cuda:{}: {}, {:.1} GiB, compute capability {major}.{minor}",
            gpu.ordinal,
            gpu.name,
            gpu.memory as f64 / (1u64 << 30) as f64
        ))?;
        if (major, minor) < (7, 5) {
            say(format!("problem      cuda:{} is older than compute capability 7.5", gpu.ordinal))?;
        }
    }
    Ok(())
}

/// The level in use, as `CKD_DET_SIMD` takes it, and what it is.
fn vector_instructions() -> String {
    let level = Simd::level();
    let known_as = match level {
        Simd::Avx512 => "AVX-512",
        Simd::Avx2 => "AVX2 with FMA",
        Simd::Scalar if cfg!(target_arch = "x86_64") => "SSE2 only: expect a tenth of the usual speed",
        Simd::Scalar => "those that the compiler assumes for this architecture",
    };
    match level == Simd::highest() {
        true => format!("{level}: {known_as}"),
        false => format!(
            "{level}: {known_as} (asked for with CKD_DET_SIMD; this processor has {})",
            Simd::highest()
        ),
    }
}

/// Whether all configurations that are found here can be read.
fn configurations() -> anyhow::Result<()> {
    let all = list();
    let broken: Vec<&str> = all
        .iter()
        .filter(|listed| Experiment::load(&listed.name, &[]).is_err())
        .map(|listed| listed.name.as_str())
        .collect();
    for name in &broken {
        say(format!("problem      {name} does not load: see `ckd-det config check {name}`"))?;
    }
    say(format!("experiments  {} are known, {} load", all.len(), all.len() - broken.len()))?;
    Ok(())
}

/// Looks for the data and weights that the configuration `name` needs.
fn inputs(name: &str) -> anyhow::Result<()> {
    match Experiment::load(name, &[])? {
        Experiment::Detect(loaded) => look_for(&loaded, of_detector(&loaded)),
        Experiment::Classify(loaded) => look_for(&loaded, of_classifier(&loaded.config)),
        Experiment::Cohort(loaded) => look_for(&loaded, vec![data(&loaded.config.labelled.data.root)]),
        Experiment::Pretrain(loaded) => look_for(&loaded, of_backbones(&loaded.config)),
    }
}

/// A file or folder that must exist before a run, and how to get it.
type Needed = (PathBuf, &'static str);

fn look_for<C>(loaded: &Loaded<C>, needed: Vec<Needed>) -> anyhow::Result<()> {
    for (path, advice) in needed {
        let resolved = loaded.resolve(&path);
        if resolved.exists() {
            say(format!("found        {}", resolved.display()))?;
        } else {
            let places: Vec<_> =
                loaded.places(&path).iter().map(|place| place.display().to_string()).collect();
            say(format!("missing      {}: {advice}", path.display()))?;
            say(format!("             looked for {}", places.join(", ")))?;
        }
    }
    Ok(())
}

fn data(root: &Path) -> Needed {
    (root.to_owned(), "unpack the data set there, or give another folder with --set data.root=FOLDER")
}

fn weights(path: &Path) -> Needed {
    (path.to_owned(), "a file of weights, as torch.save(model.state_dict(), FILE) or safetensors write it")
}

fn of_detector(loaded: &Loaded<Config>) -> Vec<Needed> {
    let Config { data: own, teacher, student, .. } = &loaded.config;
    let mut needed = Vec::new();
    if own.kind != DataKind::Synth {
        needed.push(data(&own.root));
        let root = loaded.resolve(&own.root);
        if root.exists() {
            let files = [Split::Train, Split::Val].map(|split| own.files(&root, split));
            let parts = files.into_iter().flat_map(|files| [files.images, files.annotations]);
            needed.extend(parts.map(|part| (part, "the data set is not complete")));
        }
    }
    let teacher = teacher.as_ref().map(|teacher| (&teacher.network, &teacher.weights));
    for (network, file) in teacher.into_iter().chain([(&student.network, &student.init)]) {
        needed.extend(file.as_deref().filter(|_| !network.allow_random_weights).map(weights));
    }
    needed
}

fn of_classifier(config: &ClassifyConfig) -> Vec<Needed> {
    let teacher = config.teacher.as_ref().filter(|teacher| !teacher.allow_random_weights);
    let files = [teacher.and_then(|teacher| teacher.weights.as_deref()), config.student.init.as_deref()];
    let files = files.into_iter().flatten().map(weights);
    std::iter::once(data(&config.labelled.data.root)).chain(files).collect()
}

fn of_backbones(config: &PretrainConfig) -> Vec<Needed> {
    let PretrainConfig { teacher, student, .. } = config;
    let teacher = teacher.weights.as_deref().filter(|_| !teacher.allow_random_weights);
    let init = student.init.as_deref().filter(|_| !student.allow_random_weights);
    let files = [teacher, init].into_iter().flatten().map(weights);
    std::iter::once(data(&config.data.root)).chain(files).collect()
}

/// Runs are written below the current directory unless the configuration says otherwise.
fn writable_folder() -> anyhow::Result<()> {
    let folder = if Path::new("runs").is_dir() { Path::new("runs") } else { Path::new(".") };
    let probe = folder.join(".ckd-det-doctor");
    fsx::write_atomic(&probe, b"").map_err(|error| {
        anyhow::anyhow!("problem: {error}; run from another folder, or give --set output=FOLDER")
    })?;
    fsx::remove(&probe)?;
    say(format!("writable     {} (runs are written to ./runs)", folder.display()))?;
    Ok(())
}
