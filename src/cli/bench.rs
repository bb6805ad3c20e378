//! `ckd-det bench step|forward|loader CONFIG`: how long an experiment's work takes here, and the memory it needs.

use std::io;
use std::time::Duration;

use ckd_kernels::Simd;
use ckd_kernels::trace::Span;
use ckd_kernels::transfers::Counts;
use clap::Subcommand;
use serde::Serialize;

use super::output::Output;
use super::{Context, UsageError, bench_loader, bench_trace, say};
use crate::config::{Config, Document, Input};
use crate::engine::detect::bench::ranks::{SharedStep, Together};
use crate::engine::detect::bench::{Inference, StepTime, Timings, Workload};
use crate::machine::peak_memory_mib;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Time whole training steps: teacher, student, losses, gradients, update
    #[command(after_help = "\
Images, boxes and weights are random: neither data nor weight files are needed. A step is one \
batch of train.batch_size images; without a teacher it is the student's step alone. Under a \
launcher (mpirun) each process makes one batch of the step, in turns with steps without the others. \
With negatives_from = \"update\" the step is one of the train.accumulate parts of an update.

Examples:
  ckd-det bench step coco_r101_r18 --set train.batch_size=1
  ckd-det bench step coco_retinanet_r101_r50 --size 640x640 --json
  ckd-det bench step quickstart_teacher --threads 1
  mpirun -n 2 ckd-det bench step coco_r101_r18 --set train.batch_size=1")]
    Step(Setting),
    /// Time inference: the student from images to detections, or the teacher's pyramid
    #[command(after_help = "\
Images and weights are random: neither data nor weight files are needed. A step is one batch \
of train.batch_size images.

Examples:
  ckd-det bench forward coco_r101_r18 --set train.batch_size=1
  ckd-det bench forward coco_r101_r18 --set train.batch_size=1 --int8
  ckd-det bench forward coco_r101_r18 --set train.batch_size=1 --teacher --json")]
    Forward {
        /// Run the teacher up to its pyramid, as a training step does
        #[arg(long)]
        teacher: bool,
        /// Compute in 8 bits
        #[arg(long)]
        int8: bool,
        #[command(flatten)]
        setting: Setting,
    },
    /// Time the loader: training images decoded, augmented and resized, as fast as they come
    #[command(after_help = "\
The data is the experiment's own and must be there; weights need not be.

Examples:
  ckd-det bench loader quickstart
  ckd-det bench loader coco_r101_r18 --set data.workers=8 --json")]
    Loader(bench_loader::Setting),
}

#[derive(Debug, clap::Args)]
struct Setting {
    /// A file, or the name of a configuration (`ckd-det config list`)
    #[arg(value_name = "CONFIG")]
    config: String,
    /// Change a key: a.b=VALUE, or distill.0.weight=VALUE inside an array
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    /// Height and width of the images in pixels [default: the largest of the configuration's]
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<(usize, usize)>,
    /// Classes without background
    #[arg(long, value_name = "K", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..))]
    classes: u16,
    /// Record one more step, operation by operation, as a Chrome trace (https://ui.perfetto.dev opens it)
    #[arg(long, value_name = "FILE")]
    trace: Option<Output>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| text.parse::<u16>().ok().filter(|&side| side > 0).map(usize::from);
    text.split_once('x').and_then(|(height, width)| Some((side(height)?, side(width)?))).ok_or_else(|| {
        format!("give HEIGHTxWIDTH in pixels, each from 1 to {}, for example 800x1344", u16::MAX)
    })
}

/// More pixels in a batch are a slip: they fit in no memory.
const MOST_PIXELS: usize = 1 << 30;

/// The images of `input` at their largest: the longest short side, and the long side as it is padded.
fn largest(input: &Input) -> (usize, usize) {
    let short = input.short_side_px.iter().max().copied().unwrap_or(input.long_side_px);
    (short as usize, (input.long_side_px as usize).next_multiple_of(input.size_divisor as usize))
}

