//! One launch over many tensors, which are cut into pieces of equal size.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::family::Family;
use super::launch::{arguments, int, launch};
use super::memory::Table;
use crate::Result;

/// Numbers of a piece, as the kernels know them.
const PIECE: usize = 16_384;

/// Start of a piece in its tensor, and the tensor's place in the table.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Piece {
    start: i64,
    entry: i64,
}

// SAFETY: two plain numbers, laid out as in C.
unsafe impl DeviceRepr for Piece {}

/// Pieces of tensors of so many numbers each.
pub(crate) fn pieces(counts: impl Iterator<Item = usize>) -> Vec<Piece> {
    let pieces =
        |(entry, count)| (0..count).step_by(PIECE).map(move |start| Piece { start: start as i64, entry });
    (0..).zip(counts).flat_map(pieces).collect()
}

/// Launches kernel `name` of the optimisers over all pieces of the tensors in `table`, `counts` numbers each.
///
/// # Errors
/// Errors of the driver.
pub(crate) fn in_pieces<T: DeviceRepr + Copy + Default + Unpin + 'static>(
    device: &CudaDevice,
    name: &'static str,
    table: &[T],
    counts: impl Iterator<Item = usize>,
) -> Result<()> {
    let pieces = pieces(counts);
    if pieces.is_empty() {
        return Ok(());
    }
    let (table, of_pieces) = (Table::of_structs(device, table)?, Table::of_structs(device, &pieces)?);
    let arguments = arguments![table.address(), of_pieces.address()];
    launch(device, Family::Optimisers, name, [int(pieces.len())? as u32, 1, 1], [256, 1], arguments)
}
