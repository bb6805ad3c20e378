//! Room on the disk for what a run writes.

use std::path::Path;

use super::{EngineError, Result};

/// Checkpoints that must fit: the newest one stays until the next is whole.
const CHECKPOINTS: u64 = 2;

/// Checks that the disk of `folder` has room for two checkpoints of `bytes` bytes each; says how much there is, where the
/// system tells.
///
/// # Errors
/// [`EngineError::NoRoom`].
pub(super) fn check(folder: &Path, bytes: u64) -> Result<Option<String>> {
    let Some(free) = free(folder) else { return Ok(None) };
    fits(folder, bytes, free).map(Some)
}

fn fits(folder: &Path, bytes: u64, free: u64) -> Result<String> {
    match free >= bytes.saturating_mul(CHECKPOINTS) {
        true => Ok(format!(
            "a checkpoint takes {:.1} MiB; the disk of {} has {:.0} MiB free",
            mebibytes(bytes),
            folder.display(),
            mebibytes(free)
        )),
        false => Err(EngineError::NoRoom {
            path: folder.to_owned(),
            needed: mebibytes(bytes.saturating_mul(CHECKPOINTS)),
            free: mebibytes(free),
        }),
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes that a user may still write.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_checkpoints_must_fit_and_both_numbers_are_said() {
        let folder = Path::new("runs/plain");
        let said = fits(folder, 3 << 20, 6 << 20).unwrap();
        assert_eq!(said, "a checkpoint takes 3.0 MiB; the disk of runs/plain has 6 MiB free");
        let error = fits(folder, 3 << 20, (6 << 20) - 1).unwrap_err().to_string();
        assert!(
            error.contains("runs/plain") && error.contains("6.0 MiB") && error.contains("output"),
            "{error}"
        );
        assert!(fits(folder, u64::MAX, u64::MAX - 1).is_err());
    }
}
