//! Resizing and flipping, as torchvision's `GeneralizedRCNNTransform` does.
//!
//! Source: torchvision `models/detection/transform.py` and PyTorch's `interpolate(mode="bilinear",
//! align_corners=False, antialias=False, recompute_scale_factor=True)`. Sizes, weights and boxes are
//! computed in f32 in PyTorch's order of operations, so they agree with it to the last digit or two.
//!
//! Pixels come out as RGB in [0, 1], channels last. Mean and standard deviation belong to each model
//! and are applied there; as the weights of a pixel sum to 1, the order does not matter.

use image::RgbImage;

/// How large an image becomes: its short side is brought to `short_side_px`, unless its long side
/// would then exceed `long_side_max_px`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeRule {
    /// Wanted length of the shorter side.
    pub short_side_px: u32,
    /// Most that the longer side may have.
    pub long_side_max_px: u32,
}

impl ResizeRule {
    /// The (height, width) that an image of `height` x `width` becomes.
    ///
    /// The scale is rounded to f32 and the product rounded down, as torchvision does: 640 may become
    /// 799 and not 800. A side never becomes 0.
    pub fn resized(self, height: u32, width: u32) -> (usize, usize) {
        let (short, long) = (height.min(width) as f32, height.max(width) as f32);
        let scale = (self.short_side_px as f32 / short).min(self.long_side_max_px as f32 / long);
        let scaled = |side: u32| ((f64::from(side) * f64::from(scale)) as usize).max(1);
        (scaled(height), scaled(width))
    }
}

/// Whether left and right change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// As it is.
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

    /// Resamples `image` to the top left of `slot`, whose rows are `slot_width` pixels of 3 values.
    /// The rest of the slot is left as it is.
    ///
    /// # Panics
    /// When `image` is not of the original size or the slot is too small for the resized one.
    pub fn render(&self, image: &RgbImage, slot: &mut [f32], slot_width: usize) {
        assert_eq!((image.height(), image.width()), self.original, "the image the placement was made for");
        self.resample(image.as_raw(), slot, slot_width);
    }

    /// Each source row that is needed is resampled horizontally once; two such rows, kept, make an
    /// output row.
    fn resample<S: Sample>(&self, source: &[S], slot: &mut [f32], slot_width: usize) {
        let (height, width) = (self.original.0 as usize, self.original.1 as usize);
        let columns = taps(width, self.resized.1);
        let columns: Vec<Tap> = match self.flip {
            Flip::None => columns.collect(),
            Flip::Horizontal => columns.map(|tap| tap.mirrored(width)).collect(),
        };
        let row_len = self.resized.1 * 3;
        let mut upper = Row { source: usize::MAX, values: vec![0.0; row_len] };
        let mut lower = upper.clone();
        for (tap, out) in taps(height, self.resized.0).zip(slot.chunks_mut(slot_width * 3)) {
            if lower.source == tap.near {
                std::mem::swap(&mut upper, &mut lower);
            }
            upper.fill(tap.near, source, width, &columns);
            lower.fill(tap.far, source, width, &columns);
            let rows = upper.values.iter().zip(&lower.values);
            for (out, (near, far)) in out[..row_len].iter_mut().zip(rows) {
                *out = tap.near_weight * near + tap.far_weight * far;
            }
        }
    }
}

/// The two source pixels that an output pixel lies between, along one axis.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tap {
    near: usize,
    far: usize,
    near_weight: f32,
    far_weight: f32,
}

impl Tap {
    fn mirrored(self, len: usize) -> Self {
        Self { near: len - 1 - self.near, far: len - 1 - self.far, ..self }
    }
}

/// PyTorch's half-pixel rule: output `i` looks at source (i + 1/2) * in/out - 1/2, from 0 on.
fn taps(input: usize, output: usize) -> impl DoubleEndedIterator<Item = Tap> {
    let scale = input as f32 / output as f32;
    (0..output).map(move |place| {
        let at = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
        let near = (at as usize).min(input - 1);
        let far_weight = (at - near as f32).clamp(0.0, 1.0);
        Tap { near, far: (near + 1).min(input - 1), near_weight: 1.0 - far_weight, far_weight }
    })
}

/// A source row resampled to the output's columns.
#[derive(Clone)]
struct Row {
    source: usize,
    values: Vec<f32>,
}

impl Row {
    fn fill<S: Sample>(&mut self, row: usize, source: &[S], width: usize, columns: &[Tap]) {
        if self.source == row {
            return;
        }
        self.source = row;
        let pixels = &source[row * width * 3..(row + 1) * width * 3];
        for (out, tap) in self.values.chunks_exact_mut(3).zip(columns) {
            let near = &pixels[tap.near * 3..tap.near * 3 + 3];
            let far = &pixels[tap.far * 3..tap.far * 3 + 3];
            for channel in 0..3 {
                out[channel] =
                    tap.near_weight * near[channel].value() + tap.far_weight * far[channel].value();
            }
        }
    }
}

/// A stored channel value. Files have `u8`; PyTorch's golden values are made from `f32`.
trait Sample: Copy {
    /// In [0, 1].
    fn value(self) -> f32;
}

impl Sample for u8 {
    fn value(self) -> f32 {
        BYTE_TO_UNIT[usize::from(self)]
    }
}

#[cfg(test)]
impl Sample for f32 {
    fn value(self) -> f32 {
        self
    }
}

/// `b / 255`, rounded once: what torchvision's `to_tensor` gives.
static BYTE_TO_UNIT: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte as f32 / 255.0;
        byte += 1;
    }
    table
};
