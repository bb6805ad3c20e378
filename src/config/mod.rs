//! Configurations: what the user typed becomes one typed, checked [`Config`], once.
//!
//! | module     | what lives there                                                        |
//! |------------|-------------------------------------------------------------------------|
//! | `schema`   | every key: type, default, documentation                                 |
//! | `load`     | the layers of a configuration, from the file it `extends` to the `--set`s |
//! | `lookup`   | from a name to a file or to one of the `embedded` configurations        |
//! | `sets`     | `--set`                                                                 |
//! | `teacher`  | the configuration that trains the teacher first                         |
//! | `tree`     | a TOML document that remembers where every key was written              |
//! | `section`  | from the tree to the types: tables and choices; unknown keys            |
//! | `values`   | from the tree to the types: numbers, strings, paths, arrays; wrong types |
//! | `validate` | ranges, and keys that must fit each other                               |
//! | `diagnose` | errors with the lines at fault and what to do                           |
//!
//! A configuration is layered: the file named on the command line, over the files it `extends`, under
//! the `--set`s. Tables merge key by key; arrays are replaced. An error names the layer to blame.

mod diagnose;
mod embedded;
mod load;
mod lookup;
mod schema;
mod section;
mod sets;
mod teacher;
mod tree;
mod validate;
mod values;

pub use diagnose::{ConfigError, Diagnostic, Diagnostics};
pub use load::{Document, Experiment, Loaded};
pub use lookup::{ConfigSource, Listed, list};
pub use schema::*;
pub use section::{Key, Overlay};

/// What there is to know about each method: those that learn from a teacher, then those of cohorts.
pub fn methods() -> Vec<MethodCard> {
    let taught = Method::ALL.iter().map(|method| method.card());
    taught.chain(CohortMethod::ALL.iter().map(|method| method.card())).collect()
}
