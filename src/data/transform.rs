//! Resizing and flipping, as torchvision's `GeneralizedRCNNTransform` does, or as Detectron2's
//! `ResizeShortestEdge`.
//!
//! Source of the first: torchvision `models/detection/transform.py` and PyTorch's
//! `interpolate(mode="bilinear", align_corners=False, antialias=False, recompute_scale_factor=True)`. Sizes
//! are computed in f64, weights and boxes in f32 in PyTorch's order of operations, so they agree to the last
//! digit or two.
//!
//! Pixels come out as RGB in [0, 1], channels last. Mean and standard deviation belong to each model
//! and are applied there; as the weights of a pixel sum to 1, the order does not matter.

use ckd_kernels::antialias::resize_antialiased;
use ckd_kernels::resample::{self, Columns, ROW_SLACK, Tap};
use ckd_settings::choices;
use image::RgbImage;

choices! {
    /// Resampling of an image's pixels, and rounding of its new size.
    pub enum Resize {
        /// torchvision's: bilinear of two neighbours in f32, no antialiasing; sizes are rounded down.
        Bilinear = "bilinear",
        /// Detectron2's, by Pillow: bilinear over all pixels that an output pixel covers, in 8 bits; sizes
        /// are rounded to the nearest.
        PilBilinear = "pil_bilinear",
    }
}

/// Size of a resized image: its short side becomes `short_side_px`, unless its long side would then
/// exceed `long_side_max_px`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeRule {
    /// Wanted length of the shorter side.
    pub short_side_px: u32,
    /// Most that the longer side may have.
    pub long_side_max_px: u32,
    /// Rounding of sizes, and resampling of pixels.
    pub resize: Resize,
}

impl ResizeRule {
    /// The (height, width) that an image of `height` x `width` becomes.
    ///
    /// Computed in f64. torchvision's is rounded down, as it does outside of tracing and scripting;
    /// Detectron2's (`ResizeShortestEdge`) to the nearest. A side never becomes 0.
    pub fn resized(self, height: u32, width: u32) -> (usize, usize) {
        match self.resize {
            Resize::Bilinear => self.rounded_down(height, width),
            Resize::PilBilinear => self.rounded(height, width),
        }
    }

    /// The rule of an image that is to be larger by `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let scaled = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let [short_side_px, long_side_max_px] = [self.short_side_px, self.long_side_max_px].map(scaled);
        Self { short_side_px, long_side_max_px, ..self }
    }

    fn rounded_down(self, height: u32, width: u32) -> (usize, usize) {
        let (short, long) = (f64::from(height.min(width)), f64::from(height.max(width)));
        let scale = (f64::from(self.short_side_px) / short).min(f64::from(self.long_side_max_px) / long);
        let scaled = |side: u32| ((f64::from(side) * scale) as usize).max(1);
        (scaled(height), scaled(width))
    }

    fn rounded(self, height: u32, width: u32) -> (usize, usize) {
        let (short, most) = (f64::from(self.short_side_px), f64::from(self.long_side_max_px));
        let (height, width) = (f64::from(height), f64::from(width));
        let scale = short / height.min(width);
        let (mut rows, mut columns) =
            if height < width { (short, scale * width) } else { (scale * height, short) };
        if rows.max(columns) > most {
            // In two steps, as there: the last digit may decide a rounding.
            let scale = most / rows.max(columns);
            (rows, columns) = (rows * scale, columns * scale);
        }
        [rows, columns].map(|side| ((side + 0.5) as usize).max(1)).into()
    }
}

/// Horizontal flip of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// Not flipped.
    None,
    /// Mirrored.
    Horizontal,
}

/// The way one image and its boxes go: flip, then resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// (height, width) of the original.
    pub original: (u32, u32),
    /// (height, width) it becomes.
    pub resized: (usize, usize),
    /// Mirrored or not.
    pub flip: Flip,
}

