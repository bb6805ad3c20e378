//! Wall time of a training by its parts.

use super::html::{bar, cell, headings, section as section_of, table};
use super::run::Run;
use crate::report::progress::duration;
use crate::report::run_folder::StepLine;

/// Wall time of each run by its parts.
pub(super) fn section(runs: &[Run]) -> String {
    let mut rows = Vec::new();
    for run in runs {
        let parts = parts(run);
        let whole: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        for (name, seconds) in parts.into_iter().filter(|_| whole > 0.0) {
            rows.push(vec![cell(&run.label), cell(name), cell(&duration(seconds)), bar(seconds / whole)]);
        }
    }
    let about = "<p>Of all updates, by the mean of those that the log has, and of all evaluations.</p>\n";
    let content = match rows.is_empty() {
        true => String::new(),
        false => about.to_owned() + &table(&headings(&["run", "part", "time", "share, %"]), &rows),
    };
    section_of("Times", &content)
}

/// Seconds of each part.
fn parts(run: &Run) -> Vec<(&'static str, f64)> {
    let logged = run.steps.len().max(1) as f64;
    let updates = run.steps.last().map_or(0.0, |step| step.step as f64);
    let of =
        |part: &dyn Fn(&StepLine) -> f64| run.steps.iter().map(part).sum::<f64>() / logged * updates / 1e3;
    let known = |part: fn(&StepLine) -> Option<f64>| of(&|step: &StepLine| part(step).unwrap_or(0.0));
    let (all, wait) = (of(&|step: &StepLine| step.ms), of(&|step: &StepLine| step.data_wait_ms));
    let teacher = known(|step| step.teacher_ms);
    let (forward, backward) = (known(|step| step.forward_ms), known(|step| step.backward_ms));
    let rest = (all - wait - teacher - forward - backward).max(0.0);
    // A log of an earlier version does not tell what an update does.
    let is_told = forward > 0.0;
    let evaluations = run.evaluations().iter().filter_map(|eval| eval.ms).sum::<f64>() / 1e3;
    let parts = [
        ("wait for data", wait),
        ("teacher", teacher),
        ("student and losses", forward),
        ("gradients", backward),
        (if is_told { "optimiser and the rest" } else { "updates" }, rest),
        ("evaluations", evaluations),
    ];
    parts.into_iter().filter(|&(_, seconds)| seconds > 0.0).collect()
}
