//! The sole use of a run's folder: one folder, one process.

use std::path::{Path, PathBuf};

use super::observer::Observers;
use super::{EngineError, Result};
use crate::fsx::{self, Lock, LockError};
use crate::report::run_folder::RunFolder;

/// A run's folder in the sole use of this process, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    folder: RunFolder,
    /// `None` where another process of the run holds it.
    lock: Option<Lock>,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

impl Claim {
    /// Claims `folder`, making it where it is not there, and removes what killed writes left in it.
    ///
    /// # Errors
    /// [`EngineError::Busy`] names the process that uses it.
    pub fn of(folder: &RunFolder, observers: &Observers<'_>) -> Result<Self> {
        let path = folder.path();
        let made = path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let made: Vec<PathBuf> = made.map(Path::to_owned).collect();
        fsx::create_folder(path)?;
        let lock = fsx::lock(&folder.lock(), &this_process()).map_err(|error| match error {
            LockError::Held { path: lock, by, is_certain } => EngineError::Busy {
                path: path.to_owned(),
                holder: if by.is_empty() { "another process".to_owned() } else { by },
                doubt: match is_certain {
                    true => String::new(),
                    false => format!("; if that process is gone, delete {}", lock.display()),
                },
            },
            LockError::Write(error) => error.into(),
        })?;
        if let Some(holder) = &lock.left_by {
            observers.note(&format!(
                "{} was left by a process that ended in the middle ({holder}); this one takes it over",
                path.display()
            ));
        }
        fsx::remove_temporary(path)?;
        Ok(Self { folder: folder.clone(), lock: Some(lock), made })
    }

    /// A claim of `folder` that the first process of this run holds.
    pub fn of_first(folder: &RunFolder) -> Self {
        Self { folder: folder.clone(), lock: None, made: Vec::new() }
    }

    /// Moves an earlier run out of the claimed folder to a name beside it, and claims the empty folder; what was never begun
    /// is written over.
    ///
    /// # Errors
    /// If the folder cannot be moved.
    pub fn emptied(mut self, observers: &Observers<'_>) -> Result<Self> {
        let (path, own) = (self.folder.path().to_owned(), self.folder.clone());
        if self.lock.is_none() || self.folder.is_bare() {
            return Ok(self);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kept = free(&path, &name);
        fsx::rename(&path, &kept)?;
        if let Some(lock) = &mut self.lock {
            lock.move_to(RunFolder::at(&kept).lock());
        }
        drop(self);
        observers.note(&format!("the earlier run is kept as {}", kept.display()));
        Self::of(&own, observers)
    }

    /// The claimed folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Whether the folder is where it was, with its lock in it.
    pub fn is_held(&self) -> bool {
        self.lock.as_ref().is_none_or(Lock::is_in_place)
    }

    /// A folder beside the claimed one for what it cannot take any more.
    pub(super) fn beside(&self) -> RunFolder {
        let path = self.folder.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let first = path.with_file_name(format!("{name}.rescued"));
        RunFolder::at(if first.exists() { free(path, &format!("{name}.rescued")) } else { first })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.made.is_empty() || !self.is_held() {
            return;
        }
        // Nothing was written: leave nothing.
        let _ = fsx::remove(&self.folder.lock());
        self.made.iter().for_each(|folder| fsx::remove_if_empty(folder));
    }
}

/// The first path beside `path` of `name` and a number that is not taken.
fn free(path: &Path, name: &str) -> PathBuf {
    (1..)
        .map(|number| path.with_file_name(format!("{name}.{number}")))
        .find(|path| !path.exists())
        .expect("there is always a next number")
}

/// This process, for others to find it.
fn this_process() -> String {
    format!("pid {} on {}\n", std::process::id(), host())
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "this machine".to_owned())
}
