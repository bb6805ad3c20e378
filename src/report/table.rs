//! One table that says what distillation was worth: teacher, student alone, student distilled, difference.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One model's accuracy and cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "WrittenRow")]
pub struct ModelRow {
    /// What stands in the first column.
    pub name: String,
    /// The twelve COCO numbers in pycocotools' order, fractions from 0 to 1; -1 where nothing was measured.
    pub stats: [f64; 12],
    /// How many numbers the network holds.
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

/// The three models of an experiment. Its `Display` is the table, its JSON the run's summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The large model that teaches.
    pub teacher: ModelRow,
    /// The small model trained without it.
    pub student_alone: ModelRow,
    /// The same small model trained with it.
    pub student_distilled: ModelRow,
}

const HEADER: [&str; 10] =
    ["model", "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "params M", "GFLOPs", "ms/image"];

/// Average precisions in points (hundredths) with one decimal; the difference is distilled less alone.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            HEADER.map(str::to_owned),
            cells(&self.teacher),
            cells(&self.student_alone),
            cells(&self.student_distilled),
            difference(&self.student_alone, &self.student_distilled),
        ];
        let widths: [usize; 10] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
        for (index, row) in rows.iter().enumerate() {
            if index == 1 || index == rows.len() - 1 {
                writeln!(f, "{rule}")?;
            }
            write!(f, "{:<width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn cells(model: &ModelRow) -> [String; 10] {
    let ap = |row: usize| match model.stats[row] {
        stat if stat < 0.0 => "-".to_owned(),
        stat => format!("{:.1}", 100.0 * stat),
    };
    [
        model.name.clone(),
        ap(0),
        ap(1),
        ap(2),
        ap(3),
        ap(4),
        ap(5),
        format!("{:.2}", model.parameters as f64 / 1e6),
        format!("{:.2}", model.gflops),
        format!("{:.1}", model.ms_per_image),
    ]
}

fn difference(from: &ModelRow, to: &ModelRow) -> [String; 10] {
    let ap = |row: usize| match (from.stats[row], to.stats[row]) {
        (from, to) if from < 0.0 || to < 0.0 => "-".to_owned(),
        (from, to) => signed(100.0 * (to - from), 1),
    };
    [
        "difference".to_owned(),
        ap(0),
        ap(1),
        ap(2),
        ap(3),
        ap(4),
        ap(5),
        signed((to.parameters as f64 - from.parameters as f64) / 1e6, 2),
        signed(to.gflops - from.gflops, 2),
        signed(to.ms_per_image - from.ms_per_image, 1),
    ]
}

/// `+1.2`, `-1.2`, and `0.0` where rounding leaves nothing.
fn signed(value: f64, decimals: usize) -> String {
    let text = format!("{value:+.decimals$}");
    if text[1..].chars().all(|c| c == '0' || c == '.') { text[1..].to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ap: f64, parameters: u64, ms_per_image: f64) -> ModelRow {
        let mut stats = [ap; 12];
        stats[1] = ap + 0.2;
        stats[3] = -1.0;
        ModelRow { name: name.into(), stats, parameters, gflops: parameters as f64 / 5e5, ms_per_image }
    }

    fn comparison() -> Comparison {
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
        assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison());
    }
}
