//! The loader: order, resumption, errors, shutdown.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ckd_det::config::{BoxAugment, Resize};
use ckd_det::data::{
    Annotation, Batch, CategoryId, CategoryMap, ClassIndex, Dataset, Grouping, Image, ImageId, ImagePolicy,
    Instances, Loader, LoaderConfig, Position, Purpose,
};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// Eleven small PNGs of several sizes; image i is filled with grey 10 i and has one box, image 3 none
/// and image 4 a crowd box too.
fn dataset() -> (TempDir, Arc<Dataset>) {
    let folder = tempfile::tempdir().unwrap();
    let categories =
        CategoryMap::new(vec![(CategoryId(1), "a".into()), (CategoryId(5), "b".into())]).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for number in 0..11u32 {
        let (width, height) = if number % 3 == 0 { (20 + number, 16) } else { (16, 20 + number) };
        let path = folder.path().join(format!("{number}.png"));
        RgbImage::from_pixel(width, height, Rgb([10 * number as u8; 3])).save(&path).unwrap();
        let id = ImageId(u64::from(number) + 100);
        images.push(Image { id, file_name: format!("{number}.png"), width, height, path, weight: 1.0 });
        let one = |bbox, crowd| Annotation {
            id: u64::from(number),
            bbox,
            category: ClassIndex(number % 2),
            area: 16.0,
            crowd,
            ignore: false,
            score: None,
            weight: 1.0,
        };
        annotations.push(match number {
            3 => vec![],
            4 => vec![one([0.0, 0.0, 4.0, 4.0], false), one([8.0, 8.0, 8.0, 12.0], true)],
            _ => vec![one([0.0, 0.0, 4.0, 4.0], false)],
        });
    }
    let dataset = Dataset::from_parts(images, categories, annotations);
    (folder, Arc::new(dataset))
}

fn training(workers: usize) -> LoaderConfig {
    LoaderConfig {
        purpose: Purpose::Training {
            seed: 3,
            grouping: Grouping::ByAspect,
            flip_probability: 0.5,
            short_sides_px: vec![16, 24, 32],
            augment: BoxAugment::default(),
        },
        long_side_max_px: 60,
        resize: Resize::Bilinear,
        teacher_resize: None,
        images_per_batch: 2,
        size_divisor: 32,
        workers,
        batches_ahead: 3,
    }
}

fn evaluation(short_side_px: u32) -> LoaderConfig {
    LoaderConfig { purpose: Purpose::Evaluation { short_side_px }, ..training(2) }
}

fn take(dataset: &Arc<Dataset>, config: LoaderConfig, start: Position, count: usize) -> Vec<Batch> {
    let loader = Loader::new(Arc::clone(dataset), config, start).unwrap();
    loader.take(count).collect::<Result<_, _>>().unwrap()
}

#[test]
fn the_order_does_not_depend_on_the_workers() {
    let (_folder, dataset) = dataset();
    let alone = take(&dataset, training(1), Position::default(), 20);
    assert_eq!(alone.len(), 20, "training never ends");
    for workers in 2..=4 {
        assert!(take(&dataset, training(workers), Position::default(), 20) == alone, "{workers} workers");
    }
}

#[test]
fn resuming_anywhere_gives_the_batches_that_would_have_followed() {
    let (_folder, dataset) = dataset();
    let mut loader = Loader::new(Arc::clone(&dataset), training(2), Position::default()).unwrap();
    let (mut batches, mut positions) = (Vec::new(), vec![loader.position()]);
    for _ in 0..15 {
        batches.push(loader.next().unwrap().unwrap());
        positions.push(loader.position());
    }
    assert_eq!(loader.batches_per_epoch(), 6);
    assert_eq!(positions[6], Position { epoch: 1, batch: 0 });
    for start in [1, 5, 6, 7, 12] {
        let resumed = take(&dataset, training(3), positions[start], 15 - start);
        assert!(resumed == batches[start..], "from batch {start}");
    }
    let end_of_epoch = Position { epoch: 0, batch: 6 };
    assert!(take(&dataset, training(1), end_of_epoch, 2) == batches[6..8], "the end of an epoch is a start");
}

