//! One table that says what distillation was worth: teacher, student alone, student distilled, difference.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Accuracy and cost of a detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "WrittenRow")]
pub struct ModelRow {
    /// Name in the first column.
    pub name: String,
    /// The twelve COCO numbers in pycocotools' order, fractions from 0 to 1; -1 where nothing was measured.
    pub stats: [f64; 12],
    /// Number of the network's parameters.
    pub parameters: u64,
    /// Multiply-adds of one forward pass of one image, in 10^9 (what torchvision calls GFLOPS).
    pub gflops: f64,
    /// Wall time of one forward pass of one image, in milliseconds.
    pub ms_per_image: f64,
}

/// A row as it is written: the numbers of the table by their names, too.
#[derive(Serialize)]
struct WrittenRow {
    name: String,
    #[serde(rename = "AP")]
    ap: f64,
    #[serde(rename = "AP50")]
    ap50: f64,
    #[serde(rename = "AP75")]
    ap75: f64,
    #[serde(rename = "AP_S")]
    ap_s: f64,
    #[serde(rename = "AP_M")]
    ap_m: f64,
    #[serde(rename = "AP_L")]
    ap_l: f64,
    stats: [f64; 12],
    parameters: u64,
    gflops: f64,
    ms_per_image: f64,
}

impl From<ModelRow> for WrittenRow {
    fn from(row: ModelRow) -> Self {
        let ModelRow { name, stats, parameters, gflops, ms_per_image } = row;
        let [ap, ap50, ap75, ap_s, ap_m, ap_l, ..] = stats;
        Self { name, ap, ap50, ap75, ap_s, ap_m, ap_l, stats, parameters, gflops, ms_per_image }
    }
}

/// Accuracy and cost of an image classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierRow {
    /// Name in the first column.
    pub name: String,
    /// Top-1 accuracy, from 0 to 1.
    pub top1: f64,
    /// Top-5 accuracy, from 0 to 1.
    pub top5: f64,
    /// Expected calibration error, from 0 to 1.
    pub ece: f64,
    /// Agreement of the first guess with the teacher's, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Number of the network's parameters.
    pub parameters: u64,
    /// Multiply-adds of one forward pass of one image, in 10^9.
    pub gflops: f64,
    /// Wall time of one forward pass of one image, in milliseconds.
    pub ms_per_image: f64,
}

/// Line of a table for a model.
pub trait Row: Sized {
    /// The headings of its cells.
    const HEADER: &'static [&'static str];

    /// Copy of the line with another name in the first column.
    #[must_use]
    fn called(self, name: &str) -> Self;

    /// Cells of the line, as many as headings.
    fn cells(&self) -> Vec<String>;

    /// The cells of the row that says what `to` has more than `self`; the first is left to the table.
    fn difference(&self, to: &Self) -> Vec<String>;

    /// Accuracy in a sentence.
    fn told(&self) -> String;

    /// Columns of a table of several runs: names, and values in points (hundredths).
    fn metrics(&self) -> Vec<(&'static str, f64)>;

    /// Subject of the numbers, where that is not one model.
    fn of_several(&self) -> Option<String> {
        None
    }
}

/// The three models of an experiment. Its `Display` is the table, its JSON the run's summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison<R> {
    /// The large model that teaches.
    pub teacher: R,
    /// The small model trained without it.
    pub student_alone: R,
    /// The small model trained with the teacher.
    pub student_distilled: R,
}

/// Accuracies in points (hundredths); the difference is distilled less alone.
impl<R: Row> fmt::Display for Comparison<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { teacher, student_alone, student_distilled } = self;
        let mut difference = student_alone.difference(student_distilled);
        difference.insert(0, "difference".to_owned());
        let rows = [
            R::HEADER.iter().map(|&heading| heading.to_owned()).collect(),
            teacher.cells(),
            student_alone.cells(),
            student_distilled.cells(),
            difference,
        ];
        f.write_str(&aligned(&rows, &[1, rows.len() - 1]))
    }
}

/// Characters of a column; what is longer reaches beyond it. `format!` pads up to 65,535, and panics beyond.
pub const WIDEST: usize = 100;

