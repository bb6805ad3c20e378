//! Image files of a data set that are missing, broken, elsewhere or turned: found before training, or in it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use ckd_det::config::{BoxAugment, Resize};
use ckd_det::data::augment::LabelledInput;
use ckd_det::data::label_order::BatchOrder;
use ckd_det::data::loader::Workforce;
use ckd_det::data::{
    Dataset, FindingKind, Grouping, ImagePolicy, Instances, Labelled, LabelledImages, LoadReport, Loader,
    LoaderConfig, Position, Purpose, coco, leakage,
};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::fixture;

/// Ten images of 16x16, `0.png` to `9.png`, each of its own grey and with one box.
fn folder() -> (TempDir, Instances) {
    let folder = tempfile::tempdir().unwrap();
    let mut set = Instances::of_classes(["thing"]);
    for number in 0..10u8 {
        let name = format!("{number}.png");
        RgbImage::from_pixel(16, 16, Rgb([20 * number; 3])).save(folder.path().join(&name)).unwrap();
        set.push_image(&name, (16, 16), [(0, [2.0, 2.0, 8.0, 8.0])]);
    }
    (folder, set)
}

/// Cuts a file in its middle.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn load(set: &Instances, folder: &Path, policy: &ImagePolicy) -> Result<(Dataset, LoadReport), String> {
    Dataset::new(set, folder, policy).map_err(|error| error.to_string())
}

#[test]
fn a_broken_image_is_named_before_training_or_left_out_and_counted() {
    let (folder, set) = folder();
    cut(&folder.path().join("3.png"));
    fs::write(folder.path().join("7.png"), b"no image").unwrap();
    RgbImage::new(9, 9).save(folder.path().join("8.png")).unwrap();
    let error = load(&set, folder.path(), &ImagePolicy::default()).unwrap_err();
    for part in ["3 of the 10 images", "3.png", "7.png is none of", "8.png is 9x9", "on_bad_image"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("remove it from the annotations"), "{error}");
    assert!(load(&set, folder.path(), &ImagePolicy::skip(0.2)).unwrap_err().contains("3 of the 10 images"));

    fs::remove_file(folder.path().join("9.png")).unwrap();
    let (dataset, report) = load(&set, folder.path(), &ImagePolicy::skip(0.4)).unwrap();
    assert_eq!((dataset.images.len(), report.images, report.positives), (6, 6, 6));
    let counts = [FindingKind::BadImage, FindingKind::MissingImage, FindingKind::UnknownImage];
    assert_eq!(counts.map(|kind| report.count_of(kind)), [3, 1, 0]);
    let told = report.to_string();
    assert!(told.contains("3 images with broken files") && told.contains("9.png is not in"), "{told}");
}

#[test]
fn an_image_outside_its_folder_is_refused_unless_that_is_allowed() {
    let (folder, set) = folder();
    let other = tempfile::tempdir().unwrap();
    let outside = other.path().join("x.png");
    RgbImage::new(16, 16).save(&outside).unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let absolute = outside.display().to_string();
    for name in [absolute.as_str(), "inner/../0.png"] {
        let mut named = set.clone();
        named.images[4].file_name = name.to_owned();
        let error = load(&named, folder.path(), &ImagePolicy::default()).unwrap_err();
        assert!(
            error.contains("1 of the 10 images lie outside") && error.contains("allow_outside"),
            "{error}"
        );
        let allowed = ImagePolicy { allow_outside: true, ..ImagePolicy::default() };
        assert_eq!(load(&named, folder.path(), &allowed).unwrap().0.images.len(), 10);
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_data_set_is_refused_and_one_within_it_is_not() {
    let (folder, set) = folder();
    let other = tempfile::tempdir().unwrap();
    RgbImage::new(16, 16).save(other.path().join("x.png")).unwrap();
    let link = folder.path().join("5.png");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(other.path().join("x.png"), &link).unwrap();
    let error = load(&set, folder.path(), &ImagePolicy::default()).unwrap_err();
    assert!(error.contains("first: image 6, \"5.png\""), "{error}");
    // Images of one split may be links to another folder of the data set's root.
    let below = ImagePolicy { root: Some(other.path().to_owned()), ..ImagePolicy::default() };
    assert_eq!(load(&set, folder.path(), &below).unwrap().0.images.len(), 10);
}

/// `orientation_6.jpg`, stored as 16x8 and upright 8x16, annotated with this size and box.
fn turned(size: (u32, u32), bbox: [f64; 4]) -> (Dataset, LoadReport) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("orientation_6.jpg"), folder.path().join("a.jpg")).unwrap();
    let mut set = Instances::of_classes(["thing"]);
    set.push_image("a.jpg", size, [(0, bbox)]);
    let (dataset, report) = load(&set, folder.path(), &ImagePolicy::default()).unwrap();
    assert_eq!(dataset.pixels(0).unwrap().dimensions(), (dataset.images[0].width, dataset.images[0].height));
    (dataset, report)
}

