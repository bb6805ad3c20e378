//! Image files to upright 8-bit RGB.
//!
//! JPEG (grey, YCbCr, CMYK), PNG (grey, palette, alpha, 16 bit), BMP, GIF (the first frame), TIFF and WebP
//! become `RgbImage`; alpha is dropped and 16 bits are rounded to 8, as PIL's `convert("RGB")` does for those
//! modes; a JPEG's pixels are libjpeg-turbo's ([`DECODER`]). The EXIF orientation is applied. The file's format is
//! told by its first bytes, not by its name.
//!
//! Memory is bounded by what a file can hold: `claims` refuses a header that promises more
//! pixels than the file's bytes can describe, and the decoder gets as much memory as the header needs.
//!
//! A file that is cut short is an error: JPEG decoders fill the missing part with grey, which would
//! train on nothing without a word, so the JPEG markers are walked to the end-of-image marker first.

use std::fs::File;
use std::io::{self, Cursor, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

use super::{claims, jpeg};

/// The largest image that is decoded, in pixels: 400 MB as RGB. Larger ones are taken for attacks.
pub const MAX_PIXELS: u64 = 1 << 27;

/// The decoder of JPEG files, as reports and exported weights name it.
pub const DECODER: &str = "libjpeg-turbo's pixels (libjpeg-turbo-rs), as Pillow and OpenCV have them";

/// Why an image file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file could not be read.
    #[error("cannot read image {}: {source}", path.display())]
    Read {
        /// The image file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file of no known format.
    #[error("{} is none of JPEG, PNG, BMP, GIF, TIFF, WebP; convert it, or take it out of the data set", path.display())]
    UnknownFormat {
        /// The image file.
        path: PathBuf,
    },
    /// Pixels that are floating-point numbers.
    #[error("{} holds floating-point pixels, whose white is not known; convert it to 8 or 16 bits", path.display())]
    FloatPixels {
        /// The image file.
        path: PathBuf,
    },
    /// The header promises more pixels than [`MAX_PIXELS`].
    #[error("{} claims to be {width}x{height} pixels, more than the limit of {MAX_PIXELS}; tile or shrink it", path.display())]
    TooLarge {
        /// The image file.
        path: PathBuf,
        /// Pixels across, by the header.
        width: u32,
        /// Pixels down, by the header.
        height: u32,
    },
    /// The header promises more pixels than the file can hold.
    #[error(
        "{} claims to be {width}x{height} pixels, more than its {bytes} bytes can hold; copy or download it again",
        path.display()
    )]
    Implausible {
        /// The image file.
        path: PathBuf,
        /// Pixels across, by the header.
        width: u32,
        /// Pixels down, by the header.
        height: u32,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The file ends before the image does.
    #[error("{} is cut short (no end of the image); copy or download it again", path.display())]
    Truncated {
        /// The image file.
        path: PathBuf,
    },
    /// The decoder gave up.
    #[error("cannot decode {}: {source}; copy or download it again", path.display())]
    Broken {
        /// The image file.
        path: PathBuf,
        /// The decoder's error.
        source: ImageError,
    },
    /// The function that makes a data set's images failed.
    #[error("image {image} could not be made: {source}")]
    Given {
        /// The image's name.
        image: String,
        /// The function's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The annotations are about an image of another size.
    #[error(
        "{} is {}x{} pixels but the annotations say {}x{}: its boxes would be wrong; use the images the annotations were made on",
        path.display(), decoded.0, decoded.1, annotated.0, annotated.1
    )]
    SizeDiffers {
        /// The image file.
        path: PathBuf,
        /// (width, height) of the file, upright.
        decoded: (u32, u32),
        /// (width, height) in the annotations.
        annotated: (u32, u32),
    },
}

/// Reads an image file, upright.
pub fn read(path: &Path) -> Result<RgbImage, DecodeError> {
    decode(path, &load(path)?, None)
}

/// Reads an image file whose annotations were made on `width` x `height` pixels.
///
/// Some data sets were annotated on the stored pixels, ignoring the EXIF orientation. Where the sizes
/// tell (the stored size is the annotated one, the upright size is not), the stored pixels are used.
/// Every other difference is an error: wrong boxes are worse than none.
pub fn read_annotated(path: &Path, width: u32, height: u32) -> Result<RgbImage, DecodeError> {
    decode(path, &load(path)?, Some((width, height)))
}

