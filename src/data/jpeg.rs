//! JPEG files to the pixels that libjpeg-turbo makes of them, as Pillow, OpenCV and torchvision do.
//!
//! A JPEG (ITU T.81) leaves the decoder some freedom: rounding of the inverse cosine transform, the way that
//! chroma is enlarged. Pixels of other decoders differ by up to 8 levels, which moves boxes by 0.3 px.

use image::error::{DecodingError, ImageFormatHint};
use image::{ImageError, ImageFormat, RgbImage};
use libjpeg_turbo_rs::common::types::{DecodeLimits, FrameHeader};
use libjpeg_turbo_rs::{ColorSpace, Decoder, PixelFormat};

/// Most scans of a progressive file; encoders write about ten. Each costs a pass over all blocks, and next to no bytes.
const MAX_SCANS: usize = 100;

/// Decodes a whole file to its stored pixels in RGB: `size` is (width, height), as its header says. `None` is a
/// frame of a rare kind, which the decoder is not trusted with: files with odd sampling made it panic.
///
/// # Errors
/// If the data is damaged anywhere, or the image has another size.
pub(super) fn decode(bytes: &[u8], size: (u32, u32)) -> Result<Option<RgbImage>, ImageError> {
    let limits = DecodeLimits { max_scans: MAX_SCANS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(broken)?;
    if decoder.is_arithmetic() || !is_common(decoder.header()) {
        return Ok(None);
    }
    let is_cmyk = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    decoder.set_output_format(if is_cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    let image = decoder.decode_image().map_err(broken)?;
    let rgb = if is_cmyk { rgb_of_inverted_cmyk(&image.data) } else { image.data };
    match (image.width, image.height) == (size.0 as usize, size.1 as usize) {
        true => RgbImage::from_raw(size.0, size.1, rgb).map(Some).ok_or_else(|| broken("pixels are missing")),
        false => Err(broken("the frame's size is not the header's")),
    }
}

/// Whether a frame is grey, colour as 4:4:4, 4:2:2, 4:4:0 or 4:2:0, or four inks, in 8 bits: what encoders write.
fn is_common(frame: &FrameHeader) -> bool {
    let sampling: Vec<_> =
        frame.components.iter().map(|part| (part.horizontal_sampling, part.vertical_sampling)).collect();
    let is_usual = matches!(
        sampling[..],
        [(1, 1) | (2, 2)]
            | [(1 | 2, 1 | 2), (1, 1), (1, 1)]
            | [(1, 1), (1, 1), (1, 1), (1, 1)]
            | [(2, 2), (1, 1), (1, 1), (2, 2)]
    );
    is_usual && frame.precision == 8 && !frame.is_lossless
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImageError {
    ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Jpeg), error))
}

/// Four inks in RGB: each colour is white without its ink and without black, multiplied in 8 bits.
/// Adobe's programs write the inks inverted, and Pillow takes every file for theirs.
fn rgb_of_inverted_cmyk(pixels: &[u8]) -> Vec<u8> {
    let (pixels, _) = pixels.as_chunks::<4>();
    pixels.iter().flat_map(|&[c, m, y, k]| [c, m, y].map(|ink| k - product(255 - ink, k))).collect()
}

/// `a * b / 255`, rounded.
fn product(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}
