//! Bilinear resampling of RGB images, row by row: what fills a batch.
//!
//! Along an axis an output is `near_weight · near + far_weight · far` of two source pixels, a [`Tap`]. A row
//! of the result lies [`between`] two source rows, each resampled along itself by [`Columns::across`]; this
//! is PyTorch's order of operations, and the result is the same bits at every [`Simd`](crate::Simd) level.
//! Every value of the batch is written once: rows are appended to it.
//!
//! Rows are channels last. Along a row, 16 outputs look at few neighbouring pixels unless the image shrinks
//! by more than a third: with AVX-512 their sources are two registers, and one permutation each gives all
//! that are near and all that are far. Elsewhere a pixel is moved as 4 values, the last of which the next
//! pixel overwrites.

use crate::simd::for_each_level;

/// Channels of a pixel.
const CHANNELS: usize = 3;

/// Number of values that a row's buffer has beyond its pixels, whatever they are: vectors reach that far.
pub const ROW_SLACK: usize = WINDOW;

/// The two source pixels that an output pixel lies between along one axis, and their shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// The one at or before the position.
    pub near: u32,
    /// The one after it, or the same at the border.
    pub far: u32,
    /// The share of `near`.
    pub near_weight: f32,
    /// The share of `far`.
    pub far_weight: f32,
}

for_each_level! {
    /// Converts bytes to floats in [0, 1]: `b / 255`, rounded once, as torchvision's `to_tensor` does.
    ///
    /// Converts as many as the shorter of the two slices has.
    pub fn bytes_to_unit(bytes: &[u8], out: &mut [f32]) {
        for (out, &byte) in out.iter_mut().zip(bytes) {
            *out = f32::from(byte) / 255.0;
        }
    }

    fn append_between(near: &[f32], far: &[f32], weights: [f32; 2], out: &mut Vec<f32>) {
        out.extend(near.iter().zip(far).map(|(near, far)| weights[0] * near + weights[1] * far));
    }
}

/// Appends the row that lies between two rows.
///
/// # Panics
/// If the rows differ in length.
pub fn between(near: &[f32], far: &[f32], weights: [f32; 2], out: &mut Vec<f32>) {
    assert_eq!(near.len(), far.len(), "rows of one image");
    append_between(near, far, weights, out);
}

/// The columns of a resampled image.
#[derive(Debug, Clone)]
pub struct Columns {
    taps: Vec<Tap>,
    /// By 16 outputs; `None` if their sources do not fit a window.
    blocks: Option<Vec<Block>>,
    /// Pixels that a source row must have.
    source_pixels: usize,
}

/// Outputs of a block: one AVX-512 register.
const BLOCK: usize = 16;

/// Source values that the outputs of a block may be taken from: two registers.
const WINDOW: usize = 2 * BLOCK;

#[derive(Debug, Clone)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
struct Block {
    /// The first source value of the window.
    start: usize,
    /// Places in the window, below [`WINDOW`].
    near: [u8; BLOCK],
    far: [u8; BLOCK],
    near_weight: [f32; BLOCK],
    far_weight: [f32; BLOCK],
}

impl Columns {
    /// Makes the columns of an image whose output pixel i lies at `taps[i]`.
    pub fn new(taps: Vec<Tap>) -> Self {
        let values = taps.len() * CHANNELS;
        let blocks = (0..values).step_by(BLOCK).map(|first| Block::new(&taps, first)).collect();
        let last = taps.iter().map(|tap| tap.near.max(tap.far) as usize + 1).max();
        Self { taps, blocks, source_pixels: last.unwrap_or(0) }
    }

    /// Resamples a row of pixels. Both rows have [`ROW_SLACK`] values beyond their pixels.
    ///
    /// # Panics
    /// If `row` or `out` is too short.
    pub fn across(&self, row: &[f32], out: &mut [f32]) {
        assert!(row.len() >= self.source_pixels * CHANNELS + ROW_SLACK, "a source for every column");
        assert!(out.len() >= self.taps.len() * CHANNELS + ROW_SLACK, "a place for every column");
        match &self.blocks {
            #[cfg(target_arch = "x86_64")]
            Some(blocks) if crate::Simd::level() == crate::Simd::Avx512 => {
                // SAFETY: the processor has AVX-512. A window starts at a pixel of the source, and a block at
                // one of the output's values, both of which have a window's length behind them.
                unsafe { across_avx512(blocks, row, out) }
            }
            _ => across_plain(&self.taps, row, out),
        }
    }
}

impl Block {
    /// The outputs from value `first` on; those beyond the row repeat its last pixel.
    fn new(taps: &[Tap], first: usize) -> Option<Self> {
        let tap = |place: usize| &taps[((first + place) / CHANNELS).min(taps.len() - 1)];
        let start = (0..BLOCK).map(|place| tap(place).near.min(tap(place).far)).min()? as usize * CHANNELS;
        let mut block = Self {
            start,
            near: [0; BLOCK],
            far: [0; BLOCK],
            near_weight: std::array::from_fn(|place| tap(place).near_weight),
            far_weight: std::array::from_fn(|place| tap(place).far_weight),
        };
        for place in 0..BLOCK {
            let of = |pixel: u32| pixel as usize * CHANNELS + (first + place) % CHANNELS - start;
            let (near, far) = (of(tap(place).near), of(tap(place).far));
            if near.max(far) >= WINDOW {
                return None;
            }
            (block.near[place], block.far[place]) = (near as u8, far as u8);
        }
        Some(block)
    }
}

/// Values moved at a time: a pixel and the next one's first.
const LANES: usize = 4;

