//! The line of a table for a backbone that learned from another one without labels.

use serde::{Deserialize, Serialize};

use super::table::{Row, cost, signed};

/// Likeness of a backbone's features to its teacher's, and its cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackboneRow {
    /// Name in the first column.
    pub name: String,
    /// Mean cosine with the teacher's features on held-out images, from -1 to 1.
    pub cosine: f64,
    /// Number of the network's parameters.
    pub parameters: u64,
    /// Multiply-adds of one forward pass of one image, in 10^9.
    pub gflops: f64,
    /// Wall time of one forward pass of one image, in milliseconds.
    pub ms_per_image: f64,
}

impl Row for BackboneRow {
    const HEADER: &'static [&'static str] = &["model", "cosine", "params M", "GFLOPs", "ms/image"];

    fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone(), format!("{:.2}", 100.0 * self.cosine)];
        cells.extend(cost(self.parameters, self.gflops, self.ms_per_image));
        cells
    }

    fn difference(&self, to: &Self) -> Vec<String> {
        vec![
            signed(100.0 * (to.cosine - self.cosine), 2),
            signed((to.parameters as f64 - self.parameters as f64) / 1e6, 2),
            signed(to.gflops - self.gflops, 2),
            signed(to.ms_per_image - self.ms_per_image, 1),
        ]
    }

    fn told(&self) -> String {
        format!("cosine {:.2}", 100.0 * self.cosine)
    }

    fn metrics(&self) -> Vec<(&'static str, f64)> {
        vec![("cosine", 100.0 * self.cosine)]
    }
}
