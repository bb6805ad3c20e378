//! How two files of weights differ.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

use super::{WeightsError, WeightsFile};

/// The difference of two files, tensor by tensor under torchvision's names; counters are not compared.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Names in the first file only.
    pub only_first: Vec<String>,
    /// Names in the second file only.
    pub only_second: Vec<String>,
    /// Names with their shapes in both, where those differ.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Names with the largest absolute difference of two numbers, where it is not 0; infinite where one of the two is
    /// not a number.
    pub values: Vec<(String, f64)>,
    /// Tensors that are equal.
    pub equal: usize,
}

impl Difference {
    /// Compares two files.
    pub fn of(first: &WeightsFile, second: &WeightsFile) -> Result<Self, WeightsError> {
        let mut difference = Self::default();
        let missing = |from: &BTreeMap<String, Tensor>, of: &BTreeMap<String, Tensor>| {
            of.keys().filter(|name| !from.contains_key(*name)).cloned().collect::<Vec<_>>()
        };
        difference.only_first = missing(&second.tensors, &first.tensors);
        difference.only_second = missing(&first.tensors, &second.tensors);
        for (name, one) in &first.tensors {
            let Some(other) = second.tensors.get(name) else { continue };
            if one.dims() != other.dims() {
                difference.shapes.push((name.clone(), one.dims().to_vec(), other.dims().to_vec()));
                continue;
            }
            match largest(one, other)? {
                0.0 => difference.equal += 1,
                apart => difference.values.push((name.clone(), apart)),
            }
        }
        Ok(difference)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        let Self { only_first, only_second, shapes, values, .. } = self;
        only_first.is_empty() && only_second.is_empty() && shapes.is_empty() && values.is_empty()
    }
}

fn largest(one: &Tensor, other: &Tensor) -> Result<f64, WeightsError> {
    let (one, other) = (one.flatten_all()?.to_vec1::<f32>()?, other.flatten_all()?.to_vec1::<f32>()?);
    let apart = |(one, other): (&f32, &f32)| match one.to_bits() == other.to_bits() {
        true => 0.0,
        false => {
            let apart = (f64::from(*one) - f64::from(*other)).abs();
            if apart.is_nan() { f64::INFINITY } else { apart }
        }
    };
    Ok(one.iter().zip(&other).map(apart).fold(0.0, f64::max))
}
