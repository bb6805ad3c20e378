//! The table of networks that trained together: one line a network, and their mean.

use serde::{Deserialize, Serialize};

use super::table::{ClassifierRow, Row, aligned};

/// The accuracies of a cohort's networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CohortRow {
    /// Name in the first column.
    pub name: String,
    /// The mean of the networks' numbers, cost too.
    pub mean: ClassifierRow,
    /// Each network's line.
    pub peers: Vec<ClassifierRow>,
}

impl CohortRow {
    /// The networks `peers` and their mean.
    pub fn new(name: &str, peers: Vec<ClassifierRow>) -> Self {
        let count = peers.len().max(1) as f64;
        let mean = |of: fn(&ClassifierRow) -> f64| peers.iter().map(of).sum::<f64>() / count;
        let mean = ClassifierRow {
            name: format!("mean of {}", peers.len()),
            top1: mean(|row| row.top1),
            top5: mean(|row| row.top5),
            ece: mean(|row| row.ece),
            agreement: None,
            parameters: mean(|row| row.parameters as f64).round() as u64,
            gflops: mean(|row| row.gflops),
            ms_per_image: mean(|row| row.ms_per_image),
        };
        Self { name: name.to_owned(), mean, peers }
    }

    /// All lines as a table; `best` has the step and top-1 accuracy of each network's best evaluation.
    pub fn table(&self, best: &[(u64, f64)]) -> String {
        let agreement = ClassifierRow::HEADER.iter().position(|&heading| heading == "agreement");
        let without = |mut cells: Vec<String>| {
            agreement.map(|column| cells.remove(column));
            cells
        };
        let mut header = without(ClassifierRow::HEADER.iter().map(|&heading| heading.to_owned()).collect());
        header.push("best top-1 (step)".to_owned());
        let mut rows = vec![header];
        for (index, peer) in self.peers.iter().enumerate() {
            let mut cells = without(peer.cells());
            cells.extend(best.get(index).map(|(step, top1)| format!("{:.2} ({step})", 100.0 * top1)));
            rows.push(cells);
        }
        rows.push(without(self.mean.cells()));
        aligned(&rows, &[1, rows.len() - 1])
    }
}

impl Row for CohortRow {
    const HEADER: &'static [&'static str] = ClassifierRow::HEADER;

    fn called(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn cells(&self) -> Vec<String> {
        self.mean.clone().called(&self.name).cells()
    }

    fn difference(&self, to: &Self) -> Vec<String> {
        self.mean.difference(&to.mean)
    }

    fn told(&self) -> String {
        let each = self.peers.iter().map(|peer| format!("{:.2}", 100.0 * peer.top1));
        format!("{} (the mean; top-1 of each {})", self.mean.told(), each.collect::<Vec<_>>().join(", "))
    }

    fn metrics(&self) -> Vec<(&'static str, f64)> {
        self.mean.metrics()
    }

    fn of_several(&self) -> Option<String> {
        Some(format!("mean of {} peers", self.peers.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, top1: f64, parameters: u64) -> ClassifierRow {
        ClassifierRow {
            name: name.to_owned(),
            top1,
            top5: 0.9,
            ece: 0.05,
            agreement: None,
            parameters,
            gflops: 0.01,
            ms_per_image: 0.5,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_network_and_their_mean() {
        let row = CohortRow::new("cohort", vec![row("peer0", 0.5, 80_000), row("peer1", 0.75, 180_000)]);
        let want = "\
model      top-1  top-5   ECE  params M  GFLOPs  ms/image  best top-1 (step)
----------------------------------------------------------------------------
peer0      50.00  90.00  5.00      0.08    0.01       0.5         61.00 (20)
peer1      75.00  90.00  5.00      0.18    0.01       0.5         80.00 (40)
----------------------------------------------------------------------------
mean of 2  62.50  90.00  5.00      0.13    0.01       0.5
";
        assert_eq!(row.table(&[(20, 0.61), (40, 0.8)]), want);
        assert_eq!(row.metrics()[0], ("top-1", 62.5));
        assert!(row.told().contains("50.00, 75.00"), "{}", row.told());
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<CohortRow>(&json).unwrap(), row);
    }
}
