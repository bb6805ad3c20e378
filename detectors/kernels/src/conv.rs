//! 2-D convolution (cross-correlation) with a fused epilogue, and its gradients.
//!
//! y = activation(scale · (x * w) + shift + residual), per output channel. A frozen batch norm is a scale
//! and a shift, so a frozen-BN residual block stores one activation per convolution.
//!
//! Layout: activations (N, H, W, C), weights (K, R, S, C/groups). All three products are matrix products
//! over gathered rows ("implicit GEMM"): a task owns a band of output rows, gathers the taps of each
//! output pixel into a tile that stays in the L2 cache, and multiplies. Every gather copies runs of
//! whole pixels, never single numbers.
//!
//! - forward: tap (r, s) of output (y, x) is input (y·stride + r·dilation − padding, ...).
//! - gradient of the input: for stride s the input pixels fall into s·s phases. Within a phase each pixel
//!   sees the same subset of taps at constant offsets in the output gradient, so each phase is a
//!   stride-1 gather; exact for every parity of H and W.
//! - gradient of the weights: gathered rows times output-gradient rows, summed per thread and then
//!   over threads in order: the same bits for the same number of threads.

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use crate::elementwise::{mask_positive, rectified};
use crate::linear::{Accumulate, Activation, Strides, column_sums, strided_product};
use crate::memory::{channels_last, elements, from_channels_last, from_elements, on_host};
use crate::{Error, Result, Value};

/// Where the taps of a convolution lie; (vertical, horizontal) each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Input pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Zeros on each side.
    pub padding: [usize; 2],
    /// Input pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2dConfig {
    /// A dense convolution with equal stride and padding both ways.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }

    /// Output size along one axis (0 vertical, 1 horizontal), `None` if the kernel does not fit.
    pub fn output_size(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let span = self.dilation[axis] * (kernel.checked_sub(1)?) + 1;
        Some((input + 2 * self.padding[axis]).checked_sub(span)? / self.stride[axis] + 1)
    }
}

/// What is done to the convolution's result while it is in cache, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// A constant factor per output channel (K): a frozen norm's.
    pub scale: Option<&'a Tensor>,
    /// Added per output channel (K): a bias or a frozen norm's shift.
    pub shift: Option<&'a Value>,
    /// Added element by element, of the result's shape: a residual connection.
    pub residual: Option<&'a Value>,
    /// Applied last.
    pub activation: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: None, shift: None, residual: None, activation: Activation::Identity }
    }
}

/// Convolves `x` with `weight` and applies `epilogue`.
///
/// # Shapes
/// `x` (N, C, H, W), `weight` (K, C/groups, R, S) to (N, K, H', W').
///
/// # Errors
/// If shapes, groups or the kernel's span do not fit.
pub fn conv2d(x: &Value, weight: &Value, config: Conv2dConfig, epilogue: Epilogue) -> Result<Value> {
    let geometry = Geometry::new(x.tensor(), weight.tensor(), config)?;
    let scaled = match epilogue.scale {
        Some(scale) => scale_rows(weight.tensor(), scale)?,
        None => weight.tensor().clone(),
    };
    let out = forward(&geometry, x.tensor(), &scaled, &epilogue)?;
    crate::flops::count(out.elem_count() * geometry.r * geometry.s * geometry.group_channels().0);

    let (track_x, track_w) = (x.is_tracked(), weight.is_tracked());
    let track_shift = epilogue.shift.map(Value::is_tracked);
    let has_residual = epilogue.residual.is_some();
    let mut inputs = vec![x, weight];
    inputs.extend(epilogue.shift);
    inputs.extend(epilogue.residual);
    let saved_x = track_w.then(|| x.tensor().clone());
    let saved_w = track_x.then_some(scaled);
    let saved_y = (epilogue.activation == Activation::Relu).then(|| out.clone());
    let scale = epilogue.scale.cloned();
    Ok(Value::operation(&inputs, out, move |g| {
        let g = match &saved_y {
            Some(y) => channels_last(&mask_positive(g, y)?)?,
            None => channels_last(g)?,
        };
        let mut gradients = Vec::with_capacity(4);
        gradients.push(saved_w.map(|w| input_gradient(&geometry, &g, &w)).transpose()?);
        let weight_gradient = saved_x.map(|x| weight_gradient(&geometry, &g, &x)).transpose()?;
        gradients.push(match (weight_gradient, &scale) {
            (Some(gradient), Some(scale)) => Some(scale_rows(&gradient, scale)?),
            (gradient, _) => gradient,
        });
        if let Some(track_shift) = track_shift {
            let sums = || from_elements(column_sums(&elements(&g)?, geometry.k), geometry.k, &g);
            gradients.push(track_shift.then(sums).transpose()?);
        }
        if has_residual {
            gradients.push(Some(g.permute((0, 3, 1, 2))?));
        }
        Ok(gradients)
    }))
}

