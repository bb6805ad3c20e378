//! What several tests use: small experiments, data made up, files as others write them, real data, sources.

pub(crate) mod colours;
#[cfg(target_os = "linux")]
pub(crate) mod cores;
pub(crate) mod modules;
pub(crate) mod mpi;
pub(crate) mod real;
pub(crate) mod source;
pub(crate) mod tiny;
pub(crate) mod together;
pub(crate) mod torch_file;
pub(crate) mod typed;
