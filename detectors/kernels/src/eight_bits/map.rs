//! A feature map between layers in 8 bits.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::grid::Grid;
use crate::memory::{CHUNK, written_in_chunks};
use crate::{Error, Result};

/// A feature map (N, C, H, W), channels last in memory.
#[derive(Debug, Clone)]
pub enum Map {
    /// In f32.
    Real(Tensor),
    /// In steps of 8 bits.
    Steps(Steps),
}

/// A feature map in steps of a grid, a quarter of the memory of f32.
#[derive(Debug, Clone)]
pub struct Steps {
    /// (N, H, W, C / 4), four channels in each number, the first in its lowest byte.
    pub(super) quads: Arc<Vec<u32>>,
    /// (N, C, H, W).
    pub(super) shape: [usize; 4],
    pub(super) grid: Grid,
}

impl Map {
    /// (N, C, H, W).
    ///
    /// # Errors
    /// If it has other dimensions than four.
    pub fn shape(&self) -> Result<[usize; 4]> {
        match self {
            Self::Real(map) => map.dims4().map(|(n, c, h, w)| [n, c, h, w]).map_err(Error::from),
            Self::Steps(steps) => Ok(steps.shape),
        }
    }

    /// The map in f32.
    ///
    /// # Shapes
    /// (N, C, H, W).
    ///
    /// # Errors
    /// None for a map that a layer made.
    pub fn to_real(&self) -> Result<Tensor> {
        match self {
            Self::Real(map) => Ok(map.clone()),
            Self::Steps(steps) => steps.to_real(),
        }
    }
}

impl Steps {
    /// Grid of the steps.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytes_of(&self.quads)
    }

    fn to_real(&self) -> Result<Tensor> {
        let [n, c, h, w] = self.shape;
        let steps = self.bytes();
        let numbers = written_in_chunks(steps.len(), CHUNK, |index, out| {
            let steps = &steps[index * CHUNK..][..out.len()];
            out.extend(steps.iter().map(|&step| self.grid.number(step)));
        });
        Ok(Tensor::from_vec(numbers, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }
}

/// Bytes of `quads`, in their order in memory.
pub(super) fn bytes_of(quads: &[u32]) -> &[u8] {
    // SAFETY: any four bytes are a number, and bytes lie anywhere.
    unsafe { std::slice::from_raw_parts(quads.as_ptr().cast(), size_of_val(quads)) }
}

/// Bytes of `quads`, to be overwritten.
pub(super) fn bytes_of_mut(quads: &mut [u32]) -> &mut [u8] {
    // SAFETY: as above; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(quads.as_mut_ptr().cast(), size_of_val(quads)) }
}
