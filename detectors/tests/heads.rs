//! Heads as distillation asks of them: maps inside the dense ones, and what a step's regions are to become.

use crate::golden;
use crate::support::{CLASSES, bits_of, build, each_detector, padded};
use ckd_detectors::detector::Detector;
use ckd_detectors::images::{Images, Target};
use ckd_detectors::nn::Mode;
use ckd_detectors::regions::Regions;
use ckd_detectors::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn images() -> Images {
    let picture = |stream, h, w| (golden::tensor(stream, 3 * h * w, 0.5, 0.5), h, w);
    padded(&[picture(1, 60, 64), picture(2, 64, 41)])
}

/// Two boxes, of which each detector finds regions, and an image without any.
fn targets() -> [Target; 2] {
    let boxes = vec![[3.0, 2.0, 29.0, 31.0], [12.5, 8.0, 40.0, 27.0]];
    let labels = vec![0, CLASSES as u32 - 1];
    let ignored = vec![[0.0, 32.0, 64.0, 60.0]];
    [Target { boxes, labels, ignored, ..Target::default() }, Target::default()]
}

fn regions(detector: &Detector, images: &Images) -> Result<Regions> {
    let pyramid = detector.pyramid(images, Mode::Train)?;
    Ok(detector.train(images, &pyramid, &targets(), &mut ChaCha8Rng::seed_from_u64(0))?.1)
}

#[test]
fn a_dense_head_goes_on_from_its_own_maps_as_if_it_had_never_stopped() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let images = images();
        let (pyramid, regions) = (detector.pyramid(&images, Mode::Inference)?, regions(&detector, &images)?);
        if name.starts_with("Faster R-CNN") {
            assert!(detector.head_maps(&pyramid, 0).is_err(), "{name} has no dense heads");
            return Ok(());
        }
        let (logits, deltas) =
            (detector.logits_at(&pyramid, &regions)?, detector.deltas_at(&pyramid, &regions)?);
        assert_eq!(logits.dims(), regions.logits().dims(), "{name}");
        assert_eq!(deltas.dims(), regions.regression().deltas.dims(), "{name}");
        for convs in 0..=2 {
            let maps = detector.head_maps(&pyramid, convs)?;
            let (own_logits, own_deltas) = detector.head_outputs(&maps, convs)?;
            assert_eq!(bits_of(own_logits.tensor()), bits_of(logits.tensor()), "{name}: {convs}");
            assert_eq!(bits_of(own_deltas.tensor()), bits_of(deltas.tensor()), "{name}: {convs}");
        }
        let error = detector.head_maps(&pyramid, 3).expect_err("a head of two convolutions").to_string();
        assert!(error.contains("its 3 first convolutions were asked for, it has 2"), "{error}");
        Ok(())
    });
}

#[test]
fn regions_of_objects_lead_to_the_true_boxes_and_those_in_a_crowd_count_as_nothing() {
    each_detector(|name, config| {
        let detector = build(1, config)?;
        let regions = regions(&detector, &images())?;
        let (regression, targets) = (regions.regression(), targets());
        assert!(!regression.truths.is_empty(), "{name}");
        for (row, truth) in &regression.truths {
            let reference = regression.references[*row as usize % regression.references.len()];
            let found = regression.coder.decode(truth, &reference);
            let close = |own: &[f32; 4]| own.iter().zip(found).all(|(own, found)| (own - found).abs() < 1e-3);
            assert!(targets[0].boxes.iter().any(close), "{name}: {found:?}");
        }
        let positives = regression.truths.len();
        match &regions {
            Regions::Rois { labels, .. } => assert_eq!(regression.divisor, labels.len() as f64, "{name}"),
            Regions::Anchors { ignored, .. } => {
                assert!(!ignored.is_empty(), "{name}");
                // RetinaNet counts the image without objects once.
                let others = if name == "FCOS" { 0 } else { 1 };
                assert_eq!(regression.divisor, (positives + others) as f64, "{name}");
            }
        }
        Ok::<_, Error>(())
    });
}