/// Sizes of one convolution; N, H, W, C of the input, OH, OW, K of the output, R, S of the kernel.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    config: Conv2dConfig,
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    oh: usize,
    ow: usize,
    k: usize,
    r: usize,
    s: usize,
}

impl Geometry {
    fn new(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
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
    fn group_channels(&self) -> (usize, usize) {
        (self.c / self.config.groups, self.k / self.config.groups)
    }

    /// Offsets of the taps from the input pixel y·stride, x·stride.
    fn forward_taps(&self) -> Vec<Tap> {
        let offset = |axis: usize, i: usize| {
            (i * self.config.dilation[axis]) as isize - self.config.padding[axis] as isize
        };
        (0..self.r * self.s)
            .map(|index| Tap { index, dy: offset(0, index / self.s), dx: offset(1, index % self.s) })
            .collect()
    }

    /// The taps through which input pixels of the phase (py, px) were seen, and where from.
    fn phase_taps(&self, py: usize, px: usize) -> Vec<Tap> {
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
struct Tap {
    index: usize,
    dy: isize,
    dx: isize,
}

/// A channels-last map to gather from, restricted to one group of channels.
#[derive(Clone, Copy)]
struct Source<'a> {
    values: &'a [f32],
    h: usize,
    w: usize,
    c: usize,
    first: usize,
    channels: usize,
}

impl Source<'_> {
    /// Appends the taps of `count` pixels (base row `y`, base columns `x0`, `x0 + step`, ...) of image `n`.
    #[allow(clippy::too_many_arguments)]
    fn gather(
        &self,
        taps: &[Tap],
        n: usize,
        y: isize,
        x0: isize,
        step: isize,
        count: usize,
        rows: &mut [f32],
    ) {
        let width = taps.len() * self.channels;
        for (t, tap) in taps.iter().enumerate() {
            let at_y = y + tap.dy;
            let inside_y = at_y >= 0 && (at_y as usize) < self.h;
            for i in 0..count {
                let at_x = x0 + i as isize * step + tap.dx;
                let to = &mut rows[i * width + t * self.channels..][..self.channels];
                if inside_y && at_x >= 0 && (at_x as usize) < self.w {
                    let pixel = (n * self.h + at_y as usize) * self.w + at_x as usize;
                    to.copy_from_slice(&self.values[pixel * self.c + self.first..][..self.channels]);
                } else {
                    to.fill(0.0);
                }
            }
        }
    }
}

/// Floats of one gathered tile: half of a typical 1 MiB L2 cache.
const TILE: usize = 128 * 1024;

/// Output pixels per tile for rows of `width` gathered floats.
fn tile_pixels(width: usize) -> usize {
    (TILE / width.max(1)).clamp(16, 1024)
}

/// Rows of maps of width `w`, over `rows` rows, that one task takes: about four tiles, and enough tasks for all threads.
fn band_rows(rows: usize, w: usize, width: usize) -> usize {
    let whole = (4 * tile_pixels(width)).div_ceil(w.max(1));
    whole.min(rows.div_ceil(4 * rayon::current_num_threads())).max(1)
}

fn forward(geometry: &Geometry, x: &Tensor, weight: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
    let &Geometry { n, oh, ow, k, .. } = geometry;
    let residual = match epilogue.residual {
        Some(residual) if residual.dims() == [n, k, oh, ow] => Some(channels_last(residual.tensor())?),
        Some(residual) => {
            return Err(Error::invalid(
                "conv2d",
                format!("residual {:?}, result {:?}", residual.dims(), [n, k, oh, ow]),
            ));
        }
        None => None,
    };
    let shift = match epilogue.shift {
        Some(shift) if shift.dims() == [k] => Some(on_host(shift.tensor())?),
        Some(shift) => {
            return Err(Error::invalid("conv2d", format!("shift {:?}, {k} channels", shift.dims())));
        }
        None => None,
    };
    let (input, weight) = (channels_last(x)?, channels_last(weight)?);
    let mut out = vec![0f32; n * oh * ow * k];
    {
        let (input, weight) = (elements(&input)?, elements(&weight)?);
        let residual = residual.as_ref().map(elements).transpose()?;
        let shift = shift.as_ref().map(elements).transpose()?;
        let finish = |out: &mut [f32], first: usize| {
            let relu = epilogue.activation == Activation::Relu;
            finish_rows(
                out,
                k,
                shift.as_deref(),
                residual.as_deref().map(|r| &r[first..][..out.len()]),
                relu,
            );
        };
        forward_bands(geometry, &input, &weight, &mut out, finish);
    }
    from_channels_last(out, (n, oh, ow, k), x)
}

/// Adds shift and residual to rows of `k` channels and applies the ReLU.
fn finish_rows(out: &mut [f32], k: usize, shift: Option<&[f32]>, residual: Option<&[f32]>, relu: bool) {
    if let Some(shift) = shift {
        for row in out.chunks_exact_mut(k) {
            row.iter_mut().zip(shift).for_each(|(y, shift)| *y += shift);
        }
    }
    if let Some(residual) = residual {
        out.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
    }
    if relu {
        out.iter_mut().for_each(|y| *y = rectified(*y));
    }
}

fn forward_bands(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    out: &mut [f32],
    finish: impl Fn(&mut [f32], usize) + Sync,
) {
    let &Geometry { config, n, h, w, c, oh, ow, k, r, s } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let taps = geometry.forward_taps();
    let width = taps.len() * group_c;
    let row = ow * k;
    if out.is_empty() {
        return;
    }
    // A 1x1 convolution reads its input as it lies.
    let direct = r * s == 1 && config == Conv2dConfig { groups: config.groups, ..Conv2dConfig::default() };
    let band = band_rows(n * oh, ow, width);
    out.par_chunks_mut(band * row).enumerate().for_each_init(
        Vec::new,
        |tile: &mut Vec<f32>, (index, out)| {
            let first_pixel = index * band * ow;
            let pixels = out.len() / k;
            let step = tile_pixels(width);
            for group in 0..config.groups {
                let weight = &weight[group * group_k * width..][..group_k * width];
                let source = Source { values: input, h, w, c, first: group * group_c, channels: group_c };
                for start in (0..pixels).step_by(step) {
                    let count = step.min(pixels - start);
                    let (rows, row_stride): (&[f32], usize) = if direct {
                        (&input[(first_pixel + start) * c + source.first..], c)
                    } else {
                        tile.resize(step * width, 0.0);
                        gather_pixels(&source, &taps, first_pixel + start, count, geometry, tile);
                        (tile, width)
                    };
                    let strides = Strides { out_row: k, a: (row_stride, 1), b: (1, width) };
                    let to = &mut out[start * k + group * group_k..];
                    strided_product(
                        to,
                        (count, group_k, width),
                        rows,
                        weight,
                        strides,
                        Accumulate::Replace,
                        Parallelism::None,
                    );
                }
            }
            finish(out, first_pixel * k);
        },
    );
}

/// Gathers the taps of `count` output pixels from flat pixel `first` on.
fn gather_pixels(
    source: &Source,
    taps: &[Tap],
    first: usize,
    count: usize,
    geometry: &Geometry,
    tile: &mut [f32],
) {
    let &Geometry { config, oh, ow, .. } = geometry;
    let width = taps.len() * source.channels;
    let mut done = 0;
    while done < count {
        let pixel = first + done;
        let (image_row, column) = (pixel / ow, pixel % ow);
        let run = (ow - column).min(count - done);
        let y = ((image_row % oh) * config.stride[0]) as isize;
        let x = (column * config.stride[1]) as isize;
        let rows = &mut tile[done * width..];
        source.gather(taps, image_row / oh, y, x, config.stride[1] as isize, run, rows);
        done += run;
    }
}

/// Gradient of the input, NCHW over channels-last memory. `g` (N, OH, OW, K).
fn input_gradient(geometry: &Geometry, g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let &Geometry { config, n, h, w, c, r, s, .. } = geometry;
    let (_, group_k) = geometry.group_channels();
    let like = g;
    let (g, weight) = (elements(g)?, channels_last(weight)?);
    let weight = elements(&weight)?;
    let phases: Vec<Phase> = (0..config.stride[0])
        .flat_map(|py| (0..config.stride[1]).map(move |px| (py, px)))
        .map(|(py, px)| Phase::new(geometry, &weight, py, px))
        .collect();
    let mut out = vec![0f32; n * h * w * c];
    let band = band_rows(n * h, w, r * s * group_k);
    if !out.is_empty() {
        out.par_chunks_mut(band * w * c).enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(tile, result), (index, out)| {
                for phase in phases.iter().filter(|phase| !phase.taps.is_empty()) {
                    for group in 0..config.groups {
                        phase_gradient(geometry, phase, group, &g, index * band, out, tile, result);
                    }
                }
            },
        );
    }
    from_channels_last(out, (n, h, w, c), like)
}

