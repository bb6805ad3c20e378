//! NVIDIA GPUs: how the computations behind `dispatch` run there.
//!
//! | module | what lives there |
//! |---|---|
//! | `cache` | compiled kernels in the user's cache folder |
//! | `cublas` | products of bf16 matrices by cuBLAS |
//! | `cudnn` | convolutions by cuDNN |
//! | `device` | opening a GPU; the stream that all work is put into |
//! | `family` | kernels as CUDA C++ text, compiled by NVRTC for the GPU that is there |
//! | `launch` | putting a kernel with its arguments into the stream |
//! | `memory` | tensors as addresses on the device, fresh tensors, small tables from the host |
//! | [`nccl`] | sums over the GPUs of several processes |
//! | `pieces` | one launch over many tensors |
//!
//! The GPU form of an operation lies beside its host form, in a module `gpu`. Maps are NCHW in shape and
//! channels last in memory, as on the host, so graph and networks see no difference. No kernel adds with
//! atomics: sums have a fixed order, and bits repeat on one model of GPU.

mod cache;
pub(crate) mod cublas;
pub(crate) mod cudnn;
mod device;
mod family;
mod launch;
mod machine;
mod memory;
pub mod nccl;
mod pieces;

pub use device::open;
pub use family::compile_all;
pub use machine::{GpuInfo, Machine, machine};

pub(crate) use device::peak_memory;
pub(crate) use family::Family;
pub(crate) use launch::{Argument, arguments, blocks, int, launch};
pub(crate) use memory::{
    Fresh, FreshMap, Table, address, by_target, elements, elements_or_null, floats, floats_or_null, null,
    pointer,
};
pub(crate) use pieces::{in_pieces, pieces};
