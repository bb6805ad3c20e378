//! A convolution or a linear layer with weights in 8 bits.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::Tensor;

use super::call::Residual;
use super::dot::{Columns, Memory};
use super::grid::{Grid, rounded_rows};
use super::map::{Map, Steps};
use super::sweep::{Source, Sweep};
use crate::activation::Activation;
use crate::dispatch::device_name;
use crate::memory::{channels_last, elements, from_channels_last, nhwc, numbers};
use crate::microkernel::COLUMNS;
use crate::panels::Aligned;
use crate::{Conv2dConfig, Error, Result};

/// Most numbers that a sum takes: 255 · 127 times as many stay below 2³¹.
const LONGEST: usize = 66_000;

/// Floats of a result that is larger than what the caches may still hold when it is read.
const STREAMED: usize = 6 << 20;

/// A convolution of a frozen network in 8 bits: activation(scale · (x * w) + shift + residual), as
/// [`conv2d`](crate::conv2d)'s, with its input and weights rounded.
///
/// Weights are packed once: it does not see later changes of the tensors that it was made of.
#[derive(Debug)]
pub struct Conv2dInt8 {
    config: Conv2dConfig,
    /// Grid of the input.
    input: Grid,
    /// (K, C/groups, R, S).
    shape: [usize; 4],
    groups: Vec<Group>,
}

/// Outputs of a group of channels.
#[derive(Debug)]
struct Group {
    /// Panels of 32 columns, (inner, 32) row-major each, four inner numbers a quad.
    panels: Aligned,
    /// Begin of the sums, their unit and what is added, by column, filled to whole panels.
    first: Vec<i32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Conv2dInt8 {
    /// Whether a layer with `weight` (K, C/groups, R, S) can run in 8 bits: groups of fewer than four channels stay
    /// in f32, where no product is to be saved.
    pub fn suits(weight: &Tensor, config: Conv2dConfig) -> bool {
        let Ok((_, c, r, s)) = weight.dims4() else { return false };
        (config.groups == 1 || c.is_multiple_of(4)) && (1..=LONGEST).contains(&(c * r * s))
    }

    /// The layer with `weight` (K, C/groups, R, S), a factor `scale` (K) and a term `shift` (K) by output, for inputs on the
    /// grid `input`.
    ///
    /// # Errors
    /// If the layer does not [suit](Self::suits), or a table has other lengths.
    pub fn new(
        weight: &Tensor,
        scale: Option<&Tensor>,
        shift: Option<&Tensor>,
        config: Conv2dConfig,
        input: Grid,
    ) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(Error::invalid(
                "conv2d in 8 bits",
                format!("weight {:?}, {config:?}: {reason}", weight.dims()),
            ))
        };
        if !Self::suits(weight, config) {
            return refuse("groups of fewer than four channels, or too many weights for an output");
        }
        let (k, c, r, s) = weight.dims4()?;
        if config.groups == 0 || !k.is_multiple_of(config.groups) {
            return refuse("outputs and groups do not fit");
        }
        if [scale, shift].iter().flatten().any(|table| table.dims() != [k]) {
            return refuse("a number for each output is expected");
        }
        let mut weights = numbers(&weight.permute((0, 2, 3, 1))?)?;
        let shift = shift.map_or_else(|| Ok(vec![0.0; k]), numbers)?;
        let width = r * s * c;
        if let Some(scale) = scale {
            for (row, scale) in weights.chunks_exact_mut(width).zip(numbers(scale)?) {
                row.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        let (steps, scales) = rounded_rows(&weights, width);
        let group = |index: usize| {
            let rows = index * (k / config.groups)..(index + 1) * (k / config.groups);
            Group::new(
                &steps[rows.start * width..rows.end * width],
                (r * s, c),
                &scales[rows.clone()],
                &shift[rows],
                input,
            )
        };
        let groups = (0..config.groups).map(group).collect();
        Ok(Self { config, input, shape: [k, c, r, s], groups })
    }

    /// Grid that the input is rounded to.
    pub fn input(&self) -> Grid {
        self.input
    }

    /// Applies the layer to a map; the result is in steps of `output`, where that is asked for and the outputs come in
    /// fours.
    ///
    /// # Shapes
    /// (N, C, H, W) to (N, K, H', W'); `residual` of the result's shape.
    ///
    /// # Errors
    /// If shapes do not fit, a map in steps is on another grid than [`input`](Self::input), or a tensor is not on the
    /// host.
    pub fn forward(
        &self,
        x: &Map,
        residual: Option<&Map>,
        activation: Activation,
        output: Option<Grid>,
    ) -> Result<Map> {
        let [k, group_c, r, s] = self.shape;
        let [n, c, h, w] = x.shape()?;
        let refuse = |reason: String| Err(Error::invalid("conv2d in 8 bits", reason));
        if c != group_c * self.config.groups {
            return refuse(format!("x has {c} channels, the weights are {:?}", self.shape));
        }
        let sides = (self.config.output_size(0, h, r), self.config.output_size(1, w, s));
        let (Some(oh), Some(ow)) = sides else {
            return refuse(format!("the kernel {r}x{s} is larger than the padded input {h}x{w}"));
        };
        for map in [Some(x), residual].into_iter().flatten() {
            if let Map::Real(map) = map
                && !map.device().is_cpu()
            {
                let device = device_name(&map.device().location());
                return Err(Error::Device { kernel: "conv2d in 8 bits", device });
            }
        }
        if let Some(residual) = residual
            && residual.shape()? != [n, k, oh, ow]
        {
            return refuse(format!("residual {:?}, result {:?}", residual.shape()?, [n, k, oh, ow]));
        }
        crate::flops::count(n * oh * ow * k * r * s * group_c);
        let host = match x {
            Map::Real(x) => Some(channels_last(x)?),
            Map::Steps(steps) if steps.grid == self.input => None,
            Map::Steps(steps) => {
                return refuse(format!("steps of {:?} where {:?} is expected", steps.grid, self.input));
            }
        };
        let numbers = host.as_ref().map(elements).transpose()?;
        let source = match (&numbers, x) {
            (Some(numbers), _) => Source::Real(numbers),
            (None, Map::Steps(steps)) => Source::Steps(&steps.quads),
            (None, Map::Real(_)) => unreachable!("a real map has numbers"),
        };
        let added = match residual {
            Some(Map::Real(map)) => Some(nhwc(map)?),
            _ => None,
        };
        let added = added.as_ref().map(elements).transpose()?;
        let residual = match (&added, residual) {
            (Some(numbers), _) => Residual::Real(numbers),
            (None, Some(Map::Steps(steps))) => Residual::Steps(steps.bytes(), steps.grid),
            (None, _) => Residual::None,
        };
        let sweep = Sweep {
            source,
            grid: self.input,
            sizes: [n, h, w, c],
            result: [oh, ow, k],
            kernel: [r, s],
            config: self.config,
            residual,
            activation,
        };
        let sweep = sweep.flattened();
        let panels = |group: usize, panel: usize| self.groups[group].panel(panel);
        match output.filter(|_| k.is_multiple_of(4)) {
            Some(grid) => {
                let len = n * oh * ow * k / 4;
                let mut quads = Vec::with_capacity(len);
                sweep.run(&mut quads.spare_capacity_mut()[..len], k / 4, panels, |places| {
                    Memory::Steps(bytes_of(places), grid)
                });
                // SAFETY: the sweep wrote all of them.
                unsafe { quads.set_len(len) };
                Ok(Map::Steps(Steps { quads: Arc::new(quads), shape: [n, k, oh, ow], grid }))
            }
            None => {
                let len = n * oh * ow * k;
                let mut values: Vec<f32> = Vec::with_capacity(len);
                sweep.run(&mut values.spare_capacity_mut()[..len], k, panels, |places| {
                    Memory::Real(places, len >= STREAMED)
                });
                // SAFETY: as above.
                unsafe { values.set_len(len) };
                let like = Tensor::zeros((), candle_core::DType::F32, &candle_core::Device::Cpu)?;
                Ok(Map::Real(from_channels_last(values, (n, oh, ow, k), &like)?))
            }
        }
    }

    /// Applies the layer, of kernel 1x1, to rows.
    ///
    /// # Shapes
    /// (M, C) to (M, K).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_rows(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (m, c) = x.dims2()?;
        let column = x.contiguous()?.reshape((1, m, 1, c))?.permute((0, 3, 1, 2))?;
        let rows = self.forward(&Map::Real(column), None, activation, None)?.to_real()?;
        Ok(rows.permute((0, 2, 3, 1))?.reshape((m, self.shape[0]))?)
    }
}

