//! The optimiser and the learning rate: from gradients to new weights.
//!
//! | module | what lives there |
//! |---|---|
//! | `settings` | [`Optim`]: the section `[optim]` |
//! | `optimizer` | [`Optimizer`]: the rule of an update, with its state |
//! | [`groups`] | parameter groups: learning-rate factor and weight decay of each parameter |
//! | [`sgd`], [`adamw`] | the kinds of optimiser |
//! | [`ema`] | the exponential moving average of the weights |
//! | [`schedule`] | the learning rate over time |

pub mod adamw;
pub mod ema;
pub mod groups;
mod optimizer;
pub mod schedule;
mod settings;
pub mod sgd;

use ckd_kernels::Result;

pub use adamw::AdamW;
pub use ema::Ema;
pub use groups::Parameter;
pub use optimizer::{Optimizer, Slot, gradient_norm};
pub use schedule::{LearningRate, Length, Schedule, ScheduleKind};
pub use settings::{Optim, OptimKind};
pub use sgd::Sgd;

impl Optim {
    /// The optimiser at rest over `parameters`.
    ///
    /// # Errors
    /// If the device has no room for its state.
    pub fn over(&self, parameters: Vec<Parameter>) -> Result<Box<dyn Optimizer>> {
        Ok(match self.kind {
            OptimKind::Sgd => Box::new(Sgd::new(parameters, self)?),
            OptimKind::AdamW => Box::new(AdamW::new(parameters, self)?),
        })
    }
}
