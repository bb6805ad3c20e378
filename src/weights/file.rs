//! Files of named tensors.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;

use super::WeightsError;
use crate::fsx;

/// A file's tensors, as f32 on the host, and what else it says.
#[derive(Debug)]
pub struct WeightsFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Every floating-point tensor by its name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The safetensors header's text entries; empty for other formats.
    pub metadata: HashMap<String, String>,
    /// BLAKE3 of the file, hexadecimal.
    pub hash: String,
}

impl WeightsFile {
    /// Reads safetensors, or a torch zip file (`torch.save` since 2020) that is a plain state dict.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = fs::read(path).map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let (tensors, metadata) = if bytes.starts_with(b"PK\x03\x04") {
            drop(bytes);
            (torch_zip(path)?, HashMap::new())
        } else {
            let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
                format(format!(
                    "neither safetensors ({error}) nor a torch zip file; files of the older torch format can be \
                     saved again with torch.save(torch.load(...))"
                ))
            })?;
            let metadata = header.metadata().clone().unwrap_or_default();
            let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
                .map_err(|error| format(error.to_string()))?;
            (tensors.into_iter().collect(), metadata)
        };
        let tensors = tensors
            .into_iter()
            .filter(|(_, tensor): &(String, Tensor)| tensor.dtype().is_float())
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
            .collect::<Result<_, WeightsError>>()?;
        Ok(Self { path: path.to_owned(), tensors, metadata, hash })
    }
}

fn torch_zip(path: &Path) -> Result<Vec<(String, Tensor)>, WeightsError> {
    let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    for key in [None, Some("state_dict"), Some("model")] {
        let tensors =
            candle_core::pickle::read_all_with_key(path, key).map_err(|error| format(error.to_string()))?;
        if !tensors.is_empty() {
            return Ok(tensors);
        }
    }
    Err(format("the torch file holds no state dict (looked at its top, `state_dict` and `model`)".to_owned()))
}

/// Writes `tensors` (f32) and `metadata` to `path` as safetensors, atomically.
pub fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
) -> Result<(), WeightsError> {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<Vec<_>, WeightsError>>()?;
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| WeightsError::Format { path: path.to_owned(), reason: error.to_string() })?;
    Ok(fsx::write_atomic(path, &bytes)?)
}
