//! Proposals made where the tests run, box by box beside those that the host makes of the same numbers.

use candle_core::{DType, Device, Tensor};
use ckd_detectors::anchors::AnchorGenerator;
use ckd_detectors::images::Images;
use ckd_detectors::param::Builder;
use ckd_detectors::proposals::ProposalFilter;
use ckd_detectors::rpn::{Rpn, RpnConfig, RpnOutput};
use ckd_kernels::Value;

use crate::golden;
use crate::support::device;

/// Padded (height, width), and the maps of its levels.
const PADDED: (usize, usize) = (160, 224);
const MAPS: [(usize, usize); 5] = [(40, 56), (20, 28), (10, 14), (5, 7), (3, 4)];
/// True (height, width) of the images.
const SIZES: [(usize, usize); 2] = [(160, 224), (150, 201)];

/// Logits with many ties, across levels too, and deltas that overlap; both with numbers that are none.
fn outputs(count: usize, stream: u64) -> (Vec<f32>, Vec<f32>) {
    let hostile = |i: usize, x: f32| match i % 1009 {
        7 => f32::NAN,
        8 => f32::INFINITY,
        9 => f32::NEG_INFINITY,
        10 => 1e38,
        _ => x,
    };
    let logits = golden::tensor(stream, count, 4.0, 0.0).into_iter().map(|x| (x * 8.0).round() / 8.0);
    let deltas = golden::tensor(stream + 1, 4 * count, 0.4, 0.0).into_iter();
    let kept = |values: Vec<f32>| values.into_iter().enumerate().map(|(i, x)| hostile(i, x)).collect();
    (kept(logits.collect()), kept(deltas.collect()))
}

#[test]
fn proposals_are_the_hosts_box_by_box_in_its_order() {
    let anchors = AnchorGenerator::faster_rcnn_fpn();
    let per_level = anchors.counts(&MAPS).expect("five levels");
    let all = anchors.generate(PADDED, &MAPS).expect("five levels");
    let (logits, deltas) = outputs(SIZES.len() * all.len(), 11);
    let on = |values: &[f32], width: usize| {
        let shape = (values.len() / width, width);
        Value::constant(Tensor::from_slice(values, shape, device()).expect("rows"))
    };
    let output = RpnOutput {
        objectness: on(&logits, 1),
        deltas: on(&deltas, 4),
        anchors: all.clone(),
        per_level: per_level.clone(),
        grids: anchors.grids(PADDED, &MAPS).expect("five levels"),
    };
    let pixels = Tensor::zeros((SIZES.len(), 3, PADDED.0, PADDED.1), DType::F32, device()).expect("pixels");
    let images = Images { pixels, sizes: SIZES.to_vec() };
    let rpn = Rpn::new(&Builder::new(0, &Device::Cpu), 4, anchors, &RpnConfig::default()).expect("a head");
    // Also more than a GPU keeps of a level, and limits that cut.
    for (pre_nms_top_n, post_nms_top_n, nms_threshold, score_threshold, min_size) in [
        (300, 100, 0.7, 0.0, 1e-3),
        (2000, 2000, 0.5, 0.3, 4.0),
        (2048, 2048, 0.3, 0.0, 0.0),
        (65, 1, 0.7, 0.5, 1e-3),
        (1, 50, 0.7, 0.0, 1e-3),
        (2500, 300, 0.7, 0.0, 1e-3),
        (400, 2000, 0.0, 0.999, 1e-3),
    ] {
        let filter =
            ProposalFilter { pre_nms_top_n, post_nms_top_n, nms_threshold, score_threshold, min_size };
        let found = rpn.proposals(&output, &images, &filter).expect("outputs fit");
        assert_eq!(found.len(), SIZES.len());
        for (image, (found, size)) in found.into_iter().zip(SIZES).enumerate() {
            let (logits, deltas) = (&logits[image * all.len()..], &deltas[4 * image * all.len()..]);
            let (logits, deltas) = (&logits[..all.len()], &deltas[..4 * all.len()]);
            let want = filter.propose(logits, deltas, &all, &per_level, size).expect("lengths fit").boxes;
            assert!(!want.is_empty() && want.len() <= post_nms_top_n, "{filter:?}: {}", want.len());
            let bits = |boxes: &[[f32; 4]]| boxes.iter().map(|b| b.map(f32::to_bits)).collect::<Vec<_>>();
            assert!(
                bits(&found) == bits(&want),
                "{filter:?}, image {image}: {} boxes, want {}",
                found.len(),
                want.len()
            );
        }
    }
}
