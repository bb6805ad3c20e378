//! The progress of a training run: every loss term, epoch, learning rate, images a second, the share of time
//! spent waiting for data, memory, the time left, and the best evaluation. It goes to stderr and never into a result.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use ckd_settings::printable;
#[cfg(feature = "cli")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::machine::memory_mib;

/// Numbers are means over this many steps.
const WINDOW: usize = 20;

/// Most redraws of a bar in a second.
#[cfg(feature = "cli")]
const REDRAWS: u8 = 5;

/// Amount of progress output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Not at all.
    Quiet,
    /// A plain line every so many steps, for logs and pipes.
    Lines {
        /// Steps from one line to the next (0 counts as 1).
        every: u64,
    },
    /// A bar that is drawn anew in place (feature `cli`).
    #[cfg(feature = "cli")]
    Bar,
}

impl Verbosity {
    /// A bar on a terminal that can draw one (feature `cli`), otherwise a line `every` so many steps.
    pub fn for_stderr(every: u64) -> Self {
        #[cfg(feature = "cli")]
        if is_drawn_on() {
            return Self::Bar;
        }
        Self::Lines { every }
    }
}

/// Report of a training step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// Each loss term by name, weighted as it enters the sum.
    pub losses: &'a [(&'a str, f64)],
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Images in the step's batch.
    pub images: usize,
    /// Passes over the training images so far.
    pub epoch: f64,
    /// Time that the step waited for its batch.
    pub data_wait: Duration,
}

/// Whether stderr is a terminal that takes more than lines of text: `TERM` is not `dumb`.
#[cfg(feature = "cli")]
pub fn is_drawn_on() -> bool {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Says something on stderr. Where nobody can hear it (a closed pipe, a full disk), work goes on all the same.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// The progress of one run, drawn on stderr.
pub struct Progress {
    label: String,
    total: u64,
    step: u64,
    verbosity: Verbosity,
    #[cfg(feature = "cli")]
    bar: ProgressBar,
    recent: Recent,
    last: Instant,
    /// Steps from one evaluation to the next, if there are more than the last.
    evaluate_every: Option<u64>,
    /// Seconds of the latest evaluation.
    evaluation: Option<f64>,
    /// Score and step of the best evaluation.
    best: Option<(f64, u64)>,
    /// Time of the latest redraw of the bar.
    #[cfg(feature = "cli")]
    drawn: Option<Instant>,
}

impl Progress {
    /// The progress of a run of `total_steps` steps, of which `start` are done (a resumed run).
    pub fn new(total_steps: u64, start: u64, label: &str, verbosity: Verbosity) -> Self {
        Self {
            label: label.to_owned(),
            total: total_steps,
            step: start,
            verbosity,
            #[cfg(feature = "cli")]
            bar: bar(total_steps, start, label, verbosity),
            recent: Recent::default(),
            last: Instant::now(),
            evaluate_every: None,
            evaluation: None,
            best: None,
            #[cfg(feature = "cli")]
            drawn: None,
        }
    }

    /// Counts the evaluations that are left, every so many steps and at the end, to the time left.
    #[must_use]
    pub fn evaluating(self, every: Option<u64>) -> Self {
        Self { evaluate_every: every, ..self }
    }

    /// Takes in how long an evaluation took, and its score, from 0 to 1.
    pub fn evaluated(&mut self, took: Duration, score: f64) {
        self.evaluation = Some(took.as_secs_f64());
        if score >= 0.0 && self.best.is_none_or(|(best, _)| score > best) {
            self.best = Some((score, self.step));
        }
    }

    /// Everything but the losses.
    fn pace(&self, left: &Left) -> String {
        let memory = memory_mib().map(|memory| format!("  {memory:.0} MiB")).unwrap_or_default();
        let best = self.best.map(|(score, step)| format!("  best {:.1} at {step}", 100.0 * score));
        self.recent.pace(left) + &memory + &best.unwrap_or_default()
    }

    /// Whether the bar may be drawn again; the last step always is.
    #[cfg(feature = "cli")]
    fn is_due(&mut self, now: Instant) -> bool {
        let pause = Duration::from_secs(1) / u32::from(REDRAWS);
        let is_due = self.step >= self.total || self.drawn.is_none_or(|drawn| now - drawn >= pause);
        if is_due {
            self.drawn = Some(now);
        }
        is_due
    }

    /// Sets the number of steps at the end, which may become smaller on the way.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
        #[cfg(feature = "cli")]
        self.bar.set_length(total);
    }

    fn left(&self) -> Left {
        let steps = self.total.saturating_sub(self.step);
        let before = |step: u64| self.evaluate_every.map_or(0, |every| step.saturating_sub(1) / every.max(1));
        // Those before the last, which comes whatever the interval is.
        let between = before(self.total).saturating_sub(before(self.step + 1));
        Left { steps, evaluations: if steps == 0 { 0 } else { between + 1 }, evaluation: self.evaluation }
    }

    /// Counts a finished step.
    pub fn step(&mut self, report: &StepReport<'_>) {
        let now = Instant::now();
        self.recent.push(report, now - self.last);
        self.last = now;
        self.step += 1;
        let left = self.left();
        match self.verbosity {
            Verbosity::Quiet => {}
            #[cfg(feature = "cli")]
            Verbosity::Bar => {
                if !self.is_due(now) {
                    return;
                }
                let (pace, losses) = (self.pace(&left), self.recent.losses());
                self.bar.set_message(format!("{pace}\n  {losses}"));
                self.bar.set_position(self.step);
            }
            Verbosity::Lines { every } => {
                if self.step.is_multiple_of(every.max(1)) || self.step == self.total {
                    let (pace, losses) = (self.pace(&left), self.recent.losses());
                    tell(&format!("{} {}/{}  {losses}  {pace}", self.label, self.step, self.total));
                }
            }
        }
    }

    /// Says something in a line of its own, above the bar; the time it took to come by (an evaluation, a
    /// checkpoint) does not count as training.
    pub fn note(&mut self, text: &str) {
        match self.verbosity {
            Verbosity::Quiet => {}
            Verbosity::Lines { .. } => tell(text),
            #[cfg(feature = "cli")]
            Verbosity::Bar => self.bar.suspend(|| tell(text)),
        }
        self.last = Instant::now();
    }

    /// The run is over: the bar stays as it is.
    pub fn finish(self) {
        #[cfg(feature = "cli")]
        self.bar.abandon();
    }
}

