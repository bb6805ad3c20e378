//! Distillation: golden values, the methods' identities, central differences, hostile input.

#[path = "../support/golden.rs"]
mod golden;

mod alignment;
mod logits;
mod maps;
mod memory;
mod meta;
mod online;
mod support;
