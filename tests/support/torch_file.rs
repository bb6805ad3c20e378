//! Writes files as other libraries do: `torch.save` (a zip of stored files, among them a pickle that describes tensors, or
//! the legacy row of pickles and storages), and pickles of numpy arrays.

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
    /// What stands before all names.
    pub(crate) wrapper: &'a str,
}

/// The magic number 0x1950a86a20f9469cfc6c, the version 1001, and {"little_endian": True}, each a pickle.
pub(crate) const LEGACY_START: &[u8] =
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\r\x00\x00\x00little_endian\x88s.";

impl<'a> TorchFile<'a> {
    pub(crate) fn of(tensors: &'a BTreeMap<String, Tensor>) -> Self {
        Self { tensors, dtype: DType::F32, under: None, parameters: false, column_major: false, wrapper: "" }
    }

    /// As a zip file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (pickle, storages) = self.pickle(false);
        let mut files = vec![("archive/data.pkl", pickle.as_slice()), ("archive/version", b"3\n")];
        let names: Vec<String> = (0..storages.len()).map(|number| format!("archive/data/{number}")).collect();
        files.extend(names.iter().zip(&storages).map(|(name, (_, bytes))| (name.as_str(), bytes.as_slice())));
        zip(&files)
    }

    /// As before 2020: a magic number, a version, facts about the machine, the object, the keys, the storages.
    pub(crate) fn legacy_bytes(&self) -> Vec<u8> {
        let (pickle, storages) = self.pickle(true);
        let mut file = LEGACY_START.to_vec();
        file.extend(pickle);
        file.extend(b"\x80\x02](");
        (0..storages.len()).for_each(|number| text(&mut file, &number.to_string()));
        file.extend(b"e.");
        for (count, bytes) in storages {
            file.extend((count as u64).to_le_bytes());
            file.extend(bytes);
        }
        file
    }

    /// The object, and its storages with their numbers of elements.
    fn pickle(&self, legacy: bool) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
        let mut pickle = b"\x80\x02".to_vec();
        if let Some(key) = self.under {
            pickle.extend(b"}q\x00");
            text(&mut pickle, key);
        }
        pickle.extend(b"ccollections\nOrderedDict\n)R(");
        let mut storages = Vec::new();
        for (number, (name, tensor)) in self.tensors.iter().enumerate() {
            text(&mut pickle, &format!("{}{name}", self.wrapper));
            let (class, bytes) = self.storage(tensor);
            let shape: Vec<i32> = tensor.dims().iter().map(|&size| size as i32).collect();
            let mut strides: Vec<i32> = tensor.stride().iter().map(|&stride| stride as i32).collect();
            if self.column_major && shape.len() == 2 {
                strides = vec![1, shape[0]];
            }
            if self.parameters {
                pickle.extend(b"ctorch._utils\n_rebuild_parameter\n(");
            }
            view(&mut pickle, (class, &number.to_string(), legacy), &shape, &strides, 0);
            if self.parameters {
                pickle.extend(b"\x88ccollections\nOrderedDict\n)RtR");
            }
            storages.push((tensor.elem_count(), bytes));
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
        (pickle, storages)
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
    one_view(name, ("FloatStorage", "0", false), shape, strides, offset)
}

/// The same in a legacy file, with a storage that says to have `count` numbers, of which `storage` follows.
pub(crate) fn one_legacy_tensor(shape: &[i32], strides: &[i32], count: u64, storage: &[u8]) -> Vec<u8> {
    let mut file = LEGACY_START.to_vec();
    file.extend(one_view("w", ("FloatStorage", "0", true), shape, strides, 0));
    file.extend(b"\x80\x02](X\x01\x00\x00\x000e.");
    file.extend(count.to_le_bytes());
    file.extend(storage);
    file
}

fn one_view(name: &str, storage: (&str, &str, bool), shape: &[i32], strides: &[i32], offset: i32) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, name);
    view(&mut pickle, storage, shape, strides, offset);
    pickle.extend(b"s.");
    pickle
}

fn view(
    pickle: &mut Vec<u8>,
    (class, key, legacy): (&str, &str, bool),
    shape: &[i32],
    strides: &[i32],
    offset: i32,
) {
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(format!("ctorch\n{class}\n").bytes());
    text(pickle, key);
    text(pickle, "cpu");
    number(pickle, 0);
    if legacy {
        pickle.push(b'N');
    }
    pickle.extend(b"tQ");
    number(pickle, offset);
    for counts in [shape, strides] {
        pickle.push(b'(');
        counts.iter().for_each(|&count| number(pickle, count));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// How an array's numbers stand in a pickle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ArrayBytes {
    /// `_codecs.encode(text, "latin1")`: Python 3, protocol 2.
    Encoded,
    /// Bytes: Python 3, protocol 3 and later.
    Bytes,
    /// A string: Python 2.
    Python2,
}

/// The pickle of `{"model": {name: array}, "__author__": author}`, the arrays of f32.
pub(crate) fn numpy_pickle(tensors: &BTreeMap<String, Tensor>, author: &str, bytes: ArrayBytes) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    text(&mut pickle, "model");
    pickle.extend(b"}(");
    for (name, tensor) in tensors {
        text(&mut pickle, name);
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let data: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let shape: Vec<i32> = tensor.dims().iter().map(|&size| size as i32).collect();
        array(&mut pickle, "f4", "<", &shape, false, &data, bytes);
    }
    pickle.extend(b"u");
    text(&mut pickle, "__author__");
    text(&mut pickle, author);
    text(&mut pickle, "matching_heuristics");
    pickle.extend(b"\x89u.");
    pickle
}

/// The pickle of `{"w": array}`.
pub(crate) fn one_array(code: &str, order: &str, shape: &[i32], fortran: bool, data: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, "w");
    array(&mut pickle, code, order, shape, fortran, data, ArrayBytes::Bytes);
    pickle.extend(b"s.");
    pickle
}

fn array(
    pickle: &mut Vec<u8>,
    code: &str,
    order: &str,
    shape: &[i32],
    fortran: bool,
    data: &[u8],
    bytes: ArrayBytes,
) {
    pickle.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85");
    pickle.extend(b"C\x01b\x87R(K\x01(");
    shape.iter().for_each(|&size| number(pickle, size));
    pickle.extend(b"tcnumpy\ndtype\n");
    text(pickle, code);
    pickle.extend(b"K\x00K\x01\x87R(K\x03");
    text(pickle, order);
    pickle.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
    pickle.push(if fortran { 0x88 } else { 0x89 });
    match bytes {
        ArrayBytes::Encoded => {
            pickle.extend(b"c_codecs\nencode\n");
            text(pickle, &data.iter().map(|&byte| char::from(byte)).collect::<String>());
            text(pickle, "latin1");
            pickle.extend(b"\x86R");
        }
        ArrayBytes::Bytes => counted(pickle, b'B', data),
        ArrayBytes::Python2 => counted(pickle, b'T', data),
    }
    pickle.extend(b"tb");
}

fn counted(pickle: &mut Vec<u8>, opcode: u8, bytes: &[u8]) {
    pickle.push(opcode);
    pickle.extend((bytes.len() as u32).to_le_bytes());
    pickle.extend(bytes);
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    counted(pickle, b'X', text.as_bytes());
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
