//! Divergence of two distributions, neither of which is constant; logits by a trained scale.

use candle_core::Tensor;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::softmax;
use crate::similarity::times_rows;
use crate::{Error, Result, Value};

/// KL(softmax(a) || softmax(c)) of each row, with a gradient of both.
///
/// # Shapes
/// `a` and `c` (B, K), at least one column; (B).
///
/// # Errors
/// Shapes that differ or are not matrices.
pub fn mutual_divergence(a: &Value, c: &Value) -> Result<Value> {
    let (rows, columns) = a.tensor().dims2()?;
    if a.dims() != c.dims() || columns == 0 {
        let reason = format!("two matrices of one shape expected, got {:?} and {:?}", a.dims(), c.dims());
        return Err(Error::invalid("mutual_divergence", reason));
    }
    let work = Mutual { a: a.tensor(), c: c.tensor(), rows, columns };
    let [losses, by_a, by_c] = dispatch::run(a.tensor(), work)?;
    let tracked = (a.is_tracked(), c.is_tracked());
    Ok(Value::operation(&[a, c], losses, move |factors| {
        let times = |wanted: bool, by| wanted.then(|| times_rows(by, factors)).transpose();
        Ok(vec![times(tracked.0, &by_a)?, times(tracked.1, &by_c)?])
    }))
}

/// Logits (rows, columns) of two distributions a row.
pub(super) struct Mutual<'a> {
    pub(super) a: &'a Tensor,
    pub(super) c: &'a Tensor,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Host for Mutual<'_> {
    /// The divergences (B), and their derivatives by both sides.
    type Output = [Tensor; 3];

    fn on_host(self) -> Result<[Tensor; 3]> {
        let Self { a: like, c, rows, columns } = self;
        let (a, c) = (on_host(like)?, on_host(c)?);
        let (a, c) = (elements(&a)?, elements(&c)?);
        let (mut losses, mut by_a, mut by_c) = (Vec::with_capacity(rows), Vec::new(), Vec::new());
        for (a, c) in a.chunks_exact(columns).zip(c.chunks_exact(columns)) {
            let ((p, log_p), (q, log_q)) = (softmax(a, 1.0), softmax(c, 1.0));
            let differences: Vec<f64> = log_p.iter().zip(&log_q).map(|(p, q)| p - q).collect();
            let loss: f64 = p.iter().zip(&differences).map(|(p, difference)| p * difference).sum();
            losses.push(loss as f32);
            by_a.extend(p.iter().zip(differences).map(|(p, difference)| (p * (difference - loss)) as f32));
            by_c.extend(q.iter().zip(&p).map(|(q, p)| (q - p) as f32));
        }
        let matrix = |values| from_elements(values, (rows, columns), like);
        Ok([from_elements(losses, rows, like)?, matrix(by_a)?, matrix(by_c)?])
    }
}

/// `x` times min(exp(`exponent`), `largest`).
///
/// # Shapes
/// `x` any, `exponent` one number; as `x`.
///
/// # Errors
/// An exponent that is not one number.
pub fn times_exponential(x: &Value, exponent: &Value, largest: f64) -> Result<Value> {
    if exponent.tensor().elem_count() != 1 {
        let reason = format!("one exponent expected, got {:?}", exponent.dims());
        return Err(Error::invalid("times_exponential", reason));
    }
    let (saved, power) = (x.tensor().clone(), exponent.tensor().clone());
    let out = dispatch::run(&saved, Scaled { x: &saved, exponent: &power, largest })?;
    let tracked = (x.is_tracked(), exponent.is_tracked());
    Ok(Value::operation(&[x, exponent], out, move |g| {
        let by_x = || dispatch::run(g, Scaled { x: g, exponent: &power, largest });
        let by_exponent = || dispatch::run(g, ByExponent { g, x: &saved, exponent: &power, largest });
        Ok(vec![tracked.0.then(by_x).transpose()?, tracked.1.then(by_exponent).transpose()?])
    }))
}

/// Numbers, and what they are multiplied by.
pub(super) struct Scaled<'a> {
    pub(super) x: &'a Tensor,
    pub(super) exponent: &'a Tensor,
    pub(super) largest: f64,
}

/// The exponential, and whether it is the factor itself.
fn factor_of(exponent: &Tensor, largest: f64) -> Result<(f64, bool)> {
    let exponent = on_host(exponent)?;
    let asked = f64::from(elements(&exponent)?[0]).exp();
    Ok(if asked > largest { (largest, false) } else { (asked, true) })
}

impl Host for Scaled<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { x: like, exponent, largest } = self;
        let (factor, _) = factor_of(exponent, largest)?;
        let host = on_host(like)?;
        let scaled = elements(&host)?.iter().map(|x| (factor * f64::from(*x)) as f32).collect();
        from_elements(scaled, like.shape(), like)
    }
}

/// The gradient of scaled numbers, and these.
pub(super) struct ByExponent<'a> {
    pub(super) g: &'a Tensor,
    pub(super) x: &'a Tensor,
    pub(super) exponent: &'a Tensor,
    pub(super) largest: f64,
}

impl Host for ByExponent<'_> {
    type Output = Tensor;

    fn on_host(self) -> Result<Tensor> {
        let Self { g: like, x, exponent, largest } = self;
        let (factor, is_free) = factor_of(exponent, largest)?;
        let (g, x) = (on_host(like)?, on_host(x)?);
        let along = crate::reduce::dot(&elements(&g)?, &elements(&x)?);
        from_elements(vec![if is_free { (factor * along) as f32 } else { 0.0 }], exponent.shape(), like)
    }
}