/// The bar on the terminal; hidden unless asked for.
#[cfg(feature = "cli")]
fn bar(total_steps: u64, start: u64, label: &str, verbosity: Verbosity) -> ProgressBar {
    let bar = match verbosity {
        Verbosity::Bar => {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
            ProgressBar::with_draw_target(Some(total_steps), target).with_position(start)
        }
        Verbosity::Quiet | Verbosity::Lines { .. } => ProgressBar::hidden(),
    };
    bar.set_style(
        ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}")
            .expect("the template is constant and valid"),
    );
    bar.set_prefix(label.to_owned());
    bar.tick();
    bar
}

/// The last [`WINDOW`] steps.
#[derive(Default)]
struct Recent {
    /// In the order in which the terms first appeared.
    losses: Vec<(String, VecDeque<f64>)>,
    learning_rate: f64,
    epoch: f64,
    images: VecDeque<f64>,
    seconds: VecDeque<f64>,
    waited: VecDeque<f64>,
}

impl Recent {
    fn push(&mut self, report: &StepReport<'_>, took: Duration) {
        for &(name, value) in report.losses {
            match self.losses.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => push(values, value),
                None => self.losses.push((name.to_owned(), VecDeque::from([value]))),
            }
        }
        self.learning_rate = report.learning_rate;
        self.epoch = report.epoch;
        push(&mut self.images, report.images as f64);
        push(&mut self.seconds, took.as_secs_f64());
        push(&mut self.waited, report.data_wait.as_secs_f64());
    }

    fn losses(&self) -> String {
        let told = self.losses.iter().map(|(name, values)| format!("{name} {:.4}", mean(values)));
        told.collect::<Vec<_>>().join("  ")
    }

    fn pace(&self, left: &Left) -> String {
        // A clock that did not move must not divide by zero.
        let seconds = mean(&self.seconds).max(1e-9);
        let wait = (100.0 * mean(&self.waited) / seconds).clamp(0.0, 100.0);
        let evaluations = match (left.evaluation, left.evaluations) {
            (None, count @ 1..) => format!(" + {count} evaluation{}", if count == 1 { "" } else { "s" }),
            _ => String::new(),
        };
        let whole = seconds * left.steps as f64 + left.evaluation.unwrap_or(0.0) * left.evaluations as f64;
        format!(
            "epoch {:.2}  lr {:.2e}  {:.2} img/s  data wait {wait:.0}%  ETA {}{evaluations}",
            self.epoch,
            self.learning_rate,
            mean(&self.images) / seconds,
            duration(whole)
        )
    }
}

/// Rest of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Left {
    steps: u64,
    evaluations: u64,
    /// Seconds of one, if that is known.
    evaluation: Option<f64>,
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == WINDOW {
        values.pop_front();
    }
    values.push_back(value);
}

