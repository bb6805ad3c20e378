//! Line charts as SVG.

use std::fmt::Write;

use super::html::{escaped, number};

/// A curve with its name.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves on common axes.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) unit: String,
    /// Name of the axis across.
    pub(super) across: &'static str,
    pub(super) series: Vec<Series>,
    /// Each point has a mark that tells its numbers.
    pub(super) has_marks: bool,
    /// Both axes go from 0 to 1.
    pub(super) is_unit_square: bool,
}

/// Width and height in units of the drawing, which is as wide as its place on the page.
const SIZE: [f64; 2] = [440.0, 250.0];
/// Room around the axes: left, top, right, bottom.
const ROOM: [f64; 4] = [52.0, 10.0, 12.0, 34.0];
/// Points of a curve; of more, the mean of neighbours is drawn.
const POINTS: usize = 300;

impl Chart {
    /// The chart with its title and its legend; nothing where it has no point.
    pub(super) fn figure(&self) -> String {
        let series: Vec<(usize, Series)> = self
            .series
            .iter()
            .enumerate()
            .map(|(place, series)| (place, series.thinned()))
            .filter(|(_, series)| !series.points.is_empty())
            .collect();
        let points = || series.iter().flat_map(|(_, series)| &series.points);
        if series.is_empty() {
            return String::new();
        }
        let [across, up] = match self.is_unit_square {
            true => [Axis::of(0.0, 1.0); 2],
            false => {
                let ends = |values: &mut dyn Iterator<Item = f64>| {
                    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| {
                        (a.min(value), b.max(value))
                    })
                };
                let (low, high) = ends(&mut points().map(|point| point.0));
                let (least, most) = ends(&mut points().map(|point| point.1));
                // All but a quantity that is never near 0 is seen from 0 on.
                let least = if least > 0.0 && least < 0.7 * most { 0.0 } else { least };
                [Axis::of(low.min(high), high).until(high), Axis::of(least, most)]
            }
        };
        let unit = if self.unit.is_empty() {
            String::new()
        } else {
            format!(" <small>{}</small>", escaped(&self.unit))
        };
        let mut text = format!(
            "<figure><figcaption>{}{unit}</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            escaped(&self.title),
            SIZE[0],
            SIZE[1],
            escaped(&self.title)
        );
        self.grid(&mut text, across, up);
        for (place, series) in &series {
            let at = |&(x, y): &(f64, f64)| (left(across.share(x)), top(up.share(y)));
            let path: Vec<String> =
                series.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let class = place % 8;
            let _ = writeln!(text, "<polyline class=\"s{class}\" points=\"{}\"/>", path.join(" "));
            if self.has_marks || series.points.len() == 1 {
                for point in &series.points {
                    let (x, y) = at(point);
                    let told = format!(
                        "{}: {} at {} {}",
                        series.label,
                        number(point.1),
                        self.across,
                        number(point.0)
                    );
                    let _ = writeln!(
                        text,
                        "<circle class=\"s{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}</title></circle>",
                        escaped(&told)
                    );
                }
            }
        }
        text += "</svg>\n";
        if self.series.len() > 1 {
            text += "<ul class=\"legend\">";
            for (place, Series { label, .. }) in &series {
                let _ = write!(text, "<li><span class=\"key s{}\"></span>{}</li>", place % 8, escaped(label));
            }
            text += "</ul>\n";
        }
        text + "</figure>\n"
    }

    fn grid(&self, text: &mut String, across: Axis, up: Axis) {
        let [bottom, right] = [top(0.0), left(1.0)];
        for value in up.ticks() {
            let y = top(up.share(value));
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                left(0.0),
                left(0.0) - 6.0,
                y + 4.0,
                tick(value, up.step)
            );
        }
        for value in across.ticks() {
            let x = left(across.share(value));
            let _ = writeln!(
                text,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 15.0,
                tick(value, across.step)
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\" class=\"axis\">{}</text>",
            bottom + 30.0,
            escaped(self.across)
        );
    }
}

