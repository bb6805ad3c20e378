//! Checkpoints of a run.

use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;

use super::Training;
use crate::engine::checkpoint;
use crate::engine::ranks::check_same;
use crate::engine::recorded;
use crate::engine::task::Task;
use crate::engine::{EngineError, Result};
use crate::optim::{Ema, Optimizer, Slot};
use crate::report::log::digest;
use crate::report::run_folder::RunFolder;

impl<T: Task> Training<'_, T> {
    /// Writes a checkpoint.
    pub(super) fn save(&mut self) -> Result<()> {
        self.check_ranks()?;
        if self.around.ranks.is_first() {
            self.refuse_if_lost()?;
            self.state.log = digest(&self.job.folder.log())?;
            self.save_in(&self.job.folder.checkpoints())?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    pub(super) fn save_in(&self, folder: &Path) -> Result<()> {
        let keep = self.run().train.keep_checkpoints;
        let stores = self.job.trained(&self.student);
        let slots = slots(&*self.optimizer, self.ema.as_ref());
        checkpoint::save(folder, &stores, &slots, &self.state, keep)?;
        Ok(())
    }

    /// Checks that all processes hold the same weights and state; once after an update.
    pub(super) fn check_ranks(&self) -> Result<()> {
        let step = self.state.step;
        if self.compared.replace(Some(step)) == Some(step) {
            return Ok(());
        }
        let (stores, slots) = (self.job.trained(&self.student), slots(&*self.optimizer, self.ema.as_ref()));
        check_same(self.around.ranks, step, tensors_of(&stores, &slots))
            .map_err(|error| self.with_step(error))
    }

    /// Ends the run if its folder was taken away; its state is saved beside it.
    pub(super) fn refuse_if_lost(&mut self) -> Result<()> {
        let claim = self.job.claim;
        if claim.is_held() {
            return Ok(());
        }
        let (step, whole) = (self.state.step, claim.beside());
        let below = self.job.folder.path().strip_prefix(claim.folder().path()).unwrap_or(Path::new(""));
        let folder = RunFolder::at(whole.path().join(below));
        let saved = recorded::record(&folder, self.job.config, self.around.data)
            .and_then(|()| self.save_in(&folder.checkpoints()));
        let path = claim.folder().path().to_owned();
        let state = match saved {
            Ok(()) => format!(
                "the state after step {step} is saved in {}: rename that to {}, and go on with `{}`",
                whole.path().display(),
                path.display(),
                self.around.command
            ),
            Err(error) => format!("the state after step {step} could not be saved beside it: {error}"),
        };
        Err(EngineError::Lost { path, state })
    }
}

/// All tensors of a checkpoint.
pub(super) fn tensors_of<'t>(
    stores: &'t [&ParamStore],
    slots: &'t [Slot<'_>],
) -> impl Iterator<Item = &'t Tensor> {
    let own = stores.iter().flat_map(|params| params.iter()).map(|(_, param)| param.value.tensor());
    own.chain(slots.iter().map(|slot| slot.tensor))
}

/// The tensors that a checkpoint holds beside the weights.
pub(super) fn slots<'s>(optimizer: &'s dyn Optimizer, ema: Option<&'s Ema>) -> Vec<Slot<'s>> {
    let averages = ema.into_iter().flat_map(Ema::slots);
    optimizer.slots().into_iter().chain(averages).collect()
}
