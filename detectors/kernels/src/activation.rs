//! Activations, number by number: what follows a layer in the same pass over its result.

/// Activation function that a layer applies to its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// max(y, 0).
    Relu,
    /// min(max(y, 0), 6).
    Relu6,
}

impl Activation {
    /// The least number that it gives.
    pub(crate) fn least(self) -> f32 {
        if self == Self::Identity { f32::NEG_INFINITY } else { 0.0 }
    }

    /// The largest number that it gives.
    pub(crate) fn most(self) -> f32 {
        if self == Self::Relu6 { SIX } else { f32::INFINITY }
    }

    /// Applies the activation to every number; NaN stays NaN.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => values.iter_mut().for_each(|y| *y = rectified(*y)),
            Self::Relu6 => values.iter_mut().for_each(|y| *y = clipped(*y)),
        }
    }
}

/// The ReLU of one number. Not `f32::max`, which makes 0 of a NaN: a diverged network must show.
#[inline]
pub(crate) fn rectified(y: f32) -> f32 {
    if y < 0.0 { 0.0 } else { y }
}

/// The gradient `g` through a ReLU whose output was `y`; 0 at 0, and NaN outputs let it through.
#[inline]
pub(crate) fn through_relu(g: f32, y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { g }
}

/// Value from which a ReLU6 is flat again.
pub(crate) const SIX: f32 = 6.0;

/// The ReLU6 of one number; a NaN stays one.
#[inline]
pub(crate) fn clipped(y: f32) -> f32 {
    y.clamp(0.0, SIX)
}

/// The hard sigmoid of one number, min(max(x + 3, 0), 6) / 6; a NaN stays one.
#[inline]
pub(crate) fn hard_sigmoid(x: f32) -> f32 {
    (x + 3.0).clamp(0.0, SIX) / SIX
}

/// The gradient `g` through a hard sigmoid whose input was `x`; 0 at -3 and at 3, and NaN inputs let it
/// through.
#[inline]
pub(crate) fn through_hard_sigmoid(g: f32, x: f32) -> f32 {
    if x <= -3.0 || x >= 3.0 { 0.0 } else { g / SIX }
}

/// The hard swish of one number, x times its hard sigmoid; a NaN stays one, and minus infinity becomes 0.
#[inline]
pub(crate) fn hard_swish(x: f32) -> f32 {
    if x <= -3.0 { 0.0 } else { x * (x + 3.0).min(SIX) / SIX }
}

/// The gradient `g` through a hard swish whose input was `x`; 0 times `g` at -3 and `g` at 3.
#[inline]
pub(crate) fn through_hard_swish(g: f32, x: f32) -> f32 {
    if x <= -3.0 {
        0.0
    } else if x >= 3.0 {
        g
    } else {
        g * (x / 3.0 + 0.5)
    }
}

/// The sigmoid of one number.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    (1.0 + (-f64::from(x)).exp()).recip() as f32
}

/// The gradient `g` through a sigmoid whose output was `y`.
#[inline]
pub(crate) fn through_sigmoid(g: f32, y: f32) -> f32 {
    g * y * (1.0 - y)
}

/// The gradient `g` through a ReLU6 whose output was `y`; 0 at 0 and at 6, and NaN outputs let it through.
#[inline]
pub(crate) fn through_clip(g: f32, y: f32) -> f32 {
    if y <= 0.0 || y >= SIX { 0.0 } else { g }
}
