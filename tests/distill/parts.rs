//! Negatives from all parts of an update: `negatives_from = "update"`.

use std::collections::BTreeMap;

use candle_core::Tensor;
use ckd_det::distill::{
    AllRows, Ckd, Distiller, Icd, Lesson, Negatives, NegativesFrom, Parts, PartsError, RowsAt, Term, Width,
};
use ckd_detectors::taps::Tap;
use ckd_kernels::Value;

use super::support::*;

const AT: Tap = Tap::Embedding;

/// Rows of three parts; the second one has fewer.
const SIZES: [usize; 3] = [4, 2, 5];

/// The parts of an update as those that were computed before see them.
#[derive(Debug)]
struct Known {
    rows: Vec<BTreeMap<String, Tensor>>,
    own: usize,
}

impl Parts for Known {
    fn rows(&self, name: &str, own: &Tensor) -> Result<AllRows, PartsError> {
        assert_eq!(flat(own), flat(&self.rows[self.own][name]), "{name}: other rows than were told");
        Ok(AllRows { parts: self.rows.iter().map(|part| part[name].clone()).collect(), own: self.own })
    }
}

/// A collector of the rows of one part.
#[derive(Debug, Default)]
struct Asked(std::cell::RefCell<BTreeMap<String, Tensor>>);

impl Parts for Asked {
    fn rows(&self, name: &str, own: &Tensor) -> Result<AllRows, PartsError> {
        self.0.borrow_mut().insert(name.to_owned(), own.clone());
        Ok(AllRows { parts: vec![own.clone()], own: 0 })
    }
}

/// The rows of each part.
fn split(rows: &Tensor) -> Vec<Tensor> {
    let mut start = 0;
    let part = |size: usize| {
        start += size;
        computed([rows], |[rows]| rows.narrow(0, start - size, size)?.contiguous())
    };
    SIZES.into_iter().map(part).collect()
}

/// Terms and gradients by name of a method; the student's rows are called `s`.
type Found = (Vec<Term>, BTreeMap<String, Vec<f32>>);

fn found(method: &dyn Distiller, teacher: &Tensor, student: &Tensor, parts: Option<&dyn Parts>) -> Found {
    let teacher = taps(AT, Value::constant(teacher.clone()));
    let student = taps(AT, Value::leaf("s", student.clone()));
    let terms = method.terms(&Lesson { parts, entry: "it", ..Lesson::new(&teacher, &student) }).unwrap();
    let gradients = total(&terms).unwrap().backward().unwrap();
    (terms, gradients.iter().map(|(name, gradient)| (name.to_string(), flat(gradient))).collect())
}

/// Terms of the parts, each of which knows the rows of all, and the mean of their gradients as an update has it; the student's
/// are one after the other.
fn found_by_parts(method: &dyn Distiller, teacher: &Tensor, student: &Tensor) -> Found {
    let parts: Vec<(Tensor, Tensor)> = split(teacher).into_iter().zip(split(student)).collect();
    let rows = parts.iter().map(|(teacher, student)| {
        let asked = Asked::default();
        found(method, teacher, student, Some(&asked));
        asked.0.into_inner()
    });
    let rows: Vec<_> = rows.collect();
    let (mut terms, mut mean) = (Vec::new(), BTreeMap::<String, Vec<f32>>::new());
    for (own, (teacher, student)) in parts.iter().enumerate() {
        let known = Known { rows: rows.clone(), own };
        let (own_terms, gradients) = found(method, teacher, student, Some(&known));
        terms = own_terms;
        for (name, gradient) in gradients {
            let share = gradient.iter().map(|g| g / parts.len() as f32);
            match mean.entry(name) {
                std::collections::btree_map::Entry::Vacant(none) => drop(none.insert(share.collect())),
                std::collections::btree_map::Entry::Occupied(mut sum) if sum.key() == "s" => {
                    sum.get_mut().extend(share);
                }
                std::collections::btree_map::Entry::Occupied(mut sum) => {
                    sum.get_mut().iter_mut().zip(share).for_each(|(sum, share)| *sum += share);
                }
            }
        }
    }
    (terms, mean)
}

