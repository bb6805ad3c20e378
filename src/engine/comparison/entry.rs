//! Results of the runs of a comparison: means, spreads, differences.

use serde::Serialize;

/// Results of the runs of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The configuration's name.
    pub name: String,
    /// Description of what a run's numbers measure, if not one model: the mean of a cohort's networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Runs, one for each seed.
    pub runs: Vec<Run>,
    /// Mean and spread of each metric, in the order of the runs' metrics.
    pub metrics: Vec<Metric>,
    /// First metric compared with the first configuration's, once all runs have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Seed of the run.
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// The last evaluation: names and values, in points.
    pub last: Vec<(&'static str, f64)>,
    /// The best evaluation's first metric, in points.
    pub best: Option<f64>,
    /// Folder of the run.
    pub folder: String,
}

/// A metric over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Name of the metric.
    pub name: &'static str,
    /// The mean, in points.
    pub mean: f64,
    /// The standard deviation of the sample, in points; `None` for one run.
    pub deviation: Option<f64>,
}

/// Gain of a configuration over the first one, by seeds that both have, in points.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the metric.
    pub metric: &'static str,
    /// Name of the first configuration.
    pub from: String,
    /// The mean over the seeds.
    pub mean: f64,
    /// Standard deviation over the seeds of the difference of each; `None` for one seed.
    pub deviation: Option<f64>,
    /// 95 % interval of the mean over images (paired bootstrap), where the runs kept what it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Share of the resamples in which the configuration is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<f64>,
}

impl Entry {
    /// Results of `runs`, of which numbers describe what `of` says.
    pub fn new(name: String, of: Option<String>, runs: Vec<Run>) -> Self {
        let metrics = metrics(&runs);
        Self { name, of, runs, metrics, difference: None }
    }

    /// Gain over `first` in the first metric, without an interval.
    pub fn gain_over(&self, first: &Self) -> Option<Difference> {
        let metric = self.metrics.first().filter(|metric| metric.mean >= 0.0)?.name;
        let value =
            |run: &Run| run.last.first().filter(|last| last.0 == metric && last.1 >= 0.0).map(|last| last.1);
        let gains: Vec<f64> = pairs(first, self)
            .into_iter()
            .filter_map(|(theirs, ours)| Some(value(ours)? - value(theirs)?))
            .collect();
        let (mean, deviation) = moments(&gains);
        let from = first.name.clone();
        (!gains.is_empty()).then_some(Difference {
            metric,
            from,
            mean,
            deviation,
            interval: None,
            better: None,
        })
    }
}

/// Runs of two configurations by the seeds that both have.
pub(super) fn pairs<'e>(first: &'e Entry, second: &'e Entry) -> Vec<(&'e Run, &'e Run)> {
    let of = |run: &'e Run| Some((first.runs.iter().find(|other| other.seed == run.seed)?, run));
    second.runs.iter().filter_map(of).collect()
}

fn metrics(runs: &[Run]) -> Vec<Metric> {
    let names = runs.first().map(|run| run.last.iter().map(|(name, _)| *name)).into_iter().flatten();
    let of = |(index, name): (usize, &'static str)| {
        let values: Vec<f64> = runs.iter().filter_map(|run| Some(run.last.get(index)?.1)).collect();
        let (mean, deviation) = moments(&values);
        Metric { name, mean, deviation }
    };
    names.enumerate().map(of).collect()
}

/// Mean, and standard deviation of the sample where there are several values.
fn moments(values: &[f64]) -> (f64, Option<f64>) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt()))
}
