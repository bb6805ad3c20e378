//! Training from code: a run whose configuration, methods and stop signal a program gives.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_collective::{Collective, Solo};

use crate::config::{Document, Loaded};
use crate::distill::{DistillError, Distiller, MethodSetting};
use crate::engine::Result;
use crate::engine::experiment::{self, Finished, MakeMethod, Request};
use crate::engine::job::{Row, Start};
use crate::engine::observer::{Observer, Observers};
use crate::engine::task::Settings;

/// A run to be started: [`train`] with more choices.
///
/// ```no_run
/// use ckd_det::Training;
/// use ckd_det::config::{Config, Document};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let loaded = Config::load("quickstart.toml", &["seed=1".to_owned()])?;
/// let finished = Training::of(loaded).resume().run()?;
/// println!("{:.1} AP", 100.0 * finished.student.row.stats[0]);
/// # Ok(())
/// # }
/// ```
pub struct Training<'a, C: Settings> {
    loaded: Loaded<C>,
    data: Option<C::Task>,
    device: Device,
    ranks: Option<&'a dyn Collective>,
    start: Start,
    stop: Option<&'a AtomicBool>,
    methods: Vec<Box<MakeMethod<'a>>>,
    observers: Observers<'a>,
}

/// Trains the student of `config`, on the processor and silently, and evaluates it. Files go to
/// `config.run.output`/`config.run.name`.
///
/// ```no_run
/// use ckd_det::config::{
///     Architecture, Backbone, Config, Data, DataKind, DetectorSettings, Network, Optim, Run, Schedule,
///     Student,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let schedule = Schedule { steps: Some(90_000), milestones: vec![60e3, 80e3], ..Schedule::default() };
/// let run = Run::new("coco_r18".to_owned(), Optim::new(0.02), schedule);
/// let data = Data::new(DataKind::Coco, "data/coco".into());
/// let student = Student::new(Network::new(Backbone::RESNET18));
/// let config = Config::new(run, DetectorSettings::new(Architecture::FasterRcnn), data, student);
/// println!("{:.1} AP", 100.0 * ckd_det::train(config)?.student.row.stats[0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Everything that is wrong with the configuration; missing data or weights; a loss that is not finite.
pub fn train<C: Settings + Document>(config: C) -> Result<Finished<Row<C::Task>>> {
    Training::new(config)?.run()
}

impl<'a, C: Settings + Document> Training<'a, C> {
    /// A run of a configuration that was made in code. Its paths are relative to the current folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, by lines of its TOML form.
    pub fn new(config: C) -> Result<Self> {
        const ORIGIN: &str = "a configuration made in code";
        let checked = C::from_toml(&config.to_toml(), ORIGIN)?;
        Ok(Self::of(Loaded::without_file(checked, ORIGIN)))
    }

    /// A run of a configuration that was loaded by name.
    pub fn of(loaded: Loaded<C>) -> Self {
        Self {
            loaded,
            data: None,
            device: Device::Cpu,
            ranks: None,
            start: Start::Anew,
            stop: None,
            methods: Vec::new(),
            observers: Observers::of_files(),
        }
    }

    /// Computes on `device`.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// Shares the run with the other processes of `ranks`. Only the first of them writes files and tells observers.
    #[must_use]
    pub fn shared_by(self, ranks: &'a dyn Collective) -> Self {
        Self { ranks: Some(ranks), ..self }
    }

    /// Trains and evaluates on `data` instead of what the configuration's `[data]` names: of a detector
    /// [`DataSets`](crate::engine::detect::DataSets), of a classifier
    /// [`LabelledSets`](crate::engine::classify::LabelledSets).
    #[must_use]
    pub fn data(self, data: C::Task) -> Self {
        Self { data: Some(data), ..self }
    }

    /// Goes on from the last checkpoint of an earlier run of the same configuration, if there is one.
    #[must_use]
    pub fn resume(self) -> Self {
        Self { start: Start::Resume, ..self }
    }

    /// Saves the state and stops with [`EngineError::Interrupted`](crate::engine::EngineError::Interrupted)
    /// once `stop` is set.
    #[must_use]
    pub fn stopped_by(self, stop: &'a AtomicBool) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Trains the teacher first, by its own configuration, unless an earlier run of it is there. The
    /// student's `teacher.train` gives it a name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with `teacher`.
    pub fn taught_by(mut self, teacher: C) -> Result<Self> {
        self.loaded.teacher_experiment = Some(Box::new(Self::new(teacher)?.loaded));
        Ok(self)
    }

    /// Adds a method of distillation beside those of the configuration. `make` is told the widths of the
    /// taps.
    #[must_use]
    pub fn method(
        mut self,
        make: impl Fn(&MethodSetting<'_>) -> std::result::Result<Box<dyn Distiller>, DistillError> + 'a,
    ) -> Self {
        self.methods.push(Box::new(make));
        self
    }

    /// Tells `observer` of every step and evaluation and of the end.
    #[must_use]
    pub fn observer(self, observer: impl Observer + 'a) -> Self {
        Self { observers: self.observers.with(observer), ..self }
    }

    /// Trains and evaluates.
    ///
    /// # Errors
    /// Missing data or weights, named before anything is loaded; a loss that is not finite; an interruption.
    pub fn run(self) -> Result<Finished<Row<C::Task>>> {
        let (never, alone) = (AtomicBool::new(false), Solo::default());
        let request = Request {
            device: &self.device,
            ranks: self.ranks.unwrap_or(&alone),
            observers: &self.observers,
            start: self.start,
            stop: self.stop.unwrap_or(&never),
            command: "Training::resume",
            methods: &self.methods,
        };
        match self.data {
            Some(data) => experiment::run_on(data, &self.loaded, &request),
            None => experiment::run(&self.loaded, &request),
        }
    }
}
