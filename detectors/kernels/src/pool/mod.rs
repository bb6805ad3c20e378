//! Max pooling with padding, and adaptive average pooling.
//!
//! Both write their gradients by rows of the input: a task owns a row, and adds what the windows over it
//! give, in the windows' order. No two tasks write the same place, so the result does not depend on threads.

mod average;
mod max;

pub use average::{adaptive_avg_pool2d, global_avg_pool};
pub use max::{MAX_KERNEL, max_pool2d};
