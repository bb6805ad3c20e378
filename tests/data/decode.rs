//! Image files, good and bad.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::data::decode::{DecodeError, Header, header, read, read_annotated, size};
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use tempfile::TempDir;

use super::fixture;

/// Colours of a left and a right pixel are within `slack` of these.
fn assert_halves(image: &RgbImage, left: [u8; 3], right: [u8; 3], slack: u8) {
    for (x, expected) in [(2, left), (13, right)] {
        let Rgb(got) = *image.get_pixel(x, 4);
        let near = got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) <= slack);
        assert!(near, "at {x}: {got:?}, expected {expected:?}");
    }
}

fn saved(image: DynamicImage) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.png");
    image.save(&path).unwrap();
    (folder, path)
}

fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.jpg");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn jpegs_of_every_kind_become_rgb() {
    // Expected values are PIL's.
    assert_halves(&read(&fixture("rgb.jpg")).unwrap(), [200, 30, 30], [30, 30, 200], 4);
    assert_halves(&read(&fixture("progressive.jpg")).unwrap(), [200, 30, 30], [30, 30, 200], 4);
    assert_halves(&read(&fixture("cmyk.jpg")).unwrap(), [200, 30, 30], [30, 30, 200], 4);
    assert_halves(&read(&fixture("grey.jpg")).unwrap(), [81; 3], [49; 3], 2);
}

/// Kinds of JPEG files with the hash of the pixels that Pillow makes of them (`tools/golden/jpeg_pixels.py`).
#[test]
fn jpegs_of_every_kind_have_pillows_pixels_to_the_bit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg");
    let pixels: BTreeMap<String, String> =
        serde_json::from_str(&fs::read_to_string(folder.join("pixels.json")).unwrap()).unwrap();
    assert!(pixels.len() > 15);
    for (name, expected) in pixels {
        let image = read(&folder.join(&name)).unwrap();
        assert_eq!(blake3::hash(image.as_raw()).to_string(), expected, "{name}");
    }
}

#[test]
fn a_jpeg_with_damaged_data_is_refused() {
    let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg/420.jpg")).unwrap();
    let middle = whole.len() / 2;
    let damaged = [&whole[..middle], &[0xff, 0].repeat(20), &whole[middle + 40..]].concat();
    let (_folder, path) = written(&damaged);
    assert!(matches!(read(&path), Err(DecodeError::Broken { .. })), "{:?}", read(&path).err());
}

#[test]
fn pngs_of_every_kind_become_rgb() {
    let halves = |x: u32| if x < 8 { 200u8 } else { 30 };
    let grey = ImageBuffer::from_fn(16, 8, |x, _| Luma([halves(x)]));
    let grey_alpha = ImageBuffer::from_fn(16, 8, |x, _| LumaA([halves(x), 77]));
    let deep = ImageBuffer::from_fn(16, 8, |x, _| Luma([u16::from(halves(x)) * 257]));
    let alpha = ImageBuffer::from_fn(16, 8, |x, _| Rgba([halves(x), halves(x), halves(x), 0]));
    let images = [
        DynamicImage::ImageLuma8(grey),
        DynamicImage::ImageLumaA8(grey_alpha),
        DynamicImage::ImageLuma16(deep),
        DynamicImage::ImageRgba8(alpha),
    ];
    for image in images {
        let (_folder, path) = saved(image);
        assert_halves(&read(&path).unwrap(), [200; 3], [30; 3], 0);
    }
}

