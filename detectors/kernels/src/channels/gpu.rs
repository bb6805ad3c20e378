//! Channels on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{ChannelProducts, Halve, HalveGradient, Pick, PickGradient, ScaleChannels};
use crate::Result;
use crate::cuda::{Argument, Family, FreshMap, Table, arguments, blocks, by_target, elements, int, launch};
use crate::dispatch::Gpu;

fn run(device: &CudaDevice, name: &'static str, count: usize, arguments: &[Argument]) -> Result<()> {
    launch(device, Family::Channels, name, blocks(count)?, [256, 1], arguments)
}

impl Gpu for Pick<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let ((n, h, w, c), picked) = (self.x.dims4()?, self.order.len());
        let count = n * h * w * picked;
        let out = FreshMap::like(self.x, device, count)?;
        if count > 0 {
            let order = self.order.iter().map(|&channel| int(channel)).collect::<Result<Vec<_>>>()?;
            let order = Table::of_ints(device, &order)?;
            let arguments = arguments![
                elements(self.x)?,
                order.address(),
                out.address(),
                count as i64,
                int(c)?,
                int(picked)?
            ];
            run(device, "pick", count, arguments)?;
        }
        out.map((n, h, w, picked), device)
    }
}

impl Gpu for PickGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, order, channels: c } = self;
        let (n, h, w, picked) = g.dims4()?;
        let count = n * h * w * c;
        let out = FreshMap::like(g, device, count)?;
        if count > 0 {
            let (starts, order) = by_target(order, c)?;
            let (starts, order) = (Table::of_ints(device, &starts)?, Table::of_ints(device, &order)?);
            let arguments = arguments![
                elements(g)?,
                starts.address(),
                order.address(),
                out.address(),
                count as i64,
                int(c)?,
                int(picked)?
            ];
            run(device, "pick_gradient", count, arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}

impl Gpu for ScaleChannels<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let count = n * h * w * c;
        let out = FreshMap::like(self.x, device, count)?;
        if count > 0 {
            let arguments = arguments![
                elements(self.x)?,
                elements(self.factors)?,
                out.address(),
                count as i64,
                (h * w) as i64,
                int(c)?
            ];
            run(device, "scale_channels", count, arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}

impl Gpu for ChannelProducts<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (n, h, w, c) = self.x.dims4()?;
        let out = FreshMap::like(self.g, device, n * c)?;
        if n * c > 0 {
            let grid = [int(c.div_ceil(32))? as u32, int(n)? as u32, 1];
            let arguments =
                arguments![elements(self.g)?, elements(self.x)?, out.address(), (h * w) as i64, int(c)?];
            launch(device, Family::Channels, "channel_products", grid, [32, 8], arguments)?;
        }
        out.map((n, 1, 1, c), device)
    }
}

impl Gpu for Halve<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { x, channels } = self;
        let (n, h, w, c) = x.dims4()?;
        let (oh, ow) = (h.div_ceil(2), w.div_ceil(2));
        let count = n * oh * ow * channels;
        let out = FreshMap::like(x, device, count)?;
        if count > 0 {
            let before = (channels - c) / 2;
            let sizes = [int(h)?, int(w)?, int(c)?, int(channels)?, int(before)?];
            let arguments = arguments![
                elements(x)?,
                out.address(),
                count as i64,
                sizes[0],
                sizes[1],
                sizes[2],
                sizes[3],
                sizes[4]
            ];
            run(device, "halve", count, arguments)?;
        }
        out.map((n, oh, ow, channels), device)
    }
}

impl Gpu for HalveGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, shape: (h, w, c) } = self;
        let (n, _, _, channels) = g.dims4()?;
        let count = n * h * w * c;
        let out = FreshMap::like(g, device, count)?;
        if count > 0 {
            let before = (channels - c) / 2;
            let arguments = arguments![
                elements(g)?,
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(channels)?,
                int(before)?
            ];
            run(device, "halve_gradient", count, arguments)?;
        }
        out.map((n, h, w, c), device)
    }
}
