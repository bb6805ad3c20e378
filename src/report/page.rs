//! `report.html`: one page about a run, or several side by side, that needs no other file and no network.

mod chart;
mod confusion;
mod html;
mod run;
mod shown;
mod times;

use std::path::Path;

use serde_json::Value;

use self::chart::{Chart, Series};
use self::html::{bar, bar_of, cell, escaped, headings, number, section, table};
use self::run::ClassScore;
use super::run_folder::{RunFolder, RunFolderError};
use crate::fsx::{self, WriteError};
pub use run::Run;

/// A page that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// A folder holds no run, or a damaged one.
    #[error(transparent)]
    Run(#[from] RunFolderError),
    /// The page could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes the page of the run in `folder`, and of the same student alone if that was trained too, to its `report.html`.
///
/// # Errors
/// A damaged log; a page that cannot be written.
pub fn write(folder: &RunFolder) -> Result<(), PageError> {
    write_to(&folder.report(), &Run::with_parts(folder)?)
}

/// Writes the page of `runs` to `path`.
///
/// # Errors
/// A page that cannot be written.
pub fn write_to(path: &Path, runs: &[Run]) -> Result<(), PageError> {
    Ok(fsx::write_atomic(path, page(runs).as_bytes())?)
}

/// Style of the page: light and dark, any width.
const STYLE: &str = include_str!("page/style.css");

/// The page of `runs`.
pub fn page(runs: &[Run]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
    let mut page = begin(&names.join(", "));
    page += &side_by_side(runs);
    runs.iter().for_each(|run| page += &confusion::section(run));
    let mut room = shown::Room::whole();
    runs.iter().for_each(|run| page += &shown::sections(run, &mut room));
    page += &shares(runs);
    page += &times::section(runs);
    let is_open = runs.len() == 1;
    runs.iter().for_each(|run| page += &settings(run, is_open));
    runs.iter().for_each(|run| page += &environment(run));
    page += END;
    page
}

/// Sections that show all of `runs` on the same axes and in the same tables.
fn side_by_side(runs: &[Run]) -> String {
    [overview, curves, classes, precision_recall, errors].iter().map(|section| section(runs)).collect()
}

/// Page of a table (headings, rows, and remarks below it) of what `runs` came to, and of these runs side by side.
pub fn of_table(
    title: &str,
    headings: &[String],
    rows: &[Vec<String>],
    remarks: &[String],
    runs: &[Run],
) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| escaped(heading)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let remarks: String = remarks.iter().map(|remark| format!("<p>{}</p>\n", escaped(remark))).collect();
    let of_runs = if runs.is_empty() { String::new() } else { side_by_side(runs) };
    begin(title) + &table(&headings, &rows) + &remarks + &of_runs + END
}

/// Head and heading of a page.
fn begin(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    )
}

/// End of a page.
const END: &str = "</main>\n</body>\n</html>\n";

/// State, accuracy and length of each run.
fn overview(runs: &[Run]) -> String {
    let measure = runs.iter().find_map(Run::measure).unwrap_or("score");
    let head = headings(&["run", "state", "step", measure, "best", "at step", "time", "images a second"]);
    let row = |(place, run): (usize, &Run)| {
        let best = run.best();
        vec![
            format!(
                "<td class=\"run\"><span class=\"key s{}\"></span>{}</td>",
                place % 8,
                escaped(&run.label)
            ),
            cell(&run.state()),
            cell(&run.steps().to_string()),
            cell(&run.scores().last().map_or("-".to_owned(), |&(_, score)| number(score))),
            cell(&best.map_or("-".to_owned(), |(_, score)| number(score))),
            cell(&best.map_or("-".to_owned(), |(step, _)| number(step))),
            cell(&run.duration().unwrap_or("-".to_owned())),
            cell(&run.images_per_second().map_or("-".to_owned(), number)),
        ]
    };
    let mut rows: Vec<Vec<String>> = runs.iter().enumerate().map(row).collect();
    for run in runs {
        let Some(score) = run.teacher else { continue };
        let nothing = cell("-");
        let mut row = vec![cell(&format!("teacher of {}", run.label)), cell("trained"), nothing.clone()];
        row.extend([cell(&number(score)), nothing.clone(), nothing.clone(), nothing.clone(), nothing]);
        rows.push(row);
    }
    section("Overview", &table(&head, &rows))
}

