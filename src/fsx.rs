//! Writing files: the only place in the program that does.
//!
//! A file is written whole or not at all: into a temporary file beside its target, flushed to the
//! disk, then renamed over it, and the folder is flushed too. A reader, or a run that resumes after
//! a power cut, sees the old file or the new one. On Windows the rename replaces the target too, and fails while
//! another program has it open.
//!
//! A symbolic link stays, and the file that it leads to is replaced. Devices, pipes and standard output are written to,
//! once all that goes there is at hand.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The beginning and the end of a temporary file's name.
const TEMPORARY: (&str, &str) = (".write-", ".partial");

/// Files that a process that leaves takes along: temporary ones that are being written, and locks.
static UNDER_WAY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn under_way() -> MutexGuard<'static, Vec<PathBuf>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is being written, and the locks, for a process that is about to leave: no write begins or ends any more.
pub fn abandon_writes() {
    let paths = under_way();
    for path in paths.iter() {
        let _ = fs::remove_file(path);
    }
    std::mem::forget(paths);
}

/// Removes temporary files that killed writes left in `folder` and below it; returns how many there were. No process may
/// be writing there.
pub fn remove_temporary(folder: &Path) -> Result<usize, WriteError> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let kind = entry.file_type().map_err(at(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            removed += remove_temporary(&entry.path())?;
        } else if name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1) {
            remove(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes all that is in `folder`, but for locks that are held.
pub fn empty_folder(folder: &Path) -> Result<(), WriteError> {
    let held = under_way().clone();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        match path.is_dir() {
            true => fs::remove_dir_all(&path).map_err(at(&path))?,
            false if held.contains(&path) => {}
            false => remove(&path)?,
        }
    }
    Ok(())
}

/// Removes `folder` if nothing is in it.
pub fn remove_if_empty(folder: &Path) {
    // Not empty, or gone: both are fine.
    let _ = fs::remove_dir(folder);
}

/// Creates `folder` and its parents; an existing folder is fine.
pub fn create_folder(folder: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(folder).map_err(at(folder))
}

/// Standard output as a path, on every platform.
pub const STDOUT: &str = "/dev/stdout";

/// Symbolic links that are followed one after the other, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// Destination of what is written to a path.
#[derive(Debug)]
enum Target {
    /// A regular file or a new one, with symbolic links followed.
    File(PathBuf),
    /// The process's own standard output, after what was printed before.
    Stdout,
    /// The process's own standard error.
    Stderr,
    /// A pipe, a terminal or another device.
    Stream(PathBuf),
}

impl Target {
    fn of(path: &Path) -> io::Result<Self> {
        let mut place = path.to_owned();
        for _ in 0..MOST_LINKS {
            if let Some(open) = Self::open_already(&place) {
                return Ok(open);
            }
            let kind = match fs::symlink_metadata(&place) {
                Ok(found) => found.file_type(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::File(place)),
                Err(error) => return Err(error),
            };
            if kind.is_symlink() {
                place = folder_of(&place).join(fs::read_link(&place)?);
            } else if kind.is_file() {
                return Ok(Self::File(place));
            } else if kind.is_dir() {
                return Err(io::Error::new(
                    io::ErrorKind::IsADirectory,
                    "it is a folder, and a file is wanted",
                ));
            } else if is_block_device(kind) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is a disk, and a file is wanted",
                ));
            } else {
                return Ok(Self::Stream(place));
            }
        }
        Err(io::Error::other("too many symbolic links, one after the other"))
    }

    /// The target of a path that names an open descriptor of this process (`/dev/stdout`, `/dev/fd/3`). Where the descriptor
    /// is of a regular file, the file is still no path to replace: others write to the same descriptor.
    fn open_already(path: &Path) -> Option<Self> {
        let name = match path.to_str()? {
            STDOUT => "1",
            "/dev/stderr" => "2",
            _ => {
                let descriptors = Path::new("/dev/fd").canonicalize().ok()?;
                let is_descriptor = path.parent()?.canonicalize().is_ok_and(|folder| folder == descriptors);
                path.file_name()?.to_str().filter(|_| is_descriptor)?
            }
        };
        Some(match name {
            "1" => Self::Stdout,
            "2" => Self::Stderr,
            _ => Self::Stream(path.to_owned()),
        })
    }
}

