//! Copies of parts and rows on a GPU.

use candle_core::{CudaDevice, Tensor};

use super::{Concatenate, Gather};
use crate::Result;
use crate::cuda::{Family, FreshMap, Table, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

impl Gpu for Concatenate<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { parts, dim, shape } = self;
        let count: usize = shape.iter().product();
        let out = FreshMap::like(parts[0], device, count)?;
        let within: usize = shape[dim + 1..].iter().product();
        let outer: usize = shape[..dim].iter().product();
        let row = shape[dim] * within;
        let mut offset = 0;
        for part in parts {
            let run = part.dims()[dim] * within;
            if outer * run > 0 {
                let part = part.contiguous()?;
                let sizes = [outer, run, row, offset].map(|size| size as i64);
                let arguments =
                    arguments![elements(&part)?, out.address(), sizes[0], sizes[1], sizes[2], sizes[3]];
                launch(device, Family::Elementwise, "put_runs", blocks(outer * run)?, [256, 1], arguments)?;
            }
            offset += run;
        }
        Ok(out.tensor(shape, device))
    }
}

impl Gpu for Gather<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let (_, d) = self.a.dims2()?;
        let (a, rows) = (self.a.contiguous()?, self.indices.len());
        let out = FreshMap::like(&a, device, rows * d)?;
        if rows * d > 0 {
            let indices: Vec<i32> = self.indices.iter().map(|&index| index as i32).collect();
            let indices = Table::of_ints(device, &indices)?;
            let arguments = arguments![elements(&a)?, indices.address(), out.address(), int(rows)?, int(d)?];
            launch(device, Family::Elementwise, "gather_rows", blocks(rows * d)?, [256, 1], arguments)?;
        }
        Ok(out.tensor((rows, d), device))
    }
}
