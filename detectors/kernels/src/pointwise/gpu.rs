//! Functions of elements on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{AddInPlace, AddRows, Function, Map, MaskInPlace, Pair, Zip};
use crate::Result;
use crate::activation::Activation;
use crate::cuda::{Argument, Family, FreshMap, Table, arguments, blocks, by_target, elements, int, launch};
use crate::dispatch::Gpu;
use crate::in_place::refuse_shared;
use crate::memory::{is_channels_last, nhwc};

impl Gpu for Map<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (code, factor) = match self.function {
            Function::Times(factor) => (0, factor),
            Function::Relu => (1, 0.0),
            Function::Relu6 => (2, 0.0),
            Function::HardSigmoid => (3, 0.0),
            Function::HardSwish => (4, 0.0),
            Function::Sigmoid => (5, 0.0),
        };
        in_order_of(self.a, &[self.a], device, |count, inputs, out| {
            let arguments = arguments![inputs[0], out.address(), count as i64, code, factor];
            launch(device, Family::Elementwise, "map", blocks(count)?, [256, 1], arguments)
        })
    }
}

impl Pair {
    /// The function as the kernel knows it.
    fn code(self) -> i32 {
        match self {
            Self::Sum => 0,
            Self::ThroughRelu => 1,
            Self::ThroughRelu6 => 2,
            Self::ThroughHardSigmoid => 3,
            Self::ThroughHardSwish => 4,
            Self::ThroughSigmoid => 5,
        }
    }
}

impl Gpu for Zip<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let code = self.function.code();
        in_order_of(self.a, &[self.a, self.b], device, |count, inputs, out| {
            let arguments = arguments![inputs[0], inputs[1], out.address(), count as i64, code];
            launch(device, Family::Elementwise, "zip", blocks(count)?, [256, 1], arguments)
        })
    }
}

impl Gpu for MaskInPlace<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        refuse_shared("mask_in_place", &[self.g], &[self.y])?;
        let code = match self.activation {
            Activation::Identity => return Ok(()),
            Activation::Relu => Pair::ThroughRelu.code(),
            Activation::Relu6 => Pair::ThroughRelu6.code(),
        };
        let (count, g) = (self.g.elem_count(), elements(self.g)?);
        let arguments = arguments![g, elements(self.y)?, g, count as i64, code];
        launch(device, Family::Elementwise, "zip", blocks(count)?, [256, 1], arguments)
    }
}

impl Gpu for AddInPlace<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        refuse_shared("add_in_place", &[self.to], &[self.from])?;
        let count = self.to.elem_count();
        let arguments = arguments![elements(self.to)?, elements(self.from)?, count as i64];
        launch(device, Family::Elementwise, "add_in_place", blocks(count)?, [256, 1], arguments)
    }
}

impl Gpu for AddRows<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<()> {
        refuse_shared("add_rows", &[self.to], &[self.from])?;
        let (m, d) = self.to.dims2()?;
        if m * d == 0 || self.indices.is_empty() {
            return Ok(());
        }
        let targets: Vec<usize> = self.indices.iter().map(|&index| index as usize).collect();
        let (starts, order) = by_target(&targets, m)?;
        let (starts, order) = (Table::of_ints(device, &starts)?, Table::of_ints(device, &order)?);
        let (to, from) = (elements(self.to)?, elements(self.from)?);
        let arguments = arguments![from, starts.address(), order.address(), to, int(m)?, int(d)?];
        launch(device, Family::Elementwise, "add_rows", blocks(m * d)?, [256, 1], arguments)
    }
}

/// A tensor in shape and memory order of `like`, written by `write` from the addresses of `inputs`, which are
/// brought to that order.
fn in_order_of(
    like: &Tensor,
    inputs: &[&Tensor],
    device: &CudaDevice,
    write: impl FnOnce(usize, &[Argument], &FreshMap) -> Result<()>,
) -> Result<Tensor> {
    let count = like.elem_count();
    let out = FreshMap::like(like, device, count)?;
    let last = is_channels_last(like);
    let ordered = inputs.iter().map(|input| if last { nhwc(input) } else { Ok(input.contiguous()?) });
    let ordered = ordered.collect::<Result<Vec<_>>>()?;
    let addresses = ordered.iter().map(elements).collect::<Result<Vec<_>>>()?;
    write(count, &addresses, &out)?;
    if last {
        let (n, c, h, w) = like.dims4()?;
        return out.map((n, h, w, c), device);
    }
    Ok(out.tensor(like.shape(), device))
}
