//! A comparison as text: table, Markdown, CSV, JSON, HTML.

use std::path::Path;

use super::entry::{Difference, Entry, Metric, Run};
use crate::engine::Result;
use crate::fsx;
use crate::report::page;
use crate::report::run_folder::RunFolder;
use crate::report::table::{aligned, signed};

/// Form of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Format {
    /// Aligned columns
    Table,
    /// A Markdown table
    Markdown,
    /// A line for each metric of each configuration, with full digits
    Csv,
    /// All there is, runs included
    Json,
    /// One page without a network
    Html,
}

impl Format {
    /// Text of `entries` in this form; mean ± standard deviation of the last evaluations, in points.
    pub fn of(self, entries: &[Entry]) -> String {
        match self {
            Self::Table => aligned(&rows(entries), &[1]),
            Self::Markdown => markdown(entries),
            Self::Csv => csv(entries),
            Self::Json => serde_json::to_string_pretty(entries).expect("entries have a JSON form") + "\n",
            Self::Html => {
                let rows = rows(entries);
                page::of_table("Comparison", &rows[0], &rows[1..], &remarks(entries), &shown(entries))
            }
        }
    }
}

/// The entries as a Markdown table.
pub fn markdown(entries: &[Entry]) -> String {
    let rows = rows(entries);
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|---|{}\n", "---:|".repeat(rows[0].len() - 1));
    let body: String = rows[1..].iter().map(|row| line(row)).collect();
    line(&rows[0]) + &rule + &body
}

/// Writes `compare.json`, `compare.md` and `report.html` into `folder`.
///
/// # Errors
/// Files that cannot be written.
pub fn write(entries: &[Entry], folder: &Path) -> Result<()> {
    fsx::write_atomic(&folder.join("compare.json"), Format::Json.of(entries).trim_end().as_bytes())?;
    fsx::write_atomic(&folder.join("compare.md"), markdown(entries).as_bytes())?;
    Ok(fsx::write_atomic(&folder.join("report.html"), Format::Html.of(entries).as_bytes())?)
}

/// Runs of which the files can be read: a page is no reason to fail.
fn shown(entries: &[Entry]) -> Vec<page::Run> {
    let runs = entries.iter().flat_map(|entry| &entry.runs);
    let read = |run: &Run| {
        let folder = RunFolder::at(&run.folder);
        let name = folder.path().file_name()?.to_string_lossy().into_owned();
        page::Run::read(&folder, &name).ok()
    };
    runs.filter_map(read).collect()
}

/// Headings, and a row for each configuration.
fn rows(entries: &[Entry]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = Vec::new();
    for metric in entries.iter().flat_map(|entry| &entry.metrics) {
        if !names.contains(&metric.name) {
            names.push(metric.name);
        }
    }
    let differences: Vec<&Difference> =
        entries.iter().filter_map(|entry| entry.difference.as_ref()).collect();
    let difference = differences.first();
    let are_over_one =
        differences.iter().all(|other| Some(&other.from) == difference.map(|first| &first.from));
    let mut head = vec!["configuration".to_owned(), "runs".to_owned()];
    head.extend(names.iter().map(|&name| name.to_owned()));
    head.extend(difference.map(|difference| heading(difference, are_over_one)));
    let row = |entry: &Entry| {
        let of = entry.of.as_ref().map(|of| format!(" ({of})")).unwrap_or_default();
        let mut row = vec![format!("{}{of}", entry.name), entry.runs.len().to_string()];
        row.extend(names.iter().map(|name| {
            let metric = entry.metrics.iter().find(|metric| metric.name == *name);
            metric.map_or("-".to_owned(), mean)
        }));
        row.extend(
            difference
                .map(|_| entry.difference.as_ref().map_or("-".to_owned(), |own| gain(own, are_over_one))),
        );
        row
    };
    std::iter::once(head).chain(entries.iter().map(row)).collect()
}

/// Heading of the gains; where they are not all over one configuration, each says over which it is.
fn heading(Difference { metric, from, interval, .. }: &Difference, are_over_one: bool) -> String {
    let interval = if interval.is_some() { " [95 % over images]" } else { "" };
    let over = if are_over_one { format!(" over {from}") } else { " gained".to_owned() };
    format!("{metric}{over}{interval}")
}

fn mean(metric: &Metric) -> String {
    match metric {
        // Less than nothing stands for nothing to measure by.
        Metric { mean, .. } if *mean < 0.0 => "-".to_owned(),
        Metric { mean, deviation: Some(deviation), .. } => format!("{mean:.2} ± {deviation:.2}"),
        Metric { mean, deviation: None, .. } => format!("{mean:.2}"),
    }
}

fn gain(difference: &Difference, are_over_one: bool) -> String {
    let Difference { mean, deviation, interval, from, .. } = difference;
    let deviation = deviation.map(|deviation| format!(" ± {deviation:.2}")).unwrap_or_default();
    let interval = interval.map(|[low, high]| format!(" [{}, {}]", signed(low, 2), signed(high, 2)));
    let over = if are_over_one { String::new() } else { format!(" over {from}") };
    format!("{}{deviation}{}{over}", signed(*mean, 2), interval.unwrap_or_default())
}

/// Explanations below a page's table.
fn remarks(entries: &[Entry]) -> Vec<String> {
    let mut remarks =
        vec!["Mean ± standard deviation over seeds of the last evaluations, in points.".to_owned()];
    let differences: Vec<&Difference> =
        entries.iter().filter_map(|entry| entry.difference.as_ref()).collect();
    if differences.iter().any(|difference| difference.interval.is_some()) {
        remarks.push(
            "In brackets, the middle 95 % of differences where the validation images are drawn again with replacement, the \
             same for both (paired bootstrap)."
                .to_owned(),
        );
    }
    remarks.push("Each run has a page of its own, report.html in its folder.".to_owned());
    remarks
}

fn csv(entries: &[Entry]) -> String {
    let mut text =
        "configuration,of,seeds,metric,mean,deviation,difference,difference_deviation,low95,high95,over\n"
            .to_owned();
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for entry in entries {
        let seeds: Vec<String> = entry.runs.iter().map(|run| run.seed.to_string()).collect();
        for metric in &entry.metrics {
            let difference = entry.difference.as_ref().filter(|difference| difference.metric == metric.name);
            let [low, high] = match difference.and_then(|difference| difference.interval) {
                Some(interval) => interval.map(Some),
                None => [None; 2],
            };
            let cells = [
                field(&entry.name),
                field(entry.of.as_deref().unwrap_or_default()),
                seeds.join(" "),
                field(metric.name),
                number((metric.mean >= 0.0).then_some(metric.mean)),
                number(metric.deviation),
                number(difference.map(|difference| difference.mean)),
                number(difference.and_then(|difference| difference.deviation)),
                number(low),
                number(high),
                field(difference.map_or("", |difference| &difference.from)),
            ];
            text += &cells.join(",");
            text.push('\n');
        }
    }
    text
}

/// A field of a CSV file (RFC 4180).
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