fn refuse_too_large(&Workload { batch, size: (height, width), .. }: &Workload) -> Result<(), UsageError> {
    match batch.checked_mul(height * width) {
        Some(0..=MOST_PIXELS) => Ok(()),
        _ => Err(UsageError(format!(
            "a batch of {batch} images of {height}x{width} pixels is too large; give a smaller --size or --set \
             train.batch_size=N"
        ))),
    }
}

/// Measured times.
#[derive(Debug, Serialize)]
struct Report {
    config: String,
    work: &'static str,
    batch: usize,
    /// Height and width in pixels.
    size: [usize; 2],
    classes: usize,
    steps: u32,
    ms_median: f64,
    ms_min: f64,
    ms_max: f64,
    images_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts_ms: Option<Parts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Processes>,
    /// 10^9 multiply-adds of the forward passes.
    gflop_per_image: f64,
    /// Parts of an update whose rows each part looks at (`negatives_from = "update"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    negatives_of_parts: Option<usize>,
    peak_rss_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_gpu_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuWork>,
    threads: usize,
    simd: &'static str,
    precision: String,
}

const MIB: f64 = 1024.0 * 1024.0;

/// Work of a GPU in a step.
#[derive(Debug, Serialize)]
struct GpuWork {
    /// Copies to the host: the program waits for each.
    copies: f64,
    copied_mib: f64,
    largest_copy_mib: f64,
    /// Kernels of the program's own.
    launches: f64,
}

impl GpuWork {
    /// Means over `steps` steps; none if nothing was launched.
    fn of(Counts { copies, bytes, largest, launches }: Counts, steps: u32) -> Option<Self> {
        let a_step = |count: u64| count as f64 / f64::from(steps);
        (launches > 0).then(|| Self {
            copies: a_step(copies),
            copied_mib: a_step(bytes) / MIB,
            largest_copy_mib: largest as f64 / MIB,
            launches: a_step(launches),
        })
    }
}

/// Medians of what several processes add to a step, as the first one sees them.
#[derive(Debug, Serialize)]
struct Processes {
    processes: usize,
    on_this_machine: usize,
    /// Time until the last process had walked back, too.
    waited_ms: f64,
    /// Gradients that are summed in a step.
    gradient_mib: f64,
    /// Their sums by themselves.
    sums_alone_ms: f64,
    /// The part of the sums that was not hidden behind the walk back.
    sums_open_ms: f64,
    /// The share of the sums that was hidden.
    hidden: f64,
    /// Median step without sums.
    solo_ms: f64,
    solo_ms_min: f64,
    /// The time of a step without sums as a share of that together.
    efficiency: f64,
}

/// Medians of the parts of a training step.
#[derive(Debug, Serialize)]
struct Parts {
    teacher: f64,
    student_forward: f64,
    backward_update: f64,
}

impl Args {
    /// Whether several processes can do it together.
    pub(super) fn can_be_shared(&self) -> bool {
        matches!(self.work, Work::Step(_))
    }
}

