//! Layers with their weights: named tensors of a network become constants and the nodes that use them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use ckd_detectors::param::ParamStore;
use ckd_kernels::eight_bits::rounded_rows;
use ckd_kernels::linear::Activation;

use super::calibrate::stays_in_f32;
use super::graph::{Edge, GraphBuilder, Set};
use super::model::Precision;
use super::proto::Element;
use crate::export::error::{ExportError, Result};

/// Epsilon of norms, unless a network has another: it is added to the variance before its root is taken.
const EPSILON: f32 = 1e-5;

/// Activation behind a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    Relu,
    Relu6,
}

impl From<Activation> for Then {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Identity => Self::Nothing,
            Activation::Relu => Self::Relu,
            Activation::Relu6 => Self::Relu6,
        }
    }
}

/// Stride, padding and groups of a convolution; without `groups` they follow from the weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) stride: usize,
    pub(super) groups: Option<usize>,
}

/// A graph and the weights it is made from.
pub(super) struct Layers {
    pub(super) graph: GraphBuilder,
    weights: BTreeMap<String, Tensor>,
    unused: RefCell<BTreeSet<String>>,
    /// Weights that are in the graph: levels share a head.
    written: BTreeMap<String, Edge>,
    precision: Precision,
    /// Epsilon of batch norms.
    pub(super) epsilon: f32,
}

impl Layers {
    pub(super) fn new(params: &ParamStore, precision: Precision) -> Result<Self> {
        let weights = params.snapshot()?;
        let unused = RefCell::new(weights.keys().cloned().collect());
        let written = BTreeMap::new();
        let graph = GraphBuilder::default();
        Ok(Self { graph, weights, unused, written, precision, epsilon: EPSILON })
    }

