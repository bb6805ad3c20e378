//! Image files to upright 8-bit RGB.
//!
//! JPEG (grey, YCbCr, CMYK) and PNG (grey, palette, alpha, 16 bit) become `RgbImage`; alpha is dropped
//! and 16 bits are rounded to 8, as PIL's `convert("RGB")` does for those modes. The EXIF orientation
//! is applied. The file's format is told by its first bytes, not by its name.
//!
//! A file that is cut short is an error: JPEG decoders fill the missing part with grey, which would
//! train on nothing without a word, so the JPEG markers are walked to the end-of-image marker first.

use std::fs::File;
use std::io::{self, Cursor, Read as _};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

/// The largest image that is decoded, in pixels: 400 MB as RGB. Larger ones are taken for attacks.
pub const MAX_PIXELS: u64 = 1 << 27;

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
    /// Neither JPEG nor PNG.
    #[error("{} is neither JPEG nor PNG; convert it, or remove it from the annotations", path.display())]
    UnknownFormat {
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
    /// The file ends before the image does.
    #[error("{} is cut short (no end-of-image marker); copy or download it again", path.display())]
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

/// (width, height) of an image file, upright, from its header alone.
pub fn size(path: &Path) -> Result<(u32, u32), DecodeError> {
    let read = |source| DecodeError::Read { path: path.to_owned(), source };
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).map_err(read)?;
    // A header behind more than that of metadata is rare, and a head that ends within it is an error.
    size_of(path, &head).or_else(|error| match head.len() as u64 == HEAD {
        true => size_of(path, &load(path)?),
        false => Err(error),
    })
}

/// Bytes that hold the header of nearly every image.
const HEAD: u64 = 1 << 17;

fn size_of(path: &Path, bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    let mut decoder = open(path, bytes)?.1;
    let orientation = decoder.orientation().map_err(broken(path))?;
    Ok(upright(decoder.dimensions(), orientation))
}

fn load(path: &Path) -> Result<Vec<u8>, DecodeError> {
    std::fs::read(path).map_err(|source| DecodeError::Read { path: path.to_owned(), source })
}

fn broken(path: &Path) -> impl FnOnce(ImageError) -> DecodeError + '_ {
    move |source| DecodeError::Broken { path: path.to_owned(), source }
}

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<(ImageFormat, impl ImageDecoder + 'a), DecodeError> {
    let unknown = || DecodeError::UnknownFormat { path: path.to_owned() };
    let format = image::guess_format(bytes).map_err(|_| unknown())?;
    if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png) {
        return Err(unknown());
    }
    // The pixel limit below is the one that counts; the library's own default (512 MB) would refuse
    // 16-bit images within it.
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits();
    let decoder = reader.into_decoder().map_err(broken(path))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge { path: path.to_owned(), width, height });
    }
    Ok((format, decoder))
}

fn decode(path: &Path, bytes: &[u8], annotated: Option<(u32, u32)>) -> Result<RgbImage, DecodeError> {
    let (format, mut decoder) = open(path, bytes)?;
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
    if format == ImageFormat::Jpeg && !jpeg_has_an_end(bytes) {
        return Err(DecodeError::Truncated { path: path.to_owned() });
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken(path))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
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

/// Walks the segments of a JPEG (ITU T.81, annex B) to its end-of-image marker. Segments are skipped by
/// their length, so the end of an embedded thumbnail does not count.
fn jpeg_has_an_end(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            END => return true,
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
