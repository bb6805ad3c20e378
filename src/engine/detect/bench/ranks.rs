//! Time of training steps that several processes make together, beside the same steps of each process alone.

use std::rc::Rc;
use std::time::{Duration, Instant};

use candle_core::Device;
use ckd_collective::Collective;
use ckd_kernels::{Gradients, Sink, flops};

use super::{Learner, StepTime, Timings, Workload};
use crate::config::Config;
use crate::engine::ranks::{Plan, Rows, Summing};
use crate::engine::{EngineError, Result};

/// Time of a step together, and of its parts each alone, as one process sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedStep {
    /// The step together, without what [`waited`](Self::waited) and [`open`](Self::open) say.
    pub work: StepTime,
    /// Time until the last process had walked back, too.
    pub waited: Duration,
    /// Time of the sums that was not hidden behind the walk back: from when all had walked until the sums were there.
    pub open: Duration,
    /// A step of this process alone, without sums, of as many parts.
    pub solo: Duration,
    /// Sums by themselves, copies of the gradients included.
    pub sums: Duration,
}

impl SharedStep {
    /// The whole step together.
    pub fn total(&self) -> Duration {
        self.work.total() + self.waited + self.open
    }
}

/// Steps together, and the bytes of the gradients that each sums.
#[derive(Debug)]
pub struct Together {
    /// The steps.
    pub timings: Timings<SharedStep>,
    /// Bytes of all gradients.
    pub bytes: usize,
}

impl Workload {
    /// Times training steps of which each process makes one part, in turns with steps that it makes alone.
    ///
    /// # Errors
    /// If the networks cannot be built or run, a random loss is not finite, or a process is late.
    pub fn shared_steps(&self, config: &Config, device: &Device, ranks: &dyn Collective) -> Result<Together> {
        let mut learner = Learner::new(self, config, device)?;
        let mut plan = Rc::new(Plan::of(learner.optimizer.parameters()));
        let scale = 1.0 / ranks.size() as f64;
        let parts = learner.parts_looked_at(ranks.size());
        let mut multiply_adds = 0;
        let timings = self.repeat(device, |step| {
            ranks.any(false)?;
            let started = Instant::now();
            let mut gradients = Gradients::new();
            let pass = learner.pass_among(parts, step, &mut gradients)?;
            learner.update(&gradients, &pass, step, 1.0)?;
            device.synchronize()?;
            let solo = started.elapsed();

            ranks.any(false)?;
            let sums = time_of_sums(ranks, &plan, gradients)?;

            ranks.any(false)?;
            let started = Instant::now();
            let mut summing = Summing::over(ranks, plan.clone());
            let rows = (parts > 1).then_some(Rows::OfPasses(ranks));
            let among = rows.as_ref().map(|rows| rows.of_part(ranks.rank() as u64));
            let pass = || learner.pass(step, among.as_ref().map(|among| among as _), &mut summing);
            let (pass, counted) = flops::counted(pass);
            let pass = match among {
                Some(among) => among.checked(pass)?,
                None => pass?,
            };
            multiply_adds = counted;
            let left = summing.send_all()?.to_vec();
            let walked = started.elapsed();
            ranks.any(false)?;
            let waited = started.elapsed() - walked;
            let gradients = summing.finish(|place| left.contains(&place))?;
            let open = started.elapsed() - walked - waited;
            learner.update(&gradients, &pass, step, scale)?;
            device.synchronize()?;
            let work = StepTime::of(&pass, started.elapsed() - waited - open);
            if !plan.is_observed {
                plan = Rc::new(plan.observed(&left));
            }
            Ok(SharedStep { work, waited, open, solo, sums })
        })?;
        let multiply_adds_per_image = multiply_adds / self.batch.max(1) as u64;
        let timings = Timings { multiply_adds_per_image, parts_looked_at: parts, ..timings };
        Ok(Together { timings, bytes: plan.bytes() })
    }
}

/// Time of the sums of `gradients` while nothing else is done.
fn time_of_sums(ranks: &dyn Collective, plan: &Rc<Plan>, gradients: Gradients) -> Result<Duration> {
    let started = Instant::now();
    let mut summing = Summing::over(ranks, plan.clone());
    for (name, gradient) in gradients {
        Sink::<EngineError>::leaf(&mut summing, &name, gradient)?;
    }
    summing.send_all()?;
    summing.finish(|_| false)?;
    Ok(started.elapsed())
}
