//! Losses of rows, one each, and their weighted mean.
//!
//! | file | what lives there |
//! |---|---|
//! | `each` | a loss for each row: softened and decoupled divergence, contrast, noise contrast |
//! | `mean` | the mean of losses, with or without weights |

mod each;
#[cfg(feature = "cuda")]
mod gpu;
mod mean;

pub use each::{Part, Positives, contrast, decoupled_divergence, noise_contrast, softened_divergence};
pub use mean::weighted_mean;
