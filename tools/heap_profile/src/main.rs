//! Trains a configuration and prints the memory that is in use (asked for and not given back) over its steps:
//! `cargo run --profile profiling --workspace --bin heap-profile CONFIG [KEY=VALUE ...]`
//!
//! Writes `dhat-heap.json`, which <https://nnethercote.github.io/dh_view/dh_view.html> shows by the place in the code
//! that asked.

use std::cell::Cell;
use std::error::Error;

use ckd_det::Training;
use ckd_det::config::Experiment;
use ckd_det::engine::Result;
use ckd_det::engine::observer::{Observer, Step};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

/// Steps between two lines.
const EVERY: u64 = 100;

/// Prints the least memory in use after any of the last [`EVERY`] steps: batches that wait come and go.
struct Least(Cell<usize>);

impl Observer for Least {
    #[allow(clippy::print_stdout)]
    fn step(&self, step: &Step<'_>) -> Result<()> {
        self.0.set(self.0.get().min(dhat::HeapStats::get().curr_bytes));
        if step.step.is_multiple_of(EVERY) {
            println!("step {:>6}: {:>12} bytes in use", step.step, self.0.replace(usize::MAX));
        }
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().ok_or("name a configuration")?;
    let experiment = Experiment::load(&config, &arguments.collect::<Vec<_>>())?;
    let _profile = dhat::Profiler::new_heap();
    let least = Least(Cell::new(usize::MAX));
    match experiment {
        Experiment::Detect(loaded) => drop(Training::of(*loaded).observer(least).run()?),
        Experiment::Classify(loaded) => drop(Training::of(*loaded).observer(least).run()?),
        Experiment::Cohort(loaded) => drop(Training::of(*loaded).observer(least).run()?),
        Experiment::Pretrain(loaded) => drop(Training::of(*loaded).observer(least).run()?),
    }
    Ok(())
}
