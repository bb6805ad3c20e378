//! The observer that keeps the best weights: `best.safetensors` of each network.

use std::cell::RefCell;

use super::event::{Begin, Eval, Observer};
use crate::engine::error::Result;
use crate::report::run_folder::RunFolder;
use crate::weights::file::write_safetensors;

/// Writes the weights of a network's best evaluation.
#[derive(Debug, Default)]
pub struct BestWeights {
    folder: RefCell<Option<RunFolder>>,
}

impl Observer for BestWeights {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        *self.folder.borrow_mut() = Some(begin.folder.clone());
        Ok(())
    }

    fn eval(&self, event: &Eval<'_>) -> Result<()> {
        let Some(folder) = self.folder.borrow().clone() else { return Ok(()) };
        for best in event.best {
            let path = folder.network(&best.network.folder).best();
            write_safetensors(&path, &best.network.tensors()?, &best.metadata)?;
        }
        Ok(())
    }
}
