//! How long an experiment's work takes: whole training steps, or inference, on random images.
//!
//! Weights are random and nothing is read, so only time and memory mean anything. The learning rate is 0: an
//! update costs what it always costs, and every step does the same work on the same weights, however many there
//! are.

pub mod ranks;

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ckd_detectors::Detector;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::init::stream;
use ckd_detectors::nn::Mode;
use ckd_kernels::deferred::collected;
use ckd_kernels::graph::untracked;
use ckd_kernels::trace::{self, Span};
use ckd_kernels::transfers::{Counts, counted, peak_memory};
use ckd_kernels::{Gradients, flops};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::eight_bits::watched;
use super::pass::{Moment, Views, training_pass};
use super::{BACKBONE, build, method_setting};
use crate::config::{self, Config, TeacherPrecision};
use crate::distill::Parts;
use crate::engine::Result;
use crate::engine::distillation::Distillation;
use crate::engine::pass::{GradientSink, Pass, with_arithmetic};
use crate::engine::ranks::{Collecting, Rows};
use crate::engine::update::Update;
use crate::optim::Optimizer;
use crate::optim::groups::grouped;

/// Boxes on every image.
const BOXES_PER_IMAGE: usize = 8;
/// No side of a box is shorter, in pixels.
const SHORTEST_SIDE: f32 = 32.0;

/// Workload of a benchmark, and its number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Foreground classes.
    pub classes: usize,
    /// Images of a batch: one batch a step.
    pub batch: usize,
    /// (height, width) of the images in pixels, before padding.
    pub size: (usize, usize),
    /// Steps before those that count.
    pub warmup: u32,
    /// Steps that count.
    pub steps: u32,
    /// Whether one more step is recorded, operation by operation.
    pub is_traced: bool,
    /// Whether inference computes in 8 bits.
    pub in_8_bits: bool,
}

/// The network of an experiment whose inference is timed.
#[derive(Debug, Clone, Copy)]
pub enum Inference<'a> {
    /// The student, from images to detections.
    Student,
    /// The teacher as a step runs it, from images to its pyramid.
    Teacher(&'a config::Teacher),
}

/// Durations of the counted steps, and their work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings<T> {
    /// Step by step.
    pub steps: Vec<T>,
    /// Multiply-adds of the forward passes of one image, as [`flops::counted`] counts them.
    pub multiply_adds_per_image: u64,
    /// Parts of the update whose rows a method looks at in each: 1, unless `negatives_from = "update"`.
    pub parts_looked_at: usize,
    /// Copies and launches of all counted steps; none on the CPU.
    pub gpu: Counts,
    /// The most bytes held of a GPU's memory; none on the CPU.
    pub peak_gpu_bytes: Option<u64>,
    /// Operations of a step after them, if it was recorded.
    pub trace: Vec<Span>,
}

impl<T> Timings<T> {
    /// Timings with another duration of each step.
    pub fn map<U>(self, of_step: impl Fn(&T) -> U) -> Timings<U> {
        let Self { steps, multiply_adds_per_image, parts_looked_at, gpu, peak_gpu_bytes, trace } = self;
        let steps = steps.iter().map(of_step).collect();
        Timings { steps, multiply_adds_per_image, parts_looked_at, gpu, peak_gpu_bytes, trace }
    }
}

/// Durations of the parts of a training step, which add up to the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTime {
    /// The teacher's pyramid, and its logits of the student's regions; zero without a teacher.
    pub teacher: Duration,
    /// The student's forward pass and all losses.
    pub student_forward: Duration,
    /// Gradients, their norm, and the update.
    pub backward_update: Duration,
}

impl StepTime {
    /// The time of a step that `took` so long, most of it for `pass`.
    fn of(pass: &Pass, took: Duration) -> Self {
        let (teacher, student_forward) = (pass.times.teacher, pass.times.student_forward);
        Self { teacher, student_forward, backward_update: took - teacher - student_forward }
    }

    /// The whole step.
    pub fn total(&self) -> Duration {
        self.teacher + self.student_forward + self.backward_update
    }
}

