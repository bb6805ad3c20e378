//! Likeness of the feature maps of students and their teacher: as pictures, and as one number a level.

use candle_core::{Device, Tensor};
use ckd_detectors::Detector;
use ckd_detectors::nn::Mode;
use ckd_detectors::taps::Level;
use ckd_kernels::Value;
use ckd_kernels::elementwise::{concatenate, rows};
use ckd_kernels::graph::untracked;
use ckd_kernels::memory::numbers;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use super::evaluate::images_of;
use crate::config::Config;
use crate::data::{DataError, Dataset};
use crate::distill::{Kernel, RowNorm, ka};
use crate::engine::Result;
use crate::report::draw::save_png;
use crate::report::run_folder::RunFolder;
use crate::report::shown::{Alignment, ShownMaps, ShownPanel};

/// Images that maps are compared on.
const IMAGES: usize = 8;
/// Cells of an image's map that are compared, at even distances.
const CELLS: usize = 256;
/// Most columns of the picture of a map.
const COLUMNS: u32 = 96;

/// A trained network, and the configuration by which it sees images.
pub(super) struct Model<'a> {
    pub(super) label: &'a str,
    pub(super) detector: &'a Detector,
    pub(super) config: &'a Config,
}

/// A level of a network's pyramid on one image.
struct Map {
    level: Level,
    /// The cells that the image covers, row by row, each a row of channels: (H·W, C).
    cells: Tensor,
    width: usize,
    height: usize,
}

