//! A loss for each row, with its derivatives by the row.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::dispatch::{self, Host};
use crate::memory::{elements, from_elements, on_host};
use crate::reduce::{exponentials, largest, multiply, softened_kl, softmax, sum};
use crate::similarity::times_rows;
use crate::{Error, Result, Value};

/// Part of a divergence that is decoupled (Zhao et al. 2022, arXiv 2203.08679).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The true class against all others (TCKD).
    Target,
    /// The other classes among themselves (NCKD).
    Others,
}

/// Columns of a row that are its positives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positives<'a> {
    /// The column with the number of the row.
    Own,
    /// As many columns from the first on.
    First(usize),
    /// Columns whose label is the row's.
    Alike {
        /// Labels of the rows, which are the columns.
        labels: &'a [u32],
        /// Whether a row's own column is one of them; if not, it is left out of the row.
        itself: bool,
    },
}

/// Softened Kullback-Leibler divergence of each row, T² KL(softmax(target / T) || softmax(x / T)) (Hinton et al. 2015).
///
/// # Shapes
/// `target` and `x` (B, K); (B).
///
/// # Errors
/// Shapes that differ or are not matrices; a temperature that is not positive.
pub fn softened_divergence(target: &Tensor, x: &Value, temperature: f64) -> Result<Value> {
    const NAME: &str = "softened_divergence";
    check_temperature(NAME, temperature)?;
    check_target(NAME, target, x)?;
    recorded(x, Kind::Divergence { target, temperature })
}

/// Part of the softened divergence of each row from `target`, T² KL, where the row's label is the true class.
///
/// # Shapes
/// `target` and `x` (B, K), `labels` B classes below K; (B).
///
/// # Errors
/// Shapes that differ or are not matrices; a label of K or more; a temperature that is not positive.
pub fn decoupled_divergence(
    target: &Tensor,
    x: &Value,
    labels: &[u32],
    temperature: f64,
    part: Part,
) -> Result<Value> {
    const NAME: &str = "decoupled_divergence";
    check_temperature(NAME, temperature)?;
    let (rows, columns) = check_target(NAME, target, x)?;
    if labels.len() != rows || labels.iter().any(|&label| label as usize >= columns) {
        let reason = format!("{} labels for {rows} rows of {columns} classes", labels.len());
        return Err(Error::invalid(NAME, reason));
    }
    recorded(x, Kind::Decoupled { target, labels, temperature, part })
}

/// Contrast of each row, the mean over its positives of logsumexp(x) - x_j (van den Oord et al. 2018, arXiv 1807.03748); 0
/// of a row without positives.
///
/// # Shapes
/// `x` (B, K), K = B where positives are named by the row or its label; (B).
///
/// # Errors
/// Another rank; positives that the columns do not have.
pub fn contrast(x: &Value, positives: Positives<'_>) -> Result<Value> {
    const NAME: &str = "contrast";
    let (rows, columns) = x.tensor().dims2()?;
    let fits = match positives {
        Positives::Own => rows <= columns,
        Positives::First(count) => count <= columns || rows == 0,
        Positives::Alike { labels, .. } => rows == columns && labels.len() == rows,
    };
    if !fits {
        return Err(Error::invalid(NAME, format!("rows of shape {:?} for {positives:?}", x.dims())));
    }
    recorded(x, Kind::Contrast(positives))
}

/// Noise contrast of each row, whose first column is drawn from the data and the others from `noise` (Gutmann and
/// Hyvärinen 2010): -log(o_0 / (o_0 + noise)) - Σ_k log(noise / (o_k + noise)), o = exp(x) / `partition`.
///
/// # Shapes
/// `x` (B, 1 + K), `partition` one number; (B).
///
/// # Errors
/// Another rank; a partition that is not one number; a noise that is not positive.
pub fn noise_contrast(x: &Value, partition: &Tensor, noise: f64) -> Result<Value> {
    x.tensor().dims2()?;
    if partition.dims() != [1] || !(noise >= 0.0 && noise.is_finite()) {
        let reason = format!("a partition (1) and a noise expected, got {:?} and {noise}", partition.dims());
        return Err(Error::invalid("noise_contrast", reason));
    }
    recorded(x, Kind::Noise { partition, noise })
}

fn check_temperature(operation: &'static str, temperature: f64) -> Result<()> {
    match temperature > 0.0 && temperature.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid(operation, format!("a temperature above 0 expected, got {temperature}"))),
    }
}

