//! The files in a zip archive that are stored as they are, which is how torch stores tensors.

use std::collections::BTreeMap;
use std::io::Cursor;

use zip::{CompressionMethod, ZipArchive};

/// Every file of the archive `bytes` by its name. Only slices of the archive are handed out, so nothing that a header
/// claims costs memory.
///
/// # Errors
/// If the directory is not whole, or a file does not have its checksum. Where none has, torch was told to leave checksums out
/// (`set_crc32_options`).
pub(super) fn files(bytes: &[u8]) -> Result<BTreeMap<String, &[u8]>, String> {
    let cut_short =
        || "it is damaged or cut short (its zip directory is not whole); copy it again".to_owned();
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|_| cut_short())?;
    let mut files = BTreeMap::new();
    let mut changed = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|_| cut_short())?;
        let name = file.name().map_err(|_| cut_short())?.into_owned();
        if file.compression() != CompressionMethod::Stored {
            return Err(match name.contains("/code/") {
                true => "it is a TorchScript program (torch.jit.save); save its weights with torch.save(model.state_dict(), FILE)"
                    .to_owned(),
                false => format!("{name} in it is compressed, which torch never does"),
            });
        }
        let content = || {
            let start = usize::try_from(file.data_start()?).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(file.compressed_size()).ok()?)?)
        };
        let content = content().ok_or_else(cut_short)?;
        if crc32fast::hash(content) != file.crc32() {
            changed.push(name.clone());
        }
        files.insert(name, content);
    }
    match changed.first() {
        Some(name) if changed.len() < files.len() => {
            Err(format!("it is damaged: {name} in it does not have its checksum; copy it again"))
        }
        _ => Ok(files),
    }
}