#[test]
fn every_epoch_shows_every_image_once_in_another_order_and_size() {
    let (_folder, dataset) = dataset();
    let batches = take(&dataset, training(2), Position::default(), 12);
    let ids = |epoch: &[Batch]| -> Vec<u64> {
        epoch.iter().flat_map(|batch| &batch.image_ids).map(|id| id.0).collect()
    };
    let (first, second) = (ids(&batches[..6]), ids(&batches[6..]));
    assert_ne!(first, second);
    for mut epoch in [first, second] {
        epoch.sort_unstable();
        assert_eq!(epoch, (100..111).collect::<Vec<_>>());
    }
    let mut short_sides: Vec<usize> =
        batches.iter().flat_map(|batch| &batch.sizes).map(|&(height, width)| height.min(width)).collect();
    short_sides.sort_unstable();
    short_sides.dedup();
    assert_eq!(short_sides, [16, 24, 32]);
}

#[test]
fn a_batch_holds_pixels_padding_and_targets() {
    let (_folder, dataset) = dataset();
    let batches = take(&dataset, evaluation(32), Position::default(), 100);
    assert_eq!(batches.len(), 6, "an evaluation ends");
    let ids: Vec<u64> = batches.iter().flat_map(|batch| &batch.image_ids).map(|id| id.0).collect();
    assert_eq!(ids, (100..111).collect::<Vec<_>>());
    for batch in &batches {
        assert_eq!(batch.pixels.len(), batch.batch * batch.height * batch.width * 3);
        assert!(batch.height % 32 == 0 && batch.width % 32 == 0);
        for place in 0..batch.batch {
            let grey = (batch.image_ids[place].0 - 100) as f32 * 10.0 / 255.0;
            let (height, width) = batch.sizes[place];
            let image = &batch.pixels[place * batch.height * batch.width * 3..];
            for y in 0..batch.height {
                for x in 0..batch.width {
                    let expected = if y < height && x < width { grey } else { 0.0 };
                    let got = image[(y * batch.width + x) * 3];
                    assert!((got - expected).abs() < 1e-6, "{got} {expected}");
                }
            }
        }
    }
    // Image 4 is 16 x 24: twice as large in the batch.
    let (batch, place) = (&batches[2], 0);
    assert_eq!((batch.sizes[place], batch.original_sizes[place]), ((48, 32), (24, 16)));
    assert_eq!(batch.targets[place].boxes, [[0.0, 0.0, 8.0, 8.0]]);
    assert_eq!(batch.targets[place].labels, [0]);
    assert_eq!(batch.targets[place].ignored, [[16.0, 16.0, 32.0, 40.0]]);
    assert!(batches[1].targets[1].boxes.is_empty(), "an image without boxes is an ordinary image");
}

#[test]
fn a_flipped_image_has_flipped_boxes() {
    let (_folder, dataset) = dataset();
    let mut config = training(1);
    config.purpose = Purpose::Training {
        seed: 3,
        grouping: Grouping::None,
        flip_probability: 1.0,
        short_sides_px: vec![16],
        augment: BoxAugment::default(),
    };
    for batch in take(&dataset, config, Position::default(), 6) {
        for (target, (_, width)) in batch.targets.iter().zip(&batch.sizes) {
            assert!(target.boxes.iter().all(|corners| corners[2] == *width as f32), "{target:?}");
        }
    }
}

#[test]
fn a_broken_image_surfaces_at_its_place_with_its_name() {
    let (folder, dataset) = dataset();
    fs::write(folder.path().join("5.png"), b"no image").unwrap();
    let mut loader = Loader::new(dataset, evaluation(16), Position::default()).unwrap();
    assert!(loader.next().unwrap().is_ok());
    assert!(loader.next().unwrap().is_ok());
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("5.png"), "{error}");
    assert!(loader.next().is_none(), "nothing follows an error");
}