fn check_target(operation: &'static str, target: &Tensor, x: &Value) -> Result<(usize, usize)> {
    match *x.dims() {
        [rows, columns] if target.dims() == x.dims() => Ok((rows, columns)),
        _ => Err(Error::invalid(
            operation,
            format!("two matrices (B, K) expected, got {:?} and {:?}", target.dims(), x.dims()),
        )),
    }
}

/// Records the losses of the rows of `x`.
fn recorded(x: &Value, kind: Kind<'_>) -> Result<Value> {
    let (losses, derivatives) = dispatch::run(x.tensor(), RowLosses { x: x.tensor(), kind })?;
    Ok(Value::operation(&[x], losses, move |factors| Ok(vec![Some(times_rows(&derivatives, factors)?)])))
}

/// Rows (B, K), and what they are compared with.
pub(super) struct RowLosses<'a> {
    pub(super) x: &'a Tensor,
    pub(super) kind: Kind<'a>,
}

/// Loss of a row.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Divergence { target: &'a Tensor, temperature: f64 },
    Decoupled { target: &'a Tensor, labels: &'a [u32], temperature: f64, part: Part },
    Contrast(Positives<'a>),
    Noise { partition: &'a Tensor, noise: f64 },
}

impl Host for RowLosses<'_> {
    /// The losses (B), and the derivatives (B, K).
    type Output = (Tensor, Tensor);

    fn on_host(self) -> Result<(Tensor, Tensor)> {
        let Self { x: like, kind } = self;
        let (rows, columns) = like.dims2()?;
        let target = match kind {
            Kind::Divergence { target, .. } | Kind::Decoupled { target, .. } => target,
            Kind::Noise { partition, .. } => partition,
            Kind::Contrast(_) => like,
        };
        let (host, target) = (on_host(like)?, on_host(target)?);
        let (x, target) = (elements(&host)?, elements(&target)?);
        let (x, target): (&[f32], &[f32]) = (&x, &target);
        let mut derivatives = vec![0f32; rows * columns];
        let of_row = |(i, derivatives): (usize, &mut [f32])| {
            let of_row = i * columns..(i + 1) * columns;
            let x = &x[of_row.clone()];
            let loss = match kind {
                Kind::Divergence { temperature, .. } => {
                    softened_kl(&target[of_row], x, temperature, derivatives)
                }
                Kind::Decoupled { labels, temperature, part, .. } => {
                    let (label, target) = (labels[i] as usize, &target[of_row]);
                    let loss = match part {
                        Part::Target => of_class(target, x, label, temperature, derivatives),
                        Part::Others => of_others(target, x, label, temperature, derivatives),
                    };
                    multiply(derivatives, temperature as f32);
                    loss * temperature * temperature
                }
                Kind::Contrast(Positives::Own) => own_contrast(x, i, derivatives),
                Kind::Contrast(positives) => contrast_of(x, i, positives, derivatives),
                Kind::Noise { noise, .. } => noise_contrast_of(x, target[0].into(), noise, derivatives),
            };
            loss as f32
        };
        let losses: Vec<f32> = match columns {
            0 => vec![0.0; rows],
            _ => derivatives.par_chunks_exact_mut(columns).enumerate().map(of_row).collect(),
        };
        let losses = from_elements(losses, rows, like)?;
        Ok((losses, from_elements(derivatives, (rows, columns), like)?))
    }
}

/// Added to the denominators, as in the code of CRD's authors (Tian et al. 2020).
pub(super) const NOISE_EPS: f64 = 1e-7;

/// -log(o_0 / (o_0 + noise)) - Σ_k log(noise / (o_k + noise)), o = exp(x) / partition.
fn noise_contrast_of(x: &[f32], partition: f64, noise: f64, derivatives: &mut [f32]) -> f64 {
    let mut loss = 0.0;
    for (k, (&x, derivative)) in x.iter().zip(derivatives).enumerate() {
        let o = f64::from(x).exp() / partition;
        let total = o + noise + NOISE_EPS;
        // By o, times o.
        let (log, by_x) = match k {
            0 => ((o / total).ln(), 1.0 - o / total),
            _ => ((noise / total).ln(), -o / total),
        };
        loss -= log;
        *derivative = -by_x as f32;
    }
    loss
}

