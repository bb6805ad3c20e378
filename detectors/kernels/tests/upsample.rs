//! Resizing against PyTorch's values and against differences.

mod support;

use ckd_kernels::resize::resize_bilinear;
use ckd_kernels::upsample::upsample_nearest;
use support::*;

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
