//! Tensors as torch's pickles describe them: views of storages that lie elsewhere in the file.

use std::collections::BTreeMap;

use super::pickle::{Node, Pickled, Value};
use super::stored::{Budget, NumberType, View};
use super::zip;
use super::{state_dict, state_dict::StateDict};

/// The state dict in the torch file `bytes`, a zip archive (`torch.save` since 2020).
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn zip_file(bytes: &[u8], under: Option<&str>) -> Result<StateDict, String> {
    let files = zip::files(bytes)?;
    let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
    let Some((name, pickle)) = files.iter().find(|(name, _)| is_pickle(name)) else {
        return Err("it is a zip archive, but not torch's (there is no data.pkl in it)".to_owned());
    };
    let folder = name.trim_end_matches("data.pkl");
    if files.get(&format!("{folder}byteorder")).is_some_and(|order| *order == b"big") {
        return Err("it was written on a big-endian machine, which is not read; save it again".to_owned());
    }
    let pickled = Pickled::read(pickle)?;
    let mut budget = Budget::of_file(bytes.len());
    state_dict::read(&pickled, under, |name, value| {
        let Some(tensor) = TorchTensor::of(&pickled, value) else { return Ok(None) };
        let tensor = tensor.map_err(|reason| format!("{name}: {reason}"))?;
        let path = format!("{folder}data/{}", tensor.storage.key);
        let storage = files.get(&path);
        let storage = storage.ok_or_else(|| format!("{name}: its storage {path} is not in the file"))?;
        tensor.view(storage).read(name, &mut budget).map(Some)
    })
}

/// Magic number of a legacy file of `torch.save`: the pickle of 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// The state dict in the torch file `bytes` of the format before 2020: pickles of a magic number, a version, facts
/// about the machine, the object and the keys of its storages; then the storages, each after its length.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn legacy_file(bytes: &[u8], under: Option<&str>) -> Result<StateDict, String> {
    let mut at = LEGACY_MAGIC.len();
    let mut next = || -> Result<Pickled, String> {
        let pickled = Pickled::read(&bytes[at..]).map_err(|reason| format!("after byte {at}: {reason}"))?;
        at += pickled.length;
        Ok(pickled)
    };
    let (version, machine, object, keys) = (next()?, next()?, next()?, next()?);
    if version.root != Value::Int(1001) {
        return Err(
            "it is a legacy torch file of an unknown version; save it again with a newer torch".to_owned()
        );
    }
    if machine.entry(machine.root, "little_endian") == Some(Value::Bool(false)) {
        return Err("it was written on a big-endian machine, which is not read; save it again".to_owned());
    }
    let storages = legacy_storages(bytes, at, &object, &keys)?;
    let mut budget = Budget::of_file(bytes.len());
    state_dict::read(&object, under, |name, value| {
        let Some(tensor) = TorchTensor::of(&object, value) else { return Ok(None) };
        let tensor = tensor.map_err(|reason| format!("{name}: {reason}"))?;
        let key = tensor.storage.key;
        let storage = storages.get(key);
        let storage = storage.ok_or_else(|| format!("{name}: its storage {key} is not in the file"))?;
        tensor.view(storage).read(name, &mut budget).map(Some)
    })
}

/// The bytes of every storage, by its key.
fn legacy_storages<'a>(
    bytes: &'a [u8],
    mut at: usize,
    object: &Pickled<'a>,
    keys: &Pickled<'a>,
) -> Result<BTreeMap<&'a str, &'a [u8]>, String> {
    let mut widths = BTreeMap::new();
    for node in object.nodes() {
        if let Node::Persistent(id) = *node
            && let Some(storage) = Storage::of(object, id)
        {
            widths.entry(storage.key).or_insert(storage.number?.width());
        }
    }
    let damaged = || "it is damaged or cut short (its storages are not whole); copy it again".to_owned();
    let mut storages = BTreeMap::new();
    for &key in keys.items(keys.root).ok_or_else(damaged)? {
        let key = keys.text(key).ok_or_else(damaged)?;
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(damaged)?;
        at += size_of::<u64>();
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| damaged())?;
        // A storage that no tensor uses cannot be measured: its type is not known.
        let width = *widths.get(key).ok_or_else(damaged)?;
        let length = count.checked_mul(width).ok_or_else(damaged)?;
        let storage = bytes.get(at..).and_then(|rest| rest.get(..length)).ok_or_else(damaged)?;
        storages.insert(key, storage);
        at += length;
    }
    Ok(storages)
}