/// Sizes that an image file's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// (width, height) of the pixels as they are stored.
    pub stored: (u32, u32),
    /// (width, height) after the EXIF orientation.
    pub upright: (u32, u32),
    /// Whether the EXIF orientation changes anything.
    pub turned: bool,
}

/// (width, height) of an image file, upright, from its header alone.
///
/// # Errors
/// Errors of [`header`], except for a file that is cut short.
pub fn size(path: &Path) -> Result<(u32, u32), DecodeError> {
    Ok(head_of(path)?.2.upright)
}

/// Reads the header of an image file, and looks whether a JPEG, PNG or WebP has its end.
///
/// # Errors
/// If the file cannot be read, has a header that cannot be, or is cut short.
pub fn header(path: &Path) -> Result<Header, DecodeError> {
    let read = |source| DecodeError::Read { path: path.to_owned(), source };
    let (mut file, format, header) = head_of(path)?;
    let length = file.metadata().map_err(read)?.len();
    let mut tail = [0; TAIL];
    if length < TAIL as u64 {
        return Err(DecodeError::Truncated { path: path.to_owned() });
    }
    file.seek(SeekFrom::End(-(TAIL as i64))).and_then(|_| file.read_exact(&mut tail)).map_err(read)?;
    // Nearly every file ends where its image ends; only another one is read to be sure.
    let ends_there = match format {
        ImageFormat::Jpeg => tail.ends_with(&[0xff, END_OF_IMAGE]),
        ImageFormat::Png => tail[4..8] == *b"IEND",
        ImageFormat::WebP => false,
        _ => true,
    };
    if !ends_there && !has_an_end(format, &load(path)?) {
        return Err(DecodeError::Truncated { path: path.to_owned() });
    }
    Ok(header)
}

/// Bytes that hold the header of nearly every image.
const HEAD: u64 = 1 << 16;

/// Bytes at the end of a file that show whether it is whole: PNG's last chunk.
const TAIL: usize = 12;

/// The open file, its format and its header.
fn head_of(path: &Path) -> Result<(File, ImageFormat, Header), DecodeError> {
    let read = |source| DecodeError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut head = Vec::with_capacity(length.min(HEAD) as usize);
    (&mut file).take(HEAD).read_to_end(&mut head).map_err(read)?;
    // A header behind more than that of metadata is rare, and a head that ends within it is an error.
    let (format, header) = header_of(path, &head, length).or_else(|error| match length > HEAD {
        true => header_of(path, &load(path)?, length),
        false => Err(error),
    })?;
    Ok((file, format, header))
}

fn header_of(path: &Path, bytes: &[u8], length: u64) -> Result<(ImageFormat, Header), DecodeError> {
    let (format, mut decoder) = open(path, bytes, length)?;
    let orientation = decoder.orientation().map_err(broken(path))?;
    let stored = decoder.dimensions();
    let upright = upright(stored, orientation);
    Ok((format, Header { stored, upright, turned: orientation != Orientation::NoTransforms }))
}

fn load(path: &Path) -> Result<Vec<u8>, DecodeError> {
    std::fs::read(path).map_err(|source| DecodeError::Read { path: path.to_owned(), source })
}

fn broken(path: &Path) -> impl FnOnce(ImageError) -> DecodeError + '_ {
    move |source| DecodeError::Broken { path: path.to_owned(), source }
}

/// A decoder of the image whose file begins with `bytes` and is `length` bytes long.
fn open<'a>(
    path: &Path,
    bytes: &'a [u8],
    length: u64,
) -> Result<(ImageFormat, impl ImageDecoder + 'a), DecodeError> {
    let unknown = || DecodeError::UnknownFormat { path: path.to_owned() };
    let format = image::guess_format(bytes).map_err(|_| unknown())?;
    if !claims::FORMATS.contains(&format) {
        return Err(unknown());
    }
    let may_be = |(width, height): (u32, u32), is_plausible: bool| {
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(DecodeError::TooLarge { path: path.to_owned(), width, height });
        }
        match is_plausible {
            true => Ok(()),
            false => Err(DecodeError::Implausible { path: path.to_owned(), width, height, bytes: length }),
        }
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(claims::while_opening(length));
    if let Some(png) = claims::PngClaim::of(bytes) {
        may_be((png.width, png.height), png.fits(length))?;
        reader.limits(png.limits(length));
    }
    let mut decoder = reader.into_decoder().map_err(broken(path))?;
    let size = decoder.dimensions();
    may_be(size, claims::fits(format, size, length))?;
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(DecodeError::FloatPixels { path: path.to_owned() });
    }
    if format != ImageFormat::Png {
        decoder.set_limits(claims::while_decoding(decoder.total_bytes())).map_err(broken(path))?;
    }
    Ok((format, decoder))
}

