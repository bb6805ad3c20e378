//! Claims of image headers: how many pixels a file of so many bytes can hold, and how much memory its decoder
//! may take.
//!
//! | format | most pixels of a file | why |
//! |---|---|---|
//! | PNG | 1,032 bytes of rows a byte | deflate's longest match, 258 bytes, costs two bits (RFC 1951) |
//! | JPEG | 1,024 a byte | a block of 8x8 costs a bit or more; components may be sampled at half |
//! | others | 2^24, and 4,096 a byte | run lengths, LZW and WebP's codes of one symbol have no near bound |
//!
//! A real image has far fewer; what has more was made to take memory.

use image::{ImageFormat, Limits};

/// Formats that are decoded.
pub(super) const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
    ImageFormat::WebP,
];

/// Memory for metadata and tables: the largest colour profiles in use have a few MiB.
const SLACK: u64 = 8 << 20;

/// Whether a file of `length` bytes can hold an image of this size. PNG's are told by [`PngClaim`].
pub(super) fn fits(format: ImageFormat, (width, height): (u32, u32), length: u64) -> bool {
    let pixels = u64::from(width) * u64::from(height);
    match format {
        ImageFormat::Png => true,
        ImageFormat::Jpeg => pixels <= 1024 * length,
        _ => pixels <= (1 << 24) + 4096 * length,
    }
}

/// Memory of a decoder while it reads the header.
pub(super) fn while_opening(length: u64) -> Limits {
    limits(length + SLACK)
}

/// Memory of a decoder of `bytes` of pixels: these, and as much again for what it unpacks.
pub(super) fn while_decoding(bytes: u64) -> Limits {
    limits(2 * bytes + SLACK)
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Header of a PNG, which its decoder would otherwise read together with all metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct PngClaim {
    pub(super) width: u32,
    pub(super) height: u32,
    bits_per_pixel: u64,
}

impl PngClaim {
    /// The claim of a file that begins with `bytes`; `None` if it is no PNG.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 10] = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(8..18)?.try_into().ok()?;
        let &[a, b, c, d, e, f, g, h, depth, colour] = header;
        // PNG specification, 11.2.1: grey, RGB, palette, grey with alpha, RGBA.
        let channels = match colour {
            2 => 3,
            4 => 2,
            6 => 4,
            _ => 1,
        };
        Some(Self {
            width: u32::from_be_bytes([a, b, c, d]),
            height: u32::from_be_bytes([e, f, g, h]),
            bits_per_pixel: u64::from(depth) * channels,
        })
    }

    /// Whether a file of `length` bytes can hold it.
    pub(super) fn fits(self, length: u64) -> bool {
        self.row().saturating_mul(u64::from(self.height)) <= 1032 * length
    }

    /// Memory of its decoder: some rows, and what metadata needs.
    pub(super) fn limits(self, length: u64) -> Limits {
        limits(length + 8 * self.row() + SLACK)
    }

    /// Bytes of a row.
    fn row(self) -> u64 {
        (u64::from(self.width) * self.bits_per_pixel).div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_one_colour_fits_and_a_bomb_does_not() {
        // 10,000 x 10,000 black pixels: 97 KB as a grey PNG of 8 bits, 200 KB as a JPEG.
        assert!(fits(ImageFormat::Jpeg, (10_000, 10_000), 200_000));
        assert!(!fits(ImageFormat::Jpeg, (11_500, 11_500), 4_000));
        let png = PngClaim { width: 10_000, height: 10_000, bits_per_pixel: 8 };
        assert!(png.fits(97_200) && !png.fits(60_000));
        assert!(fits(ImageFormat::WebP, (4000, 4000), 60), "a page of one colour needs no bits");
        assert!(!fits(ImageFormat::WebP, (11_000, 11_000), 60));
    }
}
