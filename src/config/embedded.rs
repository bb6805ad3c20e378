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
    "base/coco_faster_rcnn_fpn.toml",
    "base/coco_retinanet_fpn.toml",
    "base/quickstart.toml",
    "bccd_r50_r18.toml",
    "bccd_teacher.toml",
    "coco_mini.toml",
    "coco_r101_r18.toml",
    "coco_r101_r50.toml",
    "coco_r50_r18.toml",
    "coco_retinanet_r101_r18.toml",
    "coco_retinanet_r101_r50.toml",
    "quickstart.toml",
    "quickstart_teacher.toml",
);

/// The embedded configuration of that name, with the name as it is stored.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    EMBEDDED.iter().copied().find(|(embedded, _)| *embedded == name)
}
