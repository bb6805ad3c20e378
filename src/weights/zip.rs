//! The files in a zip archive that are stored as they are, which is how torch stores tensors.
//!
//! Format: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16. Only slices of the archive are handed out, so
//! nothing that a header claims costs memory.

use std::collections::BTreeMap;

const END: &[u8] = b"PK\x05\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const FILE: &[u8] = b"PK\x03\x04";
/// The end record's own length, and the longest comment that may follow it.
const END_LENGTH: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;
/// What stands for a size or offset that is in a zip64 record.
const ELSEWHERE: u32 = u32::MAX;

/// Every file of the archive `bytes` by its name.
pub(super) fn files(bytes: &[u8]) -> Result<BTreeMap<String, &[u8]>, String> {
    let cut_short =
        || "it is damaged or cut short (its zip directory is not whole); copy it again".to_owned();
    let last = bytes.len().checked_sub(END_LENGTH).ok_or_else(cut_short)?;
    let end = (last.saturating_sub(LONGEST_COMMENT)..=last)
        .rev()
        .find(|&at| bytes[at..].starts_with(END))
        .ok_or_else(cut_short)?;
    let count = u16_at(bytes, end + 10).ok_or_else(cut_short)?;
    let mut at = u32_at(bytes, end + 16).ok_or_else(cut_short)? as usize;
    if count == u16::MAX || at == ELSEWHERE as usize {
        return Err(
            "it is a zip64 archive (above 4 GB or 65,534 files), which is not read; save it as safetensors"
                .to_owned(),
        );
    }
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let (name, file, next) = entry(bytes, at).ok_or_else(cut_short)?;
        files.insert(
            name.clone(),
            file.ok_or_else(|| format!("{name} in it is compressed, which torch never does"))?,
        );
        at = next;
    }
    Ok(files)
}

/// The name and content (`None` if compressed) of the directory entry at `at`, and where the next one is.
fn entry(bytes: &[u8], at: usize) -> Option<(String, Option<&[u8]>, usize)> {
    if !bytes.get(at..)?.starts_with(ENTRY) {
        return None;
    }
    let method = u16_at(bytes, at + 10)?;
    let (size, start) = (u32_at(bytes, at + 24)?, u32_at(bytes, at + 42)?);
    let lengths = [28, 30, 32].map(|field| u16_at(bytes, at + field).map(usize::from));
    let [Some(name_length), Some(extra), Some(comment)] = lengths else { return None };
    let name = bytes.get(at + 46..at + 46 + name_length)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let next = at + 46 + name_length + extra + comment;
    if method != 0 {
        return Some((name, None, next));
    }
    if size == ELSEWHERE || start == ELSEWHERE {
        return None;
    }
    let start = start as usize;
    if !bytes.get(start..)?.starts_with(FILE) {
        return None;
    }
    let own_lengths = usize::from(u16_at(bytes, start + 26)?) + usize::from(u16_at(bytes, start + 28)?);
    let content = start + 30 + own_lengths;
    Some((name, Some(bytes.get(content..content + size as usize)?), next))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
