//! The section `normalization`.

use ckd_settings::{Check, section};

section! {
    /// (pixel / 255 - mean) / std, in RGB order. Default: ImageNet's.
    pub struct Normalization {
        /// Red, green, blue.
        pub mean: [f32; 3] = [0.485, 0.456, 0.406],
        /// Red, green, blue.
        pub std: [f32; 3] = [0.229, 0.224, 0.225],
    }
}

impl Normalization {
    fn check(&self, check: &mut Check<'_>) {
        check.that(
            self.std.iter().all(|std| *std > 0.0),
            "std",
            "divides the image and must be above 0",
            "ImageNet's is [0.229, 0.224, 0.225]",
        );
    }
}
