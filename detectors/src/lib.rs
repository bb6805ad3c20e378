//! The networks of ckd-det: ResNet, ResNeXt and MobileNet (V1 to V3) trunks, feature pyramids, Faster R-CNN,
//! RetinaNet and FCOS.
//!
//! Pure model code: it reads no file, prints nothing, and knows no distillation beyond offering
//! [`taps`]. Structure, names, initial values and behaviour are torchvision's.
//!
//! | module | what lives there |
//! |---|---|
//! | [`detector`], [`faster_rcnn`], [`retinanet`], [`fcos`] | the trait of detectors, and the detectors |
//! | [`settings`] | the table `[detector]` of a configuration |
//! | [`regions`] | where a detector's classification was trained, and its logits there |
//! | [`classifier`] | networks that name a whole image |
//! | [`backbone`], [`fpn`], [`pyramid`] | trunk, neck, and the neck's levels |
//! | [`rpn`], [`roi_heads`] | the two stages of Faster R-CNN |
//! | [`anchors`], [`boxes`], [`box_coder`], [`matcher`], [`sampler`], [`level_mapper`] | geometry |
//! | [`proposals`], [`nms`], [`postprocess`] | from scores to regions and detections |
//! | [`names`] | what other programs call the same tensors |
//! | [`images`], [`taps`] | what goes in; where distillation looks |
//! | [`nn`], [`param`], [`init`] | layers and their parameters |
//! | [`eight_bits`] | layers of a frozen network in int8 |
//! | `candle_module` | networks as `candle_nn` modules (feature `candle-nn`) |

#![forbid(unsafe_code)]

pub mod anchors;
pub mod backbone;
pub mod box_coder;
pub mod boxes;
#[cfg(feature = "candle-nn")]
pub mod candle_module;
pub mod classifier;
mod dense;
pub mod detector;
pub mod eight_bits;
mod error;
pub mod faster_rcnn;
pub mod fcos;
pub mod fpn;
pub mod images;
pub mod init;
pub mod level_mapper;
pub mod matcher;
pub mod names;
pub mod nms;
pub mod nn;
pub mod param;
pub mod postprocess;
pub mod proposals;
pub mod pyramid;
pub mod regions;
pub mod retinanet;
pub mod roi_heads;
mod row_divisors;
pub mod rpn;
pub mod sampler;
pub mod settings;
pub mod taps;

pub use detector::{Detect, Detector, DetectorConfig};
pub use error::{Error, Result};

/// Named scalar losses of one training pass, torchvision's names.
pub type Losses = Vec<(&'static str, ckd_kernels::Value)>;