/// Most runs whose losses have a chart each, and whose networks have curves each.
const CHARTS: usize = 4;

/// Curves over the steps: accuracy, losses, learning rate, gradient, times, memory.
fn curves(runs: &[Run]) -> String {
    let of = |value: &dyn Fn(&Run) -> Vec<(f64, f64)>| -> Vec<Series> {
        runs.iter().map(|run| Series { label: run.label.clone(), points: value(run) }).collect()
    };
    let measure = runs.iter().find_map(Run::measure).unwrap_or("score");
    let chart = |title: &str, unit: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        unit: unit.to_owned(),
        across: "step",
        series,
        ..Chart::default()
    };
    let steps = |value: fn(&super::run_folder::StepLine) -> Option<f64>| {
        of(&|run: &Run| run.steps.iter().filter_map(|step| Some((step.step as f64, value(step)?))).collect())
    };
    let mut scores = of(&Run::scores);
    let last = runs.iter().map(Run::steps).max().unwrap_or(0) as f64;
    scores.extend(runs.iter().filter_map(|run| {
        let (label, score) = (format!("teacher of {}", run.label), run.teacher?);
        Some(Series { label, points: vec![(0.0, score), (last, score)] })
    }));
    if runs.len() <= CHARTS {
        let peers = runs.iter().flat_map(Run::peers);
        scores.extend(peers.map(|(label, points)| Series { label, points }));
    }
    let mut charts = vec![
        Chart { has_marks: true, ..chart(measure, "points", scores) },
        chart("Loss", "", steps(|step| Some(step.loss))),
    ];
    for run in runs {
        let terms = run.terms();
        if terms.len() > 1 && runs.len() <= CHARTS {
            let series = terms.into_iter().map(|(label, points)| Series { label, points }).collect();
            let title = if runs.len() > 1 { format!("Losses of {}", run.label) } else { "Losses".to_owned() };
            charts.push(chart(&title, "", series));
        }
    }
    charts.extend([
        chart("Learning rate", "", steps(|step| Some(step.lr))),
        chart("Norm of the gradient", "", steps(|step| Some(step.gradient_norm))),
        chart("Time of a step", "ms", steps(|step| Some(step.ms))),
        chart("Wait for data", "ms a step", steps(|step| Some(step.data_wait_ms))),
        chart("Memory", "MiB", steps(|step| step.memory_mib)),
    ]);
    let drawn: String = charts.iter().map(Chart::figure).collect();
    section(
        "Over the steps",
        &if drawn.is_empty() { drawn } else { format!("<div class=\"charts\">\n{drawn}</div>\n") },
    )
}

/// AP of each class at the last evaluation.
fn classes(runs: &[Run]) -> String {
    let all = runs.iter().enumerate().map(|(series, run)| (series, run, run.classes()));
    let measured: Vec<(usize, &Run, Vec<ClassScore>)> =
        all.filter(|(_, _, classes)| !classes.is_empty()).collect();
    let Some((_, _, first)) = measured.first() else { return String::new() };
    let mut head = headings(&["class"]);
    for (_, run, _) in &measured {
        let of = if measured.len() > 1 { format!(" {}", run.label) } else { String::new() };
        head.extend(headings(&[&format!("AP{of}"), &format!("AP50{of}")]));
    }
    let rows: Vec<Vec<String>> = first
        .iter()
        .enumerate()
        .map(|(place, (name, ..))| {
            let mut row = vec![cell(name)];
            for (series, _, classes) in &measured {
                match classes.get(place).filter(|(other, ..)| other == name) {
                    Some(&(_, ap, ap50)) => row.extend([bar_of(*series, ap), bar_of(*series, ap50)]),
                    None => row.extend([cell("-"), cell("-")]),
                }
            }
            row
        })
        .collect();
    section("Classes", &table(&head, &rows))
}

