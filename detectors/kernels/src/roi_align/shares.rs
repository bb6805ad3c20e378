//! Shares of the bins of a RoI in the pixels along one axis.

use std::ops::Range;

use super::sampling::{Alignment, MAX_SAMPLES, Sampling};

/// For each target from `first` on, the sources that it is a weighted sum of: a sparse matrix, by rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shares {
    first: usize,
    /// Target `first + i` has entries `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    entries: Vec<Share>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    pub(super) source: usize,
    pub(super) weight: f32,
}

impl Shares {
    /// `targets` sums of nothing.
    pub(super) fn none(targets: usize) -> Self {
        Self { first: 0, starts: vec![0; targets + 1], entries: Vec::new() }
    }

    pub(super) fn targets(&self) -> Range<usize> {
        self.first..self.first + self.starts.len() - 1
    }

    pub(super) fn of(&self, target: usize) -> &[Share] {
        let at = target - self.first;
        &self.entries[self.starts[at]..self.starts[at + 1]]
    }

    /// The transpose: targets become sources.
    pub(super) fn turned(&self) -> Self {
        let sources = self.entries.iter().map(|share| share.source);
        let (Some(first), Some(last)) = (sources.clone().min(), sources.max()) else { return Self::none(0) };
        let mut starts = vec![0; last - first + 2];
        for share in &self.entries {
            starts[share.source - first + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut entries = vec![Share { source: 0, weight: 0.0 }; self.entries.len()];
        for target in self.targets() {
            for share in self.of(target) {
                let at = &mut next[share.source - first];
                entries[*at] = Share { source: target, weight: share.weight };
                *at += 1;
            }
        }
        Self { first, starts, entries }
    }
}

/// The shares of `bins` bins between corners `low` and `high` in `pixels` pixels of one axis.
pub(super) fn axis_shares(
    low: f32,
    high: f32,
    scale: f32,
    pixels: usize,
    bins: usize,
    sampling: Sampling,
    alignment: Alignment,
) -> Shares {
    let (low, high, scale) = (f64::from(low), f64::from(high), f64::from(scale));
    let (start, length) = match alignment {
        Alignment::Legacy => (low * scale, ((high - low) * scale).max(1.0)),
        Alignment::HalfPixel => (low * scale - 0.5, (high - low) * scale),
    };
    let bin = length / bins as f64;
    let samples = match sampling {
        Sampling::Adaptive => (bin.ceil() as usize).min(MAX_SAMPLES),
        Sampling::Fixed(samples) => samples,
    };
    let mut shares = Shares { first: 0, starts: Vec::with_capacity(bins + 1), entries: Vec::new() };
    shares.starts.push(0);
    let last = pixels.saturating_sub(1);
    let weight = 1.0 / samples as f64;
    for index in 0..bins {
        let from = shares.entries.len();
        for sample in 0..samples {
            let at = start + (index as f64 + (sample as f64 + 0.5) / samples as f64) * bin;
            if !(-1.0..=pixels as f64).contains(&at) || pixels == 0 {
                continue;
            }
            let at = at.clamp(0.0, last as f64);
            let source = at as usize;
            let share = at - source as f64;
            merge(&mut shares.entries, from, source, weight * (1.0 - share));
            merge(&mut shares.entries, from, (source + 1).min(last), weight * share);
        }
        shares.starts.push(shares.entries.len());
    }
    shares
}

/// Adds to the share of `source` among the entries of the bin that starts at `from`.
///
/// Samples go one way, so an earlier share of the same pixel is one of the last three.
fn merge(entries: &mut Vec<Share>, from: usize, source: usize, weight: f64) {
    if weight == 0.0 {
        return;
    }
    let weight = weight as f32;
    let recent = entries.len().saturating_sub(3).max(from);
    match entries[recent..].iter_mut().find(|share| share.source == source) {
        Some(share) => share.weight += weight,
        None => entries.push(Share { source, weight }),
    }
}