    /// Whether the network has a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Dimensions of all tensors.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.weights.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
    }

    /// Dimensions of the tensor called `name`.
    pub(super) fn dims(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.find(name)?.dims().to_vec())
    }

    /// Number of consecutive names `name(0)`, `name(1)`, ... that exist.
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&i| self.has(&name(i))).count()
    }

    fn find(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(name).ok_or_else(|| ExportError::Unsupported {
            reason: format!("the network has no tensor {name}, which networks of its kind have"),
        })
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.find(name)?.flatten_all()?.to_vec1()?;
        self.unused.borrow_mut().remove(name);
        Ok(values)
    }

    /// The graph, if every tensor of the network is in it.
    pub(super) fn finish(self, name: &str) -> Result<super::proto::Graph> {
        let unused = self.unused.into_inner();
        if !unused.is_empty() {
            let names: Vec<String> = unused.into_iter().collect();
            let reason = format!("the ONNX writer does not know what to do with {}", names.join(", "));
            return Err(ExportError::Unsupported { reason });
        }
        Ok(self.graph.finish(name))
    }

    /// The tensors whose names begin so have no part in the graph.
    pub(super) fn leave_out(&mut self, prefix: &str) {
        self.unused.get_mut().retain(|name| !name.starts_with(prefix));
    }

    /// A constant of weights, in the precision asked for; the same name is always the same weight.
    fn weight(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Edge {
        if let Some(edge) = self.written.get(name) {
            return edge.clone();
        }
        let edge = self.write(name, dims, values);
        self.written.insert(name.to_owned(), edge.clone());
        edge
    }

    fn write(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Edge {
        match self.precision {
            Precision::Int8 if dims.len() > 1 && !stays_in_f32(dims) => self.int8_weight(name, dims, values),
            Precision::Half => {
                let bytes = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
                let stored = self.graph.named(name, Element::F16, dims, bytes);
                self.graph.cast(&stored, Element::F32)
            }
            Precision::Full | Precision::Int8 => {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.graph.named(name, Element::F32, dims, bytes)
            }
        }
    }

    /// Symmetric int8, one scale for each output channel, its largest weight being ±127.
    fn int8_weight(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Edge {
        let width = dims[1..].iter().product::<usize>().max(1);
        let (steps, scales) = rounded_rows(values, width);
        let bytes = steps.iter().map(|step| step.cast_unsigned()).collect();
        let stored = self.graph.named(name, Element::I8, dims, bytes);
        let scale_bytes = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
        let scale = self.graph.named(&format!("{name}.scale"), Element::F32, &[dims[0]], scale_bytes);
        let zeros = vec![0; dims[0]];
        let zero = self.graph.named(&format!("{name}.zero"), Element::I8, &[dims[0]], zeros);
        self.graph.op_with("DequantizeLinear", &[&stored, &scale, &zero], &[("axis", Set::I(0))])
    }

    /// `layer`.weight and, where it has one, `layer`.bias; sizes are kept at stride 1.
    pub(super) fn conv(&mut self, x: &Edge, layer: &str, stride: usize, then: Then) -> Result<Edge> {
        let name = format!("{layer}.weight");
        let (dims, weight) = (self.dims(&name)?, self.values(&name)?);
        let weight = self.weight(&name, &dims, &weight);
        let bias = format!("{layer}.bias");
        let bias = if self.has(&bias) { Some((bias.clone(), self.values(&bias)?)) } else { None };
        Ok(self.convolve(x, (&weight, &dims), bias, Place { stride, groups: None }, then))
    }

    /// The convolution `conv` and the norm `norm` after it; a batch norm is folded in.
    pub(super) fn conv_norm(
        &mut self,
        x: &Edge,
        names: (&str, &str),
        stride: usize,
        residual: Option<&Edge>,
        then: Then,
    ) -> Result<Edge> {
        self.conv_norm_at(x, names, Place { stride, groups: None }, residual, then)
    }

    /// Convolution at stride 1, in groups of channels.
    pub(super) fn conv_norm_in_groups(
        &mut self,
        x: &Edge,
        names: (&str, &str),
        groups: usize,
        residual: Option<&Edge>,
        then: Then,
    ) -> Result<Edge> {
        self.conv_norm_at(x, names, Place { stride: 1, groups: Some(groups) }, residual, then)
    }

    /// Adds a convolution and its norm as [`conv_norm`](Self::conv_norm), at any place.
    pub(super) fn conv_norm_at(
        &mut self,
        x: &Edge,
        (conv, norm): (&str, &str),
        place: Place,
        residual: Option<&Edge>,
        then: Then,
    ) -> Result<Edge> {
        let (name, bias) = (format!("{conv}.weight"), format!("{conv}.bias"));
        let (dims, mut weight) = (self.dims(&name)?, self.values(&name)?);
        let first = if residual.is_none() { then } else { Then::Nothing };
        let mut y = if self.has(&format!("{norm}.running_mean")) {
            let (scale, mut shift) = self.batch_norm(norm)?;
            let width = dims[1..].iter().product::<usize>().max(1);
            for (row, scale) in weight.chunks_mut(width).zip(&scale) {
                row.iter_mut().for_each(|w| *w *= scale);
            }
            if self.has(&bias) {
                let own = self.values(&bias)?;
                shift.iter_mut().zip(own.iter().zip(&scale)).for_each(|(shift, (b, s))| *shift += b * s);
            }
            let weight = self.weight(&name, &dims, &weight);
            self.convolve(x, (&weight, &dims), Some((bias, shift)), place, first)
        } else {
            let weight = self.weight(&name, &dims, &weight);
            let y = self.convolve(x, (&weight, &dims), None, place, Then::Nothing);
            let y = self.group_norm(&y, norm)?;
            self.then(y, first)
        };
        if let Some(residual) = residual {
            let sum = self.graph.op("Add", &[&y, residual]);
            y = self.then(sum, then);
        }
        Ok(y)
    }

    /// Scale and shift by channel of a batch norm with its running statistics.
    fn batch_norm(&self, norm: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        let [gamma, beta, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.values(&format!("{norm}.{part}")));
        let (mean, beta) = (mean?, beta?);
        let scale: Vec<f32> =
            gamma?.iter().zip(&variance?).map(|(g, v)| g / (v + self.epsilon).sqrt()).collect();
        let shift = beta.iter().zip(mean.iter().zip(&scale)).map(|(b, (m, s))| b - m * s).collect();
        Ok((scale, shift))
    }

    /// relu(norm(x)) of a batch norm that follows no convolution.
    pub(super) fn norm_relu(&mut self, x: &Edge, norm: &str) -> Result<Edge> {
        let (scale, shift) = self.batch_norm(norm)?;
        let scale = self.weight_of_channels(&format!("{norm}.scale"), &scale);
        let shift = self.weight_of_channels(&format!("{norm}.shift"), &shift);
        let scaled = self.graph.op("Mul", &[x, &scale]);
        let shifted = self.graph.op("Add", &[&scaled, &shift]);
        Ok(self.then(shifted, Then::Relu))
    }

    /// Group norm as the norm of each group's row, which operator sets before 18 have.
    pub(super) fn group_norm(&mut self, x: &Edge, norm: &str) -> Result<Edge> {
        let names = [format!("{norm}.weight"), format!("{norm}.bias")];
        let (gamma, beta) = (self.values(&names[0])?, self.values(&names[1])?);
        let channels = gamma.len();
        let groups = ckd_detectors::nn::groups_of(channels);
        let rows = self.graph.reshape(x, &[0, groups as i64, -1]);
        let one = self.graph.floats(&[groups], &vec![1.0; groups]);
        let zero = self.graph.floats(&[groups], &vec![0.0; groups]);
        let unit = self.graph.op_with(
            "InstanceNormalization",
            &[&rows, &one, &zero],
            &[("epsilon", Set::F(EPSILON))],
        );
        let shape = self.graph.op("Shape", &[x]);
        let unit = self.graph.op("Reshape", &[&unit, &shape]);
        let gamma = self.weight_of_channels(&names[0], &gamma);
        let beta = self.weight_of_channels(&names[1], &beta);
        let scaled = self.graph.op("Mul", &[&unit, &gamma]);
        Ok(self.graph.op("Add", &[&scaled, &beta]))
    }

    fn weight_of_channels(&mut self, name: &str, values: &[f32]) -> Edge {
        let flat = self.weight(name, &[values.len()], values);
        self.graph.unsqueeze(&flat, &[1, 2])
    }

    fn convolve(
        &mut self,
        x: &Edge,
        (weight, dims): (&Edge, &[usize]),
        bias: Option<(String, Vec<f32>)>,
        place: Place,
        then: Then,
    ) -> Edge {
        let bias = bias.map(|(name, values)| self.weight(&name, &[values.len()], &values));
        let inputs: Vec<&Edge> = [x, weight].into_iter().chain(&bias).collect();
        let (kernel, stride) = (dims[2] as i64, place.stride as i64);
        // Weights of one input channel filter each channel on its own.
        let groups = place.groups.unwrap_or(if dims[1] == 1 { dims[0] } else { 1 }) as i64;
        let settings = [
            ("kernel_shape", Set::Ints(&[kernel; 2])),
            ("strides", Set::Ints(&[stride; 2])),
            ("pads", Set::Ints(&[kernel / 2; 4])),
            ("group", Set::I(groups)),
        ];
        let y = self.graph.op_with("Conv", &inputs, &settings);
        self.then(y, then)
    }

    /// min(max(x + 3, 0), 6) / 6.
    pub(super) fn hard_sigmoid(&mut self, x: &Edge) -> Edge {
        let [clipped, six] = self.clipped_to_six(x);
        self.graph.op("Div", &[&clipped, &six])
    }

    /// x min(max(x + 3, 0), 6) / 6, in the order of the network's operations.
    pub(super) fn hard_swish(&mut self, x: &Edge) -> Edge {
        let [clipped, six] = self.clipped_to_six(x);
        let product = self.graph.op("Mul", &[x, &clipped]);
        self.graph.op("Div", &[&product, &six])
    }

    /// min(max(x + 3, 0), 6), and the constant 6.
    fn clipped_to_six(&mut self, x: &Edge) -> [Edge; 2] {
        let [zero, three, six] = [0.0, 3.0, 6.0].map(|value| self.graph.float(value));
        let raised = self.graph.op("Add", &[x, &three]);
        [self.graph.op("Clip", &[&raised, &zero, &six]), six]
    }

    fn then(&mut self, x: Edge, then: Then) -> Edge {
        match then {
            Then::Nothing => x,
            Then::Relu => self.graph.op("Relu", &[&x]),
            Then::Relu6 => {
                let [zero, six] = [0.0, 6.0].map(|value| self.graph.float(value));
                self.graph.op("Clip", &[&x, &zero, &six])
            }
        }
    }

    /// `layer`.weight (outputs, inputs) and `layer`.bias on rows.
    pub(super) fn linear(&mut self, x: &Edge, layer: &str, then: Then) -> Result<Edge> {
        let name = format!("{layer}.weight");
        let (dims, weight) = (self.dims(&name)?, self.values(&name)?);
        let weight = self.weight(&name, &dims, &weight);
        let name = format!("{layer}.bias");
        let bias = self.values(&name)?;
        let bias = self.weight(&name, &[bias.len()], &bias);
        let y = self.graph.op_with("Gemm", &[x, &weight, &bias], &[("transB", Set::I(1))]);
        Ok(self.then(y, then))
    }
}
