//! Which row of a detector's outputs is which class.
//!
//! torchvision's COCO detectors have a slot for every number up to 90, the largest id of COCO's 80 categories (RetinaNet one
//! for 0, too); ten of them are never used. Detectron2's and MMDetection's have 80, in the order of the ids.

use candle_core::{Device, Tensor};

use super::card::Category;
use super::recognise::{Kind, Recognised};
use super::{WeightsError, WeightsFile};

/// COCO's largest category id.
const LAST_ID: usize = 90;

/// COCO's 80 categories in the order of their ids.
pub fn coco() -> Vec<Category> {
    COCO.iter().map(|&(id, name)| Category { id, name: name.to_owned() }).collect()
}

#[rustfmt::skip]
const COCO: [(u64, &str); 80] = [
    (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"), (6, "bus"),
    (7, "train"), (8, "truck"), (9, "boat"), (10, "traffic light"), (11, "fire hydrant"),
    (13, "stop sign"), (14, "parking meter"), (15, "bench"), (16, "bird"), (17, "cat"), (18, "dog"),
    (19, "horse"), (20, "sheep"), (21, "cow"), (22, "elephant"), (23, "bear"), (24, "zebra"),
    (25, "giraffe"), (27, "backpack"), (28, "umbrella"), (31, "handbag"), (32, "tie"), (33, "suitcase"),
    (34, "frisbee"), (35, "skis"), (36, "snowboard"), (37, "sports ball"), (38, "kite"),
    (39, "baseball bat"), (40, "baseball glove"), (41, "skateboard"), (42, "surfboard"),
    (43, "tennis racket"), (44, "bottle"), (46, "wine glass"), (47, "cup"), (48, "fork"), (49, "knife"),
    (50, "spoon"), (51, "bowl"), (52, "banana"), (53, "apple"), (54, "sandwich"), (55, "orange"),
    (56, "broccoli"), (57, "carrot"), (58, "hot dog"), (59, "pizza"), (60, "donut"), (61, "cake"),
    (62, "chair"), (63, "couch"), (64, "potted plant"), (65, "bed"), (67, "dining table"), (70, "toilet"),
    (72, "tv"), (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"), (77, "cell phone"),
    (78, "microwave"), (79, "oven"), (80, "toaster"), (81, "sink"), (82, "refrigerator"), (84, "book"),
    (85, "clock"), (86, "vase"), (87, "scissors"), (88, "teddy bear"), (89, "hair drier"),
    (90, "toothbrush"),
];

/// The classes that a recognised detector of this many knows, if nobody says: its checkpoint's, COCO's, or numbers.
/// The text says what was taken for granted.
pub fn of_detector(file: &WeightsFile, classes: usize) -> (Vec<Category>, Option<String>) {
    let coco = coco();
    let listed = &file.remarks.classes;
    if listed.len() == classes && classes > 0 {
        if listed.iter().eq(coco.iter().map(|category| &category.name)) {
            return (coco, None);
        }
        let numbered = (1..).zip(listed).map(|(id, name)| Category { id, name: name.clone() });
        return (numbered.collect(), Some("its classes have the ids 1, 2, ... in their order".to_owned()));
    }
    if classes == COCO.len() || has_slots(file, classes) {
        return (coco, Some("its classes are COCO's; --categories names others".to_owned()));
    }
    let numbered = (1..=classes as u64).map(|id| Category { id, name: format!("class {id}") });
    (numbered.collect(), Some(format!("it does not name its {classes} classes; --categories does")))
}

/// Whether the detector has one output for each COCO id, used or not.
fn has_slots(file: &WeightsFile, classes: usize) -> bool {
    let dense = file.tensors.contains_key("head.classification_head.cls_logits.weight");
    classes == if dense { LAST_ID + 1 } else { LAST_ID }
}

impl WeightsFile {
    /// The same weights with one output for each of `categories`, in this order, if the file has torchvision's slots for
    /// every COCO id; as they are otherwise.
    ///
    /// # Errors
    /// If a category is not COCO's of the same id and name: its slot would mean something else.
    pub fn for_categories(mut self, categories: &[Category]) -> Result<Self, WeightsError> {
        let Ok(Recognised { kind: Kind::Detector { classes }, .. }) = Recognised::of(&self) else {
            return Ok(self);
        };
        if classes == categories.len() || !has_slots(&self, classes) {
            return Ok(self);
        }
        for category in categories {
            let known = COCO.iter().find(|(id, _)| *id == category.id);
            if known.is_none_or(|(_, name)| *name != category.name) {
                return Err(WeightsError::Card {
                    path: self.path.clone(),
                    reason: format!(
                        "it has an output for every COCO id up to {LAST_ID}, but the wanted class {:?} (id {}) is {}",
                        category.name,
                        category.id,
                        match known {
                            Some((_, name)) => format!("{name:?} there"),
                            None => "none of COCO's".to_owned(),
                        }
                    ),
                });
            }
        }
        let ids: Vec<u32> = categories.iter().map(|category| category.id as u32).collect();
        let with_background: Vec<u32> = [&[0], ids.as_slice()].concat();
        for (layer, slots, wanted, each) in [
            ("roi_heads.box_predictor.cls_score", LAST_ID + 1, &with_background, 1),
            ("roi_heads.box_predictor.bbox_pred", LAST_ID + 1, &with_background, 4),
            ("head.classification_head.cls_logits", LAST_ID + 1, &ids, 1),
        ] {
            for part in ["weight", "bias"] {
                if let Some(tensor) = self.tensors.get_mut(&format!("{layer}.{part}")) {
                    *tensor = slots_of(tensor, slots, wanted, each)?;
                }
            }
        }
        Ok(self)
    }
}

/// The rows of the `wanted` slots, `each` a slot, of every group of `slots`.
///
/// # Shapes
/// (A · slots · each, ...) to (A · wanted · each, ...).
fn slots_of(tensor: &Tensor, slots: usize, wanted: &[u32], each: usize) -> candle_core::Result<Tensor> {
    let groups = tensor.dims()[0] / (slots * each);
    let inner = tensor.elem_count() / (groups * slots).max(1);
    let grouped = tensor.reshape((groups, slots, inner))?;
    let chosen = grouped.index_select(&Tensor::new(wanted, &Device::Cpu)?, 1)?.contiguous()?;
    let mut shape = tensor.dims().to_vec();
    shape[0] = groups * wanted.len() * each;
    chosen.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_chosen_in_every_group() {
        let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
        let tensor = Tensor::from_vec(values, (24, 1), &Device::Cpu).expect("24 rows");
        // Two anchors, three slots of four rows.
        let chosen = slots_of(&tensor, 3, &[2, 0], 4).expect("chosen");
        assert_eq!(chosen.dims(), [16, 1]);
        let rows: Vec<f32> = chosen.flatten_all().and_then(|rows| rows.to_vec1()).expect("f32");
        let first = [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0];
        assert_eq!(rows, [first, first.map(|row| row + 12.0)].concat());
    }

    #[test]
    fn coco_has_80_categories_with_gaps_in_their_ids() {
        let ids: Vec<u64> = COCO.iter().map(|(id, _)| *id).collect();
        assert!(ids.is_sorted() && ids.first() == Some(&1) && ids.last() == Some(&(LAST_ID as u64)));
        assert!(!ids.contains(&12) && COCO.contains(&(13, "stop sign")));
    }
}
