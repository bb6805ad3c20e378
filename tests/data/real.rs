//! Real images and annotations.

use std::sync::Arc;

use ckd_det::config::Resize;
use ckd_det::data::voc::{self, Classes};
use ckd_det::data::{
    Dataset, FindingKind, ImagePolicy, Loader, LoaderConfig, Position, Purpose, coco, decode,
};

use crate::support::real;

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn coco_mini_is_what_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let root = real::unpacked("coco_mini", folder.path());
    // Images, annotations, crowd; small, medium and large of all annotations; images without one.
    let expected = [("train", [161, 1444, 14, 607, 535, 288]), ("val", [81, 815, 11, 337, 297, 170])];
    for (split, [images, annotations, crowd, small, medium, large]) in expected {
        let file = root.join(format!("annotations/instances_{split}.json"));
        let (dataset, report) =
            Dataset::load(&file, &root.join(format!("{split}2017")), &ImagePolicy::default()).unwrap();
        assert_eq!((dataset.images.len(), dataset.categories.len()), (images, 80));
        assert_eq!((report.count_of(FindingKind::Crowd), report.positives), (crowd, annotations - crowd));
        let mut sizes = [0; 3];
        let all = (0..images).flat_map(|image| dataset.annotations(image));
        for annotation in all.filter(|annotation| annotation.is_positive()) {
            let rank = [32.0 * 32.0, 96.0 * 96.0].iter().filter(|&&edge| annotation.area >= edge).count();
            sizes[rank] += 1;
        }
        assert_eq!(sizes, [small, medium, large], "{split}");
        assert_eq!(report.count_of(FindingKind::Clipped), 0, "no box leaves its image by a pixel");
        let bare = (0..images).filter(|&image| dataset.annotations(image).is_empty()).count();
        assert_eq!(bare, 1);
        for image in &dataset.images {
            decode::read_annotated(&image.path, image.width, image.height).unwrap();
        }
    }
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn coco_images_come_at_full_size() {
    let folder = tempfile::tempdir().unwrap();
    let root = real::unpacked("coco_mini", folder.path());
    let (dataset, _) = Dataset::load(
        &root.join("annotations/instances_val.json"),
        &root.join("val2017"),
        &ImagePolicy::default(),
    )
    .unwrap();
    let config = LoaderConfig {
        purpose: Purpose::Evaluation { short_side_px: 800 },
        long_side_max_px: 1333,
        resize: Resize::Bilinear,
        teacher_resize: None,
        images_per_batch: 2,
        size_divisor: 32,
        workers: 2,
        batches_ahead: 2,
    };
    let loader = Loader::new(Arc::new(dataset), config, Position::default()).unwrap();
    for batch in loader.take(3).map(Result::unwrap) {
        assert!(batch.sizes.iter().all(|&(h, w)| h.min(w) <= 800 && h.max(w) <= 1333));
        assert!(batch.pixels.iter().all(|value| (0.0..=1.0).contains(value)));
        for (target, &(height, width)) in batch.targets.iter().zip(&batch.sizes) {
            for [x1, y1, x2, y2] in &target.boxes {
                assert!(0.0 <= *x1 && x1 < x2 && *x2 <= width as f32 + 0.01);
                assert!(0.0 <= *y1 && y1 < y2 && *y2 <= height as f32 + 0.01);
            }
        }
    }
}

#[test]
#[ignore = "needs CKD_DET_DATA"]
fn bccd_converted_from_voc_equals_its_coco_form() {
    let folder = tempfile::tempdir().unwrap();
    let root = real::unpacked("bccd", folder.path());
    let classes = Classes::Listed(["RBC", "WBC", "Platelets"].map(str::to_owned).to_vec());
    for (split, boxes, without_size) in [("train", 2804, 1), ("val", 1137, 1), ("test", 945, 0)] {
        let converted = voc::read(&root, split, &classes).unwrap();
        let mut published = coco::read(&root.join(format!("coco/instances_{split}.json"))).unwrap();
        // It numbers its annotations through all splits.
        for (id, annotation) in (1..).zip(&mut published.annotations) {
            annotation.id = id;
        }
        assert!(converted == published, "{split}");
        assert_eq!(converted.annotations.len(), boxes);
        assert!(converted.annotations.iter().all(|row| !row.ignore));
        assert_eq!(converted.findings().count_of(FindingKind::NoSizeIn), without_size);
    }
    let found = voc::read(&root, "val", &Classes::Found).unwrap();
    let names: Vec<&str> = found.categories.iter().map(|category| category.name.as_str()).collect();
    assert_eq!(names, ["Platelets", "RBC", "WBC"]);
}