/// Halves of red and blue, 16x8, in a format; under a name that says JPEG.
fn halves_as(format: ImageFormat) -> Vec<u8> {
    let halves = RgbImage::from_fn(16, 8, |x, _| Rgb(if x < 8 { [200, 30, 30] } else { [30, 30, 200] }));
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(halves).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

const OTHER_FORMATS: [ImageFormat; 4] =
    [ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP];

#[test]
fn bmp_gif_tiff_and_webp_are_told_by_their_content() {
    for format in OTHER_FORMATS {
        let (_folder, path) = written(&halves_as(format));
        assert_halves(&read(&path).unwrap(), [200, 30, 30], [30, 30, 200], 1);
        let upright = Header { stored: (16, 8), upright: (16, 8), turned: false };
        assert_eq!(header(&path).unwrap(), upright, "{format:?}");
    }
}

#[test]
fn bmp_gif_tiff_and_webp_cut_short_are_refused() {
    for format in OTHER_FORMATS {
        let whole = halves_as(format);
        for len in 0..whole.len() * 9 / 10 {
            let (_folder, path) = written(&whole[..len]);
            assert!(read(&path).is_err(), "{format:?}: {len} of {} bytes", whole.len());
        }
    }
}

#[test]
fn a_tiff_of_floating_point_numbers_is_refused() {
    let pixels = ImageBuffer::from_pixel(4, 4, Rgb([3.5f32, 200.0, 0.1]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb32F(pixels).write_to(&mut bytes, ImageFormat::Tiff).unwrap();
    let (_folder, path) = written(&bytes.into_inner());
    assert!(matches!(read(&path), Err(DecodeError::FloatPixels { .. })));
}

#[test]
fn a_header_tells_both_sizes_and_whether_the_file_has_its_end() {
    let turned = Header { stored: (16, 8), upright: (8, 16), turned: true };
    assert_eq!(header(&fixture("orientation_6.jpg")).unwrap(), turned);
    assert!(!header(&fixture("rgb.jpg")).unwrap().turned);
    let (_png, png) = saved(DynamicImage::ImageRgb8(RgbImage::new(16, 8)));
    for whole in
        [fs::read(fixture("progressive.jpg")).unwrap(), fs::read(png).unwrap(), halves_as(ImageFormat::WebP)]
    {
        for len in 0..whole.len() - 1 {
            let (_folder, path) = written(&whole[..len]);
            assert!(header(&path).is_err(), "{len} of {} bytes", whole.len());
        }
        let (_folder, path) = written(&[&whole[..], b"trailing"].concat());
        assert!(header(&path).is_ok(), "what follows the image does not matter");
    }
}

#[test]
fn an_image_that_claims_more_pixels_than_its_bytes_can_hold_is_refused() {
    // A JPEG's size stands in its frame header, behind the marker, a length and the precision.
    let mut jpeg = fs::read(fixture("rgb.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x2c, 0xec, 0x2c, 0xec]);
    let (_folder, path) = written(&jpeg);
    let error = read(&path).unwrap_err();
    assert!(matches!(error, DecodeError::Implausible { width: 11_500, height: 11_500, .. }), "{error}");
    assert!(error.to_string().contains(&format!("its {} bytes", jpeg.len())), "{error}");
    assert!(header(&path).is_err(), "the header alone shows it");

    let (_folder, path) = saved(DynamicImage::ImageRgb8(RgbImage::new(16, 8)));
    let png = resized_png(&fs::read(&path).unwrap(), [0, 0, 0x20, 0, 0, 0, 0x20, 0]);
    fs::write(&path, png).unwrap();
    assert!(matches!(read(&path), Err(DecodeError::Implausible { width: 8192, height: 8192, .. })));

    // Pages of one colour are as small as images get.
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::ImageLuma8(ImageBuffer::new(3000, 2000))
            .into_rgb8()
            .write_to(&mut bytes, format)
            .unwrap();
        let (_folder, path) = written(&bytes.into_inner());
        assert_eq!(read(&path).unwrap().dimensions(), (3000, 2000), "{format:?}");
    }
}

#[test]
fn images_are_turned_upright() {
    let turned = read(&fixture("orientation_6.jpg")).unwrap();
    assert_eq!(turned.dimensions(), (8, 16));
    assert_eq!(size(&fixture("orientation_6.jpg")).unwrap(), (8, 16));
    // A quarter clockwise: the left half comes to the top.
    let (Rgb(top), Rgb(bottom)) = (*turned.get_pixel(4, 2), *turned.get_pixel(4, 13));
    assert!(top[0] > 150 && bottom[2] > 150, "{top:?} {bottom:?}");
    assert_halves(&read(&fixture("orientation_3.jpg")).unwrap(), [30, 30, 200], [200, 30, 30], 4);
}

#[test]
fn annotations_made_on_the_stored_pixels_keep_them() {
    let path = fixture("orientation_6.jpg");
    assert_eq!(read_annotated(&path, 8, 16).unwrap().dimensions(), (8, 16));
    let stored = read_annotated(&path, 16, 8).unwrap();
    assert_halves(&stored, [200, 30, 30], [30, 30, 200], 4);
}

#[test]
fn an_image_of_another_size_than_annotated_is_refused() {
    let error = read_annotated(&fixture("rgb.jpg"), 8, 16).unwrap_err();
    assert!(matches!(error, DecodeError::SizeDiffers { decoded: (16, 8), annotated: (8, 16), .. }));
    assert!(error.to_string().contains("rgb.jpg is 16x8 pixels but the annotations say 8x16"), "{error}");
}

#[test]
fn a_jpeg_cut_anywhere_is_refused() {
    for name in ["rgb.jpg", "progressive.jpg", "orientation_6.jpg"] {
        let whole = fs::read(fixture(name)).unwrap();
        for len in 0..whole.len() - 1 {
            let (_folder, path) = written(&whole[..len]);
            let error = read(&path).expect_err("a cut file is no image");
            assert!(error.to_string().contains("image.jpg"), "{error}");
        }
        // What follows the image does not matter.
        let (_folder, path) = written(&[&whole[..], b"trailing"].concat());
        assert!(read(&path).is_ok());
    }
}

#[test]
fn a_png_cut_short_is_refused() {
    let (_folder, path) = saved(DynamicImage::ImageRgb8(RgbImage::new(16, 8)));
    let whole = fs::read(&path).unwrap();
    // The last chunk carries no pixels.
    for len in 0..whole.len() - 16 {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(read(&path).is_err(), "{len} of {} bytes", whole.len());
    }
}

#[test]
fn what_is_no_image_is_refused() {
    for bytes in [&b""[..], b"hello", b"GIF89a\x01\x00\x01\x00", b"\xff\xd8\xff\xff\xff\xff"] {
        let (_folder, path) = written(bytes);
        assert!(read(&path).is_err());
    }
    assert!(matches!(read(Path::new("absent.jpg")), Err(DecodeError::Read { .. })));
}

#[test]
fn an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded() {
    let (_folder, path) = saved(DynamicImage::ImageRgb8(RgbImage::new(16, 8)));
    fs::write(&path, resized_png(&fs::read(&path).unwrap(), [0, 1, 0, 0, 0, 1, 0, 0])).unwrap();
    assert!(matches!(read(&path), Err(DecodeError::TooLarge { width: 65536, height: 65536, .. })));
}

/// A PNG with another width and height in its IHDR, and the checksum over it.
fn resized_png(png: &[u8], size: [u8; 8]) -> Vec<u8> {
    let mut bytes = png.to_vec();
    bytes[16..24].copy_from_slice(&size);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}
