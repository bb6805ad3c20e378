//! `ckd-det doctor`: what this machine and this program have, and what is missing.

use std::path::{Path, PathBuf};
use std::thread;

use candle_core::DeviceLocation;
use ckd_kernels::Simd;

use super::machine::{field, mebibytes};
use super::{Context, say};
use crate::config::{Config, DataKind, Document, Loaded, list};
use crate::data::synth::Split;
use crate::fsx;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lines marked `missing` name what some configurations need and how to get it;
lines marked `problem` stop every run.")]
pub struct Args {}

/// Prints the report.
pub(super) fn run(_: Args, context: &Context) -> anyhow::Result<()> {
    program()?;
    machine(context)?;
    inputs()?;
    writable_folder()
}

fn program() -> anyhow::Result<()> {
    say(format!("ckd-det      {}", env!("CARGO_PKG_VERSION")))?;
    for name in ["candle-core", "hotcoco"] {
        say(format!("{name:<12} {}", locked_version(name).unwrap_or("unknown")))?;
    }
    let features: Vec<_> = [("cuda", cfg!(feature = "cuda")), ("cudnn", cfg!(feature = "cudnn"))]
        .into_iter()
        .map(|(name, compiled)| format!("{name}: {}", if compiled { "yes" } else { "no" }))
        .collect();
    say(format!("features     {}", features.join(", ")))?;
    Ok(())
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

/// The data and weights that the configurations name.
fn inputs() -> anyhow::Result<()> {
    let mut told: Vec<PathBuf> = Vec::new();
    for listed in list() {
        let Ok(loaded) = Config::load(&listed.name, &[]) else {
            say(format!("problem      {} does not load: see `ckd-det config check {0}`", listed.name))?;
            continue;
        };
        for (path, advice) in needed(&loaded) {
            if told.contains(&path) {
                continue;
            }
            let resolved = loaded.resolve(&path);
            if resolved.exists() {
                say(format!("found        {}", resolved.display()))?;
            } else {
                let places: Vec<_> =
                    loaded.places(&path).iter().map(|place| place.display().to_string()).collect();
                say(format!("missing      {} (for {}): {advice}", path.display(), listed.name))?;
                say(format!("             looked for {}", places.join(", ")))?;
            }
            told.push(path);
        }
    }
    Ok(())
}

/// Files and folders that must exist before a run, and how to get them.
fn needed(loaded: &Loaded<Config>) -> Vec<(PathBuf, &'static str)> {
    let Config { data, teacher, student, .. } = &loaded.config;
    let mut needed = Vec::new();
    if data.kind != DataKind::Synth {
        let advice = "unpack the data set there, or give another folder with --set data.root=FOLDER";
        needed.push((data.root.clone(), advice));
        let root = loaded.resolve(&data.root);
        if root.exists() {
            let files = [Split::Train, Split::Val].map(|split| data.files(&root, split));
            let parts = files.into_iter().flat_map(|files| [files.images, files.annotations]);
            needed.extend(parts.map(|part| (part, "the data set is not complete")));
        }
    }
    let teacher = teacher.as_ref().map(|teacher| (&teacher.network, &teacher.weights));
    for (network, weights) in teacher.into_iter().chain([(&student.network, &student.init)]) {
        if let (Some(path), false) = (weights, network.allow_random_weights) {
            needed.push((
                path.clone(),
                "torchvision's weights, saved with torch.save(model.state_dict(), FILE)",
            ));
        }
    }
    needed
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
