//! Files of named tensors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ckd_detectors::names::{ChannelOrder, Renaming, Scheme};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::python_config::PythonConfig;
use super::seal::{self, Hashing, Seal};
use super::selection::Selection;
use super::state_dict::{Remarks, StateDict, pixel_values};
use super::stored::{Budget, Entry, NumberType, StoredTensor, View, row_major};
use super::torch::{self, LEGACY_MAGIC};
use super::{TrainedEpsilon, WeightsError, epsilon, numpy};
use crate::fsx;

/// Name of the weights in a folder in the layout of the Hugging Face Hub.
pub const HUB_WEIGHTS: &str = "model.safetensors";

/// A file's tensors, as f32 on the host under torchvision's names, and what else it says.
#[derive(Debug)]
pub struct WeightsFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Format of the file.
    pub format: Format,
    /// Every floating-point tensor by torchvision's name for it; what has none keeps its own. Integers (counters) are
    /// left out.
    pub tensors: BTreeMap<String, Tensor>,
    /// Entries of the file, under its own names.
    pub entries: BTreeMap<String, Entry>,
    /// Naming scheme of the file, and the result of renaming.
    pub names: Renaming,
    /// Remarks of a checkpoint on its tensors.
    pub remarks: Remarks,
    /// The epsilon that its batch norms were trained with, if not 1e-5; their weights make up for it.
    pub trained_epsilon: Option<TrainedEpsilon>,
    /// The safetensors header's text entries; empty for other formats.
    pub metadata: BTreeMap<String, String>,
    /// BLAKE3 of the file, hexadecimal.
    pub hash: String,
    /// Whether the file carries a hash over all its content, as those that are written here do; it was checked.
    pub is_sealed: bool,
    /// Whether numbers that are infinite, or not numbers, may be put into a network.
    pub allows_non_finite: bool,
}

/// Format of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// A torch zip file.
    TorchZip,
    /// A torch file of before 2020.
    TorchLegacy,
    /// A pickle of numpy arrays.
    NumpyPickle,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch zip file",
            Self::TorchLegacy => "legacy torch file",
            Self::NumpyPickle => "pickle of numpy arrays",
        })
    }
}

