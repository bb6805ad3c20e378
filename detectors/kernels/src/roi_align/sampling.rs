//! Position and number of the samples of a RoI.

/// Number of samples that a bin takes along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// One sample a pixel of the bin's length, rounded up, at most [`MAX_SAMPLES`]: torchvision's
    /// `sampling_ratio` 0 or -1.
    Adaptive,
    /// Fixed number of samples, from 1 to [`MAX_SAMPLES`].
    Fixed(usize),
}

/// Position of a RoI's corners on the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Corner x at x·scale, sides of at least one pixel (torchvision's `aligned=False`: its Faster R-CNN).
    Legacy,
    /// Corner x at x·scale - 1/2, the centre of a pixel being its coordinate (`aligned=True`: Detectron2).
    HalfPixel,
}

/// Largest number of samples that a bin takes along an axis, so that no RoI costs more than a map's worth of
/// work.
pub const MAX_SAMPLES: usize = 1024;
