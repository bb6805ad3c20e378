//! An observer of a run sees every step, every evaluation and the end.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use ckd_collective::Solo;
use ckd_det::engine::experiment::{self, Request};
use ckd_det::engine::job::Start;
use ckd_det::engine::observer::{Begin, End, Eval, Observer, Observers, Step};
use ckd_det::engine::{EngineError, Result};

use crate::support::tiny::{Tiny, names};

/// Writes down what it hears; asks the run to stop after a step.
#[derive(Default)]
struct Recorder {
    heard: RefCell<Vec<String>>,
    stop: AtomicBool,
    stop_after: Option<u64>,
}

impl Recorder {
    fn hear(&self, event: String) -> Result<()> {
        self.heard.borrow_mut().push(event);
        Ok(())
    }
}

impl Observer for Recorder {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        self.hear(format!("{} from {} to {}", begin.label, begin.step, begin.total))
    }

    fn step(&self, step: &Step<'_>) -> Result<()> {
        assert!(step.lr > 0.0 && step.gradient_norm.is_finite() && step.images == 2);
        assert!(step.terms.iter().any(|term| term.name == "loss_classifier"), "{:?}", step.terms);
        if self.stop_after == Some(step.step) {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.hear(format!("step {}", step.step))
    }

    fn eval(&self, eval: &Eval<'_>) -> Result<()> {
        assert!((0.0..=1.0).contains(&eval.weights.headline) && eval.weights.told.starts_with("AP "));
        let average = if eval.average.is_some() { " and its average" } else { "" };
        self.hear(format!("evaluation at {}{average}", eval.step))
    }

    fn end(&self, end: &End) -> Result<()> {
        self.hear(format!("{end:?}"))
    }
}

fn train(
    tiny: &Tiny,
    sets: &[&str],
    recorder: &Recorder,
    observers: &Observers<'_>,
    start: Start,
) -> Result<()> {
    let loaded = tiny.load("plain.toml", sets)?;
    let request = Request {
        device: &Device::Cpu,
        ranks: &Solo::default(),
        observers,
        start,
        stop: &recorder.stop,
        command: "ckd-det train plain.toml",
        methods: &[],
    };
    experiment::run(&loaded, &request).map(drop)
}

#[test]
fn an_observer_sees_every_step_every_evaluation_and_the_end() {
    let (tiny, recorder) = (Tiny::new(), Recorder::default());
    let sets = ["schedule.steps=4", "schedule.milestones=[3]", "train.eval_every=2", "train.ema_decay=0.5"];
    let observers = Observers::of_files().with(&recorder);
    train(&tiny, &sets, &recorder, &observers, Start::Anew).unwrap();
    assert_eq!(
        *recorder.heard.borrow(),
        [
            "student from 0 to 4",
            "step 1",
            "step 2",
            "evaluation at 2 and its average",
            "step 3",
            "step 4",
            "evaluation at 4 and its average",
            "Finished { step: 4 }",
        ]
    );
}

#[test]
fn an_interrupted_run_ends_for_its_observer_and_begins_again_where_it_stopped() {
    let tiny = Tiny::new();
    let sets = ["schedule.steps=3", "schedule.milestones=[2]"];
    let recorder = Recorder { stop_after: Some(2), ..Recorder::default() };
    let observers = Observers::of_files().with(&recorder);
    let stopped = train(&tiny, &sets, &recorder, &observers, Start::Anew);
    assert!(matches!(stopped, Err(EngineError::Interrupted { step: 2, .. })));
    let again = Recorder::default();
    let observers = Observers::of_files().with(&again);
    train(&tiny, &sets, &again, &observers, Start::Resume).unwrap();
    assert_eq!(
        *recorder.heard.borrow(),
        ["student from 0 to 3", "step 1", "step 2", "Interrupted { step: 2 }"]
    );
    assert_eq!(
        *again.heard.borrow(),
        ["student from 2 to 3", "step 3", "evaluation at 3", "Finished { step: 3 }"]
    );
}

#[test]
fn a_failed_run_ends_for_its_observer_with_the_reason() {
    let (tiny, recorder) = (Tiny::new(), Recorder::default());
    let observers = Observers::none().with(&recorder);
    let sets = ["optim.lr=1e30", "schedule.warmup_steps=0"];
    let error = train(&tiny, &sets, &recorder, &observers, Start::Anew).unwrap_err();
    assert!(matches!(error, EngineError::NonFinite { .. }), "{error}");
    let heard = recorder.heard.borrow();
    let last = heard.last().unwrap();
    assert!(last.starts_with("Failed { step: ") && last.contains("training cannot go on"), "{last}");
}

#[test]
fn a_run_without_observers_leaves_its_weights_and_its_outcome_and_no_log() {
    let (tiny, recorder) = (Tiny::new(), Recorder::default());
    let sets = ["schedule.steps=1", "schedule.milestones=[1]"];
    train(&tiny, &sets, &recorder, &Observers::none(), Start::Anew).unwrap();
    let run = tiny.path("runs/plain");
    let files = names(&run);
    assert!(files.contains(&"last.safetensors".to_owned()) && files.contains(&"outcome.json".to_owned()));
    for absent in ["log.jsonl", "best.safetensors", "eval"] {
        assert!(!files.contains(&absent.to_owned()), "{absent} in {files:?}");
    }
    assert!(fs::read_dir(run.join("checkpoints")).unwrap().next().is_some());
}
