//! Sizes of a convolution, and where its taps lie.

use candle_core::Tensor;

use super::config::Conv2dConfig;
use super::map::Map;
use crate::{Error, Precision, Result};

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
    pub(super) precision: Precision,
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
        Ok(Self { config, n, h, w, c, oh, ow, k, r, s, precision: Precision::asked() })
    }

    /// Channels of one group, on the input and on the output side.
    pub(super) fn group_channels(&self) -> (usize, usize) {
        (self.c / self.config.groups, self.k / self.config.groups)
    }

    /// Returns whether every channel is a group of its own, with one output channel.
    pub(super) fn is_depthwise(&self) -> bool {
        self.config.groups == self.c && self.c == self.k && self.c > 1
    }

    /// `values` as the input.
    pub(super) fn input_map<'a>(&self, values: &'a [f32]) -> Map<'a> {
        Map { values, n: self.n, h: self.h, w: self.w, c: self.c }
    }

    /// `values` as the result or its gradient.
    pub(super) fn output_map<'a>(&self, values: &'a [f32]) -> Map<'a> {
        Map { values, n: self.n, h: self.oh, w: self.ow, c: self.k }
    }

    /// A 1x1 convolution that sees each pixel once: a matrix product of pixels and weights.
    pub(super) fn is_pointwise(&self) -> bool {
        let Conv2dConfig { stride, padding, .. } = self.config;
        self.r * self.s == 1 && stride == [1, 1] && padding == [0, 0]
    }

    /// Geometry of one long column of the same pixels, if nothing depends on where a pixel lies.
    pub(super) fn flattened(self) -> Self {
        if !self.is_pointwise() {
            return self;
        }
        let pixels = self.n * self.h * self.w;
        Self { n: 1, h: pixels, w: 1, oh: pixels, ow: 1, ..self }
    }

    /// The forward pass as one phase: output pixel (y, x) sees the input from (y·stride − padding, ...) on.
    pub(super) fn forward_phase(&self) -> Phase {
        let offset = |axis: usize, i: usize| {
            (i * self.config.dilation[axis]) as isize - self.config.padding[axis] as isize
        };
        let tap = |index| Tap { index, dy: offset(0, index / self.s), dx: offset(1, index % self.s) };
        Phase::new([0, 0], (0..self.r * self.s).map(tap).collect())
    }

    /// The gradient of the input: input pixels with equal remainders of the stride were seen through the same
    /// taps, by output pixels at the same distances.
    pub(super) fn gradient_phases(&self) -> Vec<Phase> {
        let [stride_y, stride_x] = self.config.stride;
        (0..stride_y)
            .flat_map(|py| (0..stride_x).map(move |px| [py, px]))
            .map(|at| Phase::new(at, self.taps_of_phase(at)))
            .collect()
    }

    fn taps_of_phase(&self, phase: [usize; 2]) -> Vec<Tap> {
        let source = |axis: usize, i: usize| {
            let stride = self.config.stride[axis] as isize;
            let at = (phase[axis] + self.config.padding[axis]) as isize;
            let at = at - (i * self.config.dilation[axis]) as isize;
            (at.rem_euclid(stride) == 0).then(|| at.div_euclid(stride))
        };
        (0..self.r * self.s)
            .filter_map(|index| {
                Some(Tap { index, dy: source(0, index / self.s)?, dx: source(1, index % self.s)? })
            })
            .collect()
    }
}

/// Kernel position: its index in R·S and its offset in the source map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) index: usize,
    pub(super) dy: isize,
    pub(super) dx: isize,
}

/// Result pixels at equal distances that see the source through the same taps.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    /// The first of them.
    pub(super) at: [usize; 2],
    /// Top to bottom, left to right.
    pub(super) taps: Vec<Tap>,
    /// The corner of what the first of them sees.
    pub(super) origin: [isize; 2],
    /// Size of what each of them sees.
    pub(super) span: [usize; 2],
}

impl Phase {
    fn new(at: [usize; 2], mut taps: Vec<Tap>) -> Self {
        taps.sort_by_key(|tap| (tap.dy, tap.dx));
        let range = |of: fn(&Tap) -> isize| {
            let least = taps.iter().map(of).min().unwrap_or(0);
            let most = taps.iter().map(of).max().unwrap_or(0);
            (least, (most - least) as usize + 1)
        };
        let ((top, height), (left, width)) = (range(|tap| tap.dy), range(|tap| tap.dx));
        Self { at, taps, origin: [top, left], span: [height, width] }
    }

    /// Offset of `tap` in the window that a pixel sees.
    pub(super) fn offset(&self, tap: &Tap) -> [usize; 2] {
        [(tap.dy - self.origin[0]) as usize, (tap.dx - self.origin[1]) as usize]
    }
}
