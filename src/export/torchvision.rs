//! A `.pth` as `torch.save(model.state_dict())` writes it, for torchvision's `FasterRCNN` and `RetinaNet`.
//!
//! Our tensors have torchvision's names and shapes already. What is added is `num_batches_tracked`, which
//! `nn.BatchNorm2d` asks for under `strict=True` and `FrozenBatchNorm2d` passes over.
//!
//! The file is torch's format since 2020: an uncompressed zip archive with a pickle (protocol 2) that describes the
//! tensors, and a file for each one's bytes. The pickle names nothing but `OrderedDict` and torch's own tensor makers, so
//! `torch.load(..., weights_only=True)` reads it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use candle_core::Tensor;

use crate::fsx::{self, WriteError};

/// Where the archive's files lie in it.
const FOLDER: &str = "student";

/// Alignment of the tensors' bytes in the file, as torch writes them.
const ALIGNMENT: usize = 64;

/// A tensor of the file.
struct Stored {
    dims: Vec<usize>,
    /// torch's class of its storage.
    storage: &'static str,
    count: usize,
    bytes: Vec<u8>,
}

/// Writes `tensors` to `path`, atomically. Equal tensors give equal bytes.
///
/// # Errors
/// If the file cannot be written, or would be 4 GiB or more.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), WriteError> {
    fsx::write_atomic_with(path, |file| {
        let stored = with_counters(tensors).map_err(io::Error::other)?;
        let mut archive = Archive::new(BufWriter::new(file));
        archive.add("data.pkl", &pickle(&stored)?)?;
        archive.add("byteorder", b"little")?;
        for (number, tensor) in stored.values().enumerate() {
            archive.add(&format!("data/{number}"), &tensor.bytes)?;
        }
        archive.add("version", b"3\n")?;
        archive.finish()
    })
}

/// The tensors as they are stored, and a counter beside each batch norm's running variance.
fn with_counters(tensors: &BTreeMap<String, Tensor>) -> candle_core::Result<BTreeMap<String, Stored>> {
    let mut stored = BTreeMap::new();
    for (name, tensor) in tensors {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = tensor.dims().to_vec();
        stored.insert(name.clone(), Stored { dims, storage: "FloatStorage", count: values.len(), bytes });
        if let Some(norm) = name.strip_suffix("running_var") {
            let counter = Stored { dims: Vec::new(), storage: "LongStorage", count: 1, bytes: vec![0; 8] };
            stored.insert(format!("{norm}num_batches_tracked"), counter);
        }
    }
    Ok(stored)
}

/// An `OrderedDict` of tensors in pickle's protocol 2.
fn pickle(tensors: &BTreeMap<String, Stored>) -> io::Result<Vec<u8>> {
    let mut out = Pickle(vec![0x80, 2]);
    out.ordered_dict();
    out.0.push(b'(');
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        out.text(name)?;
        out.global("torch._utils", "_rebuild_tensor_v2");
        out.0.push(b'(');
        // The storage, by a persistent id: ('storage', class, key, device, elements).
        out.0.push(b'(');
        out.text("storage")?;
        out.global("torch", tensor.storage);
        out.text(&number.to_string())?;
        out.text("cpu")?;
        out.int(tensor.count)?;
        out.0.extend(b"tQ");
        // Offset, size, strides, requires_grad, hooks.
        out.int(0)?;
        out.tuple(&tensor.dims)?;
        let strides = |axis: usize| tensor.dims[axis + 1..].iter().product();
        out.tuple(&(0..tensor.dims.len()).map(strides).collect::<Vec<usize>>())?;
        out.0.push(0x89);
        out.ordered_dict();
        out.0.extend(b"tR");
    }
    out.0.extend(b"u.");
    Ok(out.0)
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.0.push(b'X');
        self.0.extend(u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes());
        self.0.extend(text.bytes());
        Ok(())
    }

    fn int(&mut self, value: usize) -> io::Result<()> {
        self.0.push(b'J');
        self.0.extend(i32::try_from(value).map_err(io::Error::other)?.to_le_bytes());
        Ok(())
    }

    fn tuple(&mut self, values: &[usize]) -> io::Result<()> {
        self.0.push(b'(');
        values.iter().try_for_each(|&value| self.int(value))?;
        self.0.push(b't');
        Ok(())
    }
}