impl WeightsFile {
    /// Reads the file at `path` as [`read_as`](Self::read_as) does, its state dict found by itself.
    ///
    /// Of a folder in the layout of the Hugging Face Hub, its [`HUB_WEIGHTS`] are read.
    ///
    /// # Errors
    /// [`WeightsError::Read`], or [`WeightsError::Format`] for anything that is not whole and well-formed.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        Self::read_as(path, &Selection::default())
    }

    /// Reads safetensors, a torch file (zip or legacy) or a pickle of numpy arrays, whatever its names: the conventions of
    /// Detectron2 and MMDetection are turned into torchvision's.
    ///
    /// The format is told by the first bytes, and no more is read of a file that has none of them. Memory is bounded by
    /// the file's size, whatever its header claims.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// use candle_core::{Device, Tensor};
    /// use ckd_det::weights::WeightsFile;
    /// use ckd_det::weights::file::write_safetensors;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.safetensors");
    /// let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
    /// write_safetensors(&path, &BTreeMap::from([("fc.weight".to_owned(), weight)]), &BTreeMap::new())?;
    /// let file = WeightsFile::read(&path)?;
    /// assert_eq!(file.tensors["fc.weight"].dims(), [2, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WeightsError::Read`], or [`WeightsError::Format`] for anything that is not whole and well-formed, or does not
    /// have what `selection` names.
    pub fn read_as(path: &Path, selection: &Selection) -> Result<Self, WeightsError> {
        let of_folder = path.join(HUB_WEIGHTS);
        let wrong = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let path = match path.is_dir() {
            true if of_folder.is_file() => &*of_folder,
            true => {
                return Err(wrong(format!(
                    "it is a folder without {HUB_WEIGHTS}; name a weights file, or a run with --run"
                )));
            }
            false => path,
        };
        let wrong = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let Some((format, bytes)) = recognise(path).map_err(read_error(path))? else {
            return Err(wrong(
                "it is neither safetensors nor a torch file (.pth, .pt, .th) nor a pickle of arrays (.pkl)"
                    .to_owned(),
            ));
        };
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let (mut metadata, mut is_sealed) = (BTreeMap::new(), false);
        let under = selection.under.as_deref();
        let StateDict { tensors: mut stored, mut remarks } = match format {
            Format::Safetensors if under.is_some() => {
                return Err(wrong("a safetensors file has one state dict; leave out --under".to_owned()));
            }
            Format::Safetensors => {
                let (tensors, header) = safetensors(&bytes).map_err(wrong)?;
                metadata = header;
                is_sealed = seal_of(&bytes, &mut metadata).map_err(wrong)?;
                StateDict { tensors, ..StateDict::default() }
            }
            Format::TorchZip => torch::zip_file(&bytes, under).map_err(wrong)?,
            Format::TorchLegacy => torch::legacy_file(&bytes, under).map_err(wrong)?,
            Format::NumpyPickle => numpy::file(&bytes, under).map_err(wrong)?,
        };
        // What was written here has the epsilon of here.
        let is_own = metadata.keys().any(|key| key.starts_with("ckd_det."));
        let published = if is_own { None } else { epsilon::of_published(path, &bytes) };
        drop(bytes);
        selection.apply(&mut stored).map_err(wrong)?;
        let (mut tensors, mut entries) = (BTreeMap::new(), BTreeMap::new());
        for StoredTensor { name, entry, values } in stored {
            tensors.extend(values.map(|values| (name.clone(), values)));
            entries.insert(name, entry);
        }
        let scheme = Scheme::of(entries.keys().map(String::as_str));
        remarks.pixel_mean = pixel_values(&tensors, "pixel_mean");
        remarks.pixel_std = pixel_values(&tensors, "pixel_std");
        let order = channel_order(scheme, &remarks);
        let (names, tensors) = scheme.rename(order, tensors).map_err(|error| wrong(error.to_string()))?;
        let (path, trained_epsilon) = (path.to_owned(), None);
        let file = Self {
            path,
            format,
            tensors,
            entries,
            names,
            remarks,
            trained_epsilon,
            metadata,
            hash,
            is_sealed,
            allows_non_finite: false,
        };
        // The published ones are frozen; norms that train count their batches, and have PyTorch's epsilon.
        let counts_batches = file.entries.keys().any(|name| name.ends_with("num_batches_tracked"));
        match published.filter(|_| !counts_batches) {
            Some(trained) => file.trained_with_epsilon(trained),
            None => Ok(file),
        }
    }
}

/// Checks that the safetensors file at `path`, written here, is whole.
///
/// # Errors
/// [`WeightsError::Read`], or [`WeightsError::Format`] for a damaged file. A file without a hash, written by an earlier
/// version, is only checked for its length.
pub fn check_whole(path: &Path) -> Result<(), WeightsError> {
    let wrong = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    let Some((Format::Safetensors, bytes)) = recognise(path).map_err(read_error(path))? else {
        return Err(wrong("it is no safetensors file".to_owned()));
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| wrong(cut_short(&error)))?;
    SafeTensors::deserialize(&bytes).map_err(|error| wrong(cut_short(&error)))?;
    let mut metadata =
        header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    seal_of(&bytes, &mut metadata).map_err(wrong).map(drop)
}

/// Takes the file's hash out of its `metadata`, and says whether there was one.
///
/// # Errors
/// If the content has another hash.
fn seal_of(bytes: &[u8], metadata: &mut BTreeMap<String, String>) -> Result<bool, String> {
    let listed = metadata.remove(seal::KEY).is_some();
    match seal::check(bytes) {
        Seal::Whole => Ok(true),
        Seal::Absent if !listed => Ok(false),
        Seal::Absent | Seal::Broken => Err(format!(
            "its content is not what its hash says ({}): it was damaged after it was written; copy it again. (A program \
             that changes it on purpose must leave that entry out of the header.)",
            seal::KEY
        )),
    }
}

fn cut_short(error: &dyn std::fmt::Display) -> String {
    format!("it is damaged or cut short: {error}; copy it again")
}

const ZIP: &[u8] = b"PK\x03\x04";

/// The longest header that is read. The format allows 100 MB; that of the largest network has a third of a megabyte.
const SAFETENSORS_HEADER: u64 = 16 << 20;

/// More tensors than any network has with its optimiser.
const MOST_TENSORS: usize = 1 << 16;

