//! An ONNX file run operator by operator, as the specification words them: what an export is held against.
//!
//! It knows the operators that are written here, and refuses others. Convolutions, pooling, RoIAlign and
//! suppression are this program's own kernels, so it tells whether the graph is the network, not how fast a
//! runtime is; `tools/verify_export` asks onnxruntime the same.

mod indexing;
mod selection;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};
use ckd_kernels::elementwise::relu;
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::group_norm;
use ckd_kernels::{Conv2dConfig, Epilogue, Value, conv2d, linear, pool, resize, upsample};

use super::model::OnnxModel;
use super::proto::{Constant, Element, Graph, Node};
use crate::export::error::{ExportError, Result};

/// A graph that can be run.
#[derive(Debug)]
pub struct Evaluator {
    graph: Graph,
    constants: BTreeMap<String, Tensor>,
    /// Tensors that no node after this one needs, node by node.
    released: Vec<Vec<String>>,
}

impl Evaluator {
    /// Prepares `model`. Integers of 8 bits are held as i64, truth values as u8.
    ///
    /// # Errors
    /// If the file has no graph, or a constant of another type or size than it says.
    pub fn new(model: &OnnxModel) -> Result<Self> {
        let mut graph = model.0.graph.clone().ok_or_else(|| graph_error("it has no graph"))?;
        let mut constants = BTreeMap::new();
        for constant in std::mem::take(&mut graph.initializer) {
            constants.insert(constant.name.clone(), tensor(&constant)?);
        }
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            last.extend(node.input.iter().map(|name| (name.as_str(), index)));
        }
        let mut released = vec![Vec::new(); graph.node.len()];
        for (name, index) in last {
            released[index].push(name.to_owned());
        }
        Ok(Self { graph, constants, released })
    }

    /// Runs the graph on named inputs; gives its outputs by name.
    ///
    /// # Errors
    /// If an input is missing, an operator is unknown, or shapes do not fit.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<BTreeMap<String, Tensor>> {
        self.run_watched(inputs, &mut |_, _| Ok(()))
    }

    /// Runs the graph as [`run`](Self::run) does; `watch` sees the first input of each node.
    pub(super) fn run_watched(
        &self,
        inputs: &[(&str, Tensor)],
        watch: &mut dyn FnMut(&Node, &Tensor) -> Result<()>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let mut values: BTreeMap<&str, Tensor> = BTreeMap::new();
        for port in &self.graph.input {
            let given = inputs.iter().find(|(name, _)| *name == port.name);
            let (_, tensor) =
                given.ok_or_else(|| graph_error(format!("its input {} is not given", port.name)))?;
            values.insert(&port.name, tensor.clone());
        }
        for (node, released) in self.graph.node.iter().zip(&self.released) {
            let fail = |reason: String| graph_error(format!("{}: {reason}", node.name));
            let mut operands = Vec::with_capacity(node.input.len());
            for name in &node.input {
                let found = values.get(name.as_str()).or_else(|| self.constants.get(name));
                if found.is_none() && !name.is_empty() {
                    return Err(fail(format!("there is no {name}")));
                }
                operands.push(found.cloned());
            }
            if let Some(Some(first)) = operands.first() {
                watch(node, first)?;
            }
            let results =
                Operation { node, operands: &operands }.run().map_err(|error| fail(error.to_string()))?;
            drop(operands);
            for name in released {
                values.remove(name.as_str());
            }
            values.extend(node.output.iter().map(String::as_str).zip(results));
        }
        let output = |name: &String| {
            let found = values.get(name.as_str());
            Ok((name.clone(), found.ok_or_else(|| graph_error(format!("it makes no {name}")))?.clone()))
        };
        self.graph.output.iter().map(|port| output(&port.name)).collect()
    }
}

fn graph_error(reason: impl Into<String>) -> ExportError {
    ExportError::Graph { reason: reason.into() }
}

