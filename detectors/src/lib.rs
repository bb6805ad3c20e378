//! Detector networks.

pub mod anchors;
pub mod box_coder;
pub mod boxes;
pub mod level_mapper;
pub mod matcher;
pub mod nms;
pub mod postprocess;
pub mod proposals;
pub mod sampler;
