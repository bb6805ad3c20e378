//! Losses of detectors and classifiers: value and gradient in one pass over the rows.
//!
//! | file | what lives there |
//! |---|---|
//! | `bce` | [`bce_with_logits`]: binary cross-entropy (the RPN's objectness) |
//! | `focal` | [`sigmoid_focal_loss`] (RetinaNet's classes) |
//! | `quality` | [`quality_focal_loss`] (towards another network's classes) |
//! | `smooth_l1` | [`smooth_l1`] (box deltas) |
//! | `giou` | [`giou_loss`], [`log_iou_loss`] (boxes) |
//! | `sums` | [`Divisor`]; the sum over rows |
//! | `cross_entropy` | [`softmax_cross_entropy`] (the box head's classes) |
//!
//! Every loss is a sum over rows divided by a `divisor` that the caller names: each detector averages
//! over something else. No rows at all give 0 with a zero gradient, whatever the divisor is. A logit or
//! box that is not finite makes the loss not finite, so that a training guard sees it.
//! Rows run in parallel; sums are in f64 and in an order that does not depend on the number of threads.

mod bce;
mod cross_entropy;
mod focal;
mod giou;
mod quality;
mod smooth_l1;
mod sums;

pub use bce::bce_with_logits;
pub use cross_entropy::softmax_cross_entropy;
pub use focal::{FocalTargets, RowTarget, sigmoid_focal_loss};
pub use giou::{giou_loss, log_iou_loss};
pub use quality::quality_focal_loss;
pub use smooth_l1::smooth_l1;
pub use sums::Divisor;
