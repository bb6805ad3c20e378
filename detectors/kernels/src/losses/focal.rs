//! The focal loss of independent sigmoids (Lin et al., Focal Loss for Dense Object Detection, 2017).
//!
//! Almost every element of a detector's class map is background: the loss of x with target 0 is
//! p^gamma softplus(x), and a target of 1 is the same function of -x. That one function runs over whole
//! rows, many lanes at a time and without branches; the one element of a row that is a class is
//! corrected afterwards. No one-hot targets are made.

#[cfg(feature = "cuda")]
mod gpu;

use candle_core::Tensor;

use super::sums::{Divisor, expect_count, loss_over_rows, sum_over_rows};
use crate::dispatch::{self, Host};
use crate::gradient::Gradient;
use crate::reduce::{exp_of_negative, log_of_one_plus};
use crate::scalar::times;
use crate::simd::for_each_level;
use crate::{Error, Result, Value};

const NAME: &str = "sigmoid_focal_loss";
const LANES: usize = 16;

/// Target of a row (an anchor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowTarget {
    /// Target 1 at this class, 0 elsewhere.
    Class(u32),
    /// Target 0 everywhere.
    Background,
    /// Not counted (an anchor between the matcher's thresholds).
    Ignored,
}

/// Targets of [`sigmoid_focal_loss`].
#[derive(Debug, Clone, Copy)]
pub enum FocalTargets<'a> {
    /// Target for each row.
    Rows(&'a [RowTarget]),
    /// Target in [0, 1] for each element, row-major.
    Dense(&'a [f32]),
}

/// Sigmoid focal loss (Lin et al. 2017, arXiv 1708.02002, equation 5).
///
/// The sum over elements of alpha_t (1 - p_t)^gamma BCE(x, t), over `divisor`.
///
/// p_t is the probability given to the target. alpha_t is `alpha` for target 1 and 1 - `alpha` for
/// target 0; with a negative `alpha` it is 1, as in torchvision.
///
/// # Shapes
/// `logits` (M, K), `targets` M rows or M K values; a scalar.
///
/// # Errors
/// Counts that differ; a class of K or more; alpha above 1, negative gamma; a divisor that is not
/// positive (unless M is 0).
pub fn sigmoid_focal_loss<'d>(
    logits: &Value,
    targets: FocalTargets<'_>,
    alpha: f64,
    gamma: f64,
    divisor: impl Into<Divisor<'d>>,
) -> Result<Value> {
    let divisor = divisor.into();
    let &[m, k] = logits.dims() else {
        return Err(Error::invalid(NAME, format!("(M, K) expected, got {:?}", logits.dims())));
    };
    match targets {
        FocalTargets::Dense(targets) => expect_count(NAME, "targets", m * k, targets.len())?,
        FocalTargets::Rows(targets) => {
            expect_count(NAME, "row targets", m, targets.len())?;
            let is_outside =
                |target: &RowTarget| matches!(target, RowTarget::Class(class) if *class as usize >= k);
            if let Some((row, target)) = targets.iter().enumerate().find(|(_, target)| is_outside(target)) {
                return Err(Error::invalid(NAME, format!("{target:?} in row {row}, of {k} classes")));
            }
        }
    }
    let valid = alpha <= 1.0 && gamma >= 0.0 && gamma.is_finite();
    if !valid {
        return Err(Error::invalid(
            NAME,
            format!("alpha must be at most 1 and gamma not negative, got {alpha} and {gamma}"),
        ));
    }
    let parts = divisor.parts(NAME, if k == 0 { 0 } else { m })?;
    let focal = Focal { logits: logits.tensor(), targets, alpha, gamma, parts: &parts };
    let loss = dispatch::run(focal.logits, Loss(focal))?;
    // The gradient is as large as the logits, which are there anyway: it is made when it is needed.
    let (kept, targets) = (logits.tensor().clone(), targets.to_owned());
    Ok(Value::consuming_operation(&[logits], loss, move |factor| {
        let focal = Focal { logits: &kept, targets: targets.borrowed(), alpha, gamma, parts: &parts };
        let gradient = dispatch::run(&kept, Derivatives(focal))?;
        Ok(vec![Some(Gradient::Own(times(gradient, &factor.into_tensor()?)?))])
    }))
}

/// Targets that a gradient is made of later.
enum OwnTargets {
    Rows(Vec<RowTarget>),
    Dense(Vec<f32>),
}

impl FocalTargets<'_> {
    fn to_owned(self) -> OwnTargets {
        match self {
            Self::Rows(targets) => OwnTargets::Rows(targets.to_vec()),
            Self::Dense(targets) => OwnTargets::Dense(targets.to_vec()),
        }
    }
}

impl OwnTargets {
    fn borrowed(&self) -> FocalTargets<'_> {
        match self {
            Self::Rows(targets) => FocalTargets::Rows(targets),
            Self::Dense(targets) => FocalTargets::Dense(targets),
        }
    }
}

struct Focal<'a> {
    logits: &'a Tensor,
    targets: FocalTargets<'a>,
    alpha: f64,
    gamma: f64,
    parts: &'a [(usize, f64)],
}

/// The loss.
struct Loss<'a>(Focal<'a>);

/// Derivatives of the loss, of the logits' shape and in memory of their own.
struct Derivatives<'a>(Focal<'a>);

impl Host for Loss<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (_, k) = self.0.logits.dims2()?;
        loss_over_rows(self.0.logits, k, self.0.parts, self.0.row())
    }
}