fn tensor(constant: &Constant) -> Result<Tensor> {
    let dims: Vec<usize> = constant.dims.iter().map(|&side| side.max(0) as usize).collect();
    let raw = |dtype| Tensor::from_raw_buffer(&constant.raw_data, dtype, &dims, &Device::Cpu);
    let wide = |values: Vec<i64>| Tensor::from_vec(values, dims.as_slice(), &Device::Cpu);
    let made = match Element::of(constant.data_type) {
        Some(Element::F32) => raw(DType::F32),
        Some(Element::F64) => raw(DType::F64),
        Some(Element::F16) => raw(DType::F16),
        Some(Element::I64) => raw(DType::I64),
        Some(Element::U8) => wide(constant.raw_data.iter().map(|&byte| byte.into()).collect()),
        Some(Element::I8) => wide(constant.raw_data.iter().map(|&byte| (byte as i8).into()).collect()),
        Some(Element::Bool) => raw(DType::U8),
        None => return Err(graph_error(format!("{} is of type {}", constant.name, constant.data_type))),
    };
    made.map_err(|error| graph_error(format!("{}: {error}", constant.name)))
}

type Candle<T> = candle_core::Result<T>;

/// A node with what goes into it.
struct Operation<'a> {
    node: &'a Node,
    operands: &'a [Option<Tensor>],
}

