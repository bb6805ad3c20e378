//! RoIAlign against torchvision's values, against differences and against hostile RoIs.

mod support;

use ckd_kernels::roi_align::{Alignment, Sampling, roi_align};
use support::*;

#[test]
fn roi_align_equals_torchvision() {
    golden::each_case("roi_align/", |case| {
        let size = case.attr_usize("output");
        let sampling = match case.attr_usize("sampling_ratio") {
            0 => Sampling::Adaptive,
            samples => Sampling::Fixed(samples),
        };
        let aligned = case.attrs["aligned"].as_bool().expect("aligned");
        let alignment = if aligned { Alignment::HalfPixel } else { Alignment::Legacy };
        let scale = case.attr_f64("spatial_scale") as f32;
        let (rois, _) = case.f32("rois");
        let rois: Vec<[f32; 5]> = rois.chunks_exact(5).map(|roi| roi.try_into().unwrap()).collect();
        let x = leaf(case, "x");
        let out = roi_align(&x, &rois, (size, size), scale, sampling, alignment).unwrap();
        assert!(out.tensor().is_contiguous());
        check_case(case, &out);
    });
}
