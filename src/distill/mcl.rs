//! Mutual contrastive learning of networks that train together, MCL, and its layer-wise form with learned
//! layer matching, L-MCL (Yang et al., arXiv 2207.11518).
//!
//! | file | content |
//! |---|---|
//! | `pair` | [`pair()`]: the losses of two networks or layers: [`vcl`], [`icl`], [`soft_vcl`], [`soft_icl`] |
//! | `cohort` | [`Likenesses`]: the losses of all pairs of a cohort, in the batch or with memory banks |
//! | `layers` | [`layer_weights`]: layer matching, a weight for each pair of layers and image; [`aggregate`] |
//! | `settings` | [`Cohort`]: the keys of `[cohort]` |

mod cohort;
mod layers;
mod pair;
mod settings;

pub use cohort::Likenesses;
pub use layers::{aggregate, layer_weights};
pub use pair::{Instance, Pair, Targets, icl, pair, soft_icl, soft_vcl, softened, vcl};
pub use settings::{Bank, Cohort, CohortMethod, Layers};