/// Most classes whose own curve is drawn.
const CURVES: usize = 10;

/// Precision over recall at an IoU of .50: the mean of the classes, and of one run each class.
fn precision_recall(runs: &[Run]) -> String {
    let mut series = Vec::new();
    let mut more = String::new();
    for run in runs {
        let curves = run.precisions();
        if curves.is_empty() {
            continue;
        }
        series.push(Series { label: format!("{}: mean", run.label), points: mean(&curves) });
        if runs.len() == 1 {
            if curves.len() > CURVES {
                more = format!("<p>The first {CURVES} of {} classes are drawn.</p>\n", curves.len());
            }
            let own = curves.into_iter().take(CURVES);
            series.extend(own.map(|(label, points)| Series { label, points }));
        }
    }
    let chart = Chart {
        title: "Precision over recall, IoU .50".to_owned(),
        across: "recall",
        series,
        is_unit_square: true,
        ..Chart::default()
    };
    let drawn = chart.figure();
    let content =
        if drawn.is_empty() { drawn } else { format!("<div class=\"charts\">\n{drawn}</div>\n{more}") };
    section("Precision and recall", &content)
}

/// A curve over recall.
type Curve = Vec<(f64, f64)>;

fn mean(curves: &[(String, Curve)]) -> Curve {
    let Some((_, first)) = curves.first() else { return Vec::new() };
    let at = |place: usize| {
        let values = curves.iter().filter_map(|(_, points)| points.get(place)).map(|&(_, value)| value);
        values.sum::<f64>() / curves.len() as f64
    };
    first.iter().enumerate().map(|(place, &(recall, _))| (recall, at(place))).collect()
}

/// Errors of the last evaluation by kind.
fn errors(runs: &[Run]) -> String {
    const KINDS: [(&str, &str, &str); 6] = [
        ("class", "Class", "the place is right, the class is another"),
        ("place", "Place", "the class is right, the IoU is between .1 and .5"),
        ("both", "Both", "class and place are wrong"),
        ("duplicate", "Duplicate", "the object was found before, with a higher score"),
        ("background", "Background", "nothing is there"),
        ("missed", "Missed", "an object that nothing points at"),
    ];
    let all = runs.iter().enumerate();
    let found: Vec<(usize, &Run, &Value)> =
        all.filter_map(|(series, run)| Some((series, run, run.analysis()?.get("errors")?))).collect();
    if found.is_empty() {
        return String::new();
    }
    let mut head = headings(&["kind", "what it is"]);
    for (_, run, _) in &found {
        let of = if found.len() > 1 { format!(" {}", run.label) } else { String::new() };
        head.extend(headings(&[&format!("count{of}"), &format!("AP50 lost{of}")]));
    }
    let row = |(key, name, meaning): &(&str, &str, &str)| {
        let mut row = vec![cell(name), format!("<td class=\"note\">{}</td>", escaped(meaning))];
        for (series, _, errors) in &found {
            let of = |what: &str| errors.get(key).and_then(|kind| kind.get(what)).and_then(Value::as_f64);
            row.push(cell(&of("count").map_or("-".to_owned(), number)));
            row.push(of("ap50_lost").map_or(cell("-"), |lost| bar_of(*series, lost)));
        }
        row
    };
    let rows: Vec<Vec<String>> = KINDS.iter().map(row).collect();
    let about = "<p>By TIDE (Bolya et al. 2020, arXiv 2008.08115), at an IoU of .50. What is lost is the AP50 that would be won if \
                 all errors of that kind alone were mended.</p>\n";
    section("Errors by kind", &(about.to_owned() + &table(&head, &rows)))
}

