//! Numbers among weights that are infinite, or not numbers.

use candle_core::{DType, Device, Tensor};

use super::{WeightsError, WeightsFile};

/// Tensors named in a message before it says how many more there are.
const SHOWN: usize = 4;

/// A magnitude whose square is beyond f32: a weight like that gives infinities in the next product.
const HUGE: f32 = 1.8e19;

/// Faults of the numbers of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unusable {
    /// Numbers that are infinite or not numbers.
    pub non_finite: usize,
    /// Finite numbers whose squares are not.
    pub huge: usize,
    /// All numbers.
    pub of: usize,
}

impl Unusable {
    /// The count over `tensor`; `None` if all is well.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn of(tensor: &Tensor) -> candle_core::Result<Option<Self>> {
        let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut found = Self { of: values.len(), ..Self::default() };
        for value in values {
            found.non_finite += usize::from(!value.is_finite());
            found.huge += usize::from(value.is_finite() && value.abs() > HUGE);
        }
        Ok((found.non_finite + found.huge > 0).then_some(found))
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { non_finite, huge, of } = self;
        match (non_finite, huge) {
            (0, huge) => write!(f, "{huge} of its {of} numbers are beyond {HUGE:e}"),
            (count, _) => write!(f, "{count} of its {of} numbers are infinite or not numbers"),
        }
    }
}

/// The tensors whose numbers are unusable and `count`, in a line; `None` if there are none.
///
/// # Errors
/// If the device cannot be read.
pub fn report<'t>(
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    count: impl Fn(&Unusable) -> bool,
) -> candle_core::Result<Option<String>> {
    let mut found = Vec::new();
    for (name, tensor) in tensors {
        let unusable = Unusable::of(tensor)?.filter(&count);
        found.extend(unusable.map(|unusable| format!("{name}: {unusable}")));
    }
    let more = match found.len() {
        0 => return Ok(None),
        1..=SHOWN => String::new(),
        count => format!("; and {} more tensors", count - SHOWN),
    };
    found.truncate(SHOWN);
    Ok(Some(found.join("; ") + &more))
}

impl WeightsFile {
    /// Refuses a file with unusable numbers, unless they are allowed ([`Self::allows_non_finite`]).
    ///
    /// # Errors
    /// [`WeightsError::NonFinite`] names the tensors.
    pub fn check_finite(&self) -> Result<(), WeightsError> {
        if self.allows_non_finite {
            return Ok(());
        }
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        match report(tensors, |unusable| unusable.non_finite > 0)? {
            None => Ok(()),
            Some(report) => Err(WeightsError::NonFinite { path: self.path.clone(), report }),
        }
    }
}
