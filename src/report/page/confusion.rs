//! The confusion matrix of a page.

use serde_json::Value;

use super::html::{cell, escaped, headings, section as section_of, table};
use super::run::Run;

/// Classes of a matrix that is shown; of more, the commonest confusions are.
const SHOWN: usize = 24;

/// Confusions that are listed.
const LISTED: usize = 30;

/// The confusion matrix of the run's last evaluation.
pub(super) fn section(run: &Run) -> String {
    let Some(confusion) = run.analysis().and_then(|analysis| analysis.get("confusion")) else {
        return String::new();
    };
    let names: Vec<&str> = confusion
        .get("names")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let counts: Vec<Vec<u64>> =
        serde_json::from_value(confusion.get("counts").cloned().unwrap_or_default()).unwrap_or_default();
    if names.is_empty() || counts.len() != names.len() + 1 {
        return String::new();
    }
    let score = confusion.get("score").and_then(Value::as_f64).unwrap_or(0.0);
    let about = format!(
        "<p>Rows are what is there, columns what was found, at an IoU of .50 and with a score of {score} or more; shades are shares of a \
         row.</p>\n"
    );
    let content = if names.len() <= SHOWN { matrix(&names, &counts) } else { commonest(&names, &counts) };
    section_of(&format!("Confusion of {}", run.label), &(about + &content))
}

fn matrix(names: &[&str], counts: &[Vec<u64>]) -> String {
    let mut head = vec![String::new()];
    head.extend(names.iter().map(|name| escaped(name)));
    head.push("missed".to_owned());
    let rows: Vec<Vec<String>> = counts
        .iter()
        .enumerate()
        .map(|(place, row)| {
            let name = names.get(place).copied().unwrap_or("background");
            let total = row.iter().sum::<u64>().max(1) as f64;
            let shaded = |count: &u64| {
                format!(
                    "<td class=\"shade number\" style=\"--share:{:.0}%\">{count}</td>",
                    100.0 * *count as f64 / total
                )
            };
            let last = if place == names.len() { row.len().saturating_sub(1) } else { row.len() };
            let mut cells = vec![format!("<th>{}</th>", escaped(name))];
            cells.extend(row.iter().take(last).map(shaded));
            cells
        })
        .collect();
    table(&head, &rows)
}

fn commonest(names: &[&str], counts: &[Vec<u64>]) -> String {
    let mut found: Vec<(u64, &str, &str)> = Vec::new();
    for (&truth, row) in names.iter().zip(counts) {
        let others = names.iter().zip(row).filter(|&(&name, &count)| name != truth && count > 0);
        found.extend(others.map(|(&name, &count)| (count, truth, name)));
    }
    found.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .take(LISTED)
        .map(|(count, truth, name)| vec![cell(truth), cell(name), cell(&count.to_string())])
        .collect();
    table(&headings(&["what is there", "what was found", "count"]), &rows)
}