impl Workload {
    /// Times training steps of the student of `config`, taught by its teacher if it has one.
    ///
    /// # Errors
    /// If the networks cannot be built or run, or a random loss is not finite.
    pub fn training_steps(&self, config: &Config, device: &Device) -> Result<Timings<StepTime>> {
        let mut learner = Learner::new(self, config, device)?;
        let parts = learner.parts_looked_at(config.run.train.parts());
        let timings = self.repeat(device, |step| {
            let started = Instant::now();
            let mut gradients = Gradients::new();
            let pass = learner.pass_among(parts, step, &mut gradients)?;
            learner.update(&gradients, &pass, step, 1.0)?;
            drop(gradients);
            device.synchronize()?;
            Ok(StepTime::of(&pass, started.elapsed()))
        })?;
        Ok(Timings { parts_looked_at: parts, ..timings })
    }

    /// Times the inference of a network of `config`.
    ///
    /// # Errors
    /// If the network cannot be built or run.
    pub fn inference(
        &self,
        config: &Config,
        network: Inference,
        device: &Device,
    ) -> Result<Timings<Duration>> {
        let detector = match network {
            Inference::Student => build::frozen_student(config, self.classes, device)?,
            Inference::Teacher(teacher) => build::teacher(config, teacher, self.classes, device)?,
        };
        let (images, _) = self.scene(config, device)?;
        let teacher = if let Inference::Teacher(teacher) = network { Some(teacher) } else { None };
        if self.in_8_bits || teacher.is_some_and(|teacher| teacher.precision == TeacherPrecision::Int8) {
            rounded(&detector, &images)?;
        }
        self.repeat(device, |_| {
            let started = Instant::now();
            with_arithmetic(&config.run.engine, || run(&detector, network, &images))?;
            device.synchronize()?;
            Ok(started.elapsed())
        })
    }

    /// Runs `step` as often as is asked for.
    fn repeat<T>(&self, device: &Device, mut step: impl FnMut(u64) -> Result<T>) -> Result<Timings<T>> {
        let mut timings = Timings {
            steps: Vec::new(),
            multiply_adds_per_image: 0,
            parts_looked_at: 1,
            gpu: Counts::default(),
            peak_gpu_bytes: None,
            trace: Vec::new(),
        };
        let warmup = u64::from(self.warmup);
        for number in 0..warmup + u64::from(self.steps) {
            let ((time, multiply_adds), gpu) = counted(|| flops::counted(|| step(number)));
            let time = time?;
            if number >= warmup {
                timings.steps.push(time);
                timings.multiply_adds_per_image = multiply_adds / self.batch.max(1) as u64;
                timings.gpu = timings.gpu.and(gpu);
            }
        }
        timings.peak_gpu_bytes = peak_memory(device)?;
        if self.is_traced {
            (_, timings.trace) = trace::record(device, || step(warmup + u64::from(self.steps)))?;
        }
        Ok(timings)
    }

    /// Random pixels, padded as a batch of `config` is, and random boxes.
    fn scene(&self, config: &Config, device: &Device) -> Result<(Images, Vec<Target>)> {
        let (height, width) = self.size;
        let [rows, columns] =
            [height, width].map(|side| side.next_multiple_of(config.input.size_divisor as usize));
        let mut random = ChaCha8Rng::seed_from_u64(stream(config.run.seed, "bench/scene"));
        let mut pixels = vec![0f32; self.batch * rows * columns * 3];
        for image in pixels.chunks_exact_mut(rows * columns * 3) {
            for row in image.chunks_exact_mut(columns * 3).take(height) {
                row[..width * 3].fill_with(|| random.random());
            }
        }
        let pixels =
            Tensor::from_vec(pixels, (self.batch, rows, columns, 3), device)?.permute((0, 3, 1, 2))?;
        let targets = (0..self.batch).map(|_| self.target(&mut random)).collect();
        Ok((Images { pixels, sizes: vec![self.size; self.batch] }, targets))
    }

    /// Boxes that begin in the upper left of an image, and may end beyond it.
    fn target(&self, random: &mut impl Rng) -> Target {
        let (height, width) = (self.size.0 as f32, self.size.1 as f32);
        let mut target = Target::default();
        for _ in 0..BOXES_PER_IMAGE {
            let mut share = |of: f32| random.random::<f32>() * of;
            let (x, y) = (share(0.6 * width), share(0.6 * height));
            let (w, h) = (SHORTEST_SIDE + share(0.3 * width), SHORTEST_SIDE + share(0.3 * height));
            target.boxes.push([x, y, x + w, y + h]);
            target.labels.push(random.random_range(0..self.classes as u32));
        }
        target
    }
}

