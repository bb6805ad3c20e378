//! Functions of one or two tensors, element by element, in the memory order of the first.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::activation::{
    Activation, clipped, hard_sigmoid, hard_swish, rectified, sigmoid, through_clip, through_hard_sigmoid,
    through_hard_swish, through_relu, through_sigmoid,
};
use crate::dispatch::{self, Host};
use crate::in_place::{lend, same_shape};
use crate::memory::{
    CHUNK, Place, channels_last, elements, from_channels_last, from_elements, is_channels_last, nhwc,
    on_host, written_in_chunks,
};
use crate::simd::{Loops, at_level, for_each_level};
use crate::stored::stored_as;
use crate::{Error, Result};

/// A function of one number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Function {
    /// The number times this.
    Times(f32),
    /// The ReLU.
    Relu,
    /// The ReLU6.
    Relu6,
    /// The hard sigmoid.
    HardSigmoid,
    /// The hard swish.
    HardSwish,
    /// The sigmoid.
    Sigmoid,
}

/// The function of every element of a tensor.
struct Map<'a> {
    function: Function,
    a: &'a Tensor,
}

/// Applies `function` to every element.
pub(crate) fn map(function: Function, a: &Tensor) -> Result<Tensor> {
    dispatch::run(a, Map { function, a })
}

impl Host for Map<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        match self.function {
            Function::Times(factor) => mapped(self.a, |a| a * factor),
            Function::Relu => mapped(self.a, rectified),
            Function::Relu6 => mapped(self.a, clipped),
            Function::HardSigmoid => mapped(self.a, hard_sigmoid),
            Function::HardSwish => mapped(self.a, hard_swish),
            Function::Sigmoid => mapped(self.a, sigmoid),
        }
    }
}

/// A function of two numbers.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Sum,
    /// The gradient through a ReLU, of the gradient and the result.
    ThroughRelu,
    /// The gradient through a ReLU6, of the gradient and the result.
    ThroughRelu6,
    /// The gradient through a hard sigmoid, of the gradient and the input.
    ThroughHardSigmoid,
    /// The gradient through a hard swish, of the gradient and the input.
    ThroughHardSwish,
    /// The gradient through a sigmoid, of the gradient and the result.
    ThroughSigmoid,
}

/// The function of the elements of two tensors of equal shape.
struct Zip<'a> {
    function: Pair,
    a: &'a Tensor,
    b: &'a Tensor,
}

impl Host for Zip<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        match self.function {
            Pair::Sum => zipped(self.a, self.b, |a, b| a + b),
            Pair::ThroughRelu => zipped(self.a, self.b, through_relu),
            Pair::ThroughRelu6 => zipped(self.a, self.b, through_clip),
            Pair::ThroughHardSigmoid => zipped(self.a, self.b, through_hard_sigmoid),
            Pair::ThroughHardSwish => zipped(self.a, self.b, through_hard_swish),
            Pair::ThroughSigmoid => zipped(self.a, self.b, through_sigmoid),
        }
    }
}

fn zip(operation: &'static str, function: Pair, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::invalid(operation, format!("shapes differ: {:?} and {:?}", a.shape(), b.shape())));
    }
    dispatch::run(a, Zip { function, a, b: &stored_as(b, a.dtype())? })
}

/// The sum of two tensors of equal shape.
pub(crate) fn sum_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip("sum", Pair::Sum, a, b)
}

/// The gradient `g` through a hard sigmoid of `x`.
pub(crate) fn hard_sigmoid_gradient(g: &Tensor, x: &Tensor) -> Result<Tensor> {
    zip("hard_sigmoid", Pair::ThroughHardSigmoid, g, x)
}

/// The gradient `g` through a hard swish of `x`.
pub(crate) fn hard_swish_gradient(g: &Tensor, x: &Tensor) -> Result<Tensor> {
    zip("hard_swish", Pair::ThroughHardSwish, g, x)
}

/// The gradient `g` through a sigmoid whose result was `y`.
pub(crate) fn sigmoid_gradient(g: &Tensor, y: &Tensor) -> Result<Tensor> {
    zip("sigmoid", Pair::ThroughSigmoid, g, y)
}

impl Activation {
    /// The gradient `g` through the activation where its result was `y`.
    pub(crate) fn mask(self, g: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(g.clone()),
            Self::Relu => zip("relu", Pair::ThroughRelu, g, y),
            Self::Relu6 => zip("relu6", Pair::ThroughRelu6, g, y),
        }
    }

    /// Makes of the gradient `g`, in its memory, the gradient through the activation where its result was `y`.
    ///
    /// # Shapes
    /// As those of [`add_in_place`].
    pub(crate) fn mask_in_place(self, g: &Tensor, y: &Tensor) -> Result<()> {
        if self == Self::Identity {
            return Ok(());
        }
        same_shape("mask_in_place", &[g, y])?;
        let (g, y) = in_order_of(g, y)?;
        dispatch::run(&g, MaskInPlace { activation: self, g: &g, y: &y })
    }
}