#[test]
fn boxes_tell_whether_a_turned_photograph_was_annotated_upright() {
    let size = |(dataset, _): &(Dataset, LoadReport)| (dataset.images[0].width, dataset.images[0].height);
    // A phone's export: the stored size, and a box low in the upright picture.
    let phone = turned((16, 8), [1.0, 10.0, 6.0, 6.0]);
    assert_eq!((size(&phone), phone.1.count_of(FindingKind::BoxesUpright)), ((8, 16), 1));
    assert!(phone.1.to_string().contains("boxes fit only so"), "{}", phone.1);
    let stored = turned((16, 8), [10.0, 1.0, 6.0, 6.0]);
    assert_eq!((size(&stored), stored.1.count_of(FindingKind::StoredPixels)), ((16, 8), 1));
    let upright = turned((8, 16), [1.0, 10.0, 6.0, 6.0]);
    assert_eq!((size(&upright), upright.1.findings.is_empty()), ((8, 16), true));
    let other = turned((8, 16), [10.0, 1.0, 6.0, 6.0]);
    assert_eq!((size(&other), other.1.count_of(FindingKind::BoxesStored)), ((16, 8), 1));
    // Where boxes fit both ways the size is believed.
    let unclear = turned((16, 8), [1.0, 1.0, 4.0, 4.0]);
    assert_eq!((size(&unclear), unclear.1.count_of(FindingKind::StoredPixels)), ((16, 8), 1));
}

#[test]
fn areas_that_cannot_be_are_replaced_and_counted() {
    let text = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 16}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": -5},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 4], "area": 1e300},
        {"id": 3, "image_id": 1, "category_id": 2, "bbox": [1, 1, 6, 4], "area": 7.5}]}"#;
    let set = coco::parse(text.as_bytes(), Path::new("a.json")).unwrap();
    assert_eq!(set.annotations.iter().map(|row| row.area()).collect::<Vec<_>>(), [16.0, 20.0, 7.5]);
    let kinds = [FindingKind::NegativeArea, FindingKind::HugeArea];
    assert_eq!(kinds.map(|kind| set.findings().count_of(kind)), [1, 1]);
}

#[test]
fn a_corrected_copy_has_nothing_left_to_find() {
    let (folder, mut set) = folder();
    cut(&folder.path().join("3.png"));
    set.images[0].width = 0;
    set.annotations[1].bbox = [-4.0, 2.0, 30.0, 8.0];
    set.annotations[1].area = Some(200.0);
    set.annotations[2].bbox = [100.0, 2.0, 8.0, 8.0];
    set.annotations[4].image_id = 99;
    let (dataset, report) = load(&set, folder.path(), &ImagePolicy::skip(1.0)).unwrap();
    assert!(!report.findings.is_empty());
    let fixed = coco::parse(&coco::to_json(&dataset.corrected(|_| true)), Path::new("fixed.json")).unwrap();
    let (again, clean) = load(&fixed, folder.path(), &ImagePolicy::default()).unwrap();
    assert!(clean.findings.is_empty(), "{clean}");
    assert_eq!((clean.images, clean.positives), (9, 7));
    let clipped = &again.annotations(1)[0];
    assert_eq!((clipped.bbox, clipped.area), ([0.0, 2.0, 16.0, 8.0], 128.0));
}

#[test]
fn images_of_the_evaluation_that_are_training_images_are_found_by_content() {
    let (folder, _) = folder();
    let path = |name: &str| folder.path().join(name);
    fs::copy(path("4.png"), path("copy.png")).unwrap();
    let train = [path("1.png"), path("4.png"), path("absent.png")];
    let val = [path("2.png"), path("copy.png")];
    assert_eq!(leakage::shared(&train, &val, u64::MAX), Some(vec![1]));
    assert_eq!(leakage::shared(&train, &val, 10), None, "too much to read");
    assert_eq!(leakage::shared(&train[..1], &[], 0), Some(Vec::new()));
}

fn training() -> LoaderConfig {
    LoaderConfig {
        purpose: Purpose::Training {
            seed: 3,
            grouping: Grouping::ByAspect,
            flip_probability: 0.5,
            short_sides_px: vec![16],
            augment: BoxAugment::default(),
        },
        long_side_max_px: 60,
        resize: Resize::Bilinear,
        teacher_resize: None,
        images_per_batch: 2,
        size_divisor: 16,
        workers: 2,
        batches_ahead: 2,
    }
}

