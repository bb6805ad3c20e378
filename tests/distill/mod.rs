//! Distillation: golden values, the methods' identities, central differences, hostile input.

mod alignment;
mod boxes;
mod cross_kd;
mod label_free;
mod logits;
mod maps;
mod memory;
mod meta;
mod methods;
mod mgd;
mod online;
mod parts;
mod prepared;
mod review;
pub(crate) mod support;