/// Runs the verb.
///
/// # Errors
/// A configuration that cannot be used, or has no teacher to time; networks that cannot run on such images.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let (setting, teacher) = match &args.work {
        Work::Step(setting) => (setting, false),
        Work::Forward { setting, teacher, .. } => (setting, *teacher),
        Work::Loader(setting) => return bench_loader::run(setting),
    };
    let config = Config::load(&setting.config, &setting.sets)?.config;
    let workload = Workload {
        classes: setting.classes.into(),
        batch: config.run.train.batch_size,
        size: setting.size.unwrap_or_else(|| largest(&config.input)),
        warmup: setting.warmup,
        steps: setting.steps,
        is_traced: setting.trace.is_some(),
        in_8_bits: matches!(args.work, Work::Forward { int8: true, .. }),
    };
    refuse_too_large(&workload)?;
    setting.trace.as_ref().map(Output::check).transpose()?;
    let (report, trace) = match args.work {
        Work::Step(_) if !context.ranks.is_alone() => together(&config, &workload, context)?,
        Work::Step(_) => {
            let timings = workload.training_steps(&config, &context.device)?;
            let parts = Parts::of(&timings.steps);
            let timings = timings.map(StepTime::total);
            let report = Report::new("training step", &config, &workload, &timings);
            (Report { parts_ms: Some(parts), ..report }, timings.trace)
        }
        _ => {
            let (work, network) = match (&config.teacher, teacher) {
                (_, false) => ("student's inference", Inference::Student),
                (Some(teacher), true) => ("teacher's pyramid", Inference::Teacher(teacher)),
                (None, true) => {
                    return Err(UsageError(format!("{} has no teacher to time", setting.config)).into());
                }
            };
            let timings = workload.inference(&config, network, &context.device)?;
            (Report::new(work, &config, &workload, &timings), timings.trace)
        }
    };
    if !context.ranks.is_first() {
        return Ok(());
    }
    if let Some(out) = &setting.trace {
        out.write_json(&bench_trace::document(&trace))?;
    }
    let say = |line: String| match &setting.trace {
        Some(out) => out.say(line),
        None => say(line),
    };
    match setting.json {
        true => say(serde_json::to_string(&report)?)?,
        false => report.print(say)?,
    }
    Ok(())
}

/// Steps of which each process makes a part.
fn together(config: &Config, workload: &Workload, context: &Context) -> anyhow::Result<(Report, Vec<Span>)> {
    let ranks = &*context.ranks;
    let Together { timings, bytes } = workload.shared_steps(config, &context.device, ranks)?;
    let work: Vec<StepTime> = timings.steps.iter().map(|step| step.work).collect();
    let median_of = |part: fn(&SharedStep) -> Duration| median(&sorted_ms(timings.steps.iter().map(part)));
    let (solo, sums, open) = (median_of(|s| s.solo), median_of(|s| s.sums), median_of(|s| s.open));
    let processes = Processes {
        processes: ranks.size(),
        on_this_machine: ranks.local().size,
        waited_ms: median_of(|step| step.waited),
        gradient_mib: bytes as f64 / (1024.0 * 1024.0),
        sums_alone_ms: sums,
        sums_open_ms: open,
        hidden: (1.0 - open / sums).max(0.0),
        solo_ms: solo,
        solo_ms_min: sorted_ms(timings.steps.iter().map(|step| step.solo))[0],
        efficiency: solo / median_of(SharedStep::total),
    };
    let timings = timings.map(SharedStep::total);
    let mut report = Report::new("training step, a part a process", config, workload, &timings);
    report.images_per_s *= ranks.size() as f64;
    let report = Report { parts_ms: Some(Parts::of(&work)), processes: Some(processes), ..report };
    Ok((report, timings.trace))
}

impl Report {
    fn new(work: &'static str, config: &Config, workload: &Workload, timings: &Timings<Duration>) -> Self {
        let ms = sorted_ms(timings.steps.iter().copied());
        let ms_median = median(&ms);
        Self {
            config: config.run.name.clone(),
            work,
            batch: workload.batch,
            size: workload.size.into(),
            classes: workload.classes,
            steps: workload.steps,
            ms_median,
            ms_min: ms[0],
            ms_max: ms[ms.len() - 1],
            images_per_s: workload.batch as f64 * 1e3 / ms_median,
            parts_ms: None,
            processes: None,
            gflop_per_image: timings.multiply_adds_per_image as f64 / 1e9,
            negatives_of_parts: Some(timings.parts_looked_at).filter(|&parts| parts > 1),
            peak_rss_mib: peak_memory_mib(),
            peak_gpu_mib: timings.peak_gpu_bytes.map(|bytes| bytes as f64 / MIB),
            gpu: GpuWork::of(timings.gpu, workload.steps),
            threads: rayon::current_num_threads(),
            simd: Simd::level().name(),
            precision: match workload.in_8_bits {
                true => "int8".to_owned(),
                false => crate::engine::pass::precision(&config.run.engine).to_string(),
            },
        }
    }