impl Series {
    /// The finite points, no more than are seen.
    fn thinned(&self) -> Self {
        let finite: Vec<(f64, f64)> =
            self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        if finite.len() <= POINTS {
            return Self { label: self.label.clone(), points: finite };
        }
        let mean = |points: &[(f64, f64)]| {
            let count = points.len() as f64;
            let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
            (x / count, y / count)
        };
        let points = finite.chunks(finite.len().div_ceil(POINTS)).map(mean).collect();
        Self { label: self.label.clone(), points }
    }
}

/// An axis over round numbers.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn of(low: f64, high: f64) -> Self {
        let range = if high > low { high - low } else { high.abs().max(1e-9) };
        let rough = range / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step =
            power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|part| part * power >= rough).unwrap_or(10.0);
        let (first, last) = ((low / step).floor() * step, (high / step).ceil() * step);
        Self { low: first, high: if last > first { last } else { first + step }, step }
    }

    /// The axis up to a value, which need not be a round number.
    fn until(self, high: f64) -> Self {
        Self { high: if high > self.low { high } else { self.high }, ..self }
    }

    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step + 1e-6).floor() as usize;
        (0..=count).map(move |place| self.low + place as f64 * self.step)
    }
}

fn left(share: f64) -> f64 {
    ROOM[0] + share * (SIZE[0] - ROOM[0] - ROOM[2])
}

fn top(share: f64) -> f64 {
    SIZE[1] - ROOM[3] - share * (SIZE[1] - ROOM[1] - ROOM[3])
}

/// A number at an axis whose numbers are `step` apart.
fn tick(value: f64, step: f64) -> String {
    let value = if value.abs() < step / 1e6 { 0.0 } else { value };
    match value {
        0.0 => "0".to_owned(),
        _ if step >= 1e6 => format!("{:.0}M", value / 1e6),
        _ if step >= 1e3 => format!("{:.0}k", value / 1e3),
        _ if step < 1e-3 => format!("{value:.1e}"),
        _ => {
            let digits = (-step.log10().floor()).max(0.0) as usize;
            format!("{value:.digits$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(axis: Axis) -> Vec<String> {
        axis.ticks().map(|value| tick(value, axis.step)).collect()
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(
            told(Axis::of(0.0, 1.0)),
            ["0.0", "0.5", "1.0"].map(|text| if text == "0.0" { "0" } else { text })
        );
        assert_eq!(told(Axis::of(0.0, 3000.0)), ["0", "1k", "2k", "3k"]);
        assert_eq!(told(Axis::of(12.0, 37.0)), ["10", "20", "30", "40"]);
        assert_eq!(told(Axis::of(0.0, 0.02)), ["0", "0.005", "0.010", "0.015", "0.020"]);
        assert_eq!(told(Axis::of(0.0, 2500.0).until(2500.0)), ["0", "1k", "2k"], "no room beyond the last");
        assert_eq!(told(Axis::of(5.0, 5.0)).len(), 2, "a constant has an axis");
        assert_eq!(told(Axis::of(0.0, 0.0)).len(), 2);
    }

    #[test]
    fn long_curves_are_thinned_and_what_is_not_finite_is_left_out() {
        let points = (0..100_000).map(|x| (f64::from(x), if x == 7 { f64::NAN } else { 2.0 })).collect();
        let thinned = Series { label: String::new(), points }.thinned().points;
        assert!(thinned.len() <= POINTS && thinned.iter().all(|&(_, y)| y == 2.0));
        let chart = Chart {
            series: vec![Series { label: "a".to_owned(), points: vec![(1.0, f64::NAN)] }],
            ..Chart::default()
        };
        assert_eq!(chart.figure(), "");
    }

    #[test]
    fn points_lie_within_the_axes() {
        let series = Series { label: "<a>".to_owned(), points: vec![(0.0, 0.0), (10.0, 5.0)] };
        let figure =
            Chart { series: vec![series], across: "step", has_marks: true, ..Chart::default() }.figure();
        assert!(figure.contains("points=\"52.0,216.0 428.0,"), "{figure}");
        assert!(figure.contains("&lt;a&gt;: 5 at step 10") && !figure.contains("<a>"));
    }
}