impl Group {
    /// Packs rows of `taps` · `channels` weights; the channels of a tap are filled to whole quads.
    fn new(
        steps: &[i8],
        (taps, channels): (usize, usize),
        scales: &[f32],
        shift: &[f32],
        input: Grid,
    ) -> Self {
        let columns = scales.len();
        let filled = columns.next_multiple_of(COLUMNS);
        let tap_quads = channels.div_ceil(4);
        let inner = taps * tap_quads;
        let mut panels = Aligned::zeros(inner * filled);
        let mut first = vec![0; filled];
        let (mut scale, mut shifts) = (vec![0.0; filled], vec![0.0; filled]);
        for (column, row) in steps.chunks_exact(taps * channels).enumerate() {
            let panel = &mut panels.as_mut_bits()[column / COLUMNS * inner * COLUMNS..];
            for (tap, row) in row.chunks_exact(channels).enumerate() {
                for (quad, weights) in row.chunks(4).enumerate() {
                    let mut bytes = [0; 4];
                    bytes.iter_mut().zip(weights).for_each(|(byte, weight)| *byte = *weight as u8);
                    panel[(tap * tap_quads + quad) * COLUMNS + column % COLUMNS] = u32::from_le_bytes(bytes);
                }
            }
            let sum: i32 = row.iter().map(|&weight| i32::from(weight)).sum();
            first[column] = -sum * i32::from(input.zero);
            scale[column] = scales[column] * input.scale;
            shifts[column] = shift[column];
        }
        Self { panels, first, scale, shift: shifts }
    }

    /// Quads of panel `index` and the numbers of its columns.
    fn panel(&self, index: usize) -> (&[u32], Columns<'_>) {
        let panels = self.panels.as_bits();
        let size = panels.len() / (self.first.len() / COLUMNS);
        let columns = index * COLUMNS..(index + 1) * COLUMNS;
        let numbers = Columns {
            first: &self.first[columns.clone()],
            scale: &self.scale[columns.clone()],
            shift: &self.shift[columns],
        };
        (&panels[index * size..][..size], numbers)
    }
}

/// Bytes of `places`, in their order in memory.
fn bytes_of(places: &mut [MaybeUninit<u32>]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: bytes lie anywhere, and none is read before it is written; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(places.as_mut_ptr().cast(), size_of_val(places)) }
}