/// An uncompressed zip archive.
struct Archive<W> {
    out: W,
    at: usize,
    directory: Vec<u8>,
    files: u16,
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, at: 0, directory: Vec::new(), files: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len();
        self.out.write_all(bytes)
    }

    /// A file of the archive; its content begins at a multiple of [`ALIGNMENT`].
    fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let name = format!("{FOLDER}/{name}");
        let start = small(self.at)?;
        // An extra field of padding: its own 4 bytes of header, and as many more as are missing.
        let begins = self.at + 30 + name.len() + 4;
        let padding = begins.next_multiple_of(ALIGNMENT) - begins;
        let mut extra = b"FB".to_vec();
        extra.extend(short(padding)?);
        extra.resize(4 + padding, b'Z');
        let mut about = Vec::new();
        // Version 2.0, no flags, stored, no time: 1 January 1980.
        about.extend([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        about.extend(crc32fast::hash(content).to_le_bytes());
        about.extend(small(content.len())?.to_le_bytes());
        about.extend(small(content.len())?.to_le_bytes());
        about.extend(short(name.len())?);
        let length = short(extra.len())?;
        let local = [b"PK\x03\x04", about.as_slice(), length.as_slice(), name.as_bytes(), &extra].concat();
        self.put(&local)?;
        self.put(content)?;
        // Made by version 2.0; no extra field, no comment, first disk, no attributes.
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(about);
        self.directory.extend([0; 12]);
        self.directory.extend(start.to_le_bytes());
        self.directory.extend(name.bytes());
        self.files += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let (start, directory) = (small(self.at)?, std::mem::take(&mut self.directory));
        self.put(&directory)?;
        let mut end = b"PK\x05\x06\x00\x00\x00\x00".to_vec();
        end.extend(self.files.to_le_bytes());
        end.extend(self.files.to_le_bytes());
        end.extend(small(directory.len())?.to_le_bytes());
        end.extend(start.to_le_bytes());
        end.extend([0, 0]);
        self.put(&end)?;
        self.out.flush()
    }
}

fn small(value: usize) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("a .pth of 4 GiB or more; export safetensors"))
}

fn short(value: usize) -> io::Result<[u8; 2]> {
    u16::try_from(value).map(u16::to_le_bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::weights::WeightsFile;

    #[test]
    fn what_is_written_is_read_again_and_each_batch_norm_has_its_counter() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/student.pth");
        let tensor = |dims: &[usize], start: f32| {
            let count = dims.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| start + i as f32).collect();
            Tensor::from_vec(values, dims, &Device::Cpu).expect("as many as the dimensions say")
        };
        let tensors = BTreeMap::from([
            ("bn1.running_var".to_owned(), tensor(&[3], 0.5)),
            ("conv1.weight".to_owned(), tensor(&[2, 3, 1, 2], -4.0)),
            ("scalar".to_owned(), tensor(&[], 7.0)),
        ]);
        write(&path, &tensors).expect("a new file");
        let read = WeightsFile::read(&path).expect("a torch file");
        for (name, tensor) in &tensors {
            let (ours, theirs) = (tensor.flatten_all().unwrap(), read.tensors[name].flatten_all().unwrap());
            assert_eq!(tensor.dims(), read.tensors[name].dims(), "{name}");
            assert_eq!(ours.to_vec1::<f32>().unwrap(), theirs.to_vec1::<f32>().unwrap(), "{name}");
        }
        assert!(with_counters(&tensors).unwrap().contains_key("bn1.num_batches_tracked"));
        let first = std::fs::read(&path).unwrap();
        write(&path, &tensors).expect("the same file");
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }
}
