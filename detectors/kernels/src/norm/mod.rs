//! Normalisation: frozen and training batch norm (Ioffe and Szegedy 2015), group norm (Wu and He 2018).
//!
//! | file | what lives there |
//! |---|---|
//! | `frozen` | [`frozen_batch_norm`]: statistics that are constants |
//! | `batch` | [`batch_norm_train`]: the statistics of the batch, and the running ones |
//! | `group` | [`group_norm`]: the statistics of an image's groups of channels |
//! | `measured` | a norm with statistics of its input, and its gradient |
//! | `shared` | [`over_parts`]: the statistics of several parts of an update at once |
//! | `rows` | the passes over memory that all are made of |
//!
//! All three are y = activation((x - mean) · factor + bias + residual) with a mean and a factor per channel,
//! or per image and channel, and their gradients are dx = a·g + b·(x - mean) + d with such tables. So there
//! are three passes for all: sums per channel, the forward line, the backward line. Training takes two
//! forward (sums, line) and two backward; the ReLU's mask is read off the output, inside those.
//!
//! Sums are f64, over chunks of a fixed size added in order: the same bits on any number of threads.

mod batch;
mod frozen;
#[cfg(feature = "cuda")]
mod gpu;
mod group;
mod measured;
mod rows;
mod shared;
mod tables;

pub use batch::{BatchStatistics, batch_norm_train, update_running};
pub use frozen::frozen_batch_norm;
pub use group::group_norm;
pub use measured::NormEpilogue;
pub use shared::{Parts, are_over_parts, over_parts};
