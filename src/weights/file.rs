//! Files of named tensors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::{WeightsError, torch};
use crate::fsx;

/// A file's tensors, as f32 on the host, and what else it says.
#[derive(Debug)]
pub struct WeightsFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Every floating-point tensor by its name; integers (counters) are left out.
    pub tensors: BTreeMap<String, Tensor>,
    /// The safetensors header's text entries; empty for other formats.
    pub metadata: BTreeMap<String, String>,
    /// BLAKE3 of the file, hexadecimal.
    pub hash: String,
}

impl WeightsFile {
    /// Reads safetensors, or the state dict in a torch zip file (`torch.save` since 2020).
    ///
    /// The format is told by the first bytes, and no more is read of a file that has neither. Memory is bounded by
    /// the file's size, whatever its header claims.
    ///
    /// # Errors
    /// [`WeightsError::Read`], or [`WeightsError::Format`] for anything that is not whole and well-formed.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let bytes = match recognise(path).map_err(read_error(path))? {
            Some(bytes) => bytes,
            None => {
                return Err(format(
                    "it is neither safetensors nor a torch zip file; files of the older torch format can be saved again \
                     with torch.save(torch.load(...))"
                        .to_owned(),
                ));
            }
        };
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let (tensors, metadata) = match bytes.starts_with(ZIP) {
            true => (torch::state_dict(&bytes).map_err(format)?, BTreeMap::new()),
            false => safetensors(&bytes).map_err(format)?,
        };
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
            .collect::<Result<_, WeightsError>>()?;
        Ok(Self { path: path.to_owned(), tensors, metadata, hash })
    }
}

const ZIP: &[u8] = b"PK\x03\x04";

/// The content of the file at `path` if it begins like one of the formats.
fn recognise(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut start = Vec::with_capacity(9);
    (&file).take(9).read_to_end(&mut start)?;
    // Safetensors: the length of the header, then the header, a JSON object.
    let is_safetensors = match start.as_slice() {
        &[a, b, c, d, e, f, g, h, b'{'] => {
            u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_add(8).is_some_and(|end| end <= about.len())
        }
        _ => false,
    };
    if !is_safetensors && !start.starts_with(ZIP) {
        return Ok(None);
    }
    fs::read(path).map(Some)
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError + '_ {
    move |source| WeightsError::Read { path: path.to_owned(), source }
}

type Content = (Vec<(String, Tensor)>, BTreeMap<String, String>);

fn safetensors(bytes: &[u8]) -> Result<Content, String> {
    let damaged =
        |error: &dyn std::fmt::Display| format!("it is damaged or cut short: {error}; copy it again");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(&error))?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::U16
            | Dtype::I16
            | Dtype::U32
            | Dtype::I32
            | Dtype::U64
            | Dtype::I64 => continue,
            other => return Err(format!("{name} is of type {other:?}; save it as f32")),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)
            .map_err(|error| format!("{name}: {error}"))?;
        tensors.push((name.to_owned(), tensor));
    }
    let metadata =
        header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((tensors, metadata))
}

/// Writes `tensors` (as f32) and `metadata` to `path` as safetensors, atomically. Equal content gives equal bytes.
pub fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    // The safetensors crate keeps the entries of the header in a hash map, whose order changes.
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!(metadata));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * size_of::<f32>();
        header.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end] }),
        );
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(fsx::write_atomic_with(path, |file| {
        let mut out = BufWriter::new(file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in tensors.values() {
            let values = values(tensor).map_err(io::Error::other)?;
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            out.write_all(&bytes)?;
        }
        out.flush()
    })?)
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
