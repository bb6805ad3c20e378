//! torch files (`torch.save` since 2020): a zip archive with a pickle that describes tensors, and their storages.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::pickle::{Node, Pickled, Value};
use super::zip;

/// Where a checkpoint keeps its state dict, if it is not one itself.
const KEYS: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// The floating-point tensors of the state dict in the torch file `bytes`; integers (counters) are left out.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn state_dict(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let files = zip::files(bytes)?;
    let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
    let Some((name, pickle)) = files.iter().find(|(name, _)| is_pickle(name)) else {
        return Err("it is a zip archive, but not torch's (there is no data.pkl in it)".to_owned());
    };
    let folder = name.trim_end_matches("data.pkl");
    let pickled = Pickled::read(pickle)?;
    let mut reader = Reader { files: &files, folder, budget: 2 * bytes.len() };
    let entries = find(&pickled)?;
    let mut tensors = Vec::new();
    for &(key, value) in entries {
        let (Some(name), Some(stored)) = (pickled.text(key), StoredTensor::of(&pickled, value)) else {
            continue;
        };
        let tensor = stored.and_then(|stored| reader.load(&stored));
        if let Some(tensor) = tensor.map_err(|reason| format!("{name}: {reason}"))? {
            tensors.push((name.to_owned(), tensor));
        }
    }
    Ok(tensors)
}

/// The dictionary that names tensors: the file's own, or one level down.
fn find(pickled: &Pickled) -> Result<&[(Value, Value)], String> {
    let holds_tensors =
        |items: &[(Value, Value)]| items.iter().any(|&(_, value)| StoredTensor::of(pickled, value).is_some());
    let top = pickled.dict(pickled.root).ok_or_else(|| {
        "it holds no state dict; a whole model is saved again with torch.save(model.state_dict(), FILE)"
            .to_owned()
    })?;
    if holds_tensors(top) {
        return Ok(top);
    }
    let below = |key: &&str| {
        let (_, value) = top.iter().find(|&&(name, _)| pickled.text(name) == Some(key))?;
        pickled.dict(*value).filter(|items| holds_tensors(items))
    };
    KEYS.iter().find_map(below).ok_or_else(|| {
        let there: Vec<&str> = top.iter().take(8).filter_map(|&(key, _)| pickled.text(key)).collect();
        format!(
            "it holds no state dict (looked at its top and under {}; there is {})",
            KEYS.join(", "),
            there.join(", ")
        )
    })
}

/// A tensor as the pickle describes it: a strided view of a storage.
struct StoredTensor<'a> {
    class: &'a str,
    storage: &'a str,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> StoredTensor<'a> {
    /// `None` if `value` is no tensor.
    fn of(pickled: &'a Pickled, value: Value) -> Option<Result<Self, String>> {
        let Node::Call { function, arguments } = pickled.node(value)? else { return None };
        let arguments = pickled.tuple(*arguments)?;
        match pickled.global(*function)? {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
                Some(Self::view(pickled, arguments).ok_or_else(|| "its description is damaged".to_owned()))
            }
            // torch.nn.Parameter(tensor, ...)
            ("torch._utils", "_rebuild_parameter") => {
                let Node::Call { function, arguments } = pickled.node(*arguments.first()?)? else {
                    return None;
                };
                let is_tensor = pickled.global(*function)?.1.starts_with("_rebuild_tensor");
                let view = is_tensor.then(|| Self::view(pickled, pickled.tuple(*arguments)?)).flatten();
                Some(view.ok_or_else(|| "its description is damaged".to_owned()))
            }
            _ => None,
        }
    }

    fn view(pickled: &'a Pickled, arguments: &[Value]) -> Option<Self> {
        let [storage, Value::Int(offset), shape, strides, ..] = *arguments else { return None };
        let Node::Persistent(id) = pickled.node(storage)? else { return None };
        // ("storage", class, key, device, count)
        let [_, class, key, ..] = *pickled.tuple(*id)? else { return None };
        let counts = |value: Value| -> Option<Vec<usize>> {
            let count = |item: &Value| match item {
                Value::Int(count) => usize::try_from(*count).ok(),
                _ => None,
            };
            pickled.tuple(value)?.iter().map(count).collect()
        };
        let (shape, strides) = (counts(shape)?, counts(strides)?);
        (shape.len() == strides.len()).then_some(Self {
            class: pickled.global(class)?.1,
            storage: pickled.text(key)?,
            offset: usize::try_from(offset).ok()?,
            shape,
            strides,
        })
    }
}

struct Reader<'a> {
    files: &'a BTreeMap<String, &'a [u8]>,
    /// Of the archive, with its slash.
    folder: &'a str,
    /// Bytes that tensors may still take: views of one storage could add up to any size.
    budget: usize,
}

impl Reader<'_> {
    /// `None` for a tensor of integers.
    fn load(&mut self, stored: &StoredTensor) -> Result<Option<Tensor>, String> {
        let dtype = match stored.class {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" | "IntStorage" | "ShortStorage" | "CharStorage" | "ByteStorage" | "BoolStorage" => {
                return Ok(None);
            }
            other => return Err(format!("a tensor in a {other} is not read; save it as float32")),
        };
        let name = format!("{}data/{}", self.folder, stored.storage);
        let storage =
            self.files.get(&name).ok_or_else(|| format!("its storage {name} is not in the file"))?;
        let outside = || "it reaches outside its storage".to_owned();
        let width = dtype.size_in_bytes();
        let count = stored
            .shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size))
            .ok_or_else(outside)?;
        let length = count.checked_mul(width).ok_or_else(outside)?;
        if count > 0 {
            let reach =
                stored.shape.iter().zip(&stored.strides).try_fold(stored.offset, |reach, (size, stride)| {
                    reach.checked_add((size - 1).checked_mul(*stride)?)
                });
            if reach.is_none_or(|reach| reach >= storage.len() / width) {
                return Err(outside());
            }
        }
        self.budget =
            self.budget.checked_sub(length).ok_or("the tensors are larger than the file that holds them")?;
        let bytes = gather(storage, stored, width, count);
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &stored.shape, &Device::Cpu);
        tensor.map(Some).map_err(|error| error.to_string())
    }
}

/// The elements of a view in row-major order; it lies within its storage.
fn gather(storage: &[u8], stored: &StoredTensor, width: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * width);
    let mut index = vec![0; stored.shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(&stored.strides).map(|(index, stride)| index * stride).sum();
        let start = (stored.offset + at) * width;
        bytes.extend_from_slice(&storage[start..start + width]);
        for (index, size) in index.iter_mut().zip(&stored.shape).rev() {
            *index += 1;
            if *index < *size {
                break;
            }
            *index = 0;
        }
    }
    bytes
}