#[test]
fn an_image_that_breaks_in_mid_training_is_replaced_by_the_same_image_in_every_run() {
    let (folder, set) = folder();
    let policy = ImagePolicy::skip(0.1);
    let (dataset, _) = load(&set, folder.path(), &policy).unwrap();
    let dataset = Arc::new(dataset);
    let start = Position::default();
    let whole: Vec<_> =
        Loader::new(dataset.clone(), training(), start).unwrap().take(10).map(Result::unwrap).collect();
    cut(&folder.path().join("6.png"));
    let mut loader = Loader::new(dataset.clone(), training(), start).unwrap();
    let broken: Vec<_> = loader.by_ref().take(10).map(Result::unwrap).collect();
    let found = loader.take_broken();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].path.ends_with("6.png") && found[0].reason.contains("6.png is cut short"), "{found:?}");
    assert!(loader.take_broken().is_empty(), "told once");
    for (whole, broken) in whole.iter().zip(&broken) {
        assert!(broken.image_ids.iter().all(|id| id.0 != 7));
        // Whatever else is in the batch is as it was.
        for (ours, theirs) in whole.image_ids.iter().zip(&broken.image_ids) {
            assert!(ours == theirs || ours.0 == 7, "{ours} became {theirs}");
        }
    }
    let resumed = Loader::new(dataset.clone(), training(), Position { epoch: 1, batch: 2 }).unwrap();
    assert_eq!(resumed.take(3).map(Result::unwrap).collect::<Vec<_>>(), broken[7..]);
    // A run that is resumed later finds the image broken from the start.
    let (later, report) = load(&set, folder.path(), &policy).unwrap();
    assert_eq!((later.images.len(), report.count_of(FindingKind::BadImage)), (9, 1));
    let mut resumed = Loader::new(Arc::new(later), training(), Position { epoch: 0, batch: 3 }).unwrap();
    assert_eq!(resumed.by_ref().take(7).map(Result::unwrap).collect::<Vec<_>>(), broken[3..]);
    assert!(resumed.take_broken().is_empty(), "it was told at load");

    // One is tolerated of ten; a second is not.
    cut(&folder.path().join("2.png"));
    let ended = Loader::new(dataset, training(), start).unwrap().take(10).find_map(Result::err).unwrap();
    let told = ended.to_string();
    assert!(
        told.contains("2 of 10 images turned out to be broken") && told.contains("max_bad_images"),
        "{told}"
    );
}

#[test]
fn without_that_policy_an_image_that_breaks_in_mid_training_ends_it() {
    let (folder, set) = folder();
    let (dataset, _) = load(&set, folder.path(), &ImagePolicy::default()).unwrap();
    cut(&folder.path().join("6.png"));
    let mut batches = Loader::new(Arc::new(dataset), training(), Position::default()).unwrap().take(10);
    assert!(batches.find_map(Result::err).unwrap().to_string().contains("6.png"));
}

#[test]
fn labelled_images_with_bad_headers_are_named_or_left_out() {
    let (folder, _) = folder();
    let files = (0..10).map(|number| (folder.path().join(format!("{number}.png")), number % 2)).collect();
    let classes = vec!["even".to_owned(), "odd".to_owned()];
    let set = Labelled::files(classes, files, folder.path().to_owned()).unwrap();
    cut(&folder.path().join("3.png"));
    let error =
        set.clone().with_good_headers(folder.path(), &ImagePolicy::default()).unwrap_err().to_string();
    assert!(error.contains("1 of the 10 images") && error.contains("3.png"), "{error}");
    let kept = set.with_good_headers(folder.path(), &ImagePolicy::skip(0.1)).unwrap();
    assert_eq!((kept.left_out.len(), kept.len()), (1, 10));
    let (kept, batch) = (Arc::new(kept), NonZeroUsize::new(4).unwrap());
    let input = LabelledInput { side_px: 16, ..LabelledInput::default() };
    let workforce = Workforce { workers: 1, batches_ahead: 1 };
    let seen = |order| -> Vec<u32> {
        let source = LabelledImages::new(kept.clone(), order, input.evaluation(), 3).unwrap();
        let batches = Loader::over(source, workforce, Position::default()).unwrap();
        batches.take(3).flat_map(|batch| batch.unwrap().indices).collect()
    };
    assert_eq!(seen(BatchOrder::Sequential { batch }), [0, 1, 2, 4, 5, 6, 7, 8, 9], "not measured");
    let trained = seen(BatchOrder::Shuffled { seed: 3, batch });
    assert!(trained.len() == 10 && !trained.contains(&3), "replaced: {trained:?}");
}
