//! Distillation: golden values, the methods' identities, central differences, hostile input.

mod alignment;
mod logits;
mod maps;
mod memory;
mod meta;
mod methods;
mod online;
mod parts;
pub(crate) mod support;
