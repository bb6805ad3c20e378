//! Tensors as flat vectors, in the order in which maps and convolution weights lie.

use candle_core::Tensor;

use crate::Result;
use crate::in_place::{in_memory_order, overwrite};
use crate::memory::{elements, from_elements, on_host};

/// Appends the elements of `tensor` to `values`; those of a 4-dimensional one channels last.
///
/// # Shapes
/// Any.
///
/// # Errors
/// If `tensor` is not f32.
pub fn append(tensor: &Tensor, values: &mut Vec<f32>) -> Result<()> {
    let host = on_host(&in_memory_order(tensor)?)?;
    values.extend_from_slice(&elements(&host)?);
    Ok(())
}

/// The tensor whose elements [`append`] gave, in the shape and on the device of `like`.
///
/// # Shapes
/// As many values as `like` has elements.
///
/// # Errors
/// If there are more or fewer.
pub fn restored(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    let shape = in_memory_order(like)?.shape().clone();
    let tensor = from_elements(values, shape, like)?;
    Ok(if like.rank() == 4 { tensor.permute((0, 3, 1, 2))? } else { tensor })
}

/// Writes the elements that [`append`] gives into `place`, on its device.
///
/// # Shapes
/// `place` (as many as `tensor` has elements), contiguous.
///
/// # Errors
/// If there are more or fewer.
pub fn put(tensor: &Tensor, place: &Tensor) -> Result<()> {
    overwrite(place, &in_memory_order(tensor)?.contiguous()?.flatten_all()?)
}

/// The tensor whose elements [`put`] wrote into `place`, in the shape of `like`. Nothing is copied.
///
/// # Shapes
/// `place` (as many as `like` has elements), contiguous.
///
/// # Errors
/// If there are more or fewer.
pub fn shaped(place: &Tensor, like: &Tensor) -> Result<Tensor> {
    let tensor = place.reshape(in_memory_order(like)?.shape())?;
    Ok(if like.rank() == 4 { tensor.permute((0, 3, 1, 2))? } else { tensor })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn values_of(tensor: &Tensor) -> Vec<f32> {
        let mut values = Vec::new();
        append(tensor, &mut values).unwrap();
        values
    }

    #[test]
    fn a_tensor_comes_back_from_its_elements_however_it_lies() {
        let plain = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((2, 3, 2, 2)).unwrap();
        let last = plain.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)).unwrap();
        let matrix = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        for tensor in [plain, last, matrix] {
            let mut values = vec![9.0];
            append(&tensor, &mut values).unwrap();
            let back = restored(values.split_off(1), &tensor).unwrap();
            assert_eq!(values, [9.0]);
            assert_eq!(back.dims(), tensor.dims());
            let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(&back), numbers(&tensor));
            let row = Tensor::zeros(tensor.elem_count() + 5, candle_core::DType::F32, &Device::Cpu).unwrap();
            let place = row.narrow(0, 3, tensor.elem_count()).unwrap();
            put(&tensor, &place).unwrap();
            assert_eq!(place.to_vec1::<f32>().unwrap(), values_of(&tensor));
            assert_eq!(numbers(&shaped(&place, &tensor).unwrap()), numbers(&tensor));
        }
    }
}
