//! The configurations that are compiled into the program, so that it works from any folder.

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        /// Name below `configs/` and content, in alphabetical order.
        pub(super) const EMBEDDED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../configs/", $name)))),*];
    };
}

embed!(
    "base/bccd.toml",
    "base/cifar100_240.toml",
    "base/cifar100_480.toml",
    "base/cifar10_r56.toml",
    "base/cifar10_short.toml",
    "base/coco_faster_rcnn_fpn.toml",
    "base/coco_retinanet_fpn.toml",
    "base/imagenet_100.toml",
    "base/imagenet_200.toml",
    "base/probe.toml",
    "base/quickstart.toml",
    "bccd_alone.toml",
    "bccd_ckd.toml",
    "bccd_fgd.toml",
    "bccd_mv2.toml",
    "bccd_pkd.toml",
    "bccd_r34_r18.toml",
    "bccd_rcka.toml",
    "bccd_review_ckd.toml",
    "bccd_review_kd.toml",
    "bccd_teacher.toml",
    "cifar10/r56_r8_ckd.toml",
    "cifar10/r56_r8_dkd.toml",
    "cifar10/r56_r8_icd.toml",
    "cifar10/r56_r8_kd.toml",
    "cifar10/r56_r8_rcka.toml",
    "cifar10/r8_alone.toml",
    "cifar100/ckd_r110_r32.toml",
    "cifar100/ckd_r32x4_r8x4.toml",
    "cifar100/ckd_r32x4_sv1.toml",
    "cifar100/ckd_r32x4_sv2.toml",
    "cifar100/ckd_r50_mv2.toml",
    "cifar100/ckd_r56_r20.toml",
    "cifar100/ckd_v13_mv2.toml",
    "cifar100/ckd_v13_v8.toml",
    "cifar100/ckd_w40_2_sv1.toml",
    "cifar100/ckd_w40_2_w16_2.toml",
    "cifar100/ckd_w40_2_w40_1.toml",
    "cifar100/crd_r110_r20.toml",
    "cifar100/crd_r110_r32.toml",
    "cifar100/crd_r32x4_r8x4.toml",
    "cifar100/crd_r32x4_sv1.toml",
    "cifar100/crd_r32x4_sv2.toml",
    "cifar100/crd_r50_mv2.toml",
    "cifar100/crd_r50_v8.toml",
    "cifar100/crd_r56_r20.toml",
    "cifar100/crd_v13_mv2.toml",
    "cifar100/crd_v13_v8.toml",
    "cifar100/crd_w40_2_sv1.toml",
    "cifar100/crd_w40_2_w16_2.toml",
    "cifar100/crd_w40_2_w40_1.toml",
    "cifar100/dist_r110_r20.toml",
    "cifar100/dist_r110_r32.toml",
    "cifar100/dist_r32x4_r8x4.toml",
    "cifar100/dist_r32x4_sv1.toml",
    "cifar100/dist_r32x4_sv2.toml",
    "cifar100/dist_r50_mv2.toml",
    "cifar100/dist_r50_v8.toml",
    "cifar100/dist_r56_r20.toml",
    "cifar100/dist_v13_mv2.toml",
    "cifar100/dist_v13_v8.toml",
    "cifar100/dist_w40_2_sv1.toml",
    "cifar100/dist_w40_2_w16_2.toml",
    "cifar100/dist_w40_2_w40_1.toml",
    "cifar100/dkd_r110_r20.toml",
    "cifar100/dkd_r110_r32.toml",
    "cifar100/dkd_r32x4_r8x4.toml",
    "cifar100/dkd_r32x4_sv1.toml",
    "cifar100/dkd_r32x4_sv2.toml",
    "cifar100/dkd_r50_mv2.toml",
    "cifar100/dkd_r50_v8.toml",
    "cifar100/dkd_r56_r20.toml",
    "cifar100/dkd_v13_mv2.toml",
    "cifar100/dkd_v13_v8.toml",
    "cifar100/dkd_w40_2_sv1.toml",
    "cifar100/dkd_w40_2_w16_2.toml",
    "cifar100/dkd_w40_2_w40_1.toml",
    "cifar100/icd_kd_r110_r20.toml",
    "cifar100/icd_kd_r110_r32.toml",
    "cifar100/icd_kd_r32x4_r8x4.toml",
    "cifar100/icd_kd_r32x4_sv1.toml",
    "cifar100/icd_kd_r32x4_sv2.toml",
    "cifar100/icd_kd_r50_mv2.toml",
    "cifar100/icd_kd_r50_v8.toml",
    "cifar100/icd_kd_r56_r20.toml",
    "cifar100/icd_kd_v13_mv2.toml",
    "cifar100/icd_kd_v13_v8.toml",
    "cifar100/icd_kd_w40_2_sv1.toml",
    "cifar100/icd_kd_w40_2_w16_2.toml",
    "cifar100/icd_kd_w40_2_w40_1.toml",
    "cifar100/icd_r110_r20.toml",
    "cifar100/icd_r110_r32.toml",
    "cifar100/icd_r32x4_r8x4.toml",
    "cifar100/icd_r32x4_sv1.toml",
    "cifar100/icd_r32x4_sv2.toml",
    "cifar100/icd_r50_mv2.toml",
    "cifar100/icd_r50_v8.toml",
    "cifar100/icd_r56_r20.toml",
    "cifar100/icd_v13_mv2.toml",
    "cifar100/icd_v13_v8.toml",
    "cifar100/icd_w40_2_sv1.toml",
    "cifar100/icd_w40_2_w16_2.toml",
    "cifar100/icd_w40_2_w40_1.toml",
    "cifar100/kd_r110_r20.toml",
    "cifar100/kd_r110_r32.toml",
    "cifar100/kd_r32x4_r8x4.toml",
    "cifar100/kd_r32x4_sv1.toml",
    "cifar100/kd_r32x4_sv2.toml",
    "cifar100/kd_r50_mv2.toml",
    "cifar100/kd_r50_v8.toml",
    "cifar100/kd_r56_r20.toml",
    "cifar100/kd_v13_mv2.toml",
    "cifar100/kd_v13_v8.toml",
    "cifar100/kd_w40_2_sv1.toml",
    "cifar100/kd_w40_2_w16_2.toml",
    "cifar100/kd_w40_2_w40_1.toml",
    "cifar100/plain_mv2.toml",
    "cifar100/plain_r110.toml",
    "cifar100/plain_r20.toml",
    "cifar100/plain_r32.toml",
    "cifar100/plain_r32x4.toml",
    "cifar100/plain_r50.toml",
    "cifar100/plain_r56.toml",
    "cifar100/plain_r8x4.toml",
    "cifar100/plain_sv1.toml",
    "cifar100/plain_sv2.toml",
    "cifar100/plain_v13.toml",
    "cifar100/plain_v8.toml",
    "cifar100/plain_w16_2.toml",
    "cifar100/plain_w40_1.toml",
    "cifar100/plain_w40_2.toml",
    "cifar100/probe_stl10.toml",
    "cifar100/probe_tiny_imagenet.toml",
    "cifar100/rcka_r110_r20.toml",
    "cifar100/rcka_r110_r32.toml",
    "cifar100/rcka_r32x4_r8x4.toml",
    "cifar100/rcka_r32x4_sv1.toml",
    "cifar100/rcka_v13_mv2.toml",
    "cifar100/rcka_v13_v8.toml",
    "cifar100/rcka_w40_2_sv1.toml",
    "cifar100/rcka_w40_2_w16_2.toml",
    "cifar100/rcka_w40_2_w40_1.toml",
    "cifar100/review_r110_r32.toml",
    "cifar100/review_r32x4_r8x4.toml",
    "cifar100/review_r32x4_sv1.toml",
    "cifar100/review_r32x4_sv2.toml",
    "cifar100/review_r56_r20.toml",
    "cifar100/review_w40_2_sv1.toml",
    "cifar100/review_w40_2_w16_2.toml",
    "cifar100/review_w40_2_w40_1.toml",
    "cifar10_r56_r20.toml",
    "coco_d2_r101_r18.toml",
    "coco_mini.toml",
    "coco_r101_r18.toml",
    "coco_r101_r18_cwd.toml",
    "coco_r101_r18_dist.toml",
    "coco_r101_r18_dkd.toml",
    "coco_r101_r18_fgd.toml",
    "coco_r101_r18_fgfi.toml",
    "coco_r101_r18_kd.toml",
    "coco_r101_r18_pkd.toml",
    "coco_r101_r18_review_ckd.toml",
    "coco_r101_r18_review_kd.toml",
    "coco_r101_r50.toml",
    "coco_r50_mv1.toml",
    "coco_r50_mv2.toml",
    "coco_r50_r18.toml",
    "coco_r50v2_r18.toml",
    "coco_retinanet_r101_r18.toml",
    "coco_retinanet_r101_r50.toml",
    "coco_retinanet_r101_r50_fgd.toml",
    "coco_retinanet_r101_r50_pkd.toml",
    "coco_retinanet_r101_r50_review_ckd.toml",
    "imagenet/ckd_r34_r18.toml",
    "imagenet/ckd_r50_mv1.toml",
    "imagenet/plain_mv1.toml",
    "imagenet/plain_r18.toml",
    "quickstart.toml",
    "quickstart_teacher.toml",
);

/// The embedded configuration of that name, with the name as it is stored.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    EMBEDDED.iter().copied().find(|(embedded, _)| *embedded == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_in_configs_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let mut names = Vec::new();
        for folder in ["", "base/", "cifar10/", "cifar100/", "imagenet/"] {
            for entry in fs::read_dir(root.join(folder)).expect("the repository has configs/") {
                let entry = entry.expect("a readable folder");
                let name = format!("{folder}{}", entry.file_name().to_string_lossy());
                let is_folder = entry.file_type().expect("a file type").is_dir();
                assert!(
                    !is_folder || ["base", "cifar10", "cifar100", "imagenet"].contains(&name.as_str()),
                    "configs/{name}: this folder is not looked at here"
                );
                if !is_folder {
                    names.push(name);
                }
            }
        }
        names.sort();
        let embedded: Vec<_> = EMBEDDED.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, names, "add it to embed!, in alphabetical order");
    }
}
