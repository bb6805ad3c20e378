//! Piecewise functions on pieces that are given: activations whose kinks stay where another pass had them.
//!
//! ```text
//! piece           0            1                2                    kinks
//! ReLU            0            x                                     0
//! ReLU6           0            x                6                    0, 6
//! hard sigmoid    0            (x + 3) / 6      1                    -3, 3
//! hard swish      0            x (x + 3) / 6    x                    -3, 3
//! ```
//!
//! A kink belongs to the outer piece, as in the gradients of [`activation`](crate::activation).

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::{Device, Tensor};

use crate::activation::{Activation, SIX};
use crate::dispatch::{self, Host};
use crate::memory::{CHUNK, elements, elements_of, from_elements, nhwc, written_in_chunks};
use crate::pattern::{Asked, asked, check, keep};
use crate::simd::for_each_level;
use crate::{Result, Value};

/// A function with up to three smooth pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piecewise {
    Relu,
    Relu6,
    HardSigmoid,
    HardSwish,
}

impl Piecewise {
    /// The function of an activation that has kinks.
    fn of(activation: Activation) -> Option<Self> {
        match activation {
            Activation::Identity => None,
            Activation::Relu => Some(Self::Relu),
            Activation::Relu6 => Some(Self::Relu6),
        }
    }

    /// The inputs at its kinks.
    #[inline(always)]
    fn kinks(self) -> (f32, f32) {
        match self {
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, SIX),
            Self::HardSigmoid | Self::HardSwish => (-3.0, 3.0),
        }
    }

    /// The value at `x` of the piece that is numbered so.
    #[inline(always)]
    fn value(self, x: f32, piece: u8) -> f32 {
        let middle = match self {
            Self::Relu | Self::Relu6 => x,
            Self::HardSigmoid => (x + 3.0) / SIX,
            Self::HardSwish => x * (x + 3.0) / SIX,
        };
        let last = match self {
            Self::Relu | Self::HardSwish => x,
            Self::Relu6 => SIX,
            Self::HardSigmoid => 1.0,
        };
        match piece {
            0 => 0.0,
            1 => middle,
            _ => last,
        }
    }

    /// The gradient `g` through that piece at `x`.
    #[inline(always)]
    fn gradient(self, g: f32, x: f32, piece: u8) -> f32 {
        let middle = match self {
            Self::Relu | Self::Relu6 => g,
            Self::HardSigmoid => g / SIX,
            Self::HardSwish => g * (x / 3.0 + 0.5),
        };
        let last = match self {
            Self::Relu | Self::HardSwish => g,
            Self::Relu6 | Self::HardSigmoid => 0.0,
        };
        match piece {
            0 => 0.0,
            1 => middle,
            _ => last,
        }
    }
}

/// Result of `layer`, which applies the activation that it is told, with the pieces of `activation` as the pass asks.
pub(crate) fn after(
    activation: Activation,
    layer: impl FnOnce(Activation) -> Result<Value>,
) -> Result<Value> {
    let Some(function) = Piecewise::of(activation) else { return layer(activation) };
    match asked()? {
        Asked::Nothing => layer(activation),
        Asked::Keep => {
            let y = layer(activation)?;
            // A result of ReLU or ReLU6 lies on the piece of its input.
            keep(pieces(function, y.tensor())?);
            Ok(y)
        }
        Asked::Repeat(pieces) => on_pieces(function, &layer(Activation::Identity)?, pieces),
    }
}

/// `function` of `x`, which `compute` computes unless the pieces are given.
pub(crate) fn applied(
    function: Piecewise,
    x: &Value,
    compute: impl FnOnce() -> Result<Value>,
) -> Result<Value> {
    match asked()? {
        Asked::Nothing => compute(),
        Asked::Keep => {
            keep(pieces(function, x.tensor())?);
            compute()
        }
        Asked::Repeat(pieces) => on_pieces(function, x, pieces),
    }
}

/// The piece of each number, in memory order of [`in_order`].
fn pieces(function: Piecewise, x: &Tensor) -> Result<Tensor> {
    let x = in_order(x)?;
    dispatch::run(&x, Pieces { function, x: &x })
}

