//! Detections in the files that other programs read.
//!
//! | module | format |
//! |---|---|
//! | `coco` | COCO results: what `ckd-det eval --gt --dt` and pycocotools score |
//! | `yolo` | YOLO's text files, a line a box, with scores |
//! | `label_studio` | Label Studio's tasks with pre-annotations |
//! | `fiftyone` | COCO detection set with scores, as FiftyOne imports it |
//! | `json_rows` | a JSON array, a line a row |
//! | `names` | names of the images below the folder that holds them all |
//!
//! A [`ResultsFormat`] has a [`ResultsWriter`], which hears of one image after the other. A file takes its place
//! when the writer is finished; until then an earlier one stays.

mod coco;
mod fiftyone;
mod format;
mod json_rows;
mod label_studio;
mod names;
mod writer;
mod yolo;

pub use format::ResultsFormat;
pub use json_rows::JsonRows;
pub use names::{ImageNamesBelow, SameName};
pub use writer::{About, ImageResults, ResultsError, ResultsWriter};
