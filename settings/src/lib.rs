//! Typed settings from TOML text: one definition a key gives its type, its default, its documentation and
//! every error about it.
//!
//! | module     | what lives there                                                                    |
//! |------------|-------------------------------------------------------------------------------------|
//! | `tree`     | [`Node`]: a TOML document that remembers where every key was written; layers merge   |
//! | `section`  | [`section!`] and [`choices!`]: tables and words as Rust types; [`Read`], [`Section`] |
//! | `values`   | [`Read`] of booleans, numbers, strings, paths, arrays and optional keys             |
//! | `place`    | [`Place`]: a stretch of a [`Text`]; paths of keys                                |
//! | `check`    | [`Check`]: ranges, and keys that must fit each other; [`Problem`]                   |
//! | `diagnose` | [`Diagnostic`]: the message, the line at fault and what to do                       |
//!
//! All that is wrong with a document is reported at once, each finding at its own place:
//!
//! ```
//! use ckd_settings::{Check, choices, read, section};
//!
//! choices! {
//!     /// Reduction of the loss over a batch.
//!     pub enum Reduction {
//!         /// Divided by the number of rows.
//!         Mean = "mean",
//!         /// Added up.
//!         Sum = "sum",
//!     }
//! }
//!
//! section! {
//!     /// A loss.
//!     pub struct Loss {
//!         /// Weight in the total loss.
//!         pub weight: f64,
//!         /// Divides the logits.
//!         pub temperature: f64 = 1.0,
//!         /// Reduction over the batch.
//!         pub reduction: Reduction = Reduction::Mean,
//!     }
//! }
//!
//! impl Loss {
//!     fn check(&self, check: &mut Check<'_>) {
//!         check.positive("temperature", self.temperature);
//!     }
//! }
//!
//! let loss: Loss = read("weight = 0.5\nreduction = \"sum\"", "loss.toml")?;
//! assert_eq!(loss, Loss { reduction: Reduction::Sum, ..Loss::new(0.5) });
//!
//! let wrong = read::<Loss>("weight = 1.0\ntemprature = 4", "loss.toml").unwrap_err();
//! assert_eq!(wrong.all()[0].message(), "unknown key \"temprature\"");
//! assert_eq!(wrong.all()[0].advice(), Some("did you mean \"temperature\"?"));
//! assert!(wrong.to_string().contains("loss.toml:2:1"));
//! # Ok::<(), ckd_settings::Diagnostics>(())
//! ```
#![forbid(unsafe_code)]

// So that the macros' paths hold in this crate's own tests too.
extern crate self as ckd_settings;

mod check;
mod diagnose;
mod place;
mod section;
mod tree;
mod values;

pub use check::{Check, Problem, Unchecked};
pub use diagnose::{Diagnostic, Diagnostics, did_you_mean, printable};
pub use place::{Layer, Place, Text, join};
pub use section::{Fields, Key, Overlay, Read, Section, in_toml, joined, read, read_node, unknown_word};
pub use tree::{Entry, Node, Table, Value};

#[doc(hidden)]
pub use serde as __serde;
