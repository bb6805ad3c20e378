//! The section `input` of a detector's configuration.

use ckd_settings::{Check, section};

use super::box_augment::BoxAugment;
use super::transform::Resize;

/// Pixels of the longest side that is believed: a file of weights brings its configuration along, and an image of
/// twice the side takes four times the memory.
const LARGEST_SIDE: u64 = 8192;

/// The largest believed divisor of sides, for the same reason.
const LARGEST_DIVISOR: u64 = 1024;

section! {
    /// Input of a detector: resizing, flipping and padding of images.
    pub struct Input {
        /// The shorter side in pixels after resizing; training draws one for each image.
        pub short_side_px: Vec<u32> = vec![800],
        /// The longer side stays within this many pixels.
        pub long_side_px: u32 = 1333,
        /// Resampling of pixels.
        pub resize: Resize = Resize::Bilinear,
        /// The shorter side at evaluation. Default: the last of `short_side_px`.
        pub eval_short_side_px: Option<u32>,
        /// Batches are padded to a multiple of this many pixels.
        pub size_divisor: u32 = 32,
        /// Probability that an image is mirrored in training.
        pub flip_probability: f64 = 0.5,
        /// Other random changes of training images.
        pub augment: BoxAugment = BoxAugment::default(),
    }
}

impl Input {
    fn check(&self, check: &mut Check<'_>) {
        let sides = &self.short_side_px;
        check.that(
            !sides.is_empty() && !sides.contains(&0),
            "short_side_px",
            "needs at least one size, all above 0",
            "for example [800], or [640, 672, 704, 736, 768, 800] to draw one for each image",
        );
        let longest = sides.iter().copied().chain(self.eval_short_side_px).max().unwrap_or(0);
        check.that(
            self.long_side_px >= longest,
            "long_side_px",
            format!("is {}, below the short side {longest}", self.long_side_px),
            "the longer side cannot be the shorter one",
        );
        check.at_least_one("eval_short_side_px", self.eval_short_side());
        check.at_least_one("size_divisor", self.size_divisor);
        check.at_most("long_side_px", self.long_side_px, LARGEST_SIDE);
        check.at_most("size_divisor", self.size_divisor, LARGEST_DIVISOR);
        check.fraction("flip_probability", self.flip_probability);
    }

    /// The shorter side at evaluation, in pixels.
    pub fn eval_short_side(&self) -> u32 {
        // A validated configuration has at least one short side.
        self.eval_short_side_px.or(self.short_side_px.last().copied()).unwrap_or(self.long_side_px)
    }
}
