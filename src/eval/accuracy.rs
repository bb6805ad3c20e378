//! How well an image classifier does: top-1, top-5, calibration, agreement with a teacher.

use serde::{Deserialize, Serialize};

use super::error::EvalError;

/// Bins of confidence for the calibration error (Guo et al. 2017, arXiv 1706.04599, section 2).
const BINS: usize = 15;

/// A classifier's numbers over a set of images, as fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Images.
    pub images: u64,
    /// Fraction of images whose largest logit is the label's; of equal logits the first counts.
    pub top1: f64,
    /// Fraction of images whose label is among the five largest logits.
    pub top5: f64,
    /// Expected calibration error over 15 bins of equal width: the mean gap between confidence and accuracy.
    pub ece: f64,
    /// Mean negative log-likelihood of the labels, in nats.
    pub nll: f64,
    /// Fraction of images whose first guess is the teacher's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Top-1 accuracy of each class; `None` where no image has it.
    pub per_class: Vec<Option<f64>>,
}

/// Accuracy of a classifier, summed over batches of logits.
///
/// ```
/// use ckd_det::eval::AccuracyMeter;
///
/// let mut meter = AccuracyMeter::new(3, None);
/// meter.add(&[2.0, 0.5, -1.0, 0.1, 0.3, 0.2], &[0, 2])?; // two images, three classes
/// let accuracy = meter.accuracy();
/// assert_eq!((accuracy.images, accuracy.top1), (2, 0.5));
/// assert_eq!(accuracy.per_class, [Some(1.0), None, Some(0.0)]);
/// # Ok::<(), ckd_det::eval::EvalError>(())
/// ```
#[derive(Debug, Clone)]
pub struct AccuracyMeter {
    right: u64,
    among_five: u64,
    agreed: u64,
    nll: f64,
    bins: [Bin; BINS],
    per_class: Vec<[u64; 2]>,
    guesses: Vec<u32>,
    hits: Vec<bool>,
    teacher: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    images: u64,
    right: u64,
    confidence: f64,
}

impl AccuracyMeter {
    /// Before the first image of `classes` classes. `teacher` is the teacher's first guess for each image to
    /// come.
    pub fn new(classes: usize, teacher: Option<Vec<u32>>) -> Self {
        Self {
            right: 0,
            among_five: 0,
            agreed: 0,
            nll: 0.0,
            bins: [Bin::default(); BINS],
            per_class: vec![[0; 2]; classes],
            guesses: Vec::new(),
            hits: Vec::new(),
            teacher,
        }
    }

