//! Balance between a method of distillation and what it is beside: the warning where one drowns the other.

/// Lengths of a method's gradient, as multiples of the other, that call for no warning.
const USUAL: std::ops::RangeInclusive<f64> = 0.01..=10.0;

/// The warning that the gradient of the method of `label` is far from that of what it is `beside`, of such a length, with the
/// weights that would make them equal; `None` if it is not far.
///
/// `weights` are the keys of the method's weights and their values.
pub(super) fn warning(
    label: &str,
    weights: &[(String, f32)],
    length: f64,
    (beside, its_length): (&str, f64),
) -> Option<String> {
    let ratio = length / its_length;
    if !ratio.is_finite() || USUAL.contains(&ratio) {
        return None;
    }
    if ratio == 0.0 {
        return Some(format!(
            "warning: {label} sends no gradient to the student; if that stays so, leave it out (docs/METHODS.md, Whose gradient is it?)"
        ));
    }
    let (times, effect) = match ratio > 1.0 {
        true => (format!("{} times", digits(ratio)), format!("it drowns {beside}")),
        false => (format!("1/{}", digits(1.0 / ratio)), "it hardly counts".to_owned()),
    };
    let on = weights.iter().filter(|(_, weight)| *weight != 0.0);
    let balanced: Vec<String> =
        on.map(|(key, weight)| format!("--set {key}={}", digits(f64::from(*weight) / ratio))).collect();
    let remedy = match balanced.is_empty() {
        true => String::new(),
        false => format!("; {} would make them equal", balanced.join(" ")),
    };
    Some(format!(
        "warning: {label} sends the student {times} the gradient of {beside}: {effect}{remedy} (docs/METHODS.md, Whose gradient is it?)"
    ))
}

/// `number` in two significant digits, whatever its size.
fn digits(number: f64) -> String {
    let rounded: f64 = format!("{number:.1e}").parse().unwrap_or(number);
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(length: f64, weights: &[(&str, f32)]) -> Option<String> {
        let weights: Vec<_> = weights.iter().map(|(key, weight)| ((*key).to_owned(), *weight)).collect();
        warning("ckd (distill.0)", &weights, length, ("the detection losses", 2.0))
    }

    #[test]
    fn a_method_near_the_task_calls_for_no_warning() {
        for length in [0.02, 0.5, 2.0, 20.0] {
            assert_eq!(of(length, &[("distill.0.weight", 0.5)]), None, "{length}");
        }
    }

    #[test]
    fn a_method_that_drowns_the_task_is_told_with_the_weight_that_balances_it() {
        let warning = of(500.0, &[("distill.0.weight", 0.5)]).unwrap();
        assert!(warning.contains("250 times the gradient of the detection losses"), "{warning}");
        assert!(warning.contains("--set distill.0.weight=0.002 "), "{warning}");
    }

    #[test]
    fn a_method_that_hardly_counts_is_told_with_all_its_weights_that_are_on() {
        let weights = [("distill.1.inter", 1.0), ("distill.1.intra", 0.3), ("distill.1.other", 0.0)];
        let warning = of(0.01, &weights).unwrap();
        assert!(warning.contains("sends the student 1/200 the gradient"), "{warning}");
        assert!(warning.contains("--set distill.1.inter=200 --set distill.1.intra=60 would"), "{warning}");
    }

    #[test]
    fn no_gradient_at_all_has_no_weight_that_balances_it() {
        let warning = of(0.0, &[("distill.0.weight", 0.5)]).unwrap();
        assert!(warning.contains("no gradient") && !warning.contains("--set"), "{warning}");
        assert_eq!(warning_of_nothing(), None);
    }

    fn warning_of_nothing() -> Option<String> {
        warning("ckd", &[], 1.0, ("the detection losses", 0.0))
    }
}
