//! Laws that hold for any input: the loader's order, the box coder and its inverse, checkpoints bit for bit.

use std::num::NonZeroUsize;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use ckd_det::config::{BoxAugment, LabelledInput, Resize};
use ckd_det::data::label_order::BatchOrder;
use ckd_det::data::{
    Batch, Dataset, Grouping, Instances, Labelled, LabelledImages, Loader, LoaderConfig, Position, Purpose,
    Workforce,
};
use ckd_det::engine::checkpoint::{self, TrainState};
use ckd_det::optim::Slot;
use ckd_det::report::shares::Shares;
use ckd_detectors::box_coder::{BoxCoder, LARGEST_LOG_RATIO};
use ckd_detectors::init::Init;
use ckd_detectors::param::{Builder, ParamStore};
use image::RgbImage;
use proptest::prelude::*;

/// A set of labelled images of one pixel.
fn labelled(images: usize) -> Arc<Labelled> {
    let labels = (0..images).map(|image| image as u32 % 3).collect();
    let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
    let bytes = (0..3 * images).map(|byte| byte as u8).collect();
    Arc::new(Labelled::decoded(classes, labels, (1, 1), bytes, "made up".into()).unwrap())
}

/// The images of each of the first two epochs, in the order in which a loader gives them.
fn labelled_order(set: &Arc<Labelled>, seed: u64, batch: NonZeroUsize, work: Workforce) -> [Vec<u32>; 2] {
    let input = LabelledInput { side_px: 1, ..LabelledInput::default() };
    let order = BatchOrder::Shuffled { seed, batch };
    let source = LabelledImages::new(set.clone(), order, input.evaluation(), seed).unwrap();
    let mut loader = Loader::over(source, work, Position::default()).unwrap();
    let per_epoch = loader.batches_per_epoch();
    [(); 2].map(|()| loader.by_ref().take(per_epoch).flat_map(|batch| batch.unwrap().indices).collect())
}

/// Images without files, wide ones and tall ones.
fn boxed(shapes: &[(u32, u32)]) -> Arc<Dataset> {
    let mut set = Instances::of_classes(["a"]);
    shapes.iter().enumerate().for_each(|(number, &shape)| {
        set.push_image(&number.to_string(), shape, [(0, [0.0, 0.0, 1.0, 1.0])]);
    });
    let shapes = shapes.to_vec();
    let pixels = move |index: usize| Ok(RgbImage::new(shapes[index].0, shapes[index].1));
    Arc::new(Dataset::with_pixels(&set, pixels).unwrap().0)
}

fn boxed_order(set: &Arc<Dataset>, seed: u64, batch: usize, work: Workforce) -> [Vec<u64>; 2] {
    let purpose = Purpose::Training {
        seed,
        grouping: Grouping::ByAspect,
        flip_probability: 0.5,
        short_sides_px: vec![4, 6],
        augment: BoxAugment::default(),
    };
    let config = LoaderConfig {
        purpose,
        long_side_max_px: 8,
        resize: Resize::Bilinear,
        teacher_resize: None,
        images_per_batch: batch,
        size_divisor: 1,
        workers: work.workers,
        batches_ahead: work.batches_ahead,
    };
    let mut loader = Loader::new(set.clone(), config, Position::default()).unwrap();
    let per_epoch = loader.batches_per_epoch();
    let ids = |batch: Batch| batch.image_ids.into_iter().map(|id| id.0).collect::<Vec<_>>();
    [(); 2].map(|()| loader.by_ref().take(per_epoch).flat_map(|batch| ids(batch.unwrap())).collect())
}

/// A box with sides of 1 to 512 pixels within 1,024 pixels.
fn xyxy() -> impl Strategy<Value = [f32; 4]> {
    (0f32..512.0, 0f32..512.0, 1f32..512.0, 1f32..512.0).prop_map(|(x, y, w, h)| [x, y, x + w, y + h])
}

/// Any finite number, by its bits: zeros of both signs and numbers that are not normal too.
fn finite() -> impl Strategy<Value = f32> {
    // Beyond the square root of the largest number, products are not finite, and a checkpoint is refused.
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |number| number.abs() < 1e19)
}

