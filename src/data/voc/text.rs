//! Text of XML files and lists in the encodings that annotation tools write.

use std::path::Path;

use super::error::VocError;

/// Reads a file that is UTF-8 (with or without a byte order mark), or ISO-8859-1 if it says so.
///
/// # Errors
/// If it cannot be read or decoded.
pub(super) fn read_text(path: &Path) -> Result<String, VocError> {
    let bytes = std::fs::read(path).map_err(|source| VocError::Read { path: path.to_owned(), source })?;
    decoded(bytes).map_err(|problem| VocError::Annotation { path: path.to_owned(), problem })
}

fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => rest.to_vec(),
        None => bytes,
    };
    let says_latin = |bytes: &[u8]| {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).to_ascii_lowercase();
        let head = head.split("?>").next().unwrap_or_default().to_owned();
        ["iso-8859-1", "latin1", "latin-1", "windows-1252"].iter().any(|name| head.contains(name))
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Latin-1's bytes are the first 256 characters of Unicode.
        Err(error) if says_latin(error.as_bytes()) => {
            Ok(error.as_bytes().iter().map(|&byte| char::from(byte)).collect())
        }
        Err(error) => Err(format!(
            "is not UTF-8 text (byte {}); save it as UTF-8, or declare its encoding as ISO-8859-1",
            error.utf8_error().valid_up_to()
        )),
    }
}