impl Host for Derivatives<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let (_, k) = self.0.logits.dims2()?;
        Ok(sum_over_rows(self.0.logits, k, self.0.parts, self.0.row())?.gradient)
    }
}

impl Focal<'_> {
    /// Computes a row's loss and its derivatives from its number and elements.
    fn row(&self) -> impl Fn(usize, &[f32], &mut [f32]) -> f64 + Sync {
        let &Self { targets, alpha, gamma, .. } = self;
        let (class, background) = if alpha < 0.0 { (1.0, 1.0) } else { (alpha as f32, (1.0 - alpha) as f32) };
        let gamma = gamma as f32;
        // The usual exponent avoids `powf`, which no vector instruction does.
        let sum_of_row = if gamma == 2.0 { sum_of_row_with_squares } else { sum_of_row_with_powers };
        // The loss of `weight` times a target of 0; of a target of 1, mirrored.
        let as_background =
            move |x: &[f32], gradient: &mut [f32]| sum_of_row(x, gradient, background, 1.0, gamma);
        let as_class = move |x: &[f32], gradient: &mut [f32]| sum_of_row(x, gradient, class, -1.0, gamma);
        move |i, x, gradient| match targets {
            FocalTargets::Rows(targets) => match targets[i] {
                RowTarget::Ignored => 0.0,
                RowTarget::Background => as_background(x, gradient),
                RowTarget::Class(class) => {
                    let (before, after) = (class as usize, class as usize + 1);
                    let mut sum = as_background(&x[..before], &mut gradient[..before]);
                    sum += as_background(&x[after..], &mut gradient[after..]);
                    sum + as_class(&x[before..after], &mut gradient[before..after])
                }
            },
            FocalTargets::Dense(targets) => {
                let mut sum = 0.0;
                for (j, &t) in targets[i * x.len()..][..x.len()].iter().enumerate() {
                    let (x, gradient) = (&x[j..=j], &mut gradient[j..=j]);
                    sum += match t {
                        0.0 => as_background(x, gradient),
                        1.0 => as_class(x, gradient),
                        t => {
                            let (value, derivative) = between(x[0], t, Weights { class, background }, gamma);
                            gradient[0] = derivative;
                            f64::from(value)
                        }
                    };
                }
                sum
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Weights {
    class: f32,
    background: f32,
}

for_each_level! {
    /// The weighted losses of a row towards 0, or with `sign` -1 towards 1, and their derivatives; gamma is
    /// 2.
    fn sum_of_row_with_squares(x: &[f32], gradient: &mut [f32], weight: f32, sign: f32, gamma: f32) -> f64 {
        sum_of_row(x, gradient, weight, sign, |x| absent(x, gamma, |p| p * p))
    }

    /// Weighted losses of a row and their derivatives with any gamma.
    fn sum_of_row_with_powers(x: &[f32], gradient: &mut [f32], weight: f32, sign: f32, gamma: f32) -> f64 {
        sum_of_row(x, gradient, weight, sign, |x| absent(x, gamma, |p| p.powf(gamma)))
    }
}

/// Sums weight f(sign x) over a row and writes its derivatives; `f` gives a value and its derivative.
#[inline(always)]
fn sum_of_row(x: &[f32], gradient: &mut [f32], weight: f32, sign: f32, f: impl Fn(f32) -> (f32, f32)) -> f64 {
    let f = |x: f32| {
        let (value, derivative) = f(sign * x);
        (weight * value, sign * weight * derivative)
    };
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (gs, g_rest) = gradient.as_chunks_mut::<LANES>();
    let mut lanes = [0f64; LANES];
    for (x, g) in xs.iter().zip(gs) {
        for lane in 0..LANES {
            let (value, derivative) = f(x[lane]);
            lanes[lane] += f64::from(value);
            g[lane] = derivative;
        }
    }
    let mut sum: f64 = lanes.iter().sum();
    for (&x, g) in x_rest.iter().zip(g_rest) {
        let (value, derivative) = f(x);
        sum += f64::from(value);
        *g = derivative;
    }
    sum
}

/// p^gamma softplus(x) and its derivative p^gamma (gamma (1 - p) softplus(x) + p), p = sigmoid(x).
#[inline(always)]
fn absent(x: f32, gamma: f32, power: impl Fn(f32) -> f32) -> (f32, f32) {
    let e = exp_of_negative(x.abs());
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    let (p, rest) = if x >= 0.0 { (large, small) } else { (small, large) };
    let softplus = x.max(0.0) + log_of_one_plus(e);
    let focus = power(p);
    // 0 x is 0, or NaN where x is not finite.
    (focus * softplus + 0.0 * x, focus * (gamma * rest * softplus + p))
}

/// A target strictly between 0 and 1: rare, so in f64 and with the library's functions.
fn between(x: f32, t: f32, weights: Weights, gamma: f32) -> (f32, f32) {
    let (x, t, gamma) = (f64::from(x), f64::from(t), f64::from(gamma));
    let e = (-x.abs()).exp();
    let p = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
    let q = if x >= 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) };
    let entropy = x.max(0.0) - x * t + e.ln_1p();
    let miss = p * (1.0 - t) + q * t;
    let by_miss = if gamma > 0.0 { gamma * miss.powf(gamma - 1.0) } else { 0.0 };
    let weight = f64::from(weights.class) * t + f64::from(weights.background) * (1.0 - t);
    let value = entropy * miss.powf(gamma);
    let derivative = (p - t) * miss.powf(gamma) + entropy * by_miss * p * q * (1.0 - 2.0 * t);
    ((weight * value) as f32, (weight * derivative) as f32)
}