    /// Counts a batch: `logits` row by row, one row a label.
    ///
    /// # Errors
    /// If they do not fit each other or the number of classes, or a logit is not a number.
    pub fn add(&mut self, logits: &[f32], labels: &[u32]) -> Result<(), EvalError> {
        let classes = self.per_class.len();
        let refuse = |reason: String| Err(EvalError::Logits { reason });
        if logits.len() != labels.len() * classes {
            return refuse(format!(
                "{} logits for {} images of {classes} classes",
                logits.len(),
                labels.len()
            ));
        }
        for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            let image = self.guesses.len();
            if label as usize >= classes {
                return refuse(format!("image {image} has the label {label}, of {classes} classes"));
            }
            if row.iter().any(|logit| logit.is_nan()) {
                return refuse(format!("image {image} has a logit that is not a number"));
            }
            self.add_one(row, label);
        }
        Ok(())
    }

    fn add_one(&mut self, logits: &[f32], label: u32) {
        let own = logits[label as usize];
        // Classes that come before the label: larger, or equal and earlier.
        let before = logits.iter().enumerate();
        let before = before.filter(|&(class, &x)| x > own || (x == own && class < label as usize)).count();
        let first = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
        let largest = f64::from(logits[first]);
        // An infinite logit is as large as itself.
        let part = |x: f64| if x == largest { 1.0 } else { (x - largest).exp() };
        let total: f64 = logits.iter().map(|&x| part(f64::from(x))).sum();
        let is_right = before == 0;
        let confidence = 1.0 / total;
        let bin = &mut self.bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
        bin.images += 1;
        bin.right += u64::from(is_right);
        bin.confidence += confidence;
        self.right += u64::from(is_right);
        self.among_five += u64::from(before < 5);
        self.nll += total.ln() + largest - f64::from(own);
        self.per_class[label as usize][0] += u64::from(is_right);
        self.per_class[label as usize][1] += 1;
        if let Some(teacher) = &self.teacher {
            self.agreed += u64::from(teacher.get(self.guesses.len()) == Some(&(first as u32)));
        }
        self.guesses.push(first as u32);
        self.hits.push(is_right);
    }

    /// Whether the first guess for each image so far is right.
    pub fn hits(&self) -> &[bool] {
        &self.hits
    }

    /// The first guess for each image so far.
    pub fn guesses(&self) -> &[u32] {
        &self.guesses
    }

    /// The numbers over all images so far; 0 without any.
    pub fn accuracy(&self) -> Accuracy {
        let images = self.guesses.len() as u64;
        let share = |count: u64| count as f64 / images.max(1) as f64;
        let gaps = self.bins.iter().map(|bin| (bin.right as f64 - bin.confidence).abs());
        Accuracy {
            images,
            top1: share(self.right),
            top5: share(self.among_five),
            ece: gaps.sum::<f64>() / images.max(1) as f64,
            nll: self.nll / images.max(1) as f64,
            agreement: self.teacher.as_ref().map(|_| share(self.agreed)),
            per_class: self
                .per_class
                .iter()
                .map(|&[right, images]| (images > 0).then(|| right as f64 / images as f64))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rows: &[[f32; 6]], labels: &[u32], teacher: Option<Vec<u32>>) -> Accuracy {
        let mut meter = AccuracyMeter::new(6, teacher);
        // In two batches: the result must not depend on it.
        let half = labels.len() / 2;
        meter.add(&rows[..half].concat(), &labels[..half]).unwrap();
        meter.add(&rows[half..].concat(), &labels[half..]).unwrap();
        meter.accuracy()
    }

    #[test]
    fn first_guesses_and_the_first_five_are_counted() {
        let rows = [
            [9.0, 1.0, 2.0, 3.0, 4.0, 5.0], // right
            [9.0, 1.0, 2.0, 3.0, 4.0, 5.0], // second
            [9.0, 1.0, 2.0, 3.0, 4.0, 5.0], // sixth
            [0.0, 1.0, 9.0, 3.0, 4.0, 5.0], // right
        ];
        let accuracy = measured(&rows, &[0, 5, 1, 2], Some(vec![0, 0, 5, 2]));
        assert_eq!((accuracy.images, accuracy.top1, accuracy.top5), (4, 0.5, 0.75));
        assert_eq!(accuracy.agreement, Some(0.75));
        assert_eq!(accuracy.per_class, [Some(1.0), Some(0.0), Some(1.0), None, None, Some(0.0)]);
    }

    #[test]
    fn of_equal_logits_the_first_class_is_the_guess() {
        let accuracy = measured(&[[1.0; 6], [1.0; 6], [1.0; 6]], &[0, 4, 5], None);
        assert!((accuracy.top1 - 1.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.top5 - 2.0 / 3.0).abs() < 1e-12, "0 and 4 are among the first five, 5 is not");
        assert!((accuracy.nll - 6f64.ln()).abs() < 1e-12);
        // A confidence of 1/6 and an accuracy of 1/3.
        assert!((accuracy.ece - (1.0 / 3.0 - 1.0 / 6.0)).abs() < 1e-12);
    }

    #[test]
    fn sure_and_right_is_calibrated_and_sure_and_wrong_is_not() {
        let sure = [100.0f32, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!(measured(&[sure, sure], &[0, 0], None).ece < 1e-12);
        assert!((measured(&[sure, sure], &[1, 1], None).ece - 1.0).abs() < 1e-12);
        let infinite = [f32::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(measured(&[infinite, sure], &[0, 0], None).top1, 1.0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_is_nothing() {
        let mut meter = AccuracyMeter::new(3, None);
        assert!(meter.add(&[1.0, 2.0], &[0]).unwrap_err().to_string().contains("2 logits for 1 images"));
        assert!(meter.add(&[1.0, 2.0, 3.0], &[3]).unwrap_err().to_string().contains("label 3"));
        assert!(meter.add(&[1.0, f32::NAN, 3.0], &[0]).unwrap_err().to_string().contains("not a number"));
        let empty = AccuracyMeter::new(3, None).accuracy();
        assert_eq!((empty.images, empty.top1, empty.ece), (0, 0.0, 0.0));
    }
}
