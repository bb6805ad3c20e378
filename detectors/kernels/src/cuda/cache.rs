//! Compiled kernels in the user's cache folder.

use std::path::{Path, PathBuf};

/// The text that was kept under `name`.
pub(super) fn read(name: &str) -> Option<String> {
    std::fs::read_to_string(folder()?.join(name)).ok()
}

/// Keeps `text` under `name`. A cache that cannot be written costs the compilation again, nothing else.
pub(super) fn keep(name: &str, text: &str) {
    if let Some(folder) = folder() {
        let _ = store(&folder, name, text);
    }
}

/// `$CKD_DET_CACHE`, else ckd-det in the user's cache folder.
fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("CKD_DET_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|folder| folder.join("ckd-det")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/ckd-det")))
}

/// Writes a file whole or not at all: other processes may read it meanwhile.
fn store(folder: &Path, name: &str, text: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let partial = folder.join(format!("{name}.{}.partial", std::process::id()));
    std::fs::write(&partial, text)?;
    std::fs::rename(partial, folder.join(name))
}
