//! Runs that several ranks share: threads here, where a user has processes.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ckd_collective::{Collective, threads};
use ckd_det::config::Document;
use ckd_det::engine::experiment::{self, Request};
use ckd_det::engine::job::Start;
use ckd_det::engine::observer::Observers;
use ckd_det::engine::task::Settings;

use super::tiny::{Folder, StopsSoon};

/// How ranks run.
#[derive(Clone, Copy)]
pub(crate) struct Together {
    pub(crate) ranks: usize,
    pub(crate) start: Start,
    /// Whether the user stops the first rank after each step.
    pub(crate) stops: bool,
}

impl<C: Settings + Document + Sync> Folder<C> {
    /// Trains `config` on so many ranks; the first rank's error.
    pub(crate) fn train_on(&self, ranks: usize, config: &str, sets: &[&str]) -> Result<(), String> {
        self.start_on(Together { ranks, start: Start::Anew, stops: false }, config, sets)
    }

    /// Trains `config` as `how` says; the first rank's error. All ranks end alike.
    pub(crate) fn start_on(&self, how: Together, config: &str, sets: &[&str]) -> Result<(), String> {
        let mut ended = threads::run(how.ranks, |ranks| {
            let stop = AtomicBool::new(false);
            let observers = match how.stops && ranks.is_first() {
                true => Observers::of_files().with(StopsSoon(&stop)),
                false => Observers::of_files(),
            };
            let command = format!("ckd-det train {config}");
            let request = Request {
                device: &Device::Cpu,
                ranks,
                observers: &observers,
                start: how.start,
                stop: &stop,
                command: &command,
                methods: &[],
            };
            // An error of one rank alone must not let the others wait for ever.
            let sets = [sets, &["train.rank_timeout_s=60"]].concat();
            let loaded = self.load(config, &sets).map_err(|error| error.to_string())?;
            experiment::run(&loaded, &request).map(drop).map_err(|error| error.to_string())
        });
        assert!(ended.windows(2).all(|pair| pair[0] == pair[1]), "{ended:?}");
        ended.swap_remove(0)
    }
}
