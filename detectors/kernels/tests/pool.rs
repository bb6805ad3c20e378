//! Pooling against PyTorch's values and against differences.

mod support;

use ckd_kernels::pool::{adaptive_avg_pool2d, max_pool2d};
use support::*;

#[test]
fn max_pooling_equals_pytorch() {
    golden::each_case("max_pool2d/", |case| {
        let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case.attr_usize(key));
        check_case(case, &max_pool2d(&leaf(case, "x"), kernel, stride, padding).unwrap());
    });
}

#[test]
fn average_pooling_equals_pytorch() {
    golden::each_case("avg_pool/", |case| {
        let size = case.attr_usize("out_size");
        check_case(case, &adaptive_avg_pool2d(&leaf(case, "x"), (size, size)).unwrap());
    });
}