/// Centred kernel alignment of each student's maps with the teacher's, the first of `models`: linear CKA (Kornblith et al.
/// 2019, arXiv 1905.00414) of the cells of a level, 1 where one map is the other turned and scaled.
///
/// # Errors
/// Images that cannot be read.
pub(super) fn alignment(val: &Dataset, models: &[&Model<'_>], device: &Device) -> Result<Alignment> {
    let readable = (0..val.images.len()).filter(|&index| val.pixels(index).is_ok());
    let images: Vec<usize> = readable.take(IMAGES).collect();
    // Rows of each model's levels, image after image.
    let mut sampled: Vec<Vec<(Level, Vec<Value>)>> = models.iter().map(|_| Vec::new()).collect();
    for &index in &images {
        for (model, levels) in models.iter().zip(&mut sampled) {
            for Map { level, cells, .. } in pyramid(val, index, model, device)? {
                let picked = rows(&Value::constant(cells.clone()), &evenly(cells.dim(0)?, CELLS))?;
                match levels.iter_mut().find(|(known, _)| *known == level) {
                    Some((_, rows)) => rows.push(picked),
                    None => levels.push((level, vec![picked])),
                }
            }
        }
    }
    let mut levels = Vec::new();
    let (teacher, students) = sampled.split_at(1);
    for (level, theirs) in teacher.iter().flatten() {
        let theirs = concatenate(theirs, 0)?;
        let mut own = Vec::new();
        for levels in students {
            let Some((_, rows)) = levels.iter().find(|(known, _)| known == level) else { continue };
            let kernel = Kernel { center: true, row_norm: RowNorm::Off };
            let rows = concatenate(rows, 0)?;
            // Maps of other sizes have no cells in common.
            if rows.dims()[0] == theirs.dims()[0] {
                own.push(f64::from(ka(theirs.tensor(), &rows, kernel)?.tensor().to_scalar::<f32>()?));
            }
        }
        if own.len() == students.len() {
            levels.push((level.to_string(), own));
        }
    }
    let models = models[1..].iter().map(|model| model.label.to_owned()).collect();
    Ok(Alignment { images: images.len(), cells: CELLS, models, levels })
}

/// Writes a picture of each level of each model's pyramid on one image: bright where the mean square over the channels is
/// great, on a scale of its own.
///
/// # Errors
/// An image that cannot be read; a picture that cannot be written.
pub(super) fn maps(
    val: &Dataset,
    index: usize,
    models: &[&Model<'_>],
    folder: &RunFolder,
    device: &Device,
) -> Result<Vec<ShownMaps>> {
    let mut shown: Vec<ShownMaps> = Vec::new();
    for (place, model) in models.iter().enumerate() {
        for map in pyramid(val, index, model, device)? {
            let level = map.level.to_string();
            let file = format!("map-{level}-{place}.png");
            save_png(&folder.shown().join(&file), &heat(&map)?)?;
            let panel = ShownPanel { title: model.label.to_owned(), told: None, file };
            match shown.iter_mut().find(|known| known.level == level) {
                Some(known) => known.panels.push(panel),
                None => shown.push(ShownMaps { level, panels: vec![panel] }),
            }
        }
    }
    Ok(shown)
}

/// The pyramid of `model` on an image, as far as the image covers its maps.
fn pyramid(val: &Dataset, index: usize, model: &Model<'_>, device: &Device) -> Result<Vec<Map>> {
    let image = val.pixels(index).map_err(DataError::from)?;
    let images = images_of(&[image], model.config, device)?;
    let (height, width) = images.sizes[0];
    let (padded_height, padded_width) = images.padded_size()?;
    let pyramid = untracked(|| model.detector.pyramid(&images, Mode::Inference))?;
    let map = |(&level, map): (&Level, &Value)| -> Result<Map> {
        let (_, channels, h, w) = map.tensor().dims4()?;
        let covered = |cells: usize, pixels: usize, padded: usize| {
            (cells * pixels).div_ceil(padded.max(1)).clamp(1, cells)
        };
        let (h, w) = (covered(h, height, padded_height), covered(w, width, padded_width));
        let cells = map.tensor().narrow(2, 0, h)?.narrow(3, 0, w)?.permute((0, 2, 3, 1))?;
        Ok(Map { level, cells: cells.contiguous()?.reshape((h * w, channels))?, width: w, height: h })
    };
    model.detector.levels().iter().zip(&pyramid).map(map).collect()
}

/// `most` of `count` places at even distances.
fn evenly(count: usize, most: usize) -> Vec<u32> {
    let taken = count.min(most);
    (0..taken).map(|at| (at * count / taken) as u32).collect()
}

/// A map as a picture.
fn heat(map: &Map) -> Result<RgbImage> {
    let strengths: Vec<f32> = numbers(&map.cells.sqr()?.mean(1)?)?.into_iter().map(f32::sqrt).collect();
    let most = strengths.iter().copied().fold(0.0, f32::max);
    let least = strengths.iter().copied().fold(f32::INFINITY, f32::min);
    let share = |strength: f32| if most > least { (strength - least) / (most - least) } else { 0.0 };
    let picture = RgbImage::from_fn(map.width as u32, map.height as u32, |x, y| {
        colour(share(strengths[y as usize * map.width + x as usize]))
    });
    let (width, height) = picture.dimensions();
    if width <= COLUMNS {
        return Ok(picture);
    }
    let height = (height * COLUMNS / width).max(1);
    Ok(resize(&picture, COLUMNS, height, FilterType::Triangle))
}

/// From dark to bright, evenly for the eye: five colours of matplotlib's viridis, and what lies between.
fn colour(share: f32) -> Rgb<u8> {
    const STOPS: [[f32; 3]; 5] = [
        [68.0, 1.0, 84.0],
        [59.0, 82.0, 139.0],
        [33.0, 145.0, 140.0],
        [94.0, 201.0, 98.0],
        [253.0, 231.0, 37.0],
    ];
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let place = (at as usize).min(STOPS.len() - 2);
    let between = at - place as f32;
    let mix = |channel: usize| STOPS[place][channel] * (1.0 - between) + STOPS[place + 1][channel] * between;
    Rgb([0, 1, 2].map(|channel| mix(channel).round() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_cells_are_distinct_and_spread_over_the_map() {
        assert_eq!(evenly(3, 256), [0, 1, 2]);
        assert_eq!(evenly(10, 4), [0, 2, 5, 7]);
        let many = evenly(60_000, 256);
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]) && many.len() == 256 && many[255] > 59_000);
        assert!(evenly(0, 4).is_empty());
    }

    #[test]
    fn a_map_is_dark_where_it_is_weak_and_bright_where_it_is_strong() {
        let cells = Tensor::new(&[[0f32, 0.0], [3.0, 4.0], [-1.5, -2.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let map = Map { level: "p2".parse().unwrap(), cells, width: 2, height: 2 };
        let picture = heat(&map).unwrap();
        assert_eq!(*picture.get_pixel(0, 0), Rgb([68, 1, 84]));
        assert_eq!(*picture.get_pixel(1, 0), Rgb([253, 231, 37]));
        // Half as strong.
        assert_eq!(*picture.get_pixel(0, 1), Rgb([33, 145, 140]));
    }
}