impl Placement {
    /// A box `xyxy` in pixels of the original, in pixels of the resized image.
    pub fn map_box(&self, [x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
        let width = self.original.1 as f32;
        let [x1, x2] = match self.flip {
            Flip::None => [x1, x2],
            Flip::Horizontal => [width - x2, width - x1],
        };
        let across = self.resized.1 as f32 / width;
        let down = self.resized.0 as f32 / self.original.0 as f32;
        [x1 * across, y1 * down, x2 * across, y2 * down]
    }

    /// Appends `image`, resampled by `resize`, to `batch`: `slot` (height, width) pixels of 3 values, 0
    /// beyond the image.
    ///
    /// # Panics
    /// When `image` is not of the original size or the slot is too small for the resized one.
    pub fn render(&self, image: &RgbImage, resize: Resize, slot: (usize, usize), batch: &mut Vec<f32>) {
        assert_eq!((image.height(), image.width()), self.original, "the image the placement was made for");
        match resize {
            Resize::Bilinear => {
                let row_len = image.width() as usize * 3;
                self.resample(slot, batch, |row, out| {
                    resample::bytes_to_unit(&image.as_raw()[row * row_len..][..row_len], out);
                });
            }
            Resize::PilBilinear => self.antialias(image, slot, batch),
        }
    }

    /// Resizes in 8 bits, then flips.
    fn antialias(&self, image: &RgbImage, slot: (usize, usize), batch: &mut Vec<f32>) {
        let (rows, columns) = self.resized;
        assert!(rows <= slot.0 && columns <= slot.1, "a slot of {slot:?} for an image of {:?}", self.resized);
        let original = (self.original.0 as usize, self.original.1 as usize);
        let mut resized = resize_antialiased(image.as_raw(), original, self.resized);
        let start = batch.len();
        batch.resize(start + slot.0 * slot.1 * 3, 0.0);
        let places = batch[start..].chunks_exact_mut(slot.1 * 3);
        for (row, place) in resized.chunks_exact_mut(columns * 3).zip(places) {
            if self.flip == Flip::Horizontal {
                // All channels backwards, then each pixel's.
                row.reverse();
                row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
            }
            resample::bytes_to_unit(row, place);
        }
    }

    /// `read` puts a source row in [0, 1] at the start of a buffer. Each row that is needed is read and
    /// resampled horizontally once; two such rows, kept, make an output row.
    fn resample(&self, slot: (usize, usize), batch: &mut Vec<f32>, read: impl Fn(usize, &mut [f32])) {
        let ((height, width), (rows, columns)) = (self.original, self.resized);
        assert!(rows <= slot.0 && columns <= slot.1, "a slot of {slot:?} for an image of {:?}", self.resized);
        let turned = |tap| if self.flip == Flip::Horizontal { mirrored(tap, width) } else { tap };
        let grid = Columns::new(taps(width, columns).map(turned).collect());
        let source_len = width as usize * 3;
        let mut source = vec![0.0; source_len + ROW_SLACK];
        let mut fill = |kept: &mut Row, row: u32| {
            if kept.source != Some(row) {
                kept.source = Some(row);
                read(row as usize, &mut source[..source_len]);
                grid.across(&source, &mut kept.values);
            }
        };
        let mut upper = Row { source: None, values: vec![0.0; columns * 3 + ROW_SLACK] };
        let mut lower = upper.clone();
        let row_len = columns * 3;
        for Tap { near, far, near_weight, far_weight } in taps(height, rows) {
            if lower.source == Some(near) {
                std::mem::swap(&mut upper, &mut lower);
            }
            fill(&mut upper, near);
            fill(&mut lower, far);
            let weights = [near_weight, far_weight];
            resample::between(&upper.values[..row_len], &lower.values[..row_len], weights, batch);
            batch.resize(batch.len() + (slot.1 - columns) * 3, 0.0);
        }
        batch.resize(batch.len() + (slot.0 - rows) * slot.1 * 3, 0.0);
    }
}

/// PyTorch's half-pixel rule: output `i` looks at source (i + 1/2) * in/out - 1/2, from 0 on.
fn taps(input: u32, output: usize) -> impl Iterator<Item = Tap> {
    let scale = input as f32 / output as f32;
    (0..output).map(move |place| {
        let at = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
        let near = (at as u32).min(input - 1);
        let far_weight = (at - near as f32).clamp(0.0, 1.0);
        Tap { near, far: (near + 1).min(input - 1), near_weight: 1.0 - far_weight, far_weight }
    })
}

fn mirrored(tap: Tap, len: u32) -> Tap {
    Tap { near: len - 1 - tap.near, far: len - 1 - tap.far, ..tap }
}

/// A source row resampled to the output's columns.
#[derive(Clone)]
struct Row {
    source: Option<u32>,
    values: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ckd_golden as golden;