/// The format and content of the file at `path` if it begins like one of the formats.
fn recognise(path: &Path) -> io::Result<Option<(Format, Vec<u8>)>> {
    // Before it is opened: to open a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let mut start = Vec::new();
    (&file).take(LEGACY_MAGIC.len() as u64).read_to_end(&mut start)?;
    // Safetensors: the length of the header, then the header, a JSON object.
    let is_safetensors = match start.as_slice() {
        &[a, b, c, d, e, f, g, h, b'{', ..] => {
            u64::from_le_bytes([a, b, c, d, e, f, g, h]) <= SAFETENSORS_HEADER
        }
        _ => false,
    };
    let format = match start.as_slice() {
        _ if is_safetensors => Format::Safetensors,
        start if start.starts_with(ZIP) => Format::TorchZip,
        start if start.starts_with(LEGACY_MAGIC) => Format::TorchLegacy,
        // A pickle of protocol 2 to 5 that begins with a dictionary, a frame, or the name of a class.
        &[0x80, 2..=5, b'}' | 0x95 | b'c', ..] => Format::NumpyPickle,
        _ => return Ok(None),
    };
    Ok(Some((format, fs::read(path)?)))
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> WeightsError + '_ {
    move |source| WeightsError::Read { path: path.to_owned(), source }
}

type Content = (Vec<StoredTensor>, BTreeMap<String, String>);

fn safetensors(bytes: &[u8]) -> Result<Content, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| cut_short(&error))?;
    if header.offset_keys().len() > MOST_TENSORS {
        return Err(format!("it names more than {MOST_TENSORS} tensors, more than any network has"));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| cut_short(&error))?;
    let mut budget = Budget::of_file(bytes.len());
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let number = match view.dtype() {
            Dtype::F16 => NumberType::F16,
            Dtype::BF16 => NumberType::BF16,
            Dtype::F32 => NumberType::F32,
            Dtype::F64 => NumberType::F64,
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => NumberType::Integer(1),
            Dtype::U16 | Dtype::I16 => NumberType::Integer(2),
            Dtype::U32 | Dtype::I32 => NumberType::Integer(4),
            Dtype::U64 | Dtype::I64 => NumberType::Integer(8),
            other => return Err(format!("{name} is of type {other:?}; save it as f32")),
        };
        let shape = view.shape().to_vec();
        let strides = row_major(&shape).ok_or_else(|| format!("{name}: its shape is damaged"))?;
        let view = View { number, bytes: view.data(), offset: 0, shape, strides };
        tensors.push(view.read(name, &mut budget)?);
    }
    let metadata =
        header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((tensors, metadata))
}

/// The order of the colours that the network was trained with.
///
/// Detectron2 reads images as BGR unless its weights came from torchvision; its older files say so by their means.
fn channel_order(scheme: Scheme, remarks: &Remarks) -> ChannelOrder {
    match scheme {
        Scheme::Torchvision | Scheme::FlatMobileNet => ChannelOrder::Rgb,
        Scheme::Caffe2 => ChannelOrder::Bgr,
        Scheme::Detectron2 => match (remarks.pixel_mean, remarks.author.as_deref()) {
            // Of photographs, red is the brightest.
            (Some([first, _, last]), _) if first > last => ChannelOrder::Rgb,
            (None, Some("torchvision" | "timm")) => ChannelOrder::Rgb,
            _ => ChannelOrder::Bgr,
        },
        Scheme::MmDetection => PythonConfig::of(remarks).channel_order(),
    }
}

/// Writes `tensors` (as f32) and `metadata` to `path` as safetensors, atomically, with a hash over all of it. Equal content
/// gives equal bytes.
pub fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    // The safetensors crate keeps the entries of the header in a hash map, whose order changes.
    let mut header = serde_json::Map::new();
    let mut metadata = metadata.clone();
    metadata.insert(seal::KEY.to_owned(), seal::BLANK.to_owned());
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
    let start = [(header.len() as u64).to_le_bytes().as_slice(), &header].concat();
    let hash_at = seal::place(&start).expect("the entry was just made");
    Ok(fsx::write_atomic_with(path, |file| {
        let mut out = Hashing::new(BufWriter::new(file));
        out.write_all(&start)?;
        for tensor in tensors.values() {
            let values = values(tensor).map_err(io::Error::other)?;
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            out.write_all(&bytes)?;
        }
        out.seal(hash_at)
    })?)
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
