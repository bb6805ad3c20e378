//! Gains of the configurations of a comparison over the first one, with intervals where detections, or hits of
//! classifiers and cohorts, were kept.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::entry::{Difference, Entry, Run, pairs};
use crate::config::{Config, Loaded};
use crate::engine::Result;
use crate::engine::detect::LoadedSplit;
use crate::engine::detect::sources::DataPaths;
use crate::eval::{
    self, GroundTruth, Matches, Options, PairedDifference, bootstrap, bootstrap_hits, read_detections,
};
use crate::report::run_folder::RunFolder;

/// Seed of the resamples: equal runs have equal intervals.
const SEED: u64 = 0;

/// Compares every configuration but the first with the one that `over` gives for its place; `detector` finds a configuration that trains a detector by its name.
///
/// # Errors
/// Detections or annotations that cannot be read.
pub(super) fn compare<'p>(
    entries: &mut [Entry],
    over: impl Fn(usize) -> usize,
    detector: impl Fn(&str) -> Option<&'p Loaded<Config>>,
) -> Result<()> {
    let mut held_out: Option<HeldOut> = None;
    for place in 1..entries.len() {
        let (before, others) = entries.split_at_mut(place);
        let (first, other) = (&before[over(place)], &mut others[0]);
        let Some(gain) = other.gain_over(first) else { continue };
        other.difference = Some(match (detector(&first.name), detector(&other.name)) {
            (Some(ours), Some(theirs)) if is_same(ours, theirs) && have_detections(first, other) => {
                let held_out = match &mut held_out {
                    Some(held_out) => held_out,
                    None => held_out.insert(HeldOut::open(ours)?),
                };
                with_interval(gain, held_out, &pairs(first, other))?
            }
            _ => match hits_of(&pairs(first, other)) {
                Some(hits) => in_points(gain, bootstrap_hits(&hits, SEED)),
                None => gain,
            },
        });
    }
    Ok(())
}

/// Whether both are evaluated on the same images.
fn is_same(first: &Loaded<Config>, second: &Loaded<Config>) -> bool {
    let most = |loaded: &Loaded<Config>| loaded.config.run.eval.max_images;
    DataPaths::of(first).val == DataPaths::of(second).val && most(first) == most(second)
}

/// Whether all runs kept their detections; runs of earlier versions did not.
fn have_detections(first: &Entry, second: &Entry) -> bool {
    pairs(first, second).iter().all(|(a, b)| [a, b].iter().all(|run| folder(run).val_detections().exists()))
}

fn folder(run: &Run) -> RunFolder {
    RunFolder::at(&run.folder)
}

/// Held-out images, and their boxes.
struct HeldOut {
    truth: Arc<GroundTruth>,
    options: Options,
}

impl HeldOut {
    fn open(loaded: &Loaded<Config>) -> Result<Self> {
        let LoadedSplit { dataset, truth, .. } = LoadedSplit::open(&DataPaths::of(loaded).val)?;
        let most = loaded.config.run.eval.max_images.unwrap_or(usize::MAX);
        let image_ids = dataset.images.iter().take(most).map(|image| image.id.0).collect();
        Ok(Self { truth, options: Options { image_ids: Some(image_ids), ..Options::default() } })
    }

    fn matches(&self, run: &Run) -> Result<Matches> {
        let detections = read_detections(&folder(run).val_detections())?;
        Ok(eval::matches(&self.truth, &detections, &self.options)?)
    }
}

/// The gain with its interval over images.
fn with_interval(gain: Difference, held_out: &HeldOut, pairs: &[(&Run, &Run)]) -> Result<Difference> {
    let matched: Result<Vec<(Matches, Matches)>> = pairs
        .iter()
        .map(|(first, second)| Ok((held_out.matches(first)?, held_out.matches(second)?)))
        .collect();
    Ok(in_points(gain, bootstrap(&matched?, SEED)))
}

/// The gain with what a bootstrap found.
fn in_points(gain: Difference, found: Option<PairedDifference>) -> Difference {
    let Some(found) = found else { return gain };
    let interval = Some(found.interval.map(|bound| 100.0 * bound));
    Difference { interval, better: Some(found.better), ..gain }
}

/// Hits of classifiers, or of cohorts, that were evaluated on the same data; runs of earlier versions kept none.
fn hits_of(pairs: &[(&Run, &Run)]) -> Option<Vec<(Vec<f64>, Vec<f64>)>> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let data = |run: &Run| read(&folder(run).data());
    let hits = |run: &Run| eval::shares_right(&read(&folder(run).val_hits())?);
    let of = |&(first, second): &(&Run, &Run)| match (data(first), data(second)) {
        (Some(ours), Some(theirs)) if ours == theirs => Some((hits(first)?, hits(second)?)),
        _ => None,
    };
    pairs.iter().map(of).collect()
}
