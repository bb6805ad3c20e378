//! Resizing against PyTorch's values and against differences.

use crate::support::*;
use ckd_kernels::elementwise::add;
use ckd_kernels::resize::resize_bilinear;
use ckd_kernels::upsample::{upsample_nearest, upsample_nearest_add};
use ckd_kernels::{Result, Value};

#[test]
fn nearest_upsampling_equals_pytorch() {
    golden::each_case("upsample_nearest/", |case| {
        let size = case.attr_usizes("size");
        check_case(case, &upsample_nearest(&leaf(case, "x"), (size[0], size[1])).unwrap());
    });
}

#[test]
fn bilinear_resizing_equals_pytorch() {
    golden::each_case("resize_bilinear/", |case| {
        let size = case.attr_usizes("size");
        check_case(case, &resize_bilinear(&leaf(case, "x"), (size[0], size[1])).unwrap());
    });
}

/// Up, down, both ways, from and to a single pixel, no image; one to three images.
const SIZES: [([usize; 4], (usize, usize)); 8] = [
    ([1, 1, 1, 1], (4, 3)),
    ([2, 3, 3, 2], (6, 4)),
    ([3, 2, 5, 4], (1, 1)),
    ([1, 5, 4, 7], (7, 4)),
    ([2, 1, 3, 3], (3, 3)),
    ([1, 2, 7, 1], (3, 5)),
    ([1, 9, 2, 3], (13, 2)),
    ([0, 3, 2, 2], (4, 4)),
];

#[test]
fn gradients_agree_with_differences() {
    for (shape, size) in SIZES {
        let x = noise(1, &shape);
        check_gradients(std::slice::from_ref(&x), 0.2, 1e-4, |t| upsample_nearest(&t[0], size).unwrap());
        check_gradients(std::slice::from_ref(&x), 0.2, 1e-4, |t| resize_bilinear(&t[0], size).unwrap());
        let lateral = noise(2, &[shape[0], shape[1], size.0, size.1]);
        check_gradients(&[x, lateral], 0.2, 1e-4, |t| upsample_nearest_add(&t[0], &t[1]).unwrap());
    }
}

#[test]
fn the_fused_top_down_step_equals_its_two_operations() {
    for (shape, size) in SIZES {
        let top = Value::leaf("top", nhwc(&noise(3, &shape)));
        let lateral = Value::leaf("lateral", noise(4, &[shape[0], shape[1], size.0, size.1]));
        let fused = upsample_nearest_add(&top, &lateral).unwrap();
        let plain = add(&lateral, &upsample_nearest(&top, size).unwrap()).unwrap();
        assert_eq!(values(fused.tensor()), values(plain.tensor()));
        let g = noise(5, fused.dims());
        let (fused, plain) = (gradients_of(&fused, &g), gradients_of(&plain, &g));
        for name in ["top", "lateral"] {
            assert_eq!(values(&fused[name]), values(&plain[name]));
        }
    }
}

#[test]
fn every_output_reads_the_pixel_that_pytorch_reads() {
    // Sizes of FPN levels of padded images, and some where f32 and exact arithmetic could part.
    for (input, output) in
        [(25, 50), (13, 25), (21, 42), (7, 3), (100, 999), (41, 123), (83, 1000), (1000, 83)]
    {
        let x = Value::constant(tensor((0..input).map(|v| v as f32).collect(), &[1, 1, 1, input]));
        let got = values(upsample_nearest(&x, (1, output)).unwrap().tensor());
        let scale = input as f32 / output as f32;
        for (i, got) in got.iter().enumerate() {
            assert_eq!(*got, (i as f32 * scale).floor().min(input as f32 - 1.0));
        }
    }
}

#[test]
fn a_resize_to_its_own_size_changes_nothing() {
    let x = Value::constant(nhwc(&noise(6, &[2, 3, 5, 7])));
    assert_eq!(values(upsample_nearest(&x, (5, 7)).unwrap().tensor()), values(x.tensor()));
    assert_eq!(values(resize_bilinear(&x, (5, 7)).unwrap().tensor()), values(x.tensor()));
}

#[test]
fn a_resized_constant_is_the_constant() {
    let x = Value::constant(tensor(vec![3.5; 35], &[1, 1, 5, 7]));
    for size in [(1, 1), (11, 3), (64, 65)] {
        // Shares add up to 1 within one rounding each way.
        let out = resize_bilinear(&x, size).unwrap();
        assert!(values(out.tensor()).iter().all(|y| (y - 3.5).abs() < 1e-6));
    }
}

type Resize = fn(&Value, (usize, usize)) -> Result<Value>;

#[test]
fn resizing_from_nothing_is_an_error_and_to_nothing_is_not() {
    let nothing = Value::constant(noise(7, &[1, 2, 0, 3]));
    let x = Value::leaf("x", noise(8, &[1, 2, 3, 3]));
    for resize in [upsample_nearest as Resize, resize_bilinear] {
        assert!(resize(&nothing, (2, 2)).is_err());
        assert_eq!(resize(&nothing, (0, 2)).unwrap().dims(), [1, 2, 0, 2]);
        let out = resize(&x, (0, 5)).unwrap();
        assert_eq!(values(&gradients_of(&out, out.tensor())["x"]), [0.0; 18]);
        assert!(resize(&Value::constant(noise(9, &[2, 3])), (2, 2)).is_err());
    }
    let other = Value::constant(noise(10, &[1, 3, 6, 6]));
    assert!(upsample_nearest_add(&x, &other).unwrap_err().to_string().contains("lateral"));
    let images = Value::constant(noise(10, &[2, 2, 6, 6]));
    assert!(upsample_nearest_add(&x, &images).is_err());
}
