//! The parameters of a network, in the order of their names.
//!
//! Names are torchvision's. Convolution weights are (K, C, R, S) in shape and channels-last in memory,
//! as the kernels read them. A parameter's storage is made once and written in place ever after, so
//! the layers and the store always agree; a store is never shared by two networks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ckd_kernels::Value;
use ckd_kernels::in_place::overwrite;

use crate::eight_bits::{InputRanges, LayerInput};
use crate::init::Init;
use crate::{Error, Result};

/// Treatment of a parameter in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The optimiser changes it.
    Trainable,
    /// A weight that stays as it was loaded.
    Frozen,
    /// A statistic: running means and variances.
    Buffer,
}

/// Tensor of a network, with its role.
#[derive(Debug, Clone)]
pub struct Param {
    /// The tensor; a leaf of the graph if trainable.
    pub value: Value,
    /// Treatment in training.
    pub role: Role,
}

/// All tensors of a network by name, in byte order of the names.
#[derive(Debug, Default)]
pub struct ParamStore {
    params: BTreeMap<Arc<str>, Param>,
    /// Inputs of the layers that could run in 8 bits.
    inputs: BTreeMap<Arc<str>, Arc<LayerInput>>,
}

impl ParamStore {
    /// The parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Param)> {
        self.params.iter()
    }

    /// The trainable parameters in order.
    pub fn trainable(&self) -> impl Iterator<Item = (&Arc<str>, &Tensor)> {
        self.iter()
            .filter(|(_, param)| param.role == Role::Trainable)
            .map(|(name, param)| (name, param.value.tensor()))
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.params.get(name)
    }

    /// The parameters whose names do not begin with `prefix`: the same tensors, not copies.
    pub fn without(&self, prefix: &str) -> Self {
        let others = self.iter().filter(|(name, _)| !name.starts_with(prefix));
        let inputs = self.inputs.iter().filter(|(name, _)| !name.starts_with(prefix));
        Self {
            params: others.map(|(name, param)| (name.clone(), param.clone())).collect(),
            inputs: inputs.map(|(name, input)| (name.clone(), input.clone())).collect(),
        }
    }

    /// Begins, or ends, to watch what goes into the network's layers: see [`input_ranges`](Self::input_ranges).
    pub fn watch_inputs(&self, on: bool) {
        self.inputs.values().for_each(|input| input.watch(on));
    }

    /// Ranges of what went into the layers since the watch began; of layers that ran.
    pub fn input_ranges(&self) -> InputRanges {
        let seen = self.inputs.iter().filter_map(|(name, input)| Some((name.to_string(), input.seen()?)));
        seen.collect()
    }

    /// Computes the layers of these names in 8 bits from now on: their inputs are rounded to 256 steps of their ranges, their
    /// weights to 255 of each output's. Depthwise layers, and convolutions whose sums take fewer than 32 numbers, stay in f32.
    /// Weights are packed at the next pass, which sees the last change of them.
    ///
    /// # Errors
    /// If a weight is trainable or not on the processor, a range is no range, or there is no such layer.
    pub fn compute_in_8_bits(&self, ranges: &InputRanges) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { part: "layers in 8 bits", reason });
        if let Some((name, _)) = self.trainable().next() {
            return refuse(format!("{name} is trainable; only a frozen network computes so"));
        }
        if self.iter().any(|(_, param)| !param.value.tensor().device().is_cpu()) {
            return refuse("8 bits are for processors; use the device cpu".to_owned());
        }
        for (name, &(low, high)) in ranges {
            let Some(input) = self.inputs.get(name.as_str()) else {
                return refuse(format!("there is no layer {name}"));
            };
            if !(low.is_finite() && high.is_finite() && low <= high) {
                return refuse(format!("the range of what goes into {name} is {low} to {high}"));
            }
            input.round((low, high));
        }
        Ok(())
    }

    /// Number of weights (statistics not counted).
    pub fn weight_count(&self) -> usize {
        self.iter()
            .filter(|(_, param)| param.role != Role::Buffer)
            .map(|(_, param)| param.value.tensor().elem_count())
            .sum()
    }

    /// Overwrites the parameter called `name`.
    ///
    /// # Errors
    /// If there is none, or the shapes differ.
    pub fn set(&self, name: &str, tensor: &Tensor) -> Result<()> {
        let Some(param) = self.params.get(name) else {
            return Err(Error::UnknownParameter { name: name.to_owned() });
        };
        let own = param.value.tensor();
        if own.dims() != tensor.dims() {
            return Err(Error::ParameterShape {
                name: name.to_owned(),
                expected: own.dims().to_vec(),
                found: tensor.dims().to_vec(),
            });
        }
        write_in_place(own, tensor)
    }

    /// Copies of all tensors, row-major, on the host.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |param: &Param| -> Result<Tensor> {
            Ok(param.value.tensor().to_device(&Device::Cpu)?.force_contiguous()?)
        };
        self.iter().map(|(name, param)| Ok((name.to_string(), copy(param)?))).collect()
    }
}