/// The pixels of one phase and group in a band of image rows that starts at flat row `first_row`.
#[allow(clippy::too_many_arguments)]
fn phase_gradient(
    geometry: &Geometry,
    phase: &Phase,
    group: usize,
    g: &[f32],
    first_row: usize,
    out: &mut [f32],
    tile: &mut Vec<f32>,
    result: &mut Vec<f32>,
) {
    let &Geometry { config, h, w, c, oh, ow, k, .. } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let [stride_y, stride_x] = config.stride;
    let rows: Vec<usize> =
        (0..out.len() / (w * c)).filter(|row| (first_row + row) % h % stride_y == phase.py).collect();
    let columns = w.saturating_sub(phase.px).div_ceil(stride_x);
    let source = Source { values: g, h: oh, w: ow, c: k, first: group * group_k, channels: group_k };
    let width = phase.taps.len() * group_k;
    let weight = &phase.weight[group * width * group_c..][..width * group_c];
    let step = tile_pixels(width);
    let pixels = rows.len() * columns;
    tile.resize(step * width, 0.0);
    for start in (0..pixels).step_by(step) {
        let count = step.min(pixels - start);
        let mut done = 0;
        while done < count {
            let (row, column) = ((start + done) / columns, (start + done) % columns);
            let run = (columns - column).min(count - done);
            let (image, y) = ((first_row + rows[row]) / h, (first_row + rows[row]) % h);
            let to = &mut tile[done * width..];
            source.gather(&phase.taps, image, (y / stride_y) as isize, column as isize, 1, run, to);
            done += run;
        }
        let shape = (count, group_c, width);
        let multiply = |to: &mut [f32], out_row| {
            let strides = Strides { out_row, a: (width, 1), b: (group_c, 1) };
            strided_product(to, shape, tile, weight, strides, Accumulate::Replace, Parallelism::None);
        };
        if config.stride == [1, 1] {
            multiply(&mut out[start * c + group * group_c..], c);
            continue;
        }
        result.resize(step * group_c, 0.0);
        multiply(result, group_c);
        for (i, pixel) in result.chunks_exact(group_c).take(count).enumerate() {
            let (row, column) = ((start + i) / columns, (start + i) % columns);
            let at = (rows[row] * w + column * stride_x + phase.px) * c + group * group_c;
            out[at..at + group_c].copy_from_slice(pixel);
        }
    }
}