/// The rows in columns, the first to the left, with a rule before each row of `ruled`.
pub fn aligned(rows: &[Vec<String>], ruled: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let width = |column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0).min(WIDEST);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        if ruled.contains(&index) {
            text += &rule;
            text.push('\n');
        }
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            text += &match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

impl Row for ModelRow {
    const HEADER: &'static [&'static str] =
        &["model", "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "params M", "GFLOPs", "ms/image"];

    fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone()];
        cells.extend(self.stats[..6].iter().map(|&stat| match stat {
            stat if stat < 0.0 => "-".to_owned(),
            stat => format!("{:.1}", 100.0 * stat),
        }));
        cells.extend(cost(self.parameters, self.gflops, self.ms_per_image));
        cells
    }

    fn difference(&self, to: &Self) -> Vec<String> {
        let stats = self.stats.iter().zip(to.stats).take(6);
        let mut cells: Vec<String> = stats
            .map(|(&from, to)| match from < 0.0 || to < 0.0 {
                true => "-".to_owned(),
                false => signed(100.0 * (to - from), 1),
            })
            .collect();
        cells.extend([
            signed((to.parameters as f64 - self.parameters as f64) / 1e6, 2),
            signed(to.gflops - self.gflops, 2),
            signed(to.ms_per_image - self.ms_per_image, 1),
        ]);
        cells
    }

    fn told(&self) -> String {
        let names = ["AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"];
        let numbers = names.iter().zip(self.stats).map(|(name, stat)| match stat < 0.0 {
            true => format!("{name} -"),
            false => format!("{name} {:.1}", 100.0 * stat),
        });
        numbers.collect::<Vec<_>>().join("  ")
    }

    fn metrics(&self) -> Vec<(&'static str, f64)> {
        vec![("AP", 100.0 * self.stats[0]), ("AP50", 100.0 * self.stats[1])]
    }
}

impl Row for ClassifierRow {
    const HEADER: &'static [&'static str] =
        &["model", "top-1", "top-5", "ECE", "agreement", "params M", "GFLOPs", "ms/image"];

    fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn cells(&self) -> Vec<String> {
        let points = |fraction: f64| format!("{:.2}", 100.0 * fraction);
        let mut cells = vec![self.name.clone(), points(self.top1), points(self.top5), points(self.ece)];
        cells.push(self.agreement.map_or("-".to_owned(), points));
        cells.extend(cost(self.parameters, self.gflops, self.ms_per_image));
        cells
    }

    fn difference(&self, to: &Self) -> Vec<String> {
        let points = |from: f64, to: f64| signed(100.0 * (to - from), 2);
        vec![
            points(self.top1, to.top1),
            points(self.top5, to.top5),
            points(self.ece, to.ece),
            match (self.agreement, to.agreement) {
                (Some(from), Some(to)) => points(from, to),
                _ => "-".to_owned(),
            },
            signed((to.parameters as f64 - self.parameters as f64) / 1e6, 2),
            signed(to.gflops - self.gflops, 2),
            signed(to.ms_per_image - self.ms_per_image, 1),
        ]
    }

    fn told(&self) -> String {
        let [top1, top5, ece] = [self.top1, self.top5, self.ece].map(|fraction| 100.0 * fraction);
        let agreement = self.agreement.map(|agreement| format!("  agreement {:.2}", 100.0 * agreement));
        format!("top-1 {top1:.2}  top-5 {top5:.2}  ECE {ece:.2}{}", agreement.unwrap_or_default())
    }

    fn metrics(&self) -> Vec<(&'static str, f64)> {
        let mut metrics = vec![("top-1", 100.0 * self.top1), ("top-5", 100.0 * self.top5)];
        metrics.push(("ECE", 100.0 * self.ece));
        metrics.extend(self.agreement.map(|agreement| ("agreement", 100.0 * agreement)));
        metrics
    }
}

/// Cells of a network's cost.
pub(super) fn cost(parameters: u64, gflops: f64, ms_per_image: f64) -> [String; 3] {
    [format!("{:.2}", parameters as f64 / 1e6), format!("{gflops:.2}"), format!("{ms_per_image:.1}")]
}