/// The given pieces of `function` at `x`.
fn on_pieces(function: Piecewise, x: &Value, pieces: Tensor) -> Result<Value> {
    check(&pieces, x.tensor().elem_count())?;
    let input = in_order(x.tensor())?;
    let out = dispatch::run(&input, PieceValues { function, x: &input, pieces: &pieces })?;
    // Only the hard swish has a slope that depends on the input.
    let saved = (function == Piecewise::HardSwish).then_some(input);
    Ok(Value::operation(&[x], as_it_was(out)?, move |g| {
        let g = in_order(g)?;
        let x = saved.as_ref().unwrap_or(&g);
        let gradient = dispatch::run(&g, PieceGradients { function, g: &g, x, pieces: &pieces })?;
        Ok(vec![Some(as_it_was(gradient)?)])
    }))
}

/// A tensor row-major; a map with its channels last.
fn in_order(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 4 { nhwc(x) } else { Ok(x.contiguous()?) }
}

/// The tensor whose [`in_order`] `x` is.
fn as_it_was(x: Tensor) -> Result<Tensor> {
    Ok(if x.rank() == 4 { x.permute((0, 3, 1, 2))? } else { x })
}

/// Contiguous numbers.
struct Pieces<'a> {
    function: Piecewise,
    x: &'a Tensor,
}

impl Host for Pieces<'_> {
    /// The number of the piece, u8.
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let x = elements(self.x)?;
        let pieces = written_in_chunks(x.len(), CHUNK, |index, out| {
            find(self.function, &x[index * CHUNK..][..out.len()], out.zeros());
        });
        let count = pieces.len();
        Ok(Tensor::from_vec(pieces, count, &Device::Cpu)?)
    }
}

/// Contiguous numbers and the piece that counts for each.
struct PieceValues<'a> {
    function: Piecewise,
    x: &'a Tensor,
    pieces: &'a Tensor,
}

impl Host for PieceValues<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (x, pieces) = (elements(self.x)?, elements_of::<u8>(self.pieces)?);
        let values = written_in_chunks(x.len(), CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            evaluate(self.function, &x[range.clone()], &pieces[range], out.zeros());
        });
        from_elements(values, self.x.shape(), self.x)
    }
}

/// The gradient of the result, and what the forward pass had.
struct PieceGradients<'a> {
    function: Piecewise,
    g: &'a Tensor,
    x: &'a Tensor,
    pieces: &'a Tensor,
}

impl Host for PieceGradients<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (g, x, pieces) = (elements(self.g)?, elements(self.x)?, elements_of::<u8>(self.pieces)?);
        let values = written_in_chunks(g.len(), CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            differentiate(self.function, &g[range.clone()], &x[range.clone()], &pieces[range], out.zeros());
        });
        from_elements(values, self.g.shape(), self.g)
    }
}

/// Evaluates an expression with the function as a constant, so that each loop is compiled for one function.
macro_rules! with_constant {
    ($function:expr, $constant:ident => $result:expr) => {
        match $function {
            Piecewise::Relu => {
                const $constant: Piecewise = Piecewise::Relu;
                $result
            }
            Piecewise::Relu6 => {
                const $constant: Piecewise = Piecewise::Relu6;
                $result
            }
            Piecewise::HardSigmoid => {
                const $constant: Piecewise = Piecewise::HardSigmoid;
                $result
            }
            Piecewise::HardSwish => {
                const $constant: Piecewise = Piecewise::HardSwish;
                $result
            }
        }
    };
}

for_each_level! {
    fn find(function: Piecewise, x: &[f32], pieces: &mut [u8]) {
        let (low, high) = function.kinks();
        for (piece, x) in pieces.iter_mut().zip(x) {
            // A NaN lies on the middle piece, which shows it.
            *piece = u8::from(*x > low || x.is_nan()) + u8::from(*x >= high);
        }
    }

    fn evaluate(function: Piecewise, x: &[f32], pieces: &[u8], out: &mut [f32]) {
        with_constant!(function, F => {
            for ((out, x), piece) in out.iter_mut().zip(x).zip(pieces) {
                *out = F.value(*x, *piece);
            }
        })
    }

    fn differentiate(function: Piecewise, g: &[f32], x: &[f32], pieces: &[u8], out: &mut [f32]) {
        with_constant!(function, F => {
            for (((out, g), x), piece) in out.iter_mut().zip(g).zip(x).zip(pieces) {
                *out = F.gradient(*g, *x, *piece);
            }
        })
    }
}
