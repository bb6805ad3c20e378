//! The rows of a matrix as unit vectors, and the way back for gradients.

use rayon::prelude::*;

use crate::reduce::dot;

/// Rows divided by their lengths; a row of zeros stays one.
pub struct UnitRows {
    /// The unit rows, row-major.
    pub values: Vec<f32>,
    norms: Vec<f64>,
}

impl UnitRows {
    /// Unit rows of a matrix.
    ///
    /// # Shapes
    /// `rows` (B, `width`), row-major.
    pub fn of(rows: &[f32], width: usize) -> Self {
        let width = width.max(1);
        let mut values = rows.to_vec();
        let norms = values
            .par_chunks_exact_mut(width)
            .map(|row| {
                let norm = dot(row, row).sqrt();
                if norm != 0.0 {
                    row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
                }
                norm
            })
            .collect();
        Self { values, norms }
    }

    /// Turns the gradient of the unit rows into that of the rows: projected off each row, over its
    /// length. At a row of zeros, which has no direction, it is 0.
    pub fn pull_back(&self, gradient: &mut [f32]) {
        let Some(width) = gradient.len().checked_div(self.norms.len()).filter(|&width| width > 0) else {
            return;
        };
        gradient
            .par_chunks_exact_mut(width)
            .zip(self.values.par_chunks_exact(width))
            .zip(&self.norms)
            .for_each(|((gradient, unit), &norm)| {
                let along = dot(gradient, unit);
                let scale = if norm == 0.0 { 0.0 } else { norm.recip() };
                for (g, u) in gradient.iter_mut().zip(unit) {
                    *g = ((f64::from(*g) - along * f64::from(*u)) * scale) as f32;
                }
            });
    }
}