/// A reference to a storage.
struct Storage<'a> {
    /// Or why its numbers are not read.
    number: Result<NumberType, String>,
    key: &'a str,
    /// Offset of a view in its stored storage, in numbers (legacy files).
    offset: usize,
}

impl<'a> Storage<'a> {
    /// The storage of a persistent id: ("storage", class, key, device, count), in legacy files with
    /// (key, offset, count) of a view, or nothing, behind it.
    fn of(pickled: &Pickled<'a>, id: Value) -> Option<Self> {
        let [_, class, key, _, _, rest @ ..] = pickled.tuple(id)? else { return None };
        let offset = match rest.first().and_then(|&view| pickled.tuple(view)) {
            Some(&[_, Value::Int(offset), _]) => usize::try_from(offset).ok()?,
            Some(_) => return None,
            None => 0,
        };
        let (_, class) = pickled.global(*class)?;
        Some(Self { number: number_of(class), key: pickled.text(*key)?, offset })
    }
}

/// The numbers in a storage of this class.
fn number_of(class: &str) -> Result<NumberType, String> {
    Ok(match class {
        "FloatStorage" => NumberType::F32,
        "DoubleStorage" => NumberType::F64,
        "HalfStorage" => NumberType::F16,
        "BFloat16Storage" => NumberType::BF16,
        "LongStorage" => NumberType::Integer(8),
        "IntStorage" => NumberType::Integer(4),
        "ShortStorage" => NumberType::Integer(2),
        "CharStorage" | "ByteStorage" | "BoolStorage" => NumberType::Integer(1),
        other => return Err(format!("a tensor in a {other} is not read; save it as float32")),
    })
}

/// A tensor as the pickle describes it.
struct TorchTensor<'a> {
    storage: Storage<'a>,
    number: NumberType,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> TorchTensor<'a> {
    /// `None` if `value` is no tensor.
    fn of(pickled: &Pickled<'a>, value: Value) -> Option<Result<Self, String>> {
        let damaged = || "its description is damaged".to_owned();
        let (function, arguments, _) = pickled.call(value)?;
        match function {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
                Some(Self::viewed(pickled, arguments).unwrap_or_else(|| Err(damaged())))
            }
            // torch.nn.Parameter(tensor, ...)
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                let ((_, name), arguments, _) = pickled.call(*arguments.first()?)?;
                let is_tensor = name.starts_with("_rebuild_tensor");
                let viewed = is_tensor.then(|| Self::viewed(pickled, arguments)).flatten();
                Some(viewed.unwrap_or_else(|| Err(damaged())))
            }
            _ => None,
        }
    }

    fn viewed(pickled: &Pickled<'a>, arguments: &[Value]) -> Option<Result<Self, String>> {
        let [storage, Value::Int(offset), shape, strides, ..] = *arguments else { return None };
        let Node::Persistent(id) = *pickled.node(storage)? else { return None };
        let storage = Storage::of(pickled, id)?;
        let (shape, strides) = (pickled.sizes(shape)?, pickled.sizes(strides)?);
        if shape.len() != strides.len() {
            return None;
        }
        let offset = usize::try_from(offset).ok()?.checked_add(storage.offset)?;
        let number = match storage.number.clone() {
            Ok(number) => number,
            Err(reason) => return Some(Err(reason)),
        };
        Some(Ok(Self { storage, number, offset, shape, strides }))
    }

    fn view<'s>(self, storage: &'s [u8]) -> View<'s> {
        let Self { number, offset, shape, strides, .. } = self;
        View { number, bytes: storage, offset, shape, strides }
    }
}
