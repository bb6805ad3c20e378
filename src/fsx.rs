//! Writing files: the only place in the program that does.
//!
//! A file is written whole or not at all: into a temporary file beside its target, flushed to the
//! disk, then renamed over it, and the folder is flushed too. A reader, or a run that resumes after
//! a power cut, sees the old file or the new one. On Windows the rename replaces the target too, and fails while
//! another program has it open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct WriteError {
    /// The file or folder in question.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError + '_ {
    move |source| WriteError { path: path.to_owned(), source }
}

/// Creates `folder` and its parents; an existing folder is fine.
pub fn create_folder(folder: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(folder).map_err(at(folder))
}

/// Writes `bytes` to `path` atomically, creating the folders on the way.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// Like [`write_atomic`], with the content produced by `fill`; nothing remains if `fill` fails.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), WriteError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(folder)?;
    // Permissions as any new file's (less the user's umask), not tempfile's private ones.
    let mut temporary = tempfile::Builder::new()
        .prefix(".write-")
        .suffix(".partial")
        .make_in(folder, |name| OpenOptions::new().write(true).create_new(true).open(name))
        .map_err(at(path))?;
    fill(temporary.as_file_mut()).map_err(at(path))?;
    temporary.as_file().sync_all().map_err(at(path))?;
    temporary.persist(path).map_err(|failure| at(path)(failure.error))?;
    flush_folder(folder).map_err(at(path))
}

/// Flushes a folder, and so the name of a file renamed in it. Windows opens no folder for that; NTFS has names in its
/// journal.
fn flush_folder(folder: &Path) -> io::Result<()> {
    if cfg!(windows) { Ok(()) } else { File::open(folder)?.sync_all() }
}

/// Copies the file `from` to `to`, whole or not at all, creating the folders on the way.
pub fn copy(from: &Path, to: &Path) -> Result<(), WriteError> {
    let mut source = File::open(from).map_err(at(from))?;
    write_atomic_with(to, |file| io::copy(&mut source, file).map(drop))
}

/// Opens `path` for appending whole lines (a log), creating it and its folders.
pub fn open_log(path: &Path) -> Result<File, WriteError> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(at(path))
}

/// Cuts `path` to its first `bytes` bytes: what a resumed run takes back of its log.
pub fn truncate(path: &Path, bytes: u64) -> Result<(), WriteError> {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes)).map_err(at(path))
}

/// Removes a file.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    fs::remove_file(path).map_err(at(path))
}

/// Moves a file or folder to a name beside it.
pub fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).map_err(at(from))
}
