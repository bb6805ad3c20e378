//! Windows on a GPU.

use std::collections::BTreeMap;

use candle_core::{CudaDevice, Tensor};

use super::{Cut, PutBack, Run, runs};
use crate::Result;
use crate::cuda::{Family, FreshMap, Table, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

impl Gpu for Cut<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { map, centres, side } = self;
        let (_, h, w, c) = map.dims4()?;
        let count = centres.len() * side * side * c;
        let out = FreshMap::like(map, device, count)?;
        if count > 0 {
            let centres = centres.iter().flat_map(|pixel| [pixel.image, pixel.y, pixel.x]).map(int);
            let centres = Table::of_ints(device, &centres.collect::<Result<Vec<_>>>()?)?;
            let arguments = arguments![
                elements(map)?,
                centres.address(),
                out.address(),
                count as i64,
                int(h)?,
                int(w)?,
                int(c)?,
                int(side)?
            ];
            launch(device, Family::Sampling, "cut_windows", blocks(count)?, [256, 1], arguments)?;
        }
        out.map((centres.len(), side, side, c), device)
    }
}

impl Gpu for PutBack<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Self { g, centres, side, shape: (n, h, w, c) } = self;
        let map = FreshMap::like(g, device, n * h * w * c)?.zeroed(device)?;
        // By pixel of the map, the pixels of windows that lie there: in the order of the windows.
        let mut by_pixel: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for Run { window, map, pixels } in runs(centres, side, (h, w)) {
            for i in 0..pixels {
                by_pixel.entry(map + i).or_default().push(window + i);
            }
        }
        let count = by_pixel.len() * c;
        if count > 0 {
            let mut starts = vec![0];
            let mut order = Vec::new();
            for windows in by_pixel.values() {
                order.extend(windows.iter().map(|&window| int(window)).collect::<Result<Vec<_>>>()?);
                starts.push(int(order.len())?);
            }
            let pixels: Vec<i64> = by_pixel.keys().map(|&pixel| pixel as i64).collect();
            let pixels = Table::of_longs(device, &pixels)?;
            let (starts, order) = (Table::of_ints(device, &starts)?, Table::of_ints(device, &order)?);
            let arguments = arguments![
                elements(g)?,
                pixels.address(),
                starts.address(),
                order.address(),
                map.address(),
                count as i64,
                int(c)?
            ];
            launch(device, Family::Sampling, "put_windows_back", blocks(count)?, [256, 1], arguments)?;
        }
        map.map((n, h, w, c), device)
    }
}