/// A student at its steps: all at a learning rate of 0, on the same images.
struct Learner<'c> {
    config: &'c Config,
    student: Detector,
    distillation: Option<Distillation<Detector>>,
    optimizer: Box<dyn Optimizer>,
    images: Images,
    targets: Vec<Target>,
}

impl<'c> Learner<'c> {
    fn new(workload: &Workload, config: &'c Config, device: &Device) -> Result<Self> {
        let classes = workload.classes;
        let teacher = config.teacher.as_ref().map(|teacher| build::teacher(config, teacher, classes, device));
        let distillation = match teacher.transpose()? {
            Some(teacher) => {
                let setting = method_setting(config, classes, device)?;
                Distillation::new(&config.distill, Vec::new(), teacher, &setting)?
            }
            None => None,
        };
        let (images, targets) = workload.scene(config, device)?;
        if let (Some(lessons), Some(teacher)) = (&distillation, &config.teacher)
            && teacher.precision == TeacherPrecision::Int8
        {
            rounded(lessons.teacher(), &images)?;
        }
        let student = build::student(config, classes, device)?;
        let beside = distillation.iter().flat_map(Distillation::params);
        let stores: Vec<_> = [student.params()].into_iter().chain(beside).collect();
        let parameters = grouped(&stores, &config.run.optim, |name| name.starts_with(BACKBONE));
        let optimizer = config.run.optim.over(parameters)?;
        Ok(Self { config, student, distillation, optimizer, images, targets })
    }

    /// The parts whose rows a method looks at, of `parts` that an update has: 1 if none looks at more than its own.
    fn parts_looked_at(&self, parts: usize) -> usize {
        let looks = self.distillation.as_ref().is_some_and(|lessons| lessons.looks_at_all_parts(0));
        if looks { parts } else { 1 }
    }

    /// Makes a pass of a process that makes all `parts` of an update, one after the other: where a method looks at them all, each
    /// is run forward once more beforehand. The other parts have the rows of this one.
    fn pass_among(&self, parts: usize, step: u64, gradients: &mut GradientSink<'_>) -> Result<Pass> {
        if parts == 1 {
            return self.pass(step, None, gradients);
        }
        let (started, collecting) = (Instant::now(), Collecting::default());
        let for_rows = || self.pass(step, Some(&collecting), &mut Gradients::new());
        let first = collected(|| untracked(for_rows)).0?;
        let forward = started.elapsed() - first.times.teacher;
        let rows = Rows::Known(vec![collecting.into_rows(); parts]);
        let part = rows.of_part(0);
        let pass = self.pass(step, Some(&part), gradients);
        let mut pass = part.checked(pass)?;
        pass.times.teacher += first.times.teacher;
        pass.times.student_forward += forward;
        Ok(pass)
    }

    /// Runs teacher and student, and gives the gradients to `gradients`.
    fn pass(&self, step: u64, parts: Option<&dyn Parts>, gradients: &mut GradientSink<'_>) -> Result<Pass> {
        let Self { config, student, images, targets, .. } = self;
        let mut random = ChaCha8Rng::seed_from_u64(stream(config.run.seed, &format!("sample/{step}")));
        let views = Views { student: images, teacher: images };
        with_arithmetic(&config.run.engine, || {
            let moment = Moment { step, random: &mut random, parts, ledger: None };
            training_pass(student, self.distillation.as_ref(), views, targets, moment, gradients)
        })
    }

    /// Makes the update by `gradients` of `pass`, multiplied by `scale`.
    fn update(&mut self, gradients: &Gradients, pass: &Pass, step: u64, scale: f64) -> Result<()> {
        let update = Update { gradients, lr: 0.0, scale, step, of: "gradient", terms: &pass.terms };
        update.apply(&mut *self.optimizer, &self.config.run.optim).map(drop)
    }
}

/// Lets `detector` compute in 8 bits, by what goes into its layers on `images`.
fn rounded(detector: &Detector, images: &Images) -> Result<()> {
    let ranges = watched(detector, || detector.detect(images).map(drop))?;
    Ok(detector.params().compute_in_8_bits(&ranges)?)
}

fn run(detector: &Detector, network: Inference, images: &Images) -> Result<()> {
    match network {
        Inference::Student => drop(detector.detect(images)?),
        Inference::Teacher(_) => drop(detector.pyramid(images, Mode::Inference)?),
    }
    Ok(())
}
