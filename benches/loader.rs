//! Images a second and core: files to normalised batches at COCO's geometry, beside torchvision.
//!
//! ```text
//! cargo bench --bench loader -- --images DIR [--limit N] [--rounds 5] [--workers 1] [--peer PYTHON]
//! ```
//!
//! DIR holds `.jpg` files. A round is one pass over them by one worker, batches of 2 at 800/1333, each normalised
//! for one network as a step does. With `--peer`, that Python (with torchvision) makes the same pass on one thread,
//! turn by turn, by `tools/peer_loader.py`. Printed is one JSON line: medians over the rounds, after one that does
//! not count. "A core" means processor time of all threads, so other work on the machine hardly matters;
//! ratios are taken round by round.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use ckd_det::config::Resize;
use ckd_det::data::transform::{Flip, Placement, ResizeRule};
use ckd_det::data::{
    CategoryId, CategoryMap, Dataset, Image, ImageId, Loader, LoaderConfig, Position, Purpose, decode,
};
use ckd_det::engine::detect::batch::to_device;
use ckd_detectors::images::Normalization;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RULE: ResizeRule = ResizeRule { short_side_px: 800, long_side_max_px: 1333, resize: Resize::Bilinear };
const IMAGES_PER_BATCH: usize = 2;
const SIZE_DIVISOR: usize = 32;

#[derive(Parser)]
struct Options {
    /// A folder of `.jpg` files.
    #[arg(long)]
    images: PathBuf,
    /// Use the first of them, by name.
    #[arg(long)]
    limit: Option<usize>,
    /// Passes that count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads that load.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// A Python that has torchvision.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let dataset = Arc::new(dataset(&options)?);
    let images = dataset.images.len();
    // A core is a core: normalising, which a step does on all of them, runs on one here.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let mut peer = options.peer.as_deref().map(|python| Peer::start(python, &options)).transpose()?;

    let mut ours: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut theirs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=options.rounds {
        let measured = [
            ("decode", timed(|| decode_all(&dataset))?),
            ("decode_resize", timed(|| place_all(&dataset))?),
            ("load", timed(|| load_all(&dataset, options.workers, None))?),
            ("total", timed(|| load_all(&dataset, options.workers, Some(Normalization::default())))?),
        ];
        let passes = peer.as_mut().map(Peer::passes).transpose()?.unwrap_or_default();
        if round == 0 {
            continue;
        }
        for (name, seconds) in measured {
            ours.entry(name).or_default().push(seconds);
        }
        let total = measured[measured.len() - 1].1;
        for (name, seconds) in passes {
            ratios.entry(name.clone()).or_default().push(seconds / total);
            theirs.entry(name).or_default().push(seconds);
        }
    }
    let ms = |times: &[f64]| rounded(median(times) * 1e3 / images as f64);
    let per_second = |times: &[f64]| rounded(images as f64 / median(times));
    let report = json!({
        "images": images,
        "rounds": options.rounds,
        "workers": options.workers,
        "simd": ckd_kernels::Simd::level().name(),
        "ms_per_image": ours.iter().map(|(name, times)| (*name, ms(times))).collect::<BTreeMap<_, _>>(),
        "images_per_second_and_core": per_second(&ours["total"]),
        "torchvision": theirs.iter().map(|(name, times)| (name, per_second(times))).collect::<BTreeMap<_, _>>(),
        "times_torchvision": ratios.iter().map(|(name, ratios)| (name, rounded(median(ratios)))).collect::<BTreeMap<_, _>>(),
    });
    println!("{report}");
    Ok(())
}

fn dataset(options: &Options) -> Result<Dataset> {
    let folder = &options.images;
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "jpg"));
    paths.sort();
    paths.truncate(options.limit.unwrap_or(usize::MAX));
    ensure!(!paths.is_empty(), "no .jpg in {}", folder.display());
    let image = |(number, path): (u64, PathBuf)| {
        let (width, height) = decode::size(&path)?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Image { id: ImageId(number), file_name, width, height, path, weight: 1.0 })
    };
    let images = (1..).zip(paths).map(image).collect::<Result<Vec<_>>>()?;
    let categories =
        CategoryMap::new(vec![(CategoryId(1), "thing".to_owned())]).expect("one id is no duplicate");
    let annotations = vec![Vec::new(); images.len()];
    Ok(Dataset::from_parts(images, categories, annotations))
}

fn decode_all(dataset: &Dataset) -> Result<()> {
    for image in &dataset.images {
        std::hint::black_box(decode::read(&image.path)?);
    }
    Ok(())
}

fn place_all(dataset: &Dataset) -> Result<()> {
    let mut slot = Vec::new();
    for &Image { width, height, ref path, .. } in &dataset.images {
        let resized = RULE.resized(height, width);
        let placement = Placement { original: (height, width), resized, flip: Flip::None };
        slot.clear();
        placement.render(&decode::read(path)?, RULE.resize, resized, &mut slot);
        std::hint::black_box(&slot);
    }
    Ok(())
}

fn load_all(dataset: &Arc<Dataset>, workers: usize, normalization: Option<Normalization>) -> Result<()> {
    let config = LoaderConfig {
        purpose: Purpose::Evaluation { short_side_px: RULE.short_side_px },
        long_side_max_px: RULE.long_side_max_px,
        resize: Resize::Bilinear,
        teacher_resize: None,
        images_per_batch: IMAGES_PER_BATCH,
        size_divisor: SIZE_DIVISOR,
        workers,
        batches_ahead: 2,
    };
    for batch in Loader::new(Arc::clone(dataset), config, Position::default())? {
        let (images, _) = to_device(batch?, &Device::Cpu)?;
        if let Some(normalization) = &normalization {
            std::hint::black_box(images.normalized(normalization)?);
        }
    }
    Ok(())
}

/// torchvision in a process of its own, which makes a pass whenever it is asked.
struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &Path, options: &Options) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/peer_loader.py");
        let mut command = Command::new(python);
        command.arg(script).arg("--images").arg(&options.images).env("OMP_NUM_THREADS", "1");
        if let Some(limit) = options.limit {
            command.arg("--limit").arg(limit.to_string());
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let ask = process.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(process.stdout.take().context("its output is a pipe")?);
        Ok(Self { process, ask, answers })
    }

    /// Processor seconds of a pass, by variant.
    fn passes(&mut self) -> Result<BTreeMap<String, f64>> {
        writeln!(self.ask)?;
        self.ask.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).context("the peer stopped; see its message above")?;
        let passes = answer["passes"].as_object().context("passes are missing in the peer's answer")?;
        let seconds = |pass: &Value| pass["cpu_s"].as_f64().context("cpu_s is missing in the peer's answer");
        passes.iter().map(|(name, pass)| Ok((name.clone(), seconds(pass)?))).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processor seconds that `work` takes, in all threads.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = processor_seconds();
    work()?;
    Ok(processor_seconds() - before)
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