    fn print(&self, say: impl Fn(String) -> io::Result<()>) -> anyhow::Result<()> {
        let Self { config, work, batch, size: [height, width], classes, steps, .. } = self;
        say(format!("{config}: {work}, batch {batch} of {height}x{width} pixels, {classes} classes"))?;
        say(format!("{} threads, {}, {}, {steps} steps", self.threads, self.simd, self.precision))?;
        let ms = |name: &str, ms: f64| format!("{name:<20} {ms:>10.1} ms");
        say(format!("{}  ({:.1} to {:.1})", ms("a step", self.ms_median), self.ms_min, self.ms_max))?;
        if let Some(parts) = &self.parts_ms {
            say(ms("  teacher", parts.teacher))?;
            say(ms("  student forward", parts.student_forward))?;
            say(ms("  backward, update", parts.backward_update))?;
        }
        if let Some(processes) = &self.processes {
            processes.print(&say)?;
        }
        say(format!("{:<20} {:>10.2} images/s", "", self.images_per_s))?;
        say(format!("{:<20} {:>10.2} GFLOPs an image", "forward", self.gflop_per_image))?;
        if let Some(parts) = self.negatives_of_parts {
            let paid = match self.processes {
                Some(_) => "parts; processes exchange rows, and one alone runs each part forward twice",
                None => "parts; each is run forward once more for its rows",
            };
            say(format!("{:<20} {parts:>10} {paid}", "negatives from"))?;
        }
        if let Some(peak) = self.peak_rss_mib {
            say(format!("{:<20} {peak:>10.0} MiB", "peak memory"))?;
        }
        if let Some(peak) = self.peak_gpu_mib {
            say(format!("{:<20} {peak:>10.0} MiB", "peak on the GPU"))?;
        }
        if let Some(GpuWork { copies, copied_mib, largest_copy_mib, launches }) = &self.gpu {
            say(format!(
                "{:<20} {copies:>10.1} a step, {copied_mib:.2} MiB, the largest {largest_copy_mib:.2} MiB",
                "copies to the host"
            ))?;
            say(format!("{:<20} {launches:>10.1} a step, and those of NVIDIA's libraries", "launches"))?;
        }
        Ok(())
    }
}

impl Processes {
    fn print(&self, say: &dyn Fn(String) -> io::Result<()>) -> anyhow::Result<()> {
        let ms = |name: &str, ms: f64| format!("{name:<20} {ms:>10.1} ms");
        say(ms("  for other processes", self.waited_ms))?;
        say(ms("  sums, not hidden", self.sums_open_ms))?;
        say(format!("{:<20} {:>10}, {} on this machine", "processes", self.processes, self.on_this_machine))?;
        say(format!(
            "{}  ({:.1} MiB of gradients; {:.0} % hidden behind the walk back)",
            ms("sums by themselves", self.sums_alone_ms),
            self.gradient_mib,
            100.0 * self.hidden
        ))?;
        say(format!("{}  (least {:.1})", ms("a step without sums", self.solo_ms), self.solo_ms_min))?;
        Ok(say(format!("{:<20} {:>10.1} %", "scaling efficiency", 100.0 * self.efficiency))?)
    }
}

impl Parts {
    fn of(steps: &[StepTime]) -> Self {
        let median_of = |part: fn(&StepTime) -> Duration| median(&sorted_ms(steps.iter().map(part)));
        Self {
            teacher: median_of(|step| step.teacher),
            student_forward: median_of(|step| step.student_forward),
            backward_update: median_of(|step| step.backward_update),
        }
    }
}

/// In milliseconds, to the microsecond, ascending.
fn sorted_ms(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut ms: Vec<f64> = times.map(|time| time.as_micros() as f64 / 1e3).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// Median of ascending numbers, at least one; of an even number of them, the mean of the middle two.
fn median(ascending: &[f64]) -> f64 {
    let middle = ascending.len() / 2;
    match ascending.len() % 2 {
        0 => (ascending[middle - 1] + ascending[middle]) / 2.0,
        _ => ascending[middle],
    }
}
