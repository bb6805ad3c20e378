//! YOLO's text files: one an image, a line a box, as `yolo predict save_txt save_conf` of Ultralytics writes
//! them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::names::ImageNamesBelow;
use super::writer::{About, ImageResults, ResultsError, ResultsWriter};
use crate::data::{CategoryId, CategoryMap};
use crate::eval::Detection;
use crate::fsx;

/// Writer of a folder with `labels/NAME.txt` for each image, and `classes.txt`.
pub(super) struct Yolo<'a> {
    folder: PathBuf,
    categories: &'a CategoryMap,
    names: &'a ImageNamesBelow,
    /// Text of `classes.txt` until it is written.
    classes: Option<String>,
}

impl<'a> Yolo<'a> {
    pub(super) fn new(folder: &Path, about: &'a About<'a>) -> Result<Self, ResultsError> {
        about.names.check_stems()?;
        let mut list = String::new();
        for (_, name) in about.categories.iter() {
            if name.contains(['\n', '\r']) {
                return Err(ResultsError::ClassName { name: name.to_owned() });
            }
            list += &format!("{name}\n");
        }
        let (folder, classes) = (folder.to_owned(), Some(list));
        Ok(Self { folder, categories: about.categories, names: about.names, classes })
    }
}

impl ResultsWriter for Yolo<'_> {
    /// Writes the image's file: an empty one for an image without detections, so that none of an earlier call
    /// stays.
    fn add(&mut self, image: &ImageResults<'_>) -> Result<(), ResultsError> {
        if let Some(classes) = self.classes.take() {
            fsx::write_atomic(&self.folder.join("classes.txt"), classes.as_bytes())?;
        }
        let (width, height) = (f64::from(image.size.0), f64::from(image.size.1));
        let mut lines = String::new();
        for Detection { category_id, bbox: [x, y, w, h], score, .. } in image.detections {
            let Some(class) = self.categories.class(CategoryId(*category_id)) else { continue };
            let [cx, cy] = [(x + w / 2.0) / width, (y + h / 2.0) / height];
            let [w, h] = [w / width, h / height];
            let _ = writeln!(lines, "{} {cx:.6} {cy:.6} {w:.6} {h:.6} {score:.6}", class.0);
        }
        let file = self.folder.join("labels").join(format!("{}.txt", self.names.stem(image.index)));
        Ok(fsx::write_atomic(&file, lines.as_bytes())?)
    }

    fn finish(self: Box<Self>) -> Result<(), ResultsError> {
        Ok(())
    }
}
