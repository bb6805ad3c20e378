//! Survey of a data set, in words.

use std::path::PathBuf;

use super::fit::{Shape, quantile};
use crate::cli::data::{classes_in_words, sizes_in_words};
use crate::cli::say;
use crate::data::{Dataset, FindingKind, LoadReport, leakage};

/// The two parts of a data set with boxes, as far as they can be used.
pub(super) struct Parts {
    pub(super) train: (Dataset, LoadReport),
    pub(super) val: (Dataset, LoadReport),
}

impl Parts {
    /// Notes the validation images that are training images too, and prints all findings.
    pub(super) fn tell(&mut self) -> anyhow::Result<()> {
        leakage::find(&self.train.0, &self.val.0, &mut self.val.1, u64::MAX);
        for (name, (dataset, report)) in [("training part", &self.train), ("validation part", &self.val)] {
            say(format!("\n{name}: {report}"))?;
            say(classes_in_words(dataset).trim_start())?;
        }
        let (set, shapes) = (&self.train.0, self.shapes());
        say(sizes_in_words(set))?;
        let sizes: Vec<f64> = shapes.iter().map(|shape| (shape.width * shape.height).sqrt()).collect();
        let at = |part: f64| quantile(sizes.clone(), part);
        say(format!(
            "side of a box (square root of its area): half below {:.0} px, a tenth below {:.0}, a tenth above {:.0}",
            at(0.5),
            at(0.1),
            at(0.9)
        ))?;
        let (width, height) = self.median_size();
        Ok(say(format!("median image: {width:.0}x{height:.0} px"))?)
    }

    /// The boxes of the training part that are learned.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let set = &self.train.0;
        let of_image = |(index, image): (usize, &crate::data::Image)| {
            let short_side = f64::from(image.width.min(image.height));
            let boxes = set.annotations(index).iter().filter(|annotation| annotation.is_positive());
            boxes.map(move |annotation| {
                let [_, _, width, height] = annotation.bbox;
                Shape { width, height, short_side }
            })
        };
        set.images.iter().enumerate().flat_map(of_image).collect()
    }

    /// The largest number of boxes on an image.
    pub(super) fn most_boxes(&self) -> usize {
        let set = &self.train.0;
        (0..set.images.len()).map(|image| set.annotations(image).len()).max().unwrap_or(0)
    }

    /// Width and height in the middle of all training images.
    pub(super) fn median_size(&self) -> (f64, f64) {
        let side = |side: fn(&crate::data::Image) -> u32| {
            quantile(self.train.0.images.iter().map(|image| f64::from(side(image))).collect(), 0.5)
        };
        (side(|image| image.width), side(|image| image.height))
    }

    /// Longer side over shorter side, of the longest image in twenty.
    pub(super) fn longest(&self) -> f64 {
        let ratio = |image: &crate::data::Image| {
            f64::from(image.width.max(image.height)) / f64::from(image.width.min(image.height).max(1))
        };
        quantile(self.train.0.images.iter().map(ratio).collect(), 0.95)
    }

    /// The largest share of a part's images that cannot be used.
    pub(super) fn bad_share(&self) -> f64 {
        let share = |(dataset, report): &(Dataset, LoadReport)| {
            let bad = report.count_of(FindingKind::BadImage) + report.count_of(FindingKind::MissingImage);
            bad as f64 / (bad + dataset.images.len()).max(1) as f64
        };
        share(&self.train).max(share(&self.val))
    }

    /// Classes without a box to learn from.
    pub(super) fn unlearned(&self) -> Vec<String> {
        let set = &self.train.0;
        let boxes =
            (0..set.images.len()).flat_map(|image| set.annotations(image)).filter(|one| one.is_positive());
        let learned: std::collections::BTreeSet<u32> = boxes.map(|one| one.category.0).collect();
        let names = set.categories.iter().zip(0..).filter(|(_, class)| !learned.contains(class));
        names.map(|((_, name), _)| name.to_owned()).collect()
    }
}

/// The paths of the images of a list.
pub(super) fn paths(folder: &std::path::Path, names: impl Iterator<Item = String>) -> Vec<PathBuf> {
    names.map(|name| folder.join(name)).collect()
}
