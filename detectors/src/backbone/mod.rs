//! Networks that turn an image into feature maps of falling resolution.

mod resnet;

pub use resnet::{ResNet, ResNetConfig, ResNetDepth};