/// Adds `from` to `to`, in the memory of `to`: everything that shares that memory sees it.
///
/// # Shapes
/// Two f32 tensors of one shape; `to` is contiguous, or NCHW with its channels last in memory.
///
/// # Errors
/// If shapes, types or devices differ, `to` lies otherwise, or both share their memory.
pub fn add_in_place(to: &Tensor, from: &Tensor) -> Result<()> {
    same_shape("add_in_place", &[to, from])?;
    let (to, from) = in_order_of(to, from)?;
    dispatch::run(&to, AddInPlace { to: &to, from: &from })
}

/// Both tensors in the memory order of the first: a view of it, and of the second a copy where it lies otherwise.
fn in_order_of(first: &Tensor, second: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok(match is_channels_last(first) {
        true => (first.permute((0, 2, 3, 1))?, nhwc(second)?),
        false => (first.clone(), second.contiguous()?),
    })
}

struct MaskInPlace<'a> {
    activation: Activation,
    g: &'a Tensor,
    y: &'a Tensor,
}

impl Host for MaskInPlace<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let masked = match self.activation {
            Activation::Identity => return Ok(()),
            Activation::Relu => mask_by_relu,
            Activation::Relu6 => mask_by_relu6,
        };
        lend("mask_in_place", [self.g], [self.y], |[g], [y]| {
            g.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(g, y)| masked(g, y));
        })
    }
}

struct AddInPlace<'a> {
    to: &'a Tensor,
    from: &'a Tensor,
}

impl Host for AddInPlace<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        lend("add_in_place", [self.to], [self.from], |[to], [from]| {
            to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| add_to(to, from));
        })
    }
}

/// Adds the rows of `from` to the rows `indices` of a contiguous matrix, in their order and in its memory.
pub(crate) fn add_rows(to: &Tensor, from: &Tensor, indices: &[u32]) -> Result<()> {
    dispatch::run(to, AddRows { to, from: &from.contiguous()?, indices })
}

struct AddRows<'a> {
    to: &'a Tensor,
    from: &'a Tensor,
    indices: &'a [u32],
}

impl Host for AddRows<'_> {
    type Output = ();

    fn on_host(self) -> Result<()> {
        let (_, d) = self.to.dims2()?;
        lend("add_rows", [self.to], [self.from], |[to], [from]| {
            for (&i, from) in self.indices.iter().zip(from.chunks_exact(d.max(1))) {
                to[i as usize * d..][..d].iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        })
    }
}

for_each_level! {
    fn add_to(to: &mut [f32], from: &[f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }

    fn mask_by_relu(g: &mut [f32], y: &[f32]) {
        g.iter_mut().zip(y).for_each(|(g, y)| *g = through_relu(*g, *y));
    }

    fn mask_by_relu6(g: &mut [f32], y: &[f32]) {
        g.iter_mut().zip(y).for_each(|(g, y)| *g = through_clip(*g, *y));
    }
}

/// Combines two tensors of equal shape, in the memory order of the first.
fn zipped(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    let combine = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> {
        let (a, b) = (elements(a)?, elements(b)?);
        Ok(written_in_chunks(a.len(), CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            at_level(ZipLoop { a: &a[range.clone()], b: &b[range], f: &f, out });
        }))
    };
    if is_channels_last(a) {
        let (n, c, h, w) = a.dims4()?;
        return from_channels_last(combine(&channels_last(a)?, &channels_last(b)?)?, (n, h, w, c), a);
    }
    from_elements(combine(&on_host(a)?, &on_host(b)?)?, a.shape(), a)
}

/// Maps every element, keeping the memory order.
fn mapped(a: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let apply = |a: &Tensor| -> Result<Vec<f32>> {
        let a = elements(a)?;
        Ok(written_in_chunks(a.len(), CHUNK, |index, out| {
            let a = &a[index * CHUNK..][..out.len()];
            at_level(MapLoop { a, f: &f, out });
        }))
    };
    if is_channels_last(a) {
        let (n, c, h, w) = a.dims4()?;
        return from_channels_last(apply(&channels_last(a)?)?, (n, h, w, c), a);
    }
    from_elements(apply(&on_host(a)?)?, a.shape(), a)
}

struct ZipLoop<'a, 'p, F> {
    a: &'a [f32],
    b: &'a [f32],
    f: &'a F,
    out: &'a mut Place<'p, f32>,
}

impl<F: Fn(f32, f32) -> f32> Loops for ZipLoop<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.extend(self.a.iter().zip(self.b).map(|(a, b)| (self.f)(*a, *b)));
    }
}

struct MapLoop<'a, 'p, F> {
    a: &'a [f32],
    f: &'a F,
    out: &'a mut Place<'p, f32>,
}

impl<F: Fn(f32) -> f32> Loops for MapLoop<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.out.extend(self.a.iter().map(|a| (self.f)(*a)));
    }
}