#[test]
fn a_loader_can_be_dropped_at_any_time() {
    let (_folder, dataset) = dataset();
    for taken in 0..5 {
        let mut loader = Loader::new(Arc::clone(&dataset), training(3), Position::default()).unwrap();
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
    }
    assert_eq!(Arc::strong_count(&dataset), 1, "no worker outlives its loader");
}

#[test]
fn workers_wait_when_the_shelf_is_full() {
    let (folder, dataset) = dataset();
    let mut loader = Loader::new(dataset, evaluation(16), Position::default()).unwrap();
    loader.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    // Three batches are ahead of the one taken; image 10, of the sixth, has not been opened.
    fs::remove_file(folder.path().join("10.png")).unwrap();
    for _ in 0..4 {
        loader.next().unwrap().unwrap();
    }
    assert!(loader.next().unwrap().is_err());
    assert!(loader.data_wait() > Duration::ZERO);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (_folder, dataset) = dataset();
    let refused = |change: fn(&mut LoaderConfig), expected: &str| {
        let mut config = training(1);
        change(&mut config);
        let error = Loader::new(Arc::clone(&dataset), config, Position::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(|config| config.images_per_batch = 0, "images_per_batch");
    refused(|config| config.workers = 0, "workers");
    refused(|config| config.batches_ahead = 0, "batches_ahead");
    refused(|config| config.size_divisor = 0, "size_divisor");
    refused(|config| config.purpose = Purpose::Evaluation { short_side_px: 0 }, "short side");
    refused(|config| set(config, f64::NAN, vec![16]), "flip_probability");
    refused(|config| set(config, 1.5, vec![16]), "flip_probability");
    refused(|config| set(config, 0.5, vec![]), "short side");
    let beyond = Position { epoch: 1, batch: 7 };
    let error = Loader::new(dataset, training(1), beyond).unwrap_err().to_string();
    assert!(error.contains("before batch 7 of epoch 1"), "{error}");
}

fn set(config: &mut LoaderConfig, flip_probability: f64, short_sides_px: Vec<u32>) {
    let (seed, grouping) = (0, Grouping::None);
    config.purpose = Purpose::Training {
        seed,
        grouping,
        flip_probability,
        short_sides_px,
        augment: BoxAugment::default(),
    };
}

/// All that moves boxes and changes pixels.
fn everything() -> BoxAugment {
    BoxAugment {
        mosaic_probability: 0.5,
        crop_probability: 0.5,
        scale_jitter: vec![0.5, 2.0],
        mix_up_probability: 0.5,
        jitter: vec![0.4, 0.4, 0.4, 0.1],
        vertical_flip_probability: 0.5,
        mix_epochs: Some(2),
        ..BoxAugment::default()
    }
}

fn augmented(workers: usize, own: BoxAugment) -> LoaderConfig {
    let mut config = training(workers);
    if let Purpose::Training { augment, .. } = &mut config.purpose {
        *augment = own;
    }
    config
}

#[test]
fn augmented_batches_depend_on_their_place_alone() {
    let (_folder, dataset) = dataset();
    let alone = take(&dataset, augmented(1, everything()), Position::default(), 20);
    assert!(take(&dataset, augmented(3, everything()), Position::default(), 20) == alone, "3 workers");
    let from_there = Position { epoch: 1, batch: 3 };
    assert!(take(&dataset, augmented(2, everything()), from_there, 11) == alone[9..], "resumed");
    assert!(take(&dataset, training(1), Position::default(), 20) != alone);
    for batch in &alone {
        for (target, &(height, width)) in batch.targets.iter().zip(&batch.sizes) {
            assert_eq!(target.boxes.len(), target.labels.len());
            for [x1, y1, x2, y2] in target.boxes.iter().chain(&target.ignored) {
                assert!(0.0 <= *x1 && x1 < x2 && *x2 <= width as f32 + 1e-3, "{target:?} in {width}");
                assert!(0.0 <= *y1 && y1 < y2 && *y2 <= height as f32 + 1e-3, "{target:?} in {height}");
            }
        }
    }
}

#[test]
fn augmentation_that_is_off_changes_no_batch() {
    let (_folder, dataset) = dataset();
    let off = BoxAugment { min_visible: 0.7, mix_epochs: Some(1), ..BoxAugment::default() };
    let plain = take(&dataset, training(1), Position::default(), 12);
    assert!(take(&dataset, augmented(1, off), Position::default(), 12) == plain);
}

#[test]
fn an_image_enlarged_by_jitter_keeps_its_size_and_a_shrunk_one_gets_smaller() {
    let (_folder, dataset) = dataset();
    let by = |factor: f64| {
        let augment = BoxAugment { scale_jitter: vec![factor, factor], ..BoxAugment::default() };
        take(&dataset, augmented(1, augment), Position::default(), 6)
    };
    for (plain, (half, twice)) in by(1.0).iter().zip(by(0.5).iter().zip(&by(2.0))) {
        assert_eq!(plain.image_ids, half.image_ids);
        for (&(height, width), &(half_height, half_width)) in plain.sizes.iter().zip(&half.sizes) {
            assert!(half_height.abs_diff(height / 2) <= 1 && half_width.abs_diff(width / 2) <= 1);
        }
        for (plain, twice) in plain.sizes.iter().zip(&twice.sizes) {
            assert!(plain.0.abs_diff(twice.0) <= 3 && plain.1.abs_diff(twice.1) <= 3, "{plain:?} {twice:?}");
        }
    }
}

#[test]
fn boxes_of_augmented_batches_are_around_their_pixels() {
    // White boxes of even sides on black, several sizes of images.
    let folder = tempfile::tempdir().unwrap();
    let categories = CategoryMap::new(vec![(CategoryId(1), "white".into())]).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for number in 0..8u32 {
        let (width, height) = (48 + 8 * (number % 3), 64 - 8 * (number % 2));
        let (x, y, w, h) = (6 + 2 * number, 30 - 3 * number, 14 + number, 20);
        let mut image = RgbImage::new(width, height);
        (y..y + h).for_each(|y| (x..x + w).for_each(|x| image.put_pixel(x, y, Rgb([255; 3]))));
        let path = folder.path().join(format!("{number}.png"));
        image.save(&path).unwrap();
        let (id, file_name) = (ImageId(u64::from(number)), format!("{number}.png"));
        images.push(Image { id, file_name, width, height, path, weight: 1.0 });
        annotations.push(vec![Annotation {
            id: u64::from(number),
            bbox: [x, y, w, h].map(f64::from),
            category: ClassIndex(0),
            area: f64::from(w * h),
            crowd: false,
            ignore: false,
            score: None,
            weight: 1.0,
        }]);
    }
    let dataset = Arc::new(Dataset::from_parts(images, categories, annotations));
    let moving = BoxAugment { mix_up_probability: 0.0, jitter: vec![0.0; 4], ..everything() };
    let mut config = augmented(2, BoxAugment { mix_epochs: None, ..moving });
    config.long_side_max_px = 96;
    if let Purpose::Training { short_sides_px, .. } = &mut config.purpose {
        *short_sides_px = vec![48, 64];
    }
    const BLUR: f32 = 6.0;
    let mut seen = 0;
    for batch in take(&dataset, config, Position::default(), 60) {
        for (place, target) in batch.targets.iter().enumerate() {
            let value = |x: f32, y: f32| -> f32 {
                let (row, column) = (y as usize, x as usize);
                batch.pixels[((place * batch.height + row) * batch.width + column) * 3]
            };
            let (height, width) = (batch.sizes[place].0 as f32, batch.sizes[place].1 as f32);
            for &[x1, y1, x2, y2] in
                target.boxes.iter().filter(|[x1, y1, x2, y2]| x2 - x1 > 14.0 && y2 - y1 > 14.0)
            {
                seen += 1;
                let [x, y] = [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
                // Pixels of an image that was shrunk and then enlarged are blurred; a mosaic's grey is 0.45.
                for (x, y) in [(x, y), (x1 + BLUR, y), (x2 - BLUR, y), (x, y1 + BLUR), (x, y2 - BLUR)] {
                    assert!(
                        value(x, y) > 0.9,
                        "{:?}: dark at {x}, {y} of {width} x {height}",
                        [x1, y1, x2, y2]
                    );
                }
                if target.boxes.len() > 1 {
                    continue;
                }
                for (x, y) in [(x1 - BLUR, y), (x2 + BLUR, y), (x, y1 - BLUR), (x, y2 + BLUR)] {
                    let is_within = x >= 0.0 && y >= 0.0 && x < width && y < height;
                    assert!(!is_within || value(x, y) < 0.6, "{:?}: white at {x}, {y}", [x1, y1, x2, y2]);
                }
            }
        }
    }
    assert!(seen > 50, "{seen} boxes");
}

#[test]
fn a_partner_that_is_broken_is_replaced_where_that_is_allowed_and_else_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut set = Instances::of_classes(["thing"]);
    for number in 0..6u8 {
        let name = format!("{number}.png");
        RgbImage::from_pixel(16, 16, Rgb([40 * number; 3])).save(folder.path().join(&name)).unwrap();
        set.push_image(&name, (16, 16), [(0, [2.0, 2.0, 8.0, 8.0])]);
    }
    let mixed = BoxAugment { mosaic_probability: 1.0, ..BoxAugment::default() };
    let sets = [ImagePolicy::skip(0.5), ImagePolicy::default()]
        .map(|policy| Arc::new(Dataset::new(&set, folder.path(), &policy).unwrap().0));
    fs::write(folder.path().join("3.png"), b"no image").unwrap();
    let batches = take(&sets[0], augmented(2, mixed.clone()), Position::default(), 12);
    assert!(take(&sets[0], augmented(1, mixed.clone()), Position::default(), 12) == batches);
    assert!(batches.iter().all(|batch| batch.image_ids.iter().all(|id| id.0 != 4)), "{batches:?}");
    let loader = Loader::new(Arc::clone(&sets[1]), augmented(1, mixed), Position::default()).unwrap();
    let error = loader.take(6).find_map(Result::err).expect("an error").to_string();
    assert!(error.contains("3.png"), "{error}");
}

#[test]
fn a_teacher_that_resizes_otherwise_gets_the_same_places_with_other_pixels() {
    let (_folder, dataset) = dataset();
    let plain = training(2);
    let both = LoaderConfig { teacher_resize: Some(Resize::PilBilinear), ..plain.clone() };
    let teachers = LoaderConfig { resize: Resize::PilBilinear, ..plain.clone() };
    let batches = [plain, both, teachers].map(|config| take(&dataset, config, Position::default(), 4));
    for ((plain, both), teachers) in batches[0].iter().zip(&batches[1]).zip(&batches[2]) {
        assert_eq!((&plain.pixels, &plain.teacher_pixels), (&both.pixels, &None));
        assert_eq!((&plain.sizes, &plain.targets), (&both.sizes, &both.targets));
        let seen = both.teacher_pixels.as_ref().expect("a second view");
        assert_eq!(seen.len(), both.pixels.len());
        // Where both ways of rounding give the same sizes, it is what such a model alone would see.
        if teachers.sizes == plain.sizes {
            assert_eq!(seen, &teachers.pixels);
        }
    }
}

#[test]
fn predictions_take_images_without_ground_truth() {
    let images = [RgbImage::new(20, 10), RgbImage::new(10, 20)];
    let rule = ckd_det::data::transform::ResizeRule {
        short_side_px: 40,
        long_side_max_px: 100,
        resize: Resize::Bilinear,
    };
    let batch = Batch::of_images(&images, rule, 32);
    assert_eq!((batch.batch, batch.height, batch.width), (2, 96, 96));
    assert_eq!(batch.sizes, [(40, 80), (80, 40)]);
    assert!(batch.targets.iter().all(|target| target.boxes.is_empty()));
    assert_eq!(Batch::of_images::<RgbImage>(&[], rule, 32).pixels.len(), 0);
}