/// The methods that look at all parts.
fn methods() -> Vec<(&'static str, Box<dyn Distiller>)> {
    let from = NegativesFrom::Update;
    let ckd =
        |negatives| Ckd { weight: 1.0, negatives, negatives_from: from, ..Ckd::new(rows(RowsAt::Embedding)) };
    let icd = Icd { width: 8, negatives_from: from, ..Icd::new(rows(RowsAt::Embedding)) };
    let widths = [(AT, Width { teacher: 6, student: 6 })].into_iter().collect();
    vec![
        ("ckd", plain(&ckd(Negatives::Cross))),
        ("ckd among students", plain(&ckd(Negatives::Student))),
        ("icd", built(&icd, 0, &setting(widths)).unwrap()),
    ]
}

#[test]
fn the_parts_of_an_update_together_have_the_loss_and_gradients_of_one_part_with_all_rows() {
    let all = SIZES.iter().sum();
    let (teacher, student) = (noise(1, &[all, 6]), noise(2, &[all, 6]));
    for (about, method) in methods() {
        assert!(method.looks_at_all_parts(), "{about}");
        let (whole, gradients) = found(&*method, &teacher, &student, None);
        let (shared, mean) = found_by_parts(&*method, &teacher, &student);
        for (whole, shared) in whole.iter().zip(&shared) {
            assert_eq!((&whole.name, whole.weight), (&shared.name, shared.weight), "{about}");
            assert_eq!(
                whole.value.item().unwrap().to_bits(),
                shared.value.item().unwrap().to_bits(),
                "{about}"
            );
        }
        assert!(gradients.keys().eq(mean.keys()), "{about}: {:?} {:?}", gradients.keys(), mean.keys());
        for (name, gradient) in &gradients {
            let size = largest(gradient).max(1e-3);
            for (one, other) in gradient.iter().zip(&mean[name]) {
                assert!((one - other).abs() <= 2e-6 * size, "{about}: {name}: {one} {other}");
            }
            assert_eq!(gradient.len(), mean[name].len(), "{about}: {name}");
        }
    }
}

#[test]
fn gradients_over_all_parts_agree_with_central_differences_of_the_loss_over_all_rows() {
    const STEP: f32 = 1.0 / 64.0;
    let all: usize = SIZES.iter().sum();
    let (teacher, student) = (noise(3, &[all, 6]), noise(4, &[all, 6]));
    for (about, method) in methods() {
        let (_, mean) = found_by_parts(&*method, &teacher, &student);
        let values = flat(&student);
        for i in (0..values.len()).step_by(7) {
            let at = |step: f32| {
                let mut moved = values.clone();
                moved[i] += step;
                let (terms, _) = found_by_parts(&*method, &teacher, &tensor(&moved, student.dims()));
                total(&terms).unwrap().item().unwrap()
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!(
                (numeric - mean["s"][i]).abs() < 2e-4,
                "{about} [{i}] = {}, numeric {numeric}",
                mean["s"][i]
            );
        }
    }
}

#[test]
fn a_method_that_stays_within_its_part_asks_for_no_rows() {
    let (teacher, student) = (noise(1, &[4, 6]), noise(2, &[4, 6]));
    let method = plain(&Ckd::new(rows(RowsAt::Embedding)));
    let asked = Asked::default();
    found(&*method, &teacher, &student, Some(&asked));
    assert!(!method.looks_at_all_parts() && asked.0.into_inner().is_empty());
}

/// The released detection runs of CKD have two processes that gather nothing: two parts here.
#[test]
fn parts_that_look_at_themselves_alone_have_the_mean_loss_of_groups_of_images() {
    each_next_case("ckd_groups/", |case| {
        let (groups, rows_a_group) = (case.attr_usize("groups"), case.attr_usize("rows_a_group"));
        let method = plain(&Ckd {
            weight: 1.0,
            temperature: case.attr_f64("tau") as f32,
            ..Ckd::new(rows(RowsAt::Embedding))
        });
        assert!(!method.looks_at_all_parts());
        let (teacher, student) = (input(case, "teacher"), input(case, "student"));
        let (mut loss, mut gradient) = (0.0, Vec::new());
        for group in 0..groups {
            let of = |x: &Tensor| {
                computed([x], |[x]| x.narrow(0, group * rows_a_group, rows_a_group)?.contiguous())
            };
            let (terms, gradients) = found(&*method, &of(&teacher), &of(&student), None);
            loss += total(&terms).unwrap().item().unwrap() / groups as f32;
            gradient.extend(gradients["s"].iter().map(|g| g / groups as f32));
        }
        case.check_close("loss", &[loss]);
        case.check_close("grad_student", &gradient);
    });
}