/// KL of (true class, the rest), with its derivatives by x / T.
fn of_class(target: &[f32], x: &[f32], label: usize, temperature: f64, derivatives: &mut [f32]) -> f64 {
    let (wanted, own) = (Split::of(target, label, temperature), Split::of(x, label, temperature));
    let share = |p: f64, log_p: f64, log_q: f64| if p > 0.0 { p * (log_p - log_q) } else { 0.0 };
    let (p, q) = (wanted.log_own.exp(), own.log_own.exp());
    let (p_rest, q_rest) = (wanted.log_rest.exp(), own.log_rest.exp());
    // q - p as the difference of the smaller probabilities: both sum to 1.
    let difference = if q < 0.5 { q - p } else { p_rest - q_rest };
    let rest = own.others.iter().enumerate();
    rest.for_each(|(j, &r)| derivatives[j + usize::from(j >= label)] = (-r * difference) as f32);
    derivatives[label] = if own.others.is_empty() { 0.0 } else { difference as f32 };
    share(p, wanted.log_own, own.log_own) + share(p_rest, wanted.log_rest, own.log_rest)
}

/// KL among the other classes, with its derivatives by x / T.
fn of_others(target: &[f32], x: &[f32], label: usize, temperature: f64, derivatives: &mut [f32]) -> f64 {
    let without = |x: &[f32]| [&x[..label], &x[label + 1..]].concat();
    let (p, log_p) = softmax(&without(target), temperature);
    let (q, log_q) = softmax(&without(x), temperature);
    let mut loss = 0.0;
    for j in 0..p.len() {
        loss += p[j] * (log_p[j] - log_q[j]);
        derivatives[j + usize::from(j >= label)] = (q[j] - p[j]) as f32;
    }
    loss
}

/// A softmax split into the true class and the distribution over the others.
struct Split {
    log_own: f64,
    log_rest: f64,
    others: Vec<f64>,
}

impl Split {
    fn of(x: &[f32], label: usize, temperature: f64) -> Self {
        let (_, logs) = softmax(x, temperature);
        let rest: Vec<f64> = [&logs[..label], &logs[label + 1..]].concat();
        let top = rest.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_rest = match rest.is_empty() {
            true => f64::NEG_INFINITY,
            false => top + rest.iter().map(|log| (log - top).exp()).sum::<f64>().ln(),
        };
        Self {
            log_own: logs[label],
            log_rest,
            others: rest.iter().map(|log| (log - log_rest).exp()).collect(),
        }
    }
}

/// logsumexp(x) - x_`positive`, with its derivatives.
fn own_contrast(x: &[f32], positive: usize, derivatives: &mut [f32]) -> f64 {
    derivatives.copy_from_slice(x);
    let highest = largest(x);
    let own = f64::from(x[positive] - highest);
    let total = exponentials(derivatives, highest, 1.0);
    // softmax - 1 as minus the others' share: no digits are lost where it is close to 1.
    derivatives[positive] = 0.0;
    let others = sum(derivatives);
    multiply(derivatives, total.recip() as f32);
    derivatives[positive] = (-others / total) as f32;
    total.ln() - own
}

/// logsumexp(x) minus the mean of the positives of row `i`, over the columns that it sees.
fn contrast_of(x: &[f32], i: usize, positives: Positives<'_>, derivatives: &mut [f32]) -> f64 {
    let is_seen = |j: usize| j != i || !matches!(positives, Positives::Alike { itself: false, .. });
    let is_positive = |j: usize| match positives {
        Positives::Own => j == i,
        Positives::First(count) => j < count,
        Positives::Alike { labels, .. } => labels[j] == labels[i],
    };
    let seen: Vec<usize> = (0..x.len()).filter(|&j| is_seen(j)).collect();
    let count = seen.iter().filter(|&&j| is_positive(j)).count();
    if count == 0 {
        return 0.0;
    }
    let (p, logs) = softmax(&seen.iter().map(|&j| x[j]).collect::<Vec<f32>>(), 1.0);
    let mut loss = 0.0;
    for (at, &j) in seen.iter().enumerate() {
        let wanted = if is_positive(j) { (count as f64).recip() } else { 0.0 };
        // 0 times minus infinity is no number.
        if wanted != 0.0 {
            loss -= wanted * logs[at];
        }
        derivatives[j] = (p[at] - wanted) as f32;
    }
    loss
}