fn decode(path: &Path, bytes: &[u8], annotated: Option<(u32, u32)>) -> Result<RgbImage, DecodeError> {
    let (format, mut decoder) = open(path, bytes, bytes.len() as u64)?;
    let mut orientation = decoder.orientation().map_err(broken(path))?;
    if let Some(annotated) = annotated {
        let stored = decoder.dimensions();
        let decoded = upright(stored, orientation);
        if decoded != annotated {
            if stored != annotated {
                return Err(DecodeError::SizeDiffers { path: path.to_owned(), decoded, annotated });
            }
            orientation = Orientation::NoTransforms;
        }
    }
    if !has_an_end(format, bytes) {
        return Err(DecodeError::Truncated { path: path.to_owned() });
    }
    let jpeg = match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, decoder.dimensions()).map_err(broken(path))?,
        _ => None,
    };
    let mut image = match jpeg {
        Some(rgb) => DynamicImage::ImageRgb8(rgb),
        None => DynamicImage::from_decoder(decoder).map_err(broken(path))?,
    };
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// True unless the image is known to go on behind the end of its bytes. Decoders of the other formats notice.
fn has_an_end(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_has_an_end(bytes),
        ImageFormat::Png => png_has_an_end(bytes),
        // RIFF's size counts what follows it.
        ImageFormat::WebP => match bytes.get(4..8) {
            Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])) + 8 <= bytes.len() as u64,
            _ => false,
        },
        _ => true,
    }
}

fn upright((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        _ => (width, height),
    }
}

/// JPEG's end-of-image marker, behind 0xff.
const END_OF_IMAGE: u8 = 0xd9;

/// Walks the chunks of a PNG (length, name, data, checksum) to its last one.
fn png_has_an_end(bytes: &[u8]) -> bool {
    let mut at = 8usize;
    while let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..at + 8) {
        let is_last = name == b"IEND";
        at = at.saturating_add(u32::from_be_bytes([a, b, c, d]) as usize).saturating_add(12);
        if at > bytes.len() || is_last {
            return at <= bytes.len();
        }
    }
    false
}

/// Walks the segments of a JPEG (ITU T.81, annex B) to its end-of-image marker. Segments are skipped by
/// their length, so the end of an embedded thumbnail does not count.
fn jpeg_has_an_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            END_OF_IMAGE => return true,
            // Markers without a length: TEM, restarts, start of image.
            0x01 | 0xd0..=0xd8 => {}
            _ => match bytes.get(at..at + 2) {
                Some(&[high, low]) => at += usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
    false
}

/// The next marker from `at` on, which moves behind it. Entropy-coded data lies between markers: there
/// 0xff is followed by 0 (stuffing) or a restart marker.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&byte| byte == 0xff)? + 1;
        match *bytes.get(*at)? {
            // Fill bytes may repeat 0xff before the marker.
            0xff => {}
            0x00 => *at += 1,
            marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    /// A PNG of 8x8 with a colour profile of so many zeros.
    fn png_with_profile(bytes: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let mut encoder = PngEncoder::new(&mut text);
        encoder.set_icc_profile(vec![0; bytes]).unwrap();
        encoder.write_image(&[9; 192], 8, 8, ExtendedColorType::Rgb8).unwrap();
        text
    }

    #[test]
    fn a_colour_profile_is_inflated_as_far_as_a_profile_may_be_large() {
        let profile = |text: &[u8]| {
            let mut decoder = open(Path::new("a.png"), text, text.len() as u64).unwrap().1;
            decoder.icc_profile().unwrap().map(|profile| profile.len())
        };
        assert_eq!(profile(&png_with_profile(3000)), Some(3000));
        let bomb = png_with_profile(200 << 20);
        assert!(bomb.len() < 2 << 20, "{} bytes that would be 200 MiB", bomb.len());
        assert_eq!(profile(&bomb), None, "not inflated");
        assert_eq!(decode(Path::new("a.png"), &bomb, None).unwrap().get_pixel(3, 3).0, [9; 3]);
    }
}
