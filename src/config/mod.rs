//! Configurations: what the user typed becomes one typed, checked [`Config`], once.
//!
//! | module     | content                                                                 |
//! |------------|-------------------------------------------------------------------------|
//! | `schema`   | whole documents: [`Config`], [`ClassifyConfig`], [`CohortConfig`]; sections of rooms below |
//! | `load`     | the layers of a configuration, from the file it `extends` to the `--set`s |
//! | `lookup`   | from a name to a file or to one of the `embedded` configurations        |
//! | `sets`     | `--set`                                                                 |
//! | `teacher`  | the experiment that trains the teacher first                            |
//! | `flat`     | a configuration as a list of dotted keys                                 |
//! | `json_schema` | JSON Schema of configurations, for editors                            |
//! | `roots`    | the three kinds of configuration: tasks, paths, teachers                 |
//! | `runs`     | `run:NAME`, the weights of a run, in the place of a file                 |
//! | `error`    | a configuration that cannot be had                                      |
//!
//! A configuration is layered: the file named on the command line, over the files it `extends`, under
//! the `--set`s. Tables merge key by key; arrays are replaced. An error names the layer to blame.

mod embedded;
mod error;
mod flat;
mod json_schema;
mod load;
mod lookup;
mod roots;
mod runs;
mod schema;
mod sets;
mod teacher;

pub use ckd_settings::{Diagnostic, Diagnostics, Key, Overlay};
pub use error::ConfigError;
pub use flat::flat;
pub use json_schema::json_schema;
pub use load::{Document, Experiment, Loaded};
pub use lookup::{ConfigSource, Listed, list};
pub use schema::*;
