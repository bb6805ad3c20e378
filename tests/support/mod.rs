//! What several tests use: small experiments, data made up, files as others write them, golden values, sources.

pub(crate) mod colours;
pub(crate) mod golden;
pub(crate) mod source;
pub(crate) mod tiny;
pub(crate) mod torch_file;
