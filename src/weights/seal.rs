//! The hash that a safetensors file of ours carries over all its content.
//!
//! It is an entry of the header, `ckd_det.blake3`, and is computed over the whole file with zeros in its own place.

use std::io::{self, Seek, SeekFrom, Write};

/// The entry's name.
pub(super) const KEY: &str = "ckd_det.blake3";

/// The entry's value while the hash is computed.
pub(super) const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The finding about a file's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// The content is what the hash is of.
    Whole,
    /// There is no hash: another program wrote the file, or an earlier version of this one.
    Absent,
    /// The content is not what the hash is of.
    Broken,
}

/// Compares the content of a safetensors file with the hash in its header.
pub(super) fn check(bytes: &[u8]) -> Seal {
    let Some(at) = place(bytes) else { return Seal::Absent };
    let end = at + BLANK.len();
    let Some(said) = bytes.get(at..end) else { return Seal::Broken };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at]).update(BLANK.as_bytes()).update(&bytes[end..]);
    match hasher.finalize().to_hex().as_bytes() == said {
        true => Seal::Whole,
        false => Seal::Broken,
    }
}

/// Place of the hash in the file that begins with `bytes`.
pub(super) fn place(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    let end = usize::try_from(u64::from_le_bytes(length)).ok()?.checked_add(8)?;
    let header = bytes.get(8..end.min(bytes.len()))?;
    // Inside of another entry's text every quote has a backslash before it.
    let entry = format!("\"{KEY}\":\"");
    let found = header.windows(entry.len()).position(|part| part == entry.as_bytes())?;
    Some(8 + found + entry.len())
}

/// A writer that hashes all that passes through it.
pub(super) struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write + Seek> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    /// Writes the hash of everything so far at the place `at` of the file.
    pub(super) fn seal(mut self, at: usize) -> io::Result<()> {
        let hash = self.hasher.finalize().to_hex();
        self.inner.seek(SeekFrom::Start(at as u64))?;
        self.inner.write_all(hash.as_bytes())?;
        self.inner.flush()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
