//! Where and how often a RoI is sampled.

/// How many samples a bin takes along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// As many as the bin is pixels long, rounded up (torchvision's `sampling_ratio` 0 or -1); at most [`MAX_SAMPLES`].
    Adaptive,
    /// This many, from 1 to [`MAX_SAMPLES`].
    Fixed(usize),
}

/// Where a RoI's corners lie on the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// Corner x at x·scale, sides of at least one pixel (torchvision's `aligned=False`: its Faster R-CNN).
    Legacy,
    /// Corner x at x·scale - 1/2, the centre of a pixel being its coordinate (`aligned=True`: Detectron2).
    HalfPixel,
}

/// The most samples a bin takes along an axis, so that no RoI costs more than a map's worth of work.
pub const MAX_SAMPLES: usize = 1024;
