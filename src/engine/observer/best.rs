//! The observer that keeps the best weights: `best.safetensors` of each network.

use super::event::{Begin, Eval, Observer};
use crate::engine::error::Result;
use crate::report::run_folder::RunFolder;
use crate::weights::file::write_safetensors;

/// Writes the weights of a network's best evaluation.
#[derive(Debug, Default)]
pub struct BestWeights {
    folder: Option<RunFolder>,
}

impl Observer for BestWeights {
    fn begin(&mut self, begin: &Begin<'_>) -> Result<()> {
        self.folder = Some(begin.folder.clone());
        Ok(())
    }

    fn eval(&mut self, event: &Eval<'_>) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        for best in event.best {
            let path = folder.network(&best.network.folder).best();
            write_safetensors(&path, &best.network.tensors()?, &best.metadata)?;
        }
        Ok(())
    }
}
