//! Comparisons of feature maps: value and gradient where the maps lie.
//!
//! | file | what lives there |
//! |---|---|
//! | `squared` | [`squared_difference`], each cell and channel with a weight |
//! | `pearson` | [`standardized_difference`]: channels of mean 0 and deviation 1 |
//! | `energy` | [`energy_difference`]: where the squares are, as a unit vector |
//! | `attention` | [`attention_weights`], [`attention_difference`]: softmax of mean sizes, over cells and channels |
//! | `divergence` | [`channel_divergence`]: channels as distributions over the cells |
//! | `context` | [`attention_pool`], [`add_to_channels`] |
//! | `gate`, `mask` | [`gated_sum`] of two maps; [`masked_cells`] |
//! | `extents`, `sums` | maps of one shape; sums over cells |
//!
//! The maps are (N, C, H, W). The `target` is a constant. Sums are in f64, over pieces of fixed size that are added in order:
//! they do not depend on the number of threads. A map without elements gives 0.

mod attention;
mod context;
mod divergence;
mod energy;
mod extents;
mod gate;
#[cfg(feature = "cuda")]
mod gpu;
mod mask;
mod pearson;
mod squared;
mod sums;

pub use attention::{attention_difference, attention_weights};
pub use context::{add_to_channels, attention_pool};
pub use divergence::channel_divergence;
pub use energy::energy_difference;
pub use gate::gated_sum;
pub use mask::masked_cells;
pub use pearson::standardized_difference;
pub use squared::{Weights, squared_difference};
