//! `log.csv`: the lines of a run's log as one table, for spreadsheets and plotting programs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::run_folder::Line;

/// Columns that every table has, in their order; losses and measures follow.
const FIRST: [&str; 9] =
    ["step", "epoch", "time", "lr", "loss", "gradient_norm", "images", "ms", "data_wait_ms"];

/// The updates and evaluations of `lines` as comma-separated values with a line of headings.
///
/// An update and an evaluation are a row each; what a row does not have is empty. Measures have `eval/` before their name, those
/// of the average of the weights `ema/`, and losses `loss/`. `names` are those of a detector's numbers.
pub fn csv(lines: &[Line], names: &[&str]) -> String {
    let rows: Vec<Vec<(String, String)>> = lines.iter().filter_map(|line| row(line, names)).collect();
    let mut others = BTreeSet::new();
    for (name, _) in rows.iter().flatten() {
        if !FIRST.contains(&name.as_str()) {
            others.insert(name.as_str());
        }
    }
    let names: Vec<&str> = FIRST.into_iter().chain(others).collect();
    let mut text = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",") + "\n";
    for row in &rows {
        let cell =
            |name: &&str| row.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value.as_str());
        text += &names.iter().map(cell).collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

/// Names and values of a line.
fn row(line: &Line, names: &[&str]) -> Option<Vec<(String, String)>> {
    let mut row = Vec::new();
    let mut add = |name: &str, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            row.push((name.to_owned(), value.to_string()));
        }
    };
    match line {
        Line::Step(step) => {
            add("step", Some(step.step as f64));
            add("epoch", step.epoch);
            add("time", step.time);
            add("lr", Some(step.lr));
            add("loss", Some(step.loss));
            add("gradient_norm", Some(step.gradient_norm));
            add("images", Some(step.images as f64));
            add("ms", Some(step.ms));
            add("data_wait_ms", Some(step.data_wait_ms));
            add("teacher_ms", step.teacher_ms);
            add("forward_ms", step.forward_ms);
            add("backward_ms", step.backward_ms);
            add("memory_mib", step.memory_mib);
            step.losses.iter().for_each(|(name, value)| add(&format!("loss/{name}"), value.as_f64()));
        }
        Line::Eval(eval) => {
            add("step", Some(eval.step as f64));
            add("epoch", eval.epoch);
            add("time", eval.time);
            add("ms", eval.ms);
            add("memory_mib", eval.memory_mib);
            measures("eval", &eval.eval, names).into_iter().for_each(|(name, value)| add(&name, Some(value)));
            if let Some(ema) = &eval.ema {
                measures("ema", ema, names).into_iter().for_each(|(name, value)| add(&name, Some(value)));
            }
        }
        _ => return None,
    }
    Some(row)
}

/// The numbers of an evaluation by name, `PREFIX/NAME`: a detector's under `names`, or a classifier's own; -1, which stands for nothing
/// measured, is left out.
pub fn measures(prefix: &str, eval: &Value, names: &[&str]) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    match eval {
        Value::Array(stats) => {
            for (name, stat) in names.iter().zip(stats) {
                found.extend(stat.as_f64().map(|stat| (format!("{prefix}/{name}"), stat)));
            }
        }
        Value::Object(named) => {
            for (name, value) in named {
                match value.as_f64() {
                    Some(value) => found.push((format!("{prefix}/{name}"), value)),
                    None => found.extend(measures(&format!("{prefix}/{name}"), value, names)),
                }
            }
        }
        _ => {}
    }
    found.retain(|(_, value)| *value >= 0.0);
    found
}

/// A heading for CSV.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    #[test]
    fn updates_and_evaluations_share_a_table_whose_columns_are_all_that_occur() {
        let table = csv(
            &lines(&[
            r#"{"step":1,"lr":0.5,"loss":2.5,"losses":{"a":2.5},"gradient_norm":1.0,"images":2,"epoch":0.25,"ms":10.0,"data_wait_ms":0.1,"time":7.5,"memory_mib":3.0}"#,
            r#"{"step":2,"lr":0.5,"loss":null,"losses":{"a":1.0,"b":null},"gradient_norm":1.0,"images":2,"ms":10.0,"data_wait_ms":0.1}"#
                .replace("null,\"losses\"", "1.0,\"losses\"")
                .as_str(),
            r#"{"step":2,"bad_image":"x","reason":"y"}"#,
            r#"{"step":2,"epoch":0.5,"eval":[0.5,0.75,-1.0],"ms":100.0,"time":8.0}"#,
        ]), &["AP", "AP50", "AP75"]);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(
            rows,
            [
                "step,epoch,time,lr,loss,gradient_norm,images,ms,data_wait_ms,eval/AP,eval/AP50,loss/a,memory_mib",
                "1,0.25,7.5,0.5,2.5,1,2,10,0.1,,,2.5,3",
                "2,,,0.5,1,1,2,10,0.1,,,1,",
                "2,0.5,8,,,,,100,,0.5,0.75,,",
            ]
        );
    }

    #[test]
    fn measures_of_classifiers_and_cohorts_have_their_names() {
        let eval = serde_json::json!({"top1": 0.5, "peer0": {"top1": 0.25}, "told": "x"});
        let found = measures("eval", &eval, &[]);
        assert_eq!(found, [("eval/top1".to_owned(), 0.5), ("eval/peer0/top1".to_owned(), 0.25)]);
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
