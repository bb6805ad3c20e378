//! Sizes of a convolution, and where its taps lie.

use candle_core::Tensor;

use super::Conv2dConfig;
use crate::{Error, Result};

/// Sizes of one convolution; N, H, W, C of the input, OH, OW, K of the output, R, S of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) config: Conv2dConfig,
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
    pub(super) k: usize,
    pub(super) r: usize,
    pub(super) s: usize,
}

impl Geometry {
    pub(super) fn new(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let invalid = |reason: &str| {
            Error::invalid(
                "conv2d",
                format!("x {:?}, weight {:?}, {config:?}: {reason}", x.dims(), weight.dims()),
            )
        };
        let (Ok((n, c, h, w)), Ok((k, group_c, r, s))) = (x.dims4(), weight.dims4()) else {
            return Err(invalid("both must have four dimensions"));
        };
        let groups = config.groups;
        if groups == 0 || c % groups != 0 || k % groups != 0 || group_c != c / groups {
            return Err(invalid("channels and groups do not fit"));
        }
        if config.stride.contains(&0) || config.dilation.contains(&0) {
            return Err(invalid("stride and dilation start at 1"));
        }
        let (Some(oh), Some(ow)) = (config.output_size(0, h, r), config.output_size(1, w, s)) else {
            return Err(invalid("the kernel is larger than the padded input"));
        };
        Ok(Self { config, n, h, w, c, oh, ow, k, r, s })
    }

    /// Channels of one group, on the input and on the output side.
    pub(super) fn group_channels(&self) -> (usize, usize) {
        (self.c / self.config.groups, self.k / self.config.groups)
    }

    /// Offsets of the taps from the input pixel y·stride, x·stride.
    pub(super) fn forward_taps(&self) -> Vec<Tap> {
        let offset = |axis: usize, i: usize| {
            (i * self.config.dilation[axis]) as isize - self.config.padding[axis] as isize
        };
        (0..self.r * self.s)
            .map(|index| Tap { index, dy: offset(0, index / self.s), dx: offset(1, index % self.s) })
            .collect()
    }

    /// The taps through which input pixels of the phase (py, px) were seen, and where from.
    pub(super) fn phase_taps(&self, py: usize, px: usize) -> Vec<Tap> {
        let source = |axis: usize, phase: usize, i: usize| {
            let stride = self.config.stride[axis] as isize;
            let at = (phase + self.config.padding[axis]) as isize - (i * self.config.dilation[axis]) as isize;
            (at.rem_euclid(stride) == 0).then(|| at.div_euclid(stride))
        };
        (0..self.r * self.s)
            .filter_map(|index| {
                let dy = source(0, py, index / self.s)?;
                let dx = source(1, px, index % self.s)?;
                Some(Tap { index, dy, dx })
            })
            .collect()
    }
}

/// One kernel position: its index in R·S and its offset in the source map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) index: usize,
    pub(super) dy: isize,
    pub(super) dx: isize,
}