fn across_plain(taps: &[Tap], row: &[f32], out: &mut [f32]) {
    let pixel = |at: u32| -> [f32; LANES] {
        *row[at as usize * CHANNELS..].first_chunk().expect("a row has its pixels and slack")
    };
    for (place, tap) in taps.iter().enumerate() {
        let (near, far) = (pixel(tap.near), pixel(tap.far));
        let mixed: [f32; LANES] =
            std::array::from_fn(|lane| tap.near_weight * near[lane] + tap.far_weight * far[lane]);
        out[place * CHANNELS..][..LANES].copy_from_slice(&mixed);
    }
}

/// # Safety
/// `row` has [`WINDOW`] values from each block's start, `out` has [`BLOCK`] values a block.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn across_avx512(blocks: &[Block], row: &[f32], out: &mut [f32]) {
    use std::arch::x86_64::*;
    for (place, block) in blocks.iter().enumerate() {
        debug_assert!(block.start + WINDOW <= row.len() && (place + 1) * BLOCK <= out.len());
        // SAFETY: the window and the block lie within their rows, as the caller promised; the block's arrays
        // have the length of what is read of them.
        unsafe {
            let places = |bytes: &[u8; BLOCK]| _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let window = row.as_ptr().add(block.start);
            let (low, high) = (_mm512_loadu_ps(window), _mm512_loadu_ps(window.add(BLOCK)));
            let near = _mm512_permutex2var_ps(low, places(&block.near), high);
            let far = _mm512_permutex2var_ps(low, places(&block.far), high);
            // Not fused: the same bits as the plain loop's.
            let near = _mm512_mul_ps(_mm512_loadu_ps(block.near_weight.as_ptr()), near);
            let far = _mm512_mul_ps(_mm512_loadu_ps(block.far_weight.as_ptr()), far);
            _mm512_storeu_ps(out.as_mut_ptr().add(place * BLOCK), _mm512_add_ps(near, far));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Half-pixel taps from `input` pixels to `output`.
    fn taps(input: u32, output: u32, mirror: bool) -> Vec<Tap> {
        let scale = input as f32 / output as f32;
        let tap = |place: u32| {
            let at = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
            let near = (at as u32).min(input - 1);
            let far = (near + 1).min(input - 1);
            let far_weight = (at - near as f32).clamp(0.0, 1.0);
            let flip = |pixel: u32| if mirror { input - 1 - pixel } else { pixel };
            Tap { near: flip(near), far: flip(far), near_weight: 1.0 - far_weight, far_weight }
        };
        (0..output).map(tap).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn every_way_across_a_row_gives_the_same_bits(
            input in 1u32..90,
            output in 1u32..150,
            mirror: bool,
            bytes in prop::collection::vec(any::<u8>(), 90 * 3),
        ) {
            let taps = taps(input, output, mirror);
            let pixels = input as usize * CHANNELS;
            let mut row = vec![f32::NAN; pixels + ROW_SLACK];
            bytes_to_unit(&bytes[..pixels], &mut row);
            let expected: Vec<f32> = taps
                .iter()
                .flat_map(|tap| [0, 1, 2].map(|channel| {
                    let value = |pixel: u32| f32::from(bytes[pixel as usize * CHANNELS + channel]) / 255.0;
                    tap.near_weight * value(tap.near) + tap.far_weight * value(tap.far)
                }))
                .collect();
            let mut out = vec![f32::NAN; expected.len() + ROW_SLACK];
            across_plain(&taps, &row, &mut out);
            prop_assert_eq!(bits(&out[..expected.len()]), bits(&expected));
            // The level in use, whose blocks fit a window or not.
            let mut out = vec![f32::NAN; expected.len() + ROW_SLACK];
            Columns::new(taps).across(&row, &mut out);
            prop_assert_eq!(bits(&out[..expected.len()]), bits(&expected));
        }

        #[test]
        fn a_row_between_two_is_appended(
            near in prop::collection::vec(0f32..1.0, 0..70),
            share in 0f32..=1.0,
        ) {
            let far: Vec<f32> = near.iter().rev().copied().collect();
            let mut out = vec![7.0];
            between(&near, &far, [1.0 - share, share], &mut out);
            let expected = near.iter().zip(&far).map(|(near, far)| (1.0 - share) * near + share * far);
            let expected: Vec<f32> = std::iter::once(7.0).chain(expected).collect();
            prop_assert_eq!(bits(&out), bits(&expected));
        }
    }

    #[test]
    fn windows_serve_enlarging_and_mild_shrinking() {
        for (input, output, fits) in
            [(640, 1066, true), (640, 640, true), (1200, 1000, true), (900, 300, false)]
        {
            for mirror in [false, true] {
                assert_eq!(
                    Columns::new(taps(input, output, mirror)).blocks.is_some(),
                    fits,
                    "{input} to {output}"
                );
            }
        }
    }

    #[test]
    fn bytes_become_the_nearest_fraction_of_255() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut out = vec![0.0; 256];
        bytes_to_unit(&bytes, &mut out);
        let expected: Vec<f32> = (0..=255).map(|byte| (f64::from(byte) / 255.0) as f32).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn no_columns_are_no_pixels() {
        Columns::new(Vec::new()).across(&[0.0; ROW_SLACK], &mut [0.0; ROW_SLACK]);
    }

    #[test]
    #[should_panic(expected = "a source for every column")]
    fn a_row_that_is_too_short_is_refused() {
        Columns::new(taps(5, 5, false)).across(&[0.0; 4 * CHANNELS + ROW_SLACK], &mut [0.0; 100]);
    }
}
