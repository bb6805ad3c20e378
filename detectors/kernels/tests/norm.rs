//! Batch and group norms against PyTorch's values and against differences.

mod support;

use ckd_kernels::Value;
use ckd_kernels::linear::Activation;
use ckd_kernels::norm::{NormEpilogue, batch_norm_train, frozen_batch_norm, group_norm};
use support::*;

#[test]
fn a_frozen_norm_equals_pytorch() {
    golden::each_case("frozen_bn", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let constant = |key| Value::constant(input(case, key));
        let eps = case.attr_f64("eps");
        let out = frozen_batch_norm(&x, &w, &b, &constant("mean"), &constant("var"), eps).unwrap();
        check_case(case, &out);
    });
}

#[test]
fn a_training_norm_equals_pytorch() {
    golden::each_case("batch_norm/", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let eps = case.attr_f64("eps");
        let (out, statistics) = batch_norm_train(&x, &w, &b, eps, NormEpilogue::default()).unwrap();
        check_case(case, &out);
        let (mean, var) = (input(case, "running_mean"), input(case, "running_var"));
        let (shared_mean, shared_var) = (mean.clone(), var.clone());
        statistics.fold_into(&mean, &var, case.attr_f64("momentum")).unwrap();
        case.check_close("new_running_mean", &values(&shared_mean));
        case.check_close("new_running_var", &values(&shared_var));
    });
}

#[test]
fn a_group_norm_equals_pytorch() {
    golden::each_case("group_norm", |case| {
        let (x, w, b) = (leaf(case, "x"), leaf(case, "w"), leaf(case, "b"));
        let (groups, eps) = (case.attr_usize("groups"), case.attr_f64("eps"));
        check_case(case, &group_norm(&x, &w, &b, groups, eps, Activation::Identity).unwrap());
    });
}
