//! The differentiable operations that ckd-det trains on.