fn store(values: &[f32]) -> ParamStore {
    let builder = Builder::new(0, &Device::Cpu);
    builder.within("layer").weight("weight", &[values.len()], Init::Constant(0.0)).unwrap();
    builder.within("layer").buffer("running_mean", &[values.len()], Init::Constant(0.0)).unwrap();
    let store = builder.finish();
    let reversed: Vec<f32> = values.iter().rev().copied().collect();
    for (name, values) in [("layer.weight", values), ("layer.running_mean", &reversed)] {
        store.set(name, &Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()).unwrap();
    }
    store
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_image_comes_once_an_epoch_in_an_order_that_follows_from_the_seed_alone(
        images in 1usize..40,
        batch in 1usize..9,
        seed in any::<u64>(),
        work in proptest::collection::vec((1usize..5, 1usize..5), 2),
    ) {
        let set = labelled(images);
        let work: Vec<Workforce> = work
            .into_iter()
            .map(|(workers, batches_ahead)| Workforce { workers, batches_ahead })
            .collect();
        let order = labelled_order(&set, seed, NonZeroUsize::new(batch).unwrap(), work[0]);
        prop_assert_eq!(&order, &labelled_order(&set, seed, NonZeroUsize::new(batch).unwrap(), work[1]));
        for mut epoch in order {
            epoch.sort_unstable();
            prop_assert_eq!(epoch, (0..images as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_image_with_boxes_comes_once_an_epoch_whatever_its_shape_and_the_workers(
        shapes in proptest::collection::vec((1u32..9, 1u32..9), 1..24),
        batch in 1usize..6,
        seed in any::<u64>(),
        work in proptest::collection::vec((1usize..5, 1usize..5), 2),
    ) {
        let set = boxed(&shapes);
        let work: Vec<Workforce> = work
            .into_iter()
            .map(|(workers, batches_ahead)| Workforce { workers, batches_ahead })
            .collect();
        let order = boxed_order(&set, seed, batch, work[0]);
        prop_assert_eq!(&order, &boxed_order(&set, seed, batch, work[1]));
        for mut epoch in order {
            epoch.sort_unstable();
            prop_assert_eq!(epoch, set.images.iter().map(|image| image.id.0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn decoding_a_box_undoes_its_encoding(
        target in xyxy(),
        reference in xyxy(),
        weights in proptest::array::uniform4(0.5f32..20.0),
    ) {
        let sides = |b: [f32; 4]| [b[2] - b[0], b[3] - b[1]];
        let ratios = [0, 1].map(|axis| (sides(target)[axis] / sides(reference)[axis]).ln());
        // Larger boxes are cut to that ratio on purpose.
        prop_assume!(ratios.into_iter().all(|ratio| ratio <= LARGEST_LOG_RATIO));
        for coder in [BoxCoder::ANCHORS, BoxCoder::PROPOSALS, BoxCoder::new(weights)] {
            let decoded = coder.decode(&coder.encode(&target, &reference), &reference);
            for (got, want) in decoded.into_iter().zip(target) {
                // Coordinates up to 1,024 have steps of 6e-5; a handful of roundings are between.
                prop_assert!((got - want).abs() <= 1e-3, "{decoded:?} of {target:?} at {reference:?}");
            }
        }
    }

    #[test]
    fn a_checkpoint_reads_back_bit_for_bit(
        values in proptest::collection::vec(finite(), 1..40),
        step in 0u64..100_000_000,
        losses in proptest::collection::vec(-1e300f64..1e300, 0..5),
        left_out in proptest::collection::vec(any::<u64>(), 0..4),
        evaluation_due in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let state = TrainState {
            step,
            threads: 3,
            best: Some(checkpoint::Best { step, score: losses.first().copied().unwrap_or(0.1) }),
            since_best: step % 5,
            total: left_out.first().copied(),
            networks: Vec::new(),
            teacher: None,
            evaluation_due,
            shares: Shares {
                passes: losses.len() as u64,
                gradient_norms: losses.iter().map(|loss| (format!("{loss}"), loss.abs())).collect(),
            },
            left_out,
            losses,
            config: Some("of the settings".to_owned()),
            log: None,
        };
        let (written, read) = (store(&values), store(&vec![7.0; values.len()]));
        let name = written.trainable().next().unwrap().0.clone();
        let squares: Vec<f32> = values.iter().map(|value| value * 0.5).collect();
        let [squares, blank] = [&squares, &vec![0.0; values.len()]]
            .map(|values| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap());
        let slot = |tensor| Slot { slot: "square", name: &name, tensor };
        checkpoint::save(folder.path(), &[&written], &[slot(&squares)], &state, 1).unwrap();
        let restored = checkpoint::restore(folder.path(), &[&read], &[slot(&blank)]).unwrap().unwrap();
        prop_assert_eq!(restored.state, state);
        prop_assert_eq!(bits(&blank), bits(&squares));
        for ((_, ours), (_, theirs)) in written.iter().zip(read.iter()) {
            prop_assert_eq!(bits(ours.value.tensor()), bits(theirs.value.tensor()));
        }
    }
}