/// Overwrites `to` with `from`, keeping the storage and the memory order of `to`.
///
/// # Errors
/// If shapes or types differ, or both share their memory.
pub fn write_in_place(to: &Tensor, from: &Tensor) -> Result<()> {
    Ok(overwrite(to, from)?)
}

/// Makes a network's parameters, one layer's prefix at a time.
#[derive(Clone)]
pub struct Builder {
    store: Rc<RefCell<ParamStore>>,
    device: Device,
    seed: u64,
    prefix: String,
    frozen: bool,
    outline: bool,
}

impl Builder {
    /// A builder of a new store whose initial values depend on `seed` and each parameter's name alone.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            store: Rc::default(),
            device: device.clone(),
            seed,
            prefix: String::new(),
            frozen: false,
            outline: false,
        }
    }

    /// A builder of parameters with names and shapes but no memory: every tensor is a single 0, seen through strides of
    /// 0. It tells whether a file fits a network before the network is made.
    pub fn outline() -> Self {
        Self { outline: true, frozen: true, ..Self::new(0, &Device::Cpu) }
    }

    /// The builder of a layer within this one.
    pub fn within(&self, name: impl std::fmt::Display) -> Self {
        let prefix =
            if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { prefix, ..self.clone() }
    }

    /// The name of the layer.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the same builder with frozen weights.
    pub fn frozen(&self) -> Self {
        Self { frozen: true, ..self.clone() }
    }

    /// Whether its weights stay as they are.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// A new weight.
    pub fn weight(&self, name: &str, shape: &[usize], init: Init) -> Result<Value> {
        let role = if self.frozen { Role::Frozen } else { Role::Trainable };
        self.add(name, shape, init, role)
    }

    /// A new statistic.
    pub fn buffer(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        Ok(self.add(name, shape, init, Role::Buffer)?.tensor().clone())
    }

    fn add(&self, name: &str, shape: &[usize], init: Init, role: Role) -> Result<Value> {
        let name: Arc<str> = format!("{}.{name}", self.prefix).into();
        let values = || init.values(shape, self.seed, &name);
        let tensor = match *shape {
            _ if self.outline => Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)?,
            // Drawn in torchvision's order (K, C, R, S), kept as (K, R, S, C).
            [_, _, _, _] => Tensor::from_vec(values(), shape, &Device::Cpu)?
                .permute((0, 2, 3, 1))?
                .contiguous()?
                .to_device(&self.device)?
                .permute((0, 3, 1, 2))?,
            _ => Tensor::from_vec(values(), shape, &self.device)?,
        };
        let value = match role {
            Role::Trainable => Value::leaf(name.clone(), tensor),
            Role::Frozen | Role::Buffer => Value::constant(tensor),
        };
        let param = Param { value: value.clone(), role };
        let earlier = self.store.borrow_mut().params.insert(name.clone(), param);
        assert!(earlier.is_none(), "two layers claim the name {name}");
        Ok(value)
    }

    /// Input of the layer, if it could run in 8 bits.
    pub(crate) fn input(&self, could: bool) -> Arc<LayerInput> {
        let input = Arc::<LayerInput>::default();
        if could {
            self.store.borrow_mut().inputs.insert(self.prefix.as_str().into(), input.clone());
        }
        input
    }

    /// The store, once the network is built.
    pub fn finish(self) -> ParamStore {
        std::mem::take(&mut self.store.borrow_mut())
    }
}
