//! A `.pth` as `torch.save(model.state_dict())` writes it, for torchvision's `FasterRCNN` and `RetinaNet`.
//!
//! Our tensors have torchvision's names and shapes already. What is added is `num_batches_tracked`, which
//! `nn.BatchNorm2d` asks for under `strict=True` and `FrozenBatchNorm2d` passes over.
//!
//! The file is torch's format since 2020: an uncompressed zip archive with a pickle (protocol 2) that
//! describes the tensors, and a file for each one's bytes. The pickle names nothing but `OrderedDict` and
//! torch's own tensor makers, so `torch.load(..., weights_only=True)` reads it.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use candle_core::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::fsx::{self, WriteError};

/// Folder of the files within the archive.
const FOLDER: &str = "student";

/// Alignment of the tensors' bytes in the file, as torch writes them.
const ALIGNMENT: u16 = 64;

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
/// If the file cannot be written.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), WriteError> {
    fsx::write_atomic_with(path, |file| {
        let stored = with_counters(tensors).map_err(io::Error::other)?;
        let mut archive = ZipWriter::new(BufWriter::new(file));
        let mut add = |name: &str, content: &[u8]| {
            let options = SimpleFileOptions::DEFAULT
                .compression_method(CompressionMethod::Stored)
                .large_file(u32::try_from(content.len()).is_err())
                .with_alignment(ALIGNMENT);
            archive.start_file(format!("{FOLDER}/{name}"), options)?;
            archive.write_all(content)
        };
        add("data.pkl", &pickle(&stored)?)?;
        add("byteorder", b"little")?;
        for (number, tensor) in stored.values().enumerate() {
            add(&format!("data/{number}"), &tensor.bytes)?;
        }
        add("version", b"3\n")?;
        archive.finish()?.flush()
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
