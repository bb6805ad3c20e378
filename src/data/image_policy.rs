//! Policy for image files that cannot be used, and the places that images may lie in.

use std::path::{Path, PathBuf};

use ckd_settings::choices;

choices! {
    /// Policy for an image file that is missing or broken.
    pub enum OnBadImage {
        /// Ends the program, naming the first of them.
        Stop = "stop",
        /// Is left out, or replaced by another image where it breaks in mid-training; counted.
        Skip = "skip",
    }
}

/// Policy for the image files of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePolicy {
    /// Treatment of a bad image.
    pub on_bad: OnBadImage,
    /// The largest part of all images that may be left out, in [0, 1]; a part of an image counts as one.
    pub max_bad: f64,
    /// Whether names of files may lead out of the folder of images.
    pub allow_outside: bool,
    /// A folder that images may lie in beside their own: the root of the data set.
    pub root: Option<PathBuf>,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        Self { on_bad: OnBadImage::Stop, max_bad: 0.01, allow_outside: false, root: None }
    }
}

impl ImagePolicy {
    /// Leaves out bad images, up to the part `max_bad` of all.
    pub fn skip(max_bad: f64) -> Self {
        Self { on_bad: OnBadImage::Skip, max_bad, ..Self::default() }
    }

    /// Tolerance that is left in a set of `of` images after `bad` of them were left out.
    pub(super) fn after(&self, bad: usize, of: usize) -> Tolerance {
        let most = match self.on_bad {
            OnBadImage::Stop => 0,
            OnBadImage::Skip => (self.max_bad * of as f64).ceil() as usize,
        };
        Tolerance { left: most.saturating_sub(bad), is_exceeded: bad > most }
    }
}

/// Bad images that are still tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tolerance {
    pub(super) left: usize,
    pub(super) is_exceeded: bool,
}

impl Tolerance {
    /// Tolerance of two sets together.
    pub(super) fn and(self, other: Self) -> Self {
        Self { left: self.left + other.left, is_exceeded: self.is_exceeded || other.is_exceeded }
    }
}

/// An image file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub reason: String,
}

/// Images that cannot be used, and are more than may be left out.
#[derive(Debug, thiserror::Error)]
#[error(
    "{count} of the {total} images of {} cannot be used:\n  {}{}\nrepair them or take them out of the data set, or set data.on_bad_image = \"skip\" to train without them, up to the part data.max_bad_images ({max_bad}) of all",
    path.display(), first.join("\n  "), if *count > first.len() { "\n  ..." } else { "" }
)]
pub struct BadImages {
    path: PathBuf,
    count: usize,
    total: usize,
    first: Vec<String>,
    max_bad: f64,
}

/// Bad images that a message names.
const NAMED: usize = 5;

impl BadImages {
    pub(super) fn new(path: &Path, bad: &[BadImage], total: usize, policy: &ImagePolicy) -> Self {
        Self {
            path: path.to_owned(),
            count: bad.len(),
            total,
            first: first_of(bad).map(str::to_owned).collect(),
            max_bad: policy.max_bad,
        }
    }
}

/// The problems of the first few of many images.
pub(super) fn first_of(bad: &[BadImage]) -> impl Iterator<Item = &str> {
    bad.iter().take(NAMED).map(|bad| bad.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_an_image_counts_as_one() {
        let policy = ImagePolicy::skip(0.01);
        assert_eq!(policy.after(0, 50), Tolerance { left: 1, is_exceeded: false });
        assert_eq!(policy.after(1, 50), Tolerance { left: 0, is_exceeded: false });
        assert!(policy.after(2, 50).is_exceeded && !policy.after(2, 150).is_exceeded);
        assert!(ImagePolicy::skip(0.0).after(1, 50).is_exceeded);
        assert_eq!(ImagePolicy::default().after(0, 50), Tolerance { left: 0, is_exceeded: false });
        assert!(ImagePolicy::default().after(1, 50).is_exceeded);
    }
}
