//! Numbers and tensors as bytes, little endian: what ranks send each other, bit for bit.

use candle_core::{DType, Device, Tensor};

use crate::engine::{EngineError, Result};

/// Bytes to send.
#[derive(Debug, Default)]
pub(in crate::engine) struct Packet(Vec<u8>);

impl Packet {
    pub(in crate::engine) fn whole(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    pub(in crate::engine) fn real(&mut self, number: f64) {
        self.whole(number.to_bits());
    }

    pub(in crate::engine) fn singles(&mut self, numbers: &[f32]) {
        self.whole(numbers.len() as u64);
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    pub(in crate::engine) fn wholes(&mut self, numbers: &[u32]) {
        self.whole(numbers.len() as u64);
        self.0.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    /// A tensor of f32 or u32, with its shape.
    ///
    /// # Errors
    /// If it is of another type.
    pub(in crate::engine) fn tensor(&mut self, tensor: &Tensor) -> Result<()> {
        let is_whole = tensor.dtype() == DType::U32;
        self.whole(u64::from(is_whole));
        self.whole(tensor.rank() as u64);
        tensor.dims().iter().for_each(|&size| self.whole(size as u64));
        let flat = tensor.flatten_all()?;
        match is_whole {
            true => self.wholes(&flat.to_vec1()?),
            false => self.singles(&flat.to_vec1()?),
        }
        Ok(())
    }

    pub(in crate::engine) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Bytes that were received, read from the front.
#[derive(Debug)]
pub(in crate::engine) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(in crate::engine) fn of(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, bytes: usize) -> Result<&'b [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes).ok_or_else(|| garbled(&"it is too short"))?;
        self.0 = rest;
        Ok(front)
    }

    pub(in crate::engine) fn whole(&mut self) -> Result<u64> {
        let bytes = self.take(size_of::<u64>())?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    pub(in crate::engine) fn real(&mut self) -> Result<f64> {
        self.whole().map(f64::from_bits)
    }

    /// The four bytes of each number of a list.
    fn list(&mut self) -> Result<impl Iterator<Item = [u8; 4]> + use<'b>> {
        let count = self.whole()? as usize;
        let bytes = self.take(count.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).map(|four| four.try_into().expect("four bytes")))
    }

    pub(in crate::engine) fn singles(&mut self) -> Result<Vec<f32>> {
        Ok(self.list()?.map(f32::from_le_bytes).collect())
    }

    pub(in crate::engine) fn wholes(&mut self) -> Result<Vec<u32>> {
        Ok(self.list()?.map(u32::from_le_bytes).collect())
    }

    pub(in crate::engine) fn tensor(&mut self, device: &Device) -> Result<Tensor> {
        let is_whole = self.whole()? == 1;
        let rank = self.whole()?;
        let dims = (0..rank).map(|_| Ok(self.whole()? as usize)).collect::<Result<Vec<usize>>>()?;
        Ok(match is_whole {
            true => Tensor::from_vec(self.wholes()?, dims, device)?,
            false => Tensor::from_vec(self.singles()?, dims, device)?,
        })
    }
}

/// The error of a message between ranks that is not what it must be.
pub(super) fn garbled(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Damaged(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written_bit_for_bit() {
        let mut packet = Packet::default();
        packet.whole(7);
        packet.real(-0.0);
        packet.singles(&[f32::NAN, 1.5]);
        let tensor = Tensor::new(&[[1u32, 2], [3, u32::MAX]], &Device::Cpu).unwrap();
        packet.tensor(&tensor).unwrap();
        packet.tensor(&Tensor::new(2.5f32, &Device::Cpu).unwrap()).unwrap();
        let bytes = packet.into_bytes();
        let mut reader = Reader::of(&bytes);
        assert_eq!(reader.whole().unwrap(), 7);
        assert_eq!(reader.real().unwrap().to_bits(), (-0.0f64).to_bits());
        let singles: Vec<u32> = reader.singles().unwrap().into_iter().map(f32::to_bits).collect();
        assert_eq!(singles, [f32::NAN.to_bits(), 1.5f32.to_bits()]);
        let back = reader.tensor(&Device::Cpu).unwrap();
        assert_eq!(back.to_vec2::<u32>().unwrap(), tensor.to_vec2::<u32>().unwrap());
        assert_eq!(reader.tensor(&Device::Cpu).unwrap().to_scalar::<f32>().unwrap(), 2.5);
        assert!(reader.is_empty() && reader.whole().is_err());
    }
}
