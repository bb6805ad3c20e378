//! Sums over the cells of maps, on the host.

use rayon::prelude::*;

/// Cells that one task adds.
pub(super) const PIECE: usize = 1024;

/// Sums over the cells of a map, of each image and channel.
///
/// # Shapes
/// `map` (N, cells, C); N·C numbers.
pub(super) fn image_sums(map: &[f32], (n, c, cells): (usize, usize, usize)) -> Vec<f64> {
    // Pieces of fixed size, added in order: the sums do not depend on the number of threads.
    let pieces = cells.div_ceil(PIECE).max(1);
    let sum = |index: usize| {
        let (image, first) = (index / pieces, index % pieces * PIECE);
        let count = PIECE.min(cells - first.min(cells));
        let mut sums = vec![0f64; c];
        for x in map[(image * cells + first) * c..][..count * c].chunks_exact(c.max(1)) {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        sums
    };
    let parts: Vec<Vec<f64>> = (0..n * pieces).into_par_iter().map(sum).collect();
    let mut sums = vec![0f64; n * c];
    for (index, part) in parts.iter().enumerate() {
        let image = &mut sums[index / pieces * c..][..c];
        image.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}
