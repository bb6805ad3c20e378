//! Writes files as `torch.save` does: a zip of stored files, among them a pickle that describes tensors.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

/// A state dict to be written. Integer tensors become `LongStorage`.
pub(crate) struct TorchFile<'a> {
    pub(crate) tensors: &'a BTreeMap<String, Tensor>,
    /// Of the floating-point tensors.
    pub(crate) dtype: DType,
    /// The key of the outer dictionary, if there is one.
    pub(crate) under: Option<&'a str>,
    /// Whether the tensors are `torch.nn.Parameter`s.
    pub(crate) parameters: bool,
    /// Whether matrices are stored column by column.
    pub(crate) column_major: bool,
}

impl<'a> TorchFile<'a> {
    pub(crate) fn of(tensors: &'a BTreeMap<String, Tensor>) -> Self {
        Self { tensors, dtype: DType::F32, under: None, parameters: false, column_major: false }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut pickle = b"\x80\x02".to_vec();
        if let Some(key) = self.under {
            pickle.extend(b"}q\x00");
            text(&mut pickle, key);
        }
        pickle.extend(b"ccollections\nOrderedDict\n)R(");
        let mut storages = Vec::new();
        for (number, (name, tensor)) in self.tensors.iter().enumerate() {
            text(&mut pickle, name);
            let (class, bytes) = self.storage(tensor);
            let shape: Vec<i32> = tensor.dims().iter().map(|&size| size as i32).collect();
            let mut strides: Vec<i32> = tensor.stride().iter().map(|&stride| stride as i32).collect();
            if self.column_major && shape.len() == 2 {
                strides = vec![1, shape[0]];
            }
            if self.parameters {
                pickle.extend(b"ctorch._utils\n_rebuild_parameter\n(");
            }
            view(&mut pickle, class, &number.to_string(), &shape, &strides, 0);
            if self.parameters {
                pickle.extend(b"\x88ccollections\nOrderedDict\n)RtR");
            }
            storages.push((format!("archive/data/{number}"), bytes));
        }
        pickle.push(b'u');
        // The state dict's `_metadata`.
        pickle.extend(b"}");
        text(&mut pickle, "_metadata");
        pickle.extend(b"}sb");
        if self.under.is_some() {
            pickle.push(b's');
        }
        pickle.push(b'.');
        let mut files = vec![("archive/data.pkl", pickle.as_slice()), ("archive/version", b"3\n")];
        files.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
        zip(&files)
    }

    fn storage(&self, tensor: &Tensor) -> (&'static str, Vec<u8>) {
        if !tensor.dtype().is_float() {
            let values: Vec<i64> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            return ("LongStorage", values.into_iter().flat_map(i64::to_le_bytes).collect());
        }
        let tensor =
            if self.column_major && tensor.rank() == 2 { tensor.t().unwrap() } else { tensor.clone() };
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        match self.dtype {
            DType::F64 => (
                "DoubleStorage",
                values.into_iter().flat_map(|value| f64::from(value).to_le_bytes()).collect(),
            ),
            // bfloat16 is the upper half of f32; small whole numbers lose nothing.
            DType::BF16 => {
                let upper = |value: f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
                ("BFloat16Storage", values.into_iter().flat_map(upper).collect())
            }
            DType::F16 => {
                let tensor = tensor.flatten_all().unwrap().to_dtype(DType::F16).unwrap();
                let path = tempfile::NamedTempFile::new().unwrap();
                tensor.save_safetensors("half", path.path()).unwrap();
                let bytes = std::fs::read(path.path()).unwrap();
                ("HalfStorage", bytes[bytes.len() - 2 * values.len()..].to_vec())
            }
            _ => ("FloatStorage", values.into_iter().flat_map(f32::to_le_bytes).collect()),
        }
    }
}

/// The pickle of `{name: a view of the FloatStorage "0"}`.
pub(crate) fn one_tensor(name: &str, shape: &[i32], strides: &[i32], offset: i32) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, name);
    view(&mut pickle, "FloatStorage", "0", shape, strides, offset);
    pickle.extend(b"s.");
    pickle
}

fn view(pickle: &mut Vec<u8>, class: &str, key: &str, shape: &[i32], strides: &[i32], offset: i32) {
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(format!("ctorch\n{class}\n").bytes());
    text(pickle, key);
    text(pickle, "cpu");
    number(pickle, 0);
    pickle.extend(b"tQ");
    number(pickle, offset);
    for counts in [shape, strides] {
        pickle.push(b'(');
        counts.iter().for_each(|&count| number(pickle, count));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn number(pickle: &mut Vec<u8>, number: i32) {
    pickle.push(b'J');
    pickle.extend(number.to_le_bytes());
}

/// An archive of stored files.
pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let start = archive.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        let name_length = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date and checksum, which nobody reads.
        let about =
            [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], size.as_slice(), &size, &name_length].concat();
        archive.extend([b"PK\x03\x04", about.as_slice(), &[0, 0], name.as_bytes(), content].concat());
        directory.extend(
            [b"PK\x01\x02\x14\x00", about.as_slice(), &[0; 12], &start.to_le_bytes(), name.as_bytes()]
                .concat(),
        );
    }
    let count = (files.len() as u16).to_le_bytes();
    let (size, start) = ((directory.len() as u32).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    archive.extend(directory);
    archive.extend([b"PK\x05\x06\0\0\0\0", count.as_slice(), &count, &size, &start, &[0, 0]].concat());
    archive
}
