//! RoIAlign on a GPU.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaDevice, Tensor};

use super::super::sampling::{Alignment, MAX_SAMPLES, Sampling};
use super::{Regions, RoiAlign, RoiAlignGradient, Size};
use crate::Result;
use crate::cuda::{Argument, Family, Fresh, FreshMap, Table, arguments, blocks, elements, int, launch};
use crate::dispatch::Gpu;

/// A RoI as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Roi {
    /// Batch index, x1, y1, x2, y2.
    place: [f32; 5],
    level: i32,
}

/// A map as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    /// The map's address, or 0 where only its sizes are read.
    map: u64,
    scale: f64,
    h: i32,
    w: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Roi {}
// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Level {}

/// The regions on the device, with the shares of their bins along both axes.
struct Placed {
    rois: Table<Roi>,
    levels: Table<Level>,
    sources: Fresh<i32>,
    weights: Fresh<f32>,
    counts: Fresh<i32>,
    /// The most shares that a bin has along an axis.
    cap: i32,
}

impl Regions {
    /// Each RoI's shares on its map; `maps` are all levels' or none.
    fn on_gpu(&self, device: &CudaDevice, maps: &[Tensor]) -> Result<Placed> {
        let roi = |(place, level): (&[f32; 5], &usize)| Roi { place: *place, level: *level as i32 };
        let rois: Vec<Roi> = self.rois.iter().zip(&self.level_of).map(roi).collect();
        let mut levels = Vec::with_capacity(self.sizes.len());
        for (index, (size, &scale)) in self.sizes.iter().zip(&self.scales).enumerate() {
            let map = match maps.get(index).map(elements).transpose()? {
                Some(Argument::Address(map, _)) => map,
                _ => 0,
            };
            levels.push(Level { map, scale: f64::from(scale), h: int(size.h)?, w: int(size.w)? });
        }
        let ((oh, ow), cap) = (self.output, self.shares_of_a_bin());
        let bins = rois.len() * (oh + ow);
        let placed = Placed {
            rois: Table::of_structs(device, &rois)?,
            levels: Table::of_structs(device, &levels)?,
            sources: Fresh::new(device, bins * cap)?,
            weights: Fresh::new(device, bins * cap)?,
            counts: Fresh::new(device, bins)?,
            cap: int(cap)?,
        };
        if bins > 0 {
            let samples = match self.sampling {
                Sampling::Adaptive => 0,
                Sampling::Fixed(samples) => int(samples)?,
            };
            let arguments = arguments![
                placed.rois.address(),
                placed.levels.address(),
                placed.sources.address(),
                placed.weights.address(),
                placed.counts.address(),
                int(rois.len())?,
                int(oh)?,
                int(ow)?,
                placed.cap,
                samples,
                i32::from(self.alignment == Alignment::HalfPixel)
            ];
            launch(device, Family::RoiAlign, "roi_shares", blocks(bins)?, [256, 1], arguments)?;
        }
        Ok(placed)
    }

    /// The most shares that a bin can have along an axis: two a sample, one a pixel.
    fn shares_of_a_bin(&self) -> usize {
        let (oh, ow) = self.output;
        let samples = |low: f32, high: f32, scale: f32, bins: usize| match self.sampling {
            Sampling::Fixed(samples) => samples,
            // A legacy RoI has sides of a pixel at least. The product is rounded as it may.
            Sampling::Adaptive => {
                let length = (f64::from(high) - f64::from(low)) * f64::from(scale);
                ((length.max(1.0) / bins as f64).ceil() as usize + 1).min(MAX_SAMPLES)
            }
        };
        let of_roi = |(roi, &level): (&[f32; 5], &usize)| {
            let [_, x1, y1, x2, y2] = *roi;
            let (size, scale) = (&self.sizes[level], self.scales[level]);
            let (ys, xs) = (samples(y1, y2, scale, oh), samples(x1, x2, scale, ow));
            (2 * ys).min(size.h).max((2 * xs).min(size.w))
        };
        self.rois.iter().zip(&self.level_of).map(of_roi).max().unwrap_or(0).max(1)
    }
}

/// Blocks for each of `count` things and each 32 of `c` channels.
fn by_channels(count: usize, c: usize) -> Result<[u32; 3]> {
    Ok([int(count * c.div_ceil(32))? as u32, 1, 1])
}

impl Gpu for RoiAlign<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Tensor> {
        let Regions { sizes, rois, output: (oh, ow), .. } = self.regions;
        let (count, c) = (rois.len(), sizes[0].c);
        let out = FreshMap::like(&self.maps[0], device, count * c * oh * ow)?;
        if count * c * oh * ow > 0 {
            let placed = self.regions.on_gpu(device, self.maps)?;
            let arguments = arguments![
                placed.rois.address(),
                placed.levels.address(),
                placed.sources.address(),
                placed.weights.address(),
                placed.counts.address(),
                out.address(),
                int(c)?,
                int(*oh)?,
                int(*ow)?,
                placed.cap
            ];
            launch(device, Family::RoiAlign, "roi_align", by_channels(count, c)?, [32, 8], arguments)?;
        }
        Ok(out.tensor((count, c, *oh, *ow), device))
    }
}

impl Gpu for RoiAlignGradient<'_> {
    fn on_gpu(self, device: &CudaDevice) -> Result<Vec<Option<Tensor>>> {
        let Regions { sizes, rois, output: (oh, ow), .. } = self.regions;
        let (count, c, bins) = (rois.len(), sizes[0].c, oh * ow);
        let placed = self.regions.on_gpu(device, &[])?;
        let turned = FreshMap::like(self.g, device, count * c * bins)?;
        let reach = Fresh::<i32>::new(device, 4 * count)?;
        let (oh, ow) = (int(*oh)?, int(*ow)?);
        if count * c * bins > 0 {
            let g = self.g.contiguous()?;
            let arguments = arguments![elements(&g)?, turned.address(), int(c)?, int(bins)?];
            launch(device, Family::RoiAlign, "roi_bins_first", by_channels(count, c)?, [32, 8], arguments)?;
        }
        if count > 0 {
            let arguments = arguments![
                placed.sources.address(),
                placed.counts.address(),
                reach.address(),
                int(count)?,
                oh,
                ow,
                placed.cap
            ];
            launch(device, Family::RoiAlign, "roi_reach", blocks(2 * count)?, [256, 1], arguments)?;
        }
        let of_level = |(level, size): (usize, &Size)| -> Result<Tensor> {
            let &Size { n, h, w, c } = size;
            let out = FreshMap::like(self.g, device, n * h * w * c)?;
            if n * h * w * c > 0 {
                let arguments = arguments![
                    turned.address(),
                    placed.rois.address(),
                    reach.address(),
                    placed.sources.address(),
                    placed.weights.address(),
                    placed.counts.address(),
                    out.address(),
                    int(count)?,
                    int(level)?,
                    int(h)?,
                    int(w)?,
                    int(c)?,
                    oh,
                    ow,
                    placed.cap
                ];
                let grid = by_channels(n * h.div_ceil(8) * w.div_ceil(8), c)?;
                launch(device, Family::RoiAlign, "roi_align_gradient", grid, [32, 8], arguments)?;
            }
            out.map((n, h, w, c), device)
        };
        let levels = sizes.iter().enumerate().zip(self.wanted);
        levels.map(|(level, wanted)| wanted.then(|| of_level(level)).transpose()).collect()
    }
}