#[cfg(unix)]
fn is_block_device(kind: fs::FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&kind)
}

#[cfg(not(unix))]
fn is_block_device(_: fs::FileType) -> bool {
    false
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether `path` leads to standard output.
pub fn is_stdout(path: &Path) -> bool {
    matches!(Target::of(path), Ok(Target::Stdout))
}

/// Whether `path` leads to a stream: standard output, a pipe, a device.
pub fn is_stream(path: &Path) -> bool {
    matches!(Target::of(path), Ok(Target::Stdout | Target::Stderr | Target::Stream(_)))
}

/// Whether `path` names a regular file that a write would replace.
pub fn is_replaced(path: &Path) -> bool {
    matches!(Target::of(path), Ok(Target::File(place)) if place.exists())
}

/// Checks that `path` can be written, and leaves nothing there. Folders on the way may be missing.
///
/// # Errors
/// A folder, a disk, a folder without permission.
pub fn check_output(path: &Path) -> Result<(), WriteError> {
    let Target::File(place) = Target::of(path).map_err(at(path))? else { return Ok(()) };
    let above = folder_of(&place).ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let mut probe = tempfile::Builder::new();
    probe.prefix(TEMPORARY.0).suffix(TEMPORARY.1).tempfile_in(above).map(drop).map_err(at(path))
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
    let mut draft = Draft::new(path)?;
    fill(draft.file()).map_err(at(path))?;
    draft.commit()
}

/// A file that is being written: it takes its place when it is [committed](Self::commit), and an earlier one stays if it is
/// dropped before.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// A temporary file beside the place that it will have.
    Beside { temporary: tempfile::NamedTempFile<File>, place: PathBuf, listed: Listed },
    /// A file without a name, for a stream: archives are not written from front to back, and a failure half-way sends
    /// nothing.
    Apart { whole: File, target: Target },
}

/// A temporary file's path among those that are under way.
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        under_way().retain(|other| *other != self.0);
    }
}

impl Draft {
    /// A draft of the file at `path`; folders on the way are created.
    ///
    /// # Errors
    /// A path that cannot be written.
    pub fn new(path: &Path) -> Result<Self, WriteError> {
        let content = match Target::of(path).map_err(at(path))? {
            Target::File(place) => Content::beside(place)?,
            target => Content::Apart { whole: tempfile::tempfile().map_err(at(path))?, target },
        };
        Ok(Self { path: path.to_owned(), content })
    }

    /// The path that the file is written for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&mut self) -> &mut File {
        match &mut self.content {
            Content::Beside { temporary, .. } => temporary.as_file_mut(),
            Content::Apart { whole, .. } => whole,
        }
    }

    /// Puts the file in its place, with the permissions of whatever is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn commit(self) -> Result<(), WriteError> {
        match self.content {
            Content::Beside { temporary, place, listed } => place_at(&place, temporary, listed),
            Content::Apart { whole, target } => pour(&target, whole).map_err(at(&self.path)),
        }
    }

    /// Commits the draft behind a buffer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn committed(buffered: BufWriter<Self>) -> Result<(), WriteError> {
        match buffered.into_inner() {
            Ok(draft) => draft.commit(),
            Err(error) => {
                let (source, buffered) = error.into_parts();
                Err(at(buffered.get_ref().path())(source))
            }
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Content {
    fn beside(place: PathBuf) -> Result<Self, WriteError> {
        let folder = folder_of(&place);
        create_folder(folder)?;
        let mut paths = under_way();
        // Permissions as any new file's (less the user's umask), not tempfile's private ones.
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY.0)
            .suffix(TEMPORARY.1)
            .make_in(folder, |name| OpenOptions::new().write(true).create_new(true).open(name))
            .map_err(at(&place))?;
        let listed = Listed(temporary.path().to_owned());
        paths.push(listed.0.clone());
        drop(paths);
        Ok(Self::Beside { temporary, place, listed })
    }
}

