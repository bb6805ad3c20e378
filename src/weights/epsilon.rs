//! The epsilon that the batch norms of a file were trained with.
//!
//! A norm divides by the root of its variance plus an epsilon, which no file holds. It is PyTorch's 1e-5 nearly everywhere,
//! and here always; weights that were trained with another one have it folded into the norms' weights as they are read.
//! torchvision's first COCO detectors were trained with none: torchvision builds them with 1e-5 and overwrites it with 0
//! (`overwrite_eps`) when it is asked for those very weights. They are known here by the SHA-256 of the file, of
//! which torchvision writes the first digits into its name, or by that name.

use std::path::Path;

use ckd_detectors::nn::EPSILON;
use sha2::{Digest, Sha256};

/// The first digits of the SHA-256, and what torchvision calls the weights.
const PUBLISHED_WITHOUT: [(&str, &str); 4] = [
    ("258fb6c6", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"),
    ("eeacb38b", "RetinaNet_ResNet50_FPN_Weights.COCO_V1"),
    ("bf2d0c1e", "MaskRCNN_ResNet50_FPN_Weights.COCO_V1"),
    ("fc266e95", "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1"),
];

/// An epsilon other than 1e-5 that the batch norms of a file were trained with.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedEpsilon {
    /// The epsilon.
    pub value: f64,
    /// Evidence for the epsilon.
    pub because: String,
}

impl std::fmt::Display for TrainedEpsilon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { value, because } = self;
        write!(
            f,
            "batch norms have epsilon {value} ({because}), which their weights make up for, since it is {EPSILON:e} here"
        )
    }
}

/// Epsilon of the file at `path` with this content, if it is one of those published without an epsilon.
pub(super) fn of_published(path: &Path, bytes: &[u8]) -> Option<TrainedEpsilon> {
    of_digest(path, &format!("{:x}", Sha256::digest(bytes)))
}

fn of_digest(path: &Path, digest: &str) -> Option<TrainedEpsilon> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let of = |(start, _): &&(&str, &str)| digest.starts_with(start) || name.ends_with(&format!("-{start}"));
    let (_, weights) = PUBLISHED_WITHOUT.iter().find(of)?;
    Some(TrainedEpsilon { value: 0.0, because: format!("it is torchvision's {weights}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_is_known_by_its_name_or_by_its_content() {
        let of = |name: &str, digest: &str| of_digest(Path::new(name), digest).map(|trained| trained.value);
        assert_eq!(of("a/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "00"), Some(0.0));
        assert_eq!(of("retinanet_resnet50_fpn_coco-eeacb38b.safetensors", "00"), Some(0.0));
        assert_eq!(of("model.pth", "258fb6c6dd"), Some(0.0));
        assert_eq!(of("fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", "00"), None);
        assert_eq!(of("258fb6c6/mine.pth", "00258fb6c6"), None);
        assert_eq!(of_published(Path::new("model.pth"), b""), None);
    }
}
