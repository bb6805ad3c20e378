//! Image files, good and bad.

use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::data::decode::{DecodeError, read, read_annotated, size};
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
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
    let mut bytes = fs::read(&path).unwrap();
    // Width and height of IHDR, and the checksum over it.
    bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(read(&path), Err(DecodeError::TooLarge { width: 65536, height: 65536, .. })));
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}
