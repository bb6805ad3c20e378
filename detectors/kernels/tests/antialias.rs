//! Resizing against Pillow's own bytes.

use crate::support::golden;
use std::path::Path;

use ckd_golden::Golden;
use ckd_kernels::antialias::resize_antialiased;

#[test]
fn antialiased_images_are_pillows_bit_for_bit() {
    let golden = Golden::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    let cases = golden.cases_with_prefix("pil_bilinear/");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let pair = |key: &str| match case.attr_usizes(key)[..] {
            [height, width] => (height, width),
            _ => panic!("{}: {key} is no size", case.name),
        };
        let (size, to) = (pair("size"), pair("to"));
        let stream = case.attr_usize("stream") as u64;
        let image: Vec<u8> = (0..(size.0 * size.1 * 3) as u64)
            .map(|i| (((golden::value(stream, i) + 1.0) * f64::from(1 << 23)) as u32 >> 16) as u8)
            .collect();
        let got: Vec<i64> = resize_antialiased(&image, size, to).into_iter().map(i64::from).collect();
        case.check_exact("out", &got);
    }
}