/// Input pixels with equal remainders of the stride: their taps and those taps' weights, (groups, taps·K, C).
struct Phase {
    py: usize,
    px: usize,
    taps: Vec<Tap>,
    weight: Vec<f32>,
}

impl Phase {
    fn new(geometry: &Geometry, weight: &[f32], py: usize, px: usize) -> Self {
        let (group_c, group_k) = geometry.group_channels();
        let all = geometry.r * geometry.s;
        let taps = geometry.phase_taps(py, px);
        let mut packed = Vec::with_capacity(geometry.config.groups * taps.len() * group_k * group_c);
        for group in 0..geometry.config.groups {
            for tap in &taps {
                for k in 0..group_k {
                    let from = ((group * group_k + k) * all + tap.index) * group_c;
                    packed.extend_from_slice(&weight[from..][..group_c]);
                }
            }
        }
        Self { py, px, taps, weight: packed }
    }
}

/// Gradient of the weights, (K, C/groups, R, S) over channels-last memory. `g` (N, OH, OW, K).
fn weight_gradient(geometry: &Geometry, g: &Tensor, x: &Tensor) -> Result<Tensor> {
    let &Geometry { config, n, h, w, c, oh, ow, k, r, s } = geometry;
    let (group_c, group_k) = geometry.group_channels();
    let taps = geometry.forward_taps();
    let width = taps.len() * group_c;
    let like = g;
    let (g, x) = (elements(g)?, channels_last(x)?);
    let x = elements(&x)?;
    let pixels = n * oh * ow;
    let step = tile_pixels(width);
    let direct = r * s == 1 && config == Conv2dConfig { groups: config.groups, ..Conv2dConfig::default() };
    let share = pixels.div_ceil(rayon::current_num_threads()).max(1);
    let partial_sums: Vec<Vec<f32>> = (0..pixels.div_ceil(share))
        .into_par_iter()
        .map(|part| {
            let mut sum = vec![0f32; k * width];
            let mut tile = vec![0f32; if direct { 0 } else { step * width }];
            let end = pixels.min((part + 1) * share);
            for start in (part * share..end).step_by(step) {
                let count = step.min(end - start);
                for group in 0..config.groups {
                    let source = Source { values: &x, h, w, c, first: group * group_c, channels: group_c };
                    let (rows, row_stride): (&[f32], usize) = if direct {
                        (&x[start * c + source.first..], c)
                    } else {
                        gather_pixels(&source, &taps, start, count, geometry, &mut tile);
                        (&tile, width)
                    };
                    let strides = Strides { out_row: width, a: (1, k), b: (row_stride, 1) };
                    strided_product(
                        &mut sum[group * group_k * width..],
                        (group_k, width, count),
                        &g[start * k + group * group_k..],
                        rows,
                        strides,
                        Accumulate::Add,
                        Parallelism::None,
                    );
                }
            }
            sum
        })
        .collect();
    let mut partial_sums = partial_sums.into_iter();
    let mut sum = partial_sums.next().unwrap_or_else(|| vec![0f32; k * width]);
    for partial in partial_sums {
        sum.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    from_channels_last(sum, (k, r, s, group_c), like)
}

/// Row k of `weight` (K, C, R, S) times `scale[k]`, channels-last in memory.
fn scale_rows(weight: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let (k, c, r, s) = weight.dims4()?;
    if scale.dims() != [k] {
        return Err(Error::invalid("conv2d", format!("scale {:?}, {k} channels", scale.dims())));
    }
    let (host, scale) = (channels_last(weight)?, on_host(scale)?);
    let mut scaled = elements(&host)?.to_vec();
    for (row, scale) in scaled.chunks_exact_mut((c * r * s).max(1)).zip(elements(&scale)?.iter()) {
        row.iter_mut().for_each(|w| *w *= scale);
    }
    from_channels_last(scaled, (k, r, s, c), weight)
}