/// Renames a temporary file over whatever is at `place`.
fn place_at(
    place: &Path,
    temporary: tempfile::NamedTempFile<File>,
    listed: Listed,
) -> Result<(), WriteError> {
    temporary.as_file().sync_all().map_err(at(place))?;
    if let Ok(before) = fs::metadata(place) {
        // A file of another user's keeps no permissions, but is written all the same.
        let _ = temporary.as_file().set_permissions(before.permissions());
    }
    // Between the list and the new name nobody may leave.
    let paths = under_way();
    temporary.persist(place).map_err(|failure| at(place)(failure.error))?;
    drop(paths);
    drop(listed);
    flush_folder(folder_of(place)).map_err(at(place))
}

/// Sends a file to a stream.
fn pour(target: &Target, mut whole: File) -> io::Result<()> {
    whole.rewind()?;
    let (mut stream, is_terminal): (Box<dyn Write>, bool) = match target {
        Target::Stdout => (Box::new(io::stdout().lock()), io::stdout().is_terminal()),
        Target::Stderr => (Box::new(io::stderr().lock()), io::stderr().is_terminal()),
        Target::Stream(path) | Target::File(path) => {
            let file = OpenOptions::new().append(true).open(path)?;
            let is_terminal = file.is_terminal();
            (Box::new(file), is_terminal)
        }
    };
    if is_terminal && !is_text(&mut whole)? {
        return Err(io::Error::other("it is a terminal, and this is no text: lead it to a file or a pipe"));
    }
    io::copy(&mut whole, &mut stream)?;
    stream.flush()
}

/// Whether the beginning of `file` is text; leaves the file at its beginning.
fn is_text(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(4096).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace()))
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

/// A file that one process holds: the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// The text of a process that ended without giving the file back.
    pub left_by: Option<String>,
}

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held: {by}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// The holder's text.
        by: String,
        /// Whether the operating system says so; on file systems without locks, the text alone does.
        is_certain: bool,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Whether a process holds the lock at `path`, as far as the system tells.
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Takes the lock at `path`, in a folder that exists, and writes `text` into it for others to read.
///
/// # Errors
/// [`LockError::Held`] while another process has it.
pub fn lock(path: &Path, text: &str) -> Result<Lock, LockError> {
    loop {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(at(path))?;
        let has_lock = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => return Err(held(path, file, true)),
            Err(TryLockError::Error(_)) => false,
        };
        // Its last holder may just have removed it.
        if !is_at(&file, path) {
            continue;
        }
        let mut before = String::new();
        // What cannot be read names nobody.
        let _ = file.read_to_string(&mut before);
        if !has_lock && !before.is_empty() {
            return Err(held(path, file, false));
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        write(&mut file).map_err(at(path))?;
        let left_by = Some(before.trim().to_owned()).filter(|before| !before.is_empty());
        under_way().push(path.to_owned());
        return Ok(Lock { file, path: path.to_owned(), left_by });
    }
}

fn held(path: &Path, mut file: File, is_certain: bool) -> LockError {
    let mut by = String::new();
    // On Windows nobody else can read it.
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut by));
    LockError::Held { path: path.to_owned(), by: by.trim().to_owned(), is_certain }
}

impl Lock {
    /// Whether the file is where it was: its folder was neither removed nor renamed.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Says that the file's folder was renamed, so that the file is at `path` now.
    pub fn move_to(&mut self, path: PathBuf) {
        let mut paths = under_way();
        paths.retain(|other| *other != self.path);
        paths.push(path.clone());
        self.path = path;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        under_way().retain(|other| *other != self.path);
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` names the open `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes a file.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    fs::remove_file(path).map_err(at(path))
}

/// Moves a file or folder to a name beside it.
pub fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    fs::rename(from, to).map_err(at(from))
}
