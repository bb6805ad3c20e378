//! Max pooling on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{MaxPool, MaxPoolGradient, MaxPoolTaken, Windows};
use crate::Result;
use crate::cuda::{
    Argument, Family, Fresh, FreshMap, address, arguments, blocks, elements, int, launch, null,
};
use crate::dispatch::Gpu;

impl Windows {
    /// Sizes in the order of the kernels' text.
    fn sizes(&self) -> Result<[Argument; 8]> {
        let &Self { kernel, stride, padding, h, w, oh, ow, c } = self;
        let mut sizes = [Argument::I32(0); 8];
        for (to, size) in sizes.iter_mut().zip([h, w, c, oh, ow, kernel, stride, padding]) {
            *to = Argument::I32(int(size)?);
        }
        Ok(sizes)
    }
}

impl Gpu for MaxPool<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<(Tensor, Tensor)> {
        let Windows { oh, ow, c, .. } = self.windows;
        let n = self.x.dim(0)?;
        let count = n * oh * ow * c;
        let kept = if self.keep_winners { count } else { 0 };
        let (out, winners) = (FreshMap::like(self.x, device, count)?, Fresh::<u8>::new(device, kept)?);
        if count > 0 {
            let to = if self.keep_winners { winners.address() } else { null::<u8>() };
            let own = *arguments![elements(self.x)?, out.address(), to, count as i64];
            let arguments: Vec<Argument> = own.into_iter().chain(self.windows.sizes()?).collect();
            launch(device, Family::Pool, "max_pool", blocks(count)?, [256, 1], &arguments)?;
        }
        Ok((out.map((n, oh, ow, c), device)?, winners.tensor(kept, device)))
    }
}

impl Gpu for MaxPoolTaken<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Windows { oh, ow, c, .. } = self.windows;
        let n = self.x.dim(0)?;
        let count = n * oh * ow * c;
        let out = FreshMap::like(self.x, device, count)?;
        if count > 0 {
            let winners = address::<u8>(self.winners)?;
            let own = *arguments![elements(self.x)?, winners, out.address(), count as i64];
            let arguments: Vec<Argument> = own.into_iter().chain(self.windows.sizes()?).collect();
            launch(device, Family::Pool, "max_pool_taken", blocks(count)?, [256, 1], &arguments)?;
        }
        out.map((n, oh, ow, c), device)
    }
}

impl Gpu for MaxPoolGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Windows { h, w, c, .. } = self.windows;
        let n = self.g.dim(0)?;
        let count = n * h * w * c;
        let spread = FreshMap::like(self.g, device, count)?;
        if count > 0 {
            let winners = address::<u8>(self.winners)?;
            let own = *arguments![elements(self.g)?, winners, spread.address(), count as i64];
            let arguments: Vec<Argument> = own.into_iter().chain(self.windows.sizes()?).collect();
            launch(device, Family::Pool, "max_pool_gradient", blocks(count)?, [256, 1], &arguments)?;
        }
        spread.map((n, h, w, c), device)
    }
}