impl Operation<'_> {
    fn given(&self, index: usize) -> Option<&Tensor> {
        self.operands.get(index).and_then(Option::as_ref)
    }

    fn operand(&self, index: usize) -> Candle<&Tensor> {
        self.given(index).ok_or_else(|| candle_core::Error::Msg(format!("input {index} is missing")))
    }

    fn pair(&self) -> Candle<(&Tensor, &Tensor)> {
        Ok((self.operand(0)?, self.operand(1)?))
    }

    fn ints(&self, index: usize) -> Candle<Vec<i64>> {
        self.operand(index)?.flatten_all()?.to_vec1()
    }

    fn int_setting(&self, name: &str) -> Option<i64> {
        self.node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
    }

    fn list_setting(&self, name: &str) -> &[i64] {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        found.map_or(&[], |attribute| attribute.ints.as_slice())
    }

    fn text_setting(&self, name: &str) -> &[u8] {
        let found = self.node.attribute.iter().find(|attribute| attribute.name == name);
        found.map_or(&[], |attribute| attribute.s.as_slice())
    }

    fn float_setting(&self, name: &str) -> Option<f32> {
        self.node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.f)
    }

    /// An axis of the first input, counted from the end if negative.
    fn axis(&self, otherwise: i64) -> Candle<usize> {
        from_end(self.int_setting("axis").unwrap_or(otherwise), self.operand(0)?.rank())
    }

    fn run(&self) -> Candle<Vec<Tensor>> {
        if self.node.op_type == "TopK" {
            return self.top_k();
        }
        if self.node.op_type == "Split" {
            return self.split();
        }
        Ok(vec![self.single()?])
    }

    fn single(&self) -> Candle<Tensor> {
        let (x, kind) = (self.operand(0)?, self.node.op_type.as_str());
        match kind {
            "Identity" => Ok(x.clone()),
            "Add" => x.broadcast_add(self.operand(1)?),
            "Sub" => x.broadcast_sub(self.operand(1)?),
            "Mul" => x.broadcast_mul(self.operand(1)?),
            "Div" => x.broadcast_div(self.operand(1)?),
            "Mod" => {
                let times = x.broadcast_div(self.operand(1)?)?;
                x.broadcast_sub(&times.broadcast_mul(self.operand(1)?)?)
            }
            "Min" => x.broadcast_minimum(self.operand(1)?),
            "Max" => x.broadcast_maximum(self.operand(1)?),
            "Equal" => x.broadcast_eq(self.operand(1)?),
            "Less" => x.broadcast_lt(self.operand(1)?),
            "Greater" => x.broadcast_gt(self.operand(1)?),
            "GreaterOrEqual" => x.broadcast_ge(self.operand(1)?),
            "And" => x.broadcast_mul(self.operand(1)?),
            "Where" => self.choose(),
            "Exp" => x.exp(),
            "Sqrt" => x.sqrt(),
            "Sigmoid" => (x.neg()?.exp()? + 1.0)?.recip(),
            "Softmax" => self.softmax(),
            "Relu" => result(relu(&value(x))),
            "Clip" => x.broadcast_maximum(self.operand(1)?)?.broadcast_minimum(self.operand(2)?),
            "Cast" => x.to_dtype(match self.int_setting("to").and_then(|to| Element::of(to as i32)) {
                Some(Element::F32) => DType::F32,
                Some(Element::F64) => DType::F64,
                Some(Element::F16) => DType::F16,
                Some(Element::I64) => DType::I64,
                _ => candle_core::bail!("cannot cast to {:?}", self.int_setting("to")),
            }),
            "DequantizeLinear" => self.dequantize(),
            "QuantizeLinear" => self.quantize(),
            "Conv" => self.convolve(),
            "Gemm" => {
                let (weight, bias) = (value(self.operand(1)?), self.given(2).map(value));
                result(linear(&value(&x.contiguous()?), &weight, bias.as_ref(), Activation::Identity))
            }
            "MaxPool" => {
                let [kernel, stride] =
                    ["kernel_shape", "strides"].map(|name| first(self.list_setting(name), 1));
                let padding = first(self.list_setting("pads"), 0);
                result(pool::max_pool2d(&value(x), kernel, stride, padding))
            }
            "GlobalAveragePool" => {
                let (n, c, _, _) = x.dims4()?;
                result(pool::global_avg_pool(&value(x)))?.reshape((n, c, 1, 1))
            }
            "InstanceNormalization" => self.instance_norm(),
            "Resize" => self.resize(),
            "Pad" => self.pad(),
            "RoiAlign" => self.roi_align(),
            "NonMaxSuppression" => self.suppress(),
            "Shape" => {
                Tensor::new(x.dims().iter().map(|&side| side as i64).collect::<Vec<_>>(), &Device::Cpu)
            }
            "Reshape" => self.reshape(),
            "Flatten" => x.flatten_from(1),
            "Transpose" => {
                let order: Vec<usize> = self.list_setting("perm").iter().map(|&axis| axis as usize).collect();
                x.permute(order)?.contiguous()
            }
            "Unsqueeze" => self.unsqueeze(),
            "Squeeze" => x.squeeze(from_end(first_of(&self.ints(1)?)?, x.rank())?),
            "Concat" => self.concat(),
            "Expand" => x.broadcast_as(self.broadcast_dims()?)?.contiguous(),
            "Range" => {
                let [start, end, step] = [0, 1, 2].map(|index| self.operand(index)?.to_scalar::<i64>());
                Tensor::arange_step(start?, end?, step?, &Device::Cpu)
            }
            "Slice" => self.slice(),
            "Gather" => self.gather(),
            "GatherND" => self.gather_nd(),
            "ScatterND" => self.scatter_nd(),
            "NonZero" => self.non_zero(),
            "ReduceSum" => self.reduce(&self.ints(1)?, |x, axis| x.sum_keepdim(axis)),
            "ReduceMax" => self.reduce(self.list_setting("axes"), |x, axis| x.max_keepdim(axis)),
            other => candle_core::bail!("{other} is none of the operators that are written here"),
        }
    }

    fn softmax(&self) -> Candle<Tensor> {
        let x = self.operand(0)?;
        let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
        shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
    }

    fn convolve(&self) -> Candle<Tensor> {
        let (x, weight) = self.pair()?;
        let stride = first(self.list_setting("strides"), 1);
        let groups = self.int_setting("group").unwrap_or(1) as usize;
        let config =
            Conv2dConfig { groups, ..Conv2dConfig::new(stride, first(self.list_setting("pads"), 0)) };
        let bias = self.given(2).map(value);
        let epilogue = Epilogue { shift: bias.as_ref(), ..Epilogue::default() };
        result(conv2d(&value(x), &value(weight), config, epilogue))
    }

    /// Each of (N, C, L)'s rows less its mean, over its deviation.
    fn instance_norm(&self) -> Candle<Tensor> {
        let (n, c, l) = self.operand(0)?.dims3()?;
        let x = self.operand(0)?.reshape((n, c, l, 1))?;
        let (weight, bias) = (value(self.operand(1)?), value(self.operand(2)?));
        let epsilon = f64::from(self.float_setting("epsilon").unwrap_or(1e-5));
        let unit = result(group_norm(&value(&x), &weight, &bias, c, epsilon, Activation::Identity))?;
        unit.contiguous()?.reshape((n, c, l))
    }

    /// (x - zero) · scale, of each slice along `axis` its own.
    fn dequantize(&self) -> Candle<Tensor> {
        let x = self.operand(0)?.to_dtype(DType::F32)?;
        let (scale, zero) = (self.along_axis(1)?, self.along_axis(2)?.to_dtype(DType::F32)?);
        x.broadcast_sub(&zero)?.broadcast_mul(&scale)
    }

    /// round(x / scale) + zero within 0..=255.
    fn quantize(&self) -> Candle<Tensor> {
        let (scale, zero) = (self.operand(1)?.to_scalar::<f32>()?, self.operand(2)?.to_scalar::<i64>()?);
        let x = self.operand(0)?;
        let round = |v: f32| ((v / scale).round_ties_even() + zero as f32).clamp(0.0, 255.0) as u8;
        let values: Vec<u8> = x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(round).collect();
        Tensor::from_vec(values, x.shape(), &Device::Cpu)
    }

    /// Input `index`, a scalar or a row that belongs to the axis of the first input.
    fn along_axis(&self, index: usize) -> Candle<Tensor> {
        let row = self.operand(index)?;
        if row.rank() == 0 {
            return Ok(row.clone());
        }
        let mut dims = vec![1; self.operand(0)?.rank()];
        dims[self.axis(1)?] = row.elem_count();
        row.reshape(dims)
    }

    fn resize(&self) -> Candle<Tensor> {
        let sizes = self.ints(3)?;
        let &[_, _, height, width] = sizes.as_slice() else { candle_core::bail!("sizes {sizes:?}") };
        let (x, size) = (value(self.operand(0)?), (height as usize, width as usize));
        match self.text_setting("mode") {
            b"nearest" => result(upsample::upsample_nearest(&x, size)),
            b"linear" => result(resize::resize_bilinear(&x, size)),
            mode => candle_core::bail!("mode {:?}", String::from_utf8_lossy(mode)),
        }
    }

    /// Zeros around.
    fn pad(&self) -> Candle<Tensor> {
        let pads = self.ints(1)?;
        let mut x = self.operand(0)?.clone();
        let rank = x.rank();
        if pads.len() != 2 * rank || pads.iter().any(|&pad| pad < 0) {
            candle_core::bail!("pads {pads:?}");
        }
        for axis in 0..rank {
            let (before, after) = (pads[axis] as usize, pads[rank + axis] as usize);
            if before + after > 0 {
                x = x.pad_with_zeros(axis, before, after)?;
            }
        }
        Ok(x)
    }

    fn reduce(&self, axes: &[i64], by: impl Fn(&Tensor, usize) -> Candle<Tensor>) -> Candle<Tensor> {
        let mut x = self.operand(0)?.clone();
        for &axis in axes {
            x = by(&x, from_end(axis, x.rank())?)?;
        }
        Ok(x)
    }
}

fn value(x: &Tensor) -> Value {
    Value::constant(x.clone())
}

/// Result of a kernel.
fn result(of: ckd_kernels::Result<Value>) -> Candle<Tensor> {
    Ok(of.map_err(candle_core::Error::wrap)?.tensor().clone())
}

fn first(list: &[i64], otherwise: usize) -> usize {
    list.first().map_or(otherwise, |&value| value as usize)
}

fn first_of(list: &[i64]) -> Candle<i64> {
    list.first().copied().ok_or_else(|| candle_core::Error::Msg("an empty list".to_owned()))
}

fn from_end(axis: i64, rank: usize) -> Candle<usize> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted < rank => Ok(counted),
        _ => candle_core::bail!("axis {axis} of {rank}"),
    }
}