/// Whose gradient reached the student over the first steps.
fn shares(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let Some(shares) = &run.shares else { continue };
        let rows: Vec<Vec<String>> = shares
            .shares()
            .map(|(name, share)| {
                let norm = shares.gradient_norms.get(name).copied().unwrap_or(0.0);
                vec![cell(name), bar(share), cell(&number(norm))]
            })
            .collect();
        text += &format!("<h3>{}, over {} passes</h3>\n", escaped(&run.label), shares.passes);
        text += &table(&headings(&["part", "share of the gradient, %", "mean norm"]), &rows);
    }
    section("Whose gradient reaches the student", &text)
}

/// The configuration: what differs from the defaults, unfolded or not, then everything.
fn settings(run: &Run, is_open: bool) -> String {
    let row = |(key, value, default): &(String, String, Option<String>)| {
        vec![
            format!("<td><code>{}</code></td>", escaped(key)),
            format!("<td><code>{}</code></td>", escaped(value)),
            format!("<td><code>{}</code></td>", escaped(default.as_deref().unwrap_or(""))),
        ]
    };
    let head = headings(&["key", "value", "default"]);
    let rows = |all: bool| -> Vec<Vec<String>> {
        let own = run.settings().into_iter();
        own.filter(|(_, value, default)| all || default.as_ref() != Some(value))
            .map(|found| row(&found))
            .collect()
    };
    let (own, all) = (rows(false), rows(true));
    if all.is_empty() {
        return String::new();
    }
    let content = format!(
        "<details{}><summary>{} values differ from the defaults, or have none</summary>\n{}</details>\n\
         <details><summary>All {} values</summary>\n{}</details>\n",
        if is_open { " open" } else { "" },
        own.len(),
        table(&head, &own),
        all.len(),
        table(&head, &all)
    );
    section(&format!("Configuration of {}", run.label), &content)
}

