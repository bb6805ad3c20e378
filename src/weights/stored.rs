//! Tensors as files hold them: numbers of some type, seen through a shape and strides.

use candle_core::{DType, Device, Tensor};

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NumberType {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// An integer or truth value of this many bytes; such tensors are counters, and not loaded.
    Integer(usize),
}

impl NumberType {
    /// Bytes of one number.
    pub fn width(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Integer(width) => width,
        }
    }

    /// candle's name of it; `None` for integers.
    fn float(self) -> Option<DType> {
        match self {
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::F32 => Some(DType::F32),
            Self::F64 => Some(DType::F64),
            Self::Integer(_) => None,
        }
    }
}

impl std::fmt::Display for NumberType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::BF16 => f.write_str("bf16"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Integer(width) => write!(f, "int{}", 8 * width),
        }
    }
}

/// Description of a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The type of its numbers in the file.
    pub number: NumberType,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
}

/// A tensor that was read.
#[derive(Debug)]
pub(super) struct StoredTensor {
    pub(super) name: String,
    pub(super) entry: Entry,
    /// Values as f32 on the host; `None` for integers.
    pub(super) values: Option<Tensor>,
}

/// A tensor as a file describes it: a strided view of numbers in it.
pub(super) struct View<'a> {
    pub(super) number: NumberType,
    /// Little-endian, whole or cut anywhere: nothing outside is reached.
    pub(super) bytes: &'a [u8],
    /// In numbers, as the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The bytes that the tensors of a file may still take: views of one storage could add up to any size.
pub(super) struct Budget(usize);

impl Budget {
    /// For a file of `length` bytes. Twice as many, so that tied weights may be stored once.
    pub(super) fn of_file(length: usize) -> Self {
        Self(length.saturating_mul(2))
    }
}

impl View<'_> {
    /// Copies the numbers out of the file, unless they are integers.
    ///
    /// # Errors
    /// If the view reaches outside its bytes, or the budget is used up.
    pub(super) fn read(self, name: &str, budget: &mut Budget) -> Result<StoredTensor, String> {
        let values = self.values(budget).map_err(|reason| format!("{name}: {reason}"))?;
        let entry = Entry { number: self.number, shape: self.shape };
        Ok(StoredTensor { name: name.to_owned(), entry, values })
    }

    fn values(&self, budget: &mut Budget) -> Result<Option<Tensor>, String> {
        let Some(dtype) = self.number.float() else { return Ok(None) };
        let outside = || "it reaches outside its storage".to_owned();
        let width = self.number.width();
        let count = self.shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
        let count = count.ok_or_else(outside)?;
        let length = count.checked_mul(width).ok_or_else(outside)?;
        if count > 0 {
            let reach =
                self.shape.iter().zip(&self.strides).try_fold(self.offset, |reach, (size, stride)| {
                    reach.checked_add((size - 1).checked_mul(*stride)?)
                });
            if reach.is_none_or(|reach| reach >= self.bytes.len() / width) {
                return Err(outside());
            }
        }
        budget.0 =
            budget.0.checked_sub(length).ok_or("the tensors are larger than the file that holds them")?;
        let start = self.offset.saturating_mul(width);
        let gathered;
        let bytes = match self.is_row_major() {
            true => self.bytes.get(start..).and_then(|bytes| bytes.get(..length)).unwrap_or(&[]),
            false => {
                gathered = self.gather(count);
                &gathered
            }
        };
        let tensor = Tensor::from_raw_buffer(bytes, dtype, &self.shape, &Device::Cpu);
        let tensor = tensor.and_then(|tensor| tensor.to_dtype(DType::F32));
        tensor.map(Some).map_err(|error| error.to_string())
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1_usize;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
    }

    /// The numbers in row-major order; the view lies within its bytes.
    fn gather(&self, count: usize) -> Vec<u8> {
        let width = self.number.width();
        let mut bytes = Vec::with_capacity(count * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(&self.strides).map(|(index, stride)| index * stride).sum();
            let start = (self.offset + at) * width;
            bytes.extend_from_slice(&self.bytes[start..start + width]);
            for (index, size) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < *size {
                    break;
                }
                *index = 0;
            }
        }
        bytes
    }
}

/// The strides of a dense tensor, the last dimension innermost; `None` if it has more numbers than fit in memory.
pub(super) fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].checked_mul(shape[at].max(1))?;
    }
    Some(strides)
}
