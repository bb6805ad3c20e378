//! The observer that writes a run's page, `report.html`, at every evaluation.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::event::{Begin, End, Eval, Observer};
use crate::engine::error::Result;
use crate::fsx;
use crate::report::page;
use crate::report::run_folder::RunFolder;

/// Writes `report.html`, and `environment.json`, which the page shows.
#[derive(Debug, Default)]
pub struct Page {
    environment: BTreeMap<String, String>,
    folder: RefCell<Option<RunFolder>>,
}

impl Page {
    /// A page that tells these facts about machine and command.
    pub fn telling(environment: BTreeMap<String, String>) -> Self {
        Self { environment, folder: RefCell::default() }
    }

    fn write(&self) -> Result<()> {
        match &*self.folder.borrow() {
            Some(folder) => Ok(page::write(folder)?),
            None => Ok(()),
        }
    }
}

impl Observer for Page {
    fn begin(&self, begin: &Begin<'_>) -> Result<()> {
        let json = serde_json::to_vec_pretty(&self.environment).expect("texts have a JSON form");
        fsx::write_atomic(&begin.folder.environment(), &json)?;
        *self.folder.borrow_mut() = Some(begin.folder.clone());
        Ok(())
    }

    fn eval(&self, _: &Eval<'_>) -> Result<()> {
        self.write()
    }

    fn end(&self, end: &End) -> Result<()> {
        match end {
            End::Finished { .. } => self.write(),
            _ => Ok(()),
        }
    }

    fn finished(&self, folder: &RunFolder) -> Result<()> {
        Ok(page::write(folder)?)
    }
}
