//! Pickles of numpy arrays, as Detectron2 publishes its models (`.pkl`).

use std::borrow::Cow;

use super::pickle::{Node, Pickled, Value};
use super::state_dict::{self, StateDict};
use super::stored::{Budget, NumberType, View, row_major};

/// The arrays in the pickle `bytes`.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub(super) fn file(bytes: &[u8], under: Option<&str>) -> Result<StateDict, String> {
    let pickled = Pickled::read(bytes)?;
    if pickled.length < bytes.len() {
        return Err(format!("{} bytes follow its pickle; copy it again", bytes.len() - pickled.length));
    }
    let mut budget = Budget::of_file(bytes.len());
    state_dict::read(&pickled, under, |name, value| {
        let Some(array) = Array::of(&pickled, value) else { return Ok(None) };
        let Array { number, data, shape, strides } = array.map_err(|reason| format!("{name}: {reason}"))?;
        let view = View { number, bytes: &data, offset: 0, shape, strides };
        view.read(name, &mut budget).map(Some)
    })
}

/// Images as CIFAR's python version has them.
pub struct LabelledRows {
    /// A label for each row.
    pub labels: Vec<u32>,
    /// The bytes of all rows, one after the other.
    pub bytes: Vec<u8>,
    /// Bytes of a row.
    pub width: usize,
}

/// The rows in the pickle `bytes`: a dictionary with a matrix of bytes under `data` and a list of labels under `labels`.
///
/// # Errors
/// Says what is wrong with the file, without its name.
pub fn labelled_rows(bytes: &[u8], labels: &str) -> Result<LabelledRows, String> {
    let pickled = Pickled::read(bytes)?;
    let entry = |key: &str| {
        pickled.entry(pickled.root, key).ok_or_else(|| format!("its pickle has nothing called {key:?}"))
    };
    let label = |value: &Value| match value {
        Value::Int(label) => u32::try_from(*label).ok(),
        _ => None,
    };
    let labels: Option<Vec<u32>> =
        pickled.items(entry(labels)?).and_then(|items| items.iter().map(label).collect());
    let labels = labels.ok_or("its labels are no list of numbers")?;
    let array = Array::of(&pickled, entry("data")?).ok_or("its data is no array")??;
    match (array.number, array.shape.as_slice(), array.strides.as_slice()) {
        (NumberType::Integer(1), &[rows, width], &[stride, 1])
            if stride == width && rows.checked_mul(width) == Some(array.data.len()) =>
        {
            Ok(LabelledRows { labels, bytes: array.data.into_owned(), width })
        }
        (number, shape, _) => Err(format!("its data is {shape:?} of {number}, not rows of bytes")),
    }
}

/// An array as the pickle holds it.
struct Array<'a> {
    number: NumberType,
    data: Cow<'a, [u8]>,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> Array<'a> {
    /// `None` if `value` is no array.
    fn of(pickled: &Pickled<'a>, value: Value) -> Option<Result<Self, String>> {
        let ((module, name), arguments, state) = pickled.call(value)?;
        let of_numpy = |modules: [&str; 2]| modules.contains(&module);
        let parts = match name {
            "_reconstruct" if of_numpy(["numpy.core.multiarray", "numpy._core.multiarray"]) => {
                match state.and_then(|state| pickled.tuple(state)) {
                    // (version, shape, dtype, is in Fortran's order, data)
                    Some(&[_, shape, dtype, Value::Bool(fortran), data]) => {
                        Some((shape, dtype, fortran, data))
                    }
                    _ => None,
                }
            }
            // (data, dtype, shape, order), and in later versions the order of the axes, if it is any other.
            "_frombuffer" if of_numpy(["numpy.core.numeric", "numpy._core.numeric"]) => match *arguments {
                [data, dtype, shape, order] | [data, dtype, shape, order, Value::None] => {
                    Some((shape, dtype, pickled.text(order) == Some("F"), data))
                }
                _ => None,
            },
            _ => return None,
        };
        Some(parts.map_or_else(|| Err(damaged()), |parts| Self::made_of(pickled, parts)))
    }

    fn made_of(
        pickled: &Pickled<'a>,
        (shape, dtype, fortran, data): (Value, Value, bool, Value),
    ) -> Result<Self, String> {
        let number = number(pickled, dtype)?;
        let shape = pickled.sizes(shape).ok_or_else(damaged)?;
        let reversed = |sizes: &[usize]| sizes.iter().rev().copied().collect::<Vec<_>>();
        let strides = match fortran {
            true => row_major(&reversed(&shape)).map(|strides| reversed(&strides)),
            false => row_major(&shape),
        };
        let strides = strides.ok_or_else(damaged)?;
        Ok(Self { number, data: data_of(pickled, data).ok_or_else(damaged)?, shape, strides })
    }
}

fn damaged() -> String {
    "its description is damaged".to_owned()
}

/// The type that `numpy.dtype("f4", ...)` with the state (version, byte order, ...) stands for.
fn number(pickled: &Pickled, dtype: Value) -> Result<NumberType, String> {
    let (function, arguments, state) = pickled.call(dtype).ok_or_else(damaged)?;
    let code = arguments.first().and_then(|&code| pickled.text(code));
    let (("numpy", "dtype"), Some(code)) = (function, code) else { return Err(damaged()) };
    let order = state.and_then(|state| pickled.text(*pickled.tuple(state)?.get(1)?));
    if order == Some(">") {
        return Err("it is big-endian, which is not read; save it again".to_owned());
    }
    Ok(match code {
        "f2" => NumberType::F16,
        "f4" => NumberType::F32,
        "f8" => NumberType::F64,
        "i1" | "u1" | "b1" => NumberType::Integer(1),
        "i2" | "u2" => NumberType::Integer(2),
        "i4" | "u4" => NumberType::Integer(4),
        "i8" | "u8" => NumberType::Integer(8),
        other => return Err(format!("an array of numpy's type {other} is not read; save it as float32")),
    })
}

/// Bytes as they are, or as Python 3 writes them in protocol 2: `_codecs.encode(text, "latin1")`.
fn data_of<'a>(pickled: &Pickled<'a>, data: Value) -> Option<Cow<'a, [u8]>> {
    if let Node::Bytes(bytes) = *pickled.node(data)? {
        return Some(Cow::Borrowed(bytes));
    }
    match pickled.call(data)? {
        (("_codecs", "encode"), &[text, encoding], _) => {
            let Node::Text(text) = *pickled.node(text)? else { return None };
            let is_latin1 = matches!(pickled.text(encoding)?, "latin1" | "latin-1" | "iso-8859-1");
            let bytes: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(letter).ok()).collect();
            bytes.filter(|_| is_latin1).map(Cow::Owned)
        }
        // bytes(), which is how it writes none at all.
        (("__builtin__" | "builtins", "bytes" | "bytearray"), &[], _) => Some(Cow::Borrowed(&[])),
        _ => None,
    }
}