/// Program, machine, hashes, and the command that makes the run again.
fn environment(run: &Run) -> String {
    let rows: Vec<Vec<String>> = run
        .facts()
        .into_iter()
        .map(|(name, value)| vec![cell(&name), format!("<td><code>{}</code></td>", escaped(&value))])
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => section(&format!("Environment of {}", run.label), &table(&headings(&["", ""]), &rows)),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;

    use super::*;

    /// A run of a detector with two evaluations.
    fn run(folder: &Path, name: &str) -> Run {
        let path = folder.join(name);
        fs::create_dir_all(path.join("eval")).unwrap();
        let config = format!("name = {name:?}\ntask = \"detect\"\n[optim]\nlr = 0.02\nmomentum = 0.9\n");
        fs::write(path.join("config.toml"), config).unwrap();
        let mut log = String::new();
        for step in 1..=3000u64 {
            let loss = 3.0 / step as f64;
            let _ = writeln!(
                log,
                r#"{{"step":{step},"lr":0.02,"loss":{loss},"losses":{{"a&b":{loss},"c":0.0}},"gradient_norm":1.5,"images":4,"epoch":0.5,"ms":10.5,"data_wait_ms":0.5,"time":{step}.5,"memory_mib":100.0}}"#
            );
            if step % 1500 == 0 {
                let _ = writeln!(log, r#"{{"step":{step},"eval":[0.25,0.5,0.125,-1.0],"ms":5.0}}"#);
            }
        }
        fs::write(path.join("log.jsonl"), log).unwrap();
        let curve: Vec<f64> = (0..101).map(|at| 1.0 - f64::from(at) / 100.0).collect();
        let kind = serde_json::json!({"count": 3, "ap50_lost": 0.125});
        let eval = serde_json::json!({
            "per_class": [{"name": "<cat>", "ap": 0.25, "ap50": 0.5}, {"name": "dog", "ap": -1.0, "ap50": -1.0}],
            "analysis": {
                "curves": [{"name": "<cat>", "precision": curve}],
                "errors": {"class": kind, "missed": kind},
                "confusion": {"names": ["<cat>", "dog"], "score": 0.3, "counts": [[5, 1, 2], [0, 4, 3], [1, 0, 0]]},
            },
        });
        fs::write(path.join("eval/step-00003000.json"), eval.to_string()).unwrap();
        Run::read(&RunFolder::at(path), name).unwrap()
    }

    /// Pictures, alignment and summary of a finished experiment.
    fn show(folder: &Path) {
        fs::create_dir_all(folder.join("shown")).unwrap();
        fs::write(folder.join("shown/image-0-0.jpg"), [0xff, 0xd8]).unwrap();
        fs::write(folder.join("shown/map-p3-0.png"), [1, 2]).unwrap();
        fs::write(folder.join("outside.png"), [1, 2]).unwrap();
        let panel = |file: &str| serde_json::json!({"title": "student", "told": "3 found, 1 false, 0 missed", "file": file});
        let shown = serde_json::json!({
            "note": "boxes",
            "images": [{"kind": "worst", "name": "<a>.jpg", "panels": [panel("image-0-0.jpg"), panel("../outside.png")]}],
            "maps": [{"level": "p3", "panels": [panel("map-p3-0.png"), panel("lost.png")]}],
            "alignment": {"images": 8, "cells": 256, "models": ["before", "alone"], "levels": [["p3", [0.5, 0.875]]]},
        });
        fs::write(folder.join("shown/index.json"), shown.to_string()).unwrap();
        fs::write(folder.join("summary.json"), r#"{"teacher":{"AP":0.4},"student_alone":{}}"#).unwrap();
        let log = fs::read_to_string(folder.join("log.jsonl")).unwrap();
        let shares = r#"{"step":9,"shares":{"passes":9,"gradient_norms":{"detection":1.0,"ckd":3.0}}}"#;
        fs::write(folder.join("log.jsonl"), log + shares + "\n").unwrap();
    }

    #[test]
    fn a_page_has_every_section_and_nothing_from_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let one = run(folder.path(), "one");
        show(one.folder.path());
        let page = page(&[Run::read(&one.folder, "one").unwrap()]);
        for part in [
            "<h2>Overview</h2>",
            "<h2>Over the steps</h2>",
            "Norm of the gradient",
            "Wait for data",
            "Memory",
            "a&amp;b",
            "<h2>Classes</h2>",
            "&lt;cat&gt;",
            "Precision over recall",
            "<h2>Errors by kind</h2>",
            "<h2>Confusion of one</h2>",
            "<h2>Configuration of one</h2>",
            "optim.lr",
            "<h2>Images of one</h2>",
            "Worst: &lt;a&gt;.jpg",
            "3 found, 1 false, 0 missed",
            "data:image/jpeg;base64,/9g=",
            "<h2>Feature maps of one</h2>",
            "<h2>Likeness of one</h2>",
            "0.875",
            "<h2>Whose gradient reaches the student</h2>",
            "75.0",
            "<h2>Times</h2>",
            "teacher of one",
            "<td class=\"number\">40</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<cat>") && !page.contains("<a>") && !page.contains("NaN"));
        // A file that is not beside the list is none of the page's.
        assert_eq!(page.matches("<img").count(), 2);
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
        assert!(page.len() < 300_000, "{} bytes", page.len());
    }

    #[test]
    fn several_runs_share_their_axes() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [run(folder.path(), "one"), run(folder.path(), "two")];
        let page = page(&runs);
        assert!(page.contains("<title>one, two</title>"));
        assert!(page.contains("AP one") && page.contains("AP two"));
        assert!(page.contains("Losses of one") && page.contains("Losses of two"));
        assert!(page.contains("one: mean") && page.contains("two: mean"));
    }

    #[test]
    fn a_run_that_has_just_begun_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), "name = \"x\"\n").unwrap();
        let run = Run::read(&RunFolder::at(folder.path()), "x").unwrap();
        assert!(page(&[run]).contains("<h2>Overview</h2>"));
        let nothing = RunFolder::at(folder.path().join("nothing"));
        assert!(matches!(Run::read(&nothing, "x"), Err(RunFolderError::NoRun { .. })));
    }
}