    #[test]
    fn sizes_are_those_of_torchvision() {
        golden::each_case("resize_rule", |case| {
            let rule = ResizeRule {
                short_side_px: case.attr_usize("min_size") as u32,
                long_side_max_px: case.attr_usize("max_size") as u32,
                resize: Resize::Bilinear,
            };
            let (table, shape) = case.i64("table");
            let mut got = Vec::with_capacity(table.len());
            for row in table.chunks_exact(shape[1]) {
                let (height, width) = rule.resized(row[0] as u32, row[1] as u32);
                let padded = [height, width].map(|side| side.next_multiple_of(32) as i64);
                got.extend([row[0], row[1], height as i64, width as i64, padded[0], padded[1]]);
            }
            case.check_exact("table", &got);
        });
    }

    #[test]
    fn pixels_and_boxes_are_those_of_torchvision() {
        golden::each_case("transform_batch", |case| {
            let rule = ResizeRule {
                short_side_px: case.attr_usize("min_size") as u32,
                long_side_max_px: case.attr_usize("max_size") as u32,
                resize: Resize::Bilinear,
            };
            // torchvision normalises first: (x - mean) / std with these.
            let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
            let (height, width) = (128, 96);
            let mut batch = Vec::new();
            for image in 0..2 {
                let (planes, shape) = case.f32(&format!("image{image}"));
                let (h, w) = (shape[1], shape[2]);
                let source: Vec<f32> = (0..h * w)
                    .flat_map(|pixel| [0, 1, 2].map(|c| (planes[c * h * w + pixel] - mean[c]) / std[c]))
                    .collect();
                let original = (h as u32, w as u32);
                let resized = rule.resized(original.0, original.1);
                let placement = Placement { original, resized, flip: Flip::None };
                let mut slot = Vec::new();
                placement.resample((height, width), &mut slot, |row, out| {
                    out.copy_from_slice(&source[row * w * 3..][..w * 3]);
                });
                batch
                    .extend((0..3).flat_map(|c| slot.iter().skip(c).step_by(3).copied().collect::<Vec<_>>()));

                let boxes = case.boxes(&format!("boxes{image}"));
                let moved: Vec<f32> =
                    boxes.into_iter().flat_map(|corners| placement.map_box(corners)).collect();
                case.check_close(&format!("out_boxes{image}"), &moved);
            }
            case.check_close("batch", &batch);
        });
    }

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 7, y as u8 * 5, (x * y) as u8]))
    }

    fn rendered(image: &RgbImage, resized: (usize, usize), flip: Flip) -> Vec<f32> {
        rendered_by(Resize::Bilinear, image, resized, flip)
    }

    fn rendered_by(resize: Resize, image: &RgbImage, resized: (usize, usize), flip: Flip) -> Vec<f32> {
        let placement = Placement { original: (image.height(), image.width()), resized, flip };
        let mut slot = Vec::new();
        placement.render(image, resize, resized, &mut slot);
        slot
    }

    #[test]
    fn an_image_of_the_wanted_size_is_copied_exactly() {
        let image = picture(13, 9);
        let expected: Vec<f32> = image.as_raw().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        assert_eq!(rendered(&image, (9, 13), Flip::None), expected);
    }

    #[test]
    fn a_flipped_image_is_the_mirrored_one_resized() {
        let image = picture(13, 9);
        let mirrored = image::imageops::flip_horizontal(&image);
        for resized in [(9, 13), (20, 31), (5, 7), (1, 1)] {
            let flipped = rendered(&image, resized, Flip::Horizontal);
            let reference = rendered(&mirrored, resized, Flip::None);
            assert_eq!(flipped, reference);
        }
    }

    #[test]
    fn a_flipped_box_holds_the_same_pixels() {
        let placement = Placement { original: (50, 100), resized: (100, 200), flip: Flip::Horizontal };
        assert_eq!(placement.map_box([10.0, 5.0, 30.0, 25.0]), [140.0, 10.0, 180.0, 50.0]);
        assert_eq!(placement.map_box([0.0, 0.0, 100.0, 50.0]), [0.0, 0.0, 200.0, 100.0]);
    }

    #[test]
    fn a_sliver_keeps_a_pixel() {
        let rule = ResizeRule { short_side_px: 800, long_side_max_px: 1333, resize: Resize::Bilinear };
        assert_eq!(rule.resized(1, 5000), (1, 1333));
        let image = picture(40, 1);
        assert!(rendered(&image, (1, 3), Flip::None).iter().all(|value| (0.0..=1.0).contains(value)));
        let pixel = picture(1, 1);
        assert!(rendered(&pixel, (4, 4), Flip::Horizontal).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn pixels_beyond_the_image_are_0() {
        for resize in Resize::ALL.iter().copied() {
            let image = RgbImage::from_pixel(4, 4, image::Rgb([255; 3]));
            let placement = Placement { original: (4, 4), resized: (4, 4), flip: Flip::None };
            let mut batch = vec![-1.0];
            placement.render(&image, resize, (6, 8), &mut batch);
            assert_eq!((batch[0], batch.len()), (-1.0, 1 + 6 * 8 * 3), "it is appended");
            for (place, value) in batch[1..].iter().enumerate() {
                let (row, column) = (place / 24, place % 24 / 3);
                assert_eq!(*value, if row < 4 && column < 4 { 1.0 } else { 0.0 });
            }
        }
    }

    #[test]
    fn pils_sizes_are_those_of_detectron2() {
        // By detectron2's `ResizeShortestEdge.get_output_shape`, in Python: (height, width) of the image,
        // shortest edge, longest side, result (and 1 for its 0).
        for (height, width, short_side_px, long_side_max_px, resized) in [
            (480, 640, 800, 1333, (800, 1067)),
            (427, 640, 800, 1333, (800, 1199)),
            (640, 426, 800, 1333, (1202, 800)),
            (375, 500, 800, 1333, (800, 1067)),
            (333, 500, 640, 1333, (640, 961)),
            (300, 900, 800, 1333, (444, 1333)),
            (1, 5000, 800, 1333, (1, 1333)),
            (500, 500, 800, 1333, (800, 800)),
        ] {
            let rule = ResizeRule { short_side_px, long_side_max_px, resize: Resize::PilBilinear };
            assert_eq!(rule.resized(height, width), resized, "{height} x {width}");
        }
    }

    #[test]
    fn an_image_resized_by_pillow_is_bytes_and_flips_as_a_whole() {
        let image = picture(13, 9);
        for resized in [(9, 13), (4, 5), (20, 31)] {
            let straight = rendered_by(Resize::PilBilinear, &image, resized, Flip::None);
            assert!(straight.iter().all(|value| (value * 255.0).fract().abs() < 1e-4));
            let flipped = rendered_by(Resize::PilBilinear, &image, resized, Flip::Horizontal);
            for (row, mirrored) in straight.chunks(resized.1 * 3).zip(flipped.chunks(resized.1 * 3)) {
                let pixels: Vec<&[f32]> = row.chunks(3).rev().collect();
                assert_eq!(pixels.concat(), mirrored);
            }
        }
    }
}