/// `+1.2`, `-1.2`, and `0.0` where rounding leaves nothing.
pub fn signed(value: f64, decimals: usize) -> String {
    let text = format!("{value:+.decimals$}");
    if text[1..].chars().all(|c| c == '0' || c == '.') { text[1..].to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_longer_than_any_column_does_not_end_the_program() {
        let long = "a".repeat(70_000);
        let rows = [vec!["name".to_owned(), "AP".to_owned()], vec![long.clone(), long.clone()]];
        let text = aligned(&rows, &[]);
        assert!(text.ends_with(&format!("{long}  {long}\n")));
        assert_eq!(text.lines().next().map(str::len), Some(2 * WIDEST + 2));
    }

    fn row(name: &str, ap: f64, parameters: u64, ms_per_image: f64) -> ModelRow {
        let mut stats = [ap; 12];
        stats[1] = ap + 0.2;
        stats[3] = -1.0;
        ModelRow { name: name.into(), stats, parameters, gflops: parameters as f64 / 5e5, ms_per_image }
    }

    fn comparison() -> Comparison<ModelRow> {
        Comparison {
            teacher: row("teacher (ResNet-50)", 0.4567, 41_400_000, 88.25),
            student_alone: row("student alone", 0.301, 9_650_000, 30.04),
            student_distilled: row("student distilled", 0.3256, 9_650_000, 29.96),
        }
    }

    #[test]
    fn a_written_row_names_its_numbers_and_reads_back_equal() {
        let row = row("student", 0.301, 9_650_000, 30.0);
        let json = serde_json::to_value(&row).expect("a row has a JSON form");
        assert_eq!(
            (json["AP"].as_f64(), json["AP50"].as_f64(), json["AP_S"].as_f64()),
            (Some(0.301), Some(0.501), Some(-1.0))
        );
        assert_eq!(serde_json::from_value::<ModelRow>(json).expect("it reads back"), row);
    }

    #[test]
    fn the_table_is_aligned_and_in_points() {
        let want = "\
model                  AP  AP50  AP75  AP_S  AP_M  AP_L  params M  GFLOPs  ms/image
-----------------------------------------------------------------------------------
teacher (ResNet-50)  45.7  65.7  45.7     -  45.7  45.7     41.40   82.80      88.2
student alone        30.1  50.1  30.1     -  30.1  30.1      9.65   19.30      30.0
student distilled    32.6  52.6  32.6     -  32.6  32.6      9.65   19.30      30.0
-----------------------------------------------------------------------------------
difference           +2.5  +2.5  +2.5     -  +2.5  +2.5      0.00    0.00      -0.1
";
        assert_eq!(comparison().to_string(), want);
    }

    #[test]
    fn a_loss_shows_as_a_loss_and_nothing_as_nothing() {
        let mut worse = comparison();
        worse.student_distilled.stats[0] = 0.25;
        worse.student_distilled.stats[1] = worse.student_alone.stats[1] - 1e-5;
        worse.student_distilled.stats[2] = -1.0;
        let table = worse.to_string();
        let last = table.lines().last().unwrap();
        let cells: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(&cells[..4], ["difference", "-5.1", "0.0", "-"]);
    }

    #[test]
    fn names_longer_than_the_columns_keep_the_table_aligned() {
        let mut long = comparison();
        long.student_alone.name = "élève tout seul, sans aucun professeur".into();
        long.teacher.parameters = 123_456_789_012;
        let widths: Vec<usize> = long.to_string().lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{long}");
    }

    #[test]
    fn the_summary_has_one_key_a_model_and_reads_back() {
        let text = serde_json::to_string(&comparison()).unwrap();
        assert!(text.starts_with(r#"{"teacher":{"name":"teacher (ResNet-50)","AP":0.4567,"#), "{text}");
        assert!(text.contains(r#""student_alone":{"#) && text.contains(r#""student_distilled":{"#));
        assert_eq!(serde_json::from_str::<Comparison<ModelRow>>(&text).unwrap(), comparison());
    }
}