fn mean(values: &VecDeque<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// `2d 03:04:05`, `3:04:05`, `4:05`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Left = Left { steps: 0, evaluations: 0, evaluation: None };

    fn report<'a>(losses: &'a [(&'a str, f64)]) -> StepReport<'a> {
        let data_wait = Duration::from_millis(100);
        StepReport { losses, learning_rate: 0.0125, images: 4, epoch: 1.5, data_wait }
    }

    #[test]
    fn every_loss_the_rate_the_wait_and_the_time_left_are_told() {
        let mut recent = Recent::default();
        recent.push(&report(&[("rpn_cls", 0.5), ("ckd", 2.0)]), Duration::from_millis(1000));
        recent.push(&report(&[("rpn_cls", 0.25), ("ckd", 1.0)]), Duration::from_millis(1000));
        assert_eq!(recent.losses(), "rpn_cls 0.3750  ckd 1.5000");
        let left = |evaluations, evaluation| Left { steps: 3725, evaluations, evaluation };
        let pace = "epoch 1.50  lr 1.25e-2  4.00 img/s  data wait 10%  ETA";
        assert_eq!(recent.pace(&left(0, None)), format!("{pace} 1:02:05"));
        assert_eq!(recent.pace(&left(1, None)), format!("{pace} 1:02:05 + 1 evaluation"));
        assert_eq!(recent.pace(&left(2, Some(20.0))), format!("{pace} 1:02:45"));
    }

    #[test]
    fn evaluations_that_are_left_are_counted() {
        let left = |step, every| {
            Progress::new(100, step, "test", Verbosity::Quiet).evaluating(every).left().evaluations
        };
        assert_eq!((left(0, None), left(99, None), left(100, None)), (1, 1, 0));
        // After steps 30, 60, 90 and the last; an evaluation at step 30 is over once the next step is made.
        assert_eq!(
            (left(0, Some(30)), left(29, Some(30)), left(30, Some(30)), left(90, Some(30))),
            (4, 4, 3, 1)
        );
        assert_eq!((left(0, Some(50)), left(50, Some(50)), left(0, Some(100))), (2, 1, 1));
    }

    #[test]
    fn only_the_last_steps_count() {
        let mut recent = Recent::default();
        recent.push(&report(&[("loss", 1e6)]), Duration::from_secs(1000));
        for _ in 0..WINDOW {
            recent.push(&report(&[("loss", 2.0)]), Duration::from_secs(2));
        }
        assert_eq!(recent.losses(), "loss 2.0000");
        assert_eq!(recent.pace(&NOTHING), "epoch 1.50  lr 1.25e-2  2.00 img/s  data wait 5%  ETA 0:00");
    }

    #[test]
    fn a_step_in_no_time_and_a_loss_that_is_not_a_number_do_not_upset_it() {
        let mut recent = Recent::default();
        assert!(recent.pace(&Left { steps: 9, ..NOTHING }).ends_with("ETA 0:00"));
        recent.push(&report(&[("loss", f64::NAN)]), Duration::ZERO);
        assert_eq!(recent.losses(), "loss NaN");
        assert!(recent.pace(&Left { steps: u64::MAX, ..NOTHING }).contains("data wait 100%"));
    }

    #[test]
    fn the_best_evaluation_so_far_and_the_memory_are_told() {
        let mut progress = Progress::new(100, 10, "test", Verbosity::Quiet);
        let told = |progress: &Progress| progress.pace(&NOTHING);
        assert!(!told(&progress).contains("best"));
        progress.evaluated(Duration::from_secs(1), -1.0);
        assert!(!told(&progress).contains("best"), "nothing was measured");
        progress.evaluated(Duration::from_secs(1), 0.25);
        progress.step(&report(&[]));
        progress.evaluated(Duration::from_secs(1), 0.125);
        assert!(told(&progress).ends_with("  best 25.0 at 10"), "{}", told(&progress));
        assert_eq!(told(&progress).contains(" MiB"), memory_mib().is_some());
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_bar_is_drawn_anew_at_most_five_times_a_second_and_at_the_end() {
        let mut progress = Progress::new(1000, 0, "test", Verbosity::Quiet);
        let begin = Instant::now();
        let draws = (0..1000).filter(|&ms| progress.is_due(begin + Duration::from_millis(ms))).count();
        assert_eq!(draws, 5);
        progress.step = 1000;
        assert!(progress.is_due(begin + Duration::from_millis(1001)));
    }

    #[test]
    fn times_read_as_clocks() {
        let told = [0.4, 65.0, 3_600.0, 86_399.6, 200_000.0].map(duration);
        assert_eq!(told, ["0:00", "1:05", "1:00:00", "1d 00:00:00", "2d 07:33:20"]);
    }

    #[test]
    fn steps_beyond_the_end_and_runs_without_steps_are_fine() {
        let mut ways = vec![Verbosity::Quiet, Verbosity::Lines { every: 0 }];
        #[cfg(feature = "cli")]
        ways.push(Verbosity::Bar);
        for verbosity in ways {
            let mut progress = Progress::new(1, 1, "test", verbosity);
            progress.step(&report(&[]));
            progress.note("a note");
            progress.finish();
            Progress::new(0, 0, "test", verbosity).finish();
        }
    }
}
