//! A COCO detection set with scores, which FiftyOne imports as `COCODetectionDataset`, or adds to a data set
//! with `add_coco_labels` (<https://docs.voxel51.com/api/fiftyone.utils.coco.html>).

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::writer::{About, ImageResults, ResultsError, ResultsWriter};
use crate::eval::Detection;
use crate::fsx::{Draft, WriteError};

/// Writer of one JSON object: categories, annotations as they come, then the images.
pub(super) struct FiftyOne<'a> {
    path: PathBuf,
    /// The file, once it is begun.
    file: Option<BufWriter<Draft>>,
    about: &'a About<'a>,
    images: Vec<Value>,
    annotations: usize,
}

impl<'a> FiftyOne<'a> {
    pub(super) fn new(path: &Path, about: &'a About<'a>) -> Self {
        Self { path: path.to_owned(), file: None, about, images: Vec::new(), annotations: 0 }
    }

    /// The file, begun with the categories.
    fn file(&mut self) -> Result<&mut BufWriter<Draft>, WriteError> {
        if self.file.is_none() {
            let categories = self.about.categories.iter();
            let categories: Vec<Value> =
                categories.map(|(id, name)| json!({ "id": id.0, "name": name })).collect();
            let info = json!({ "description": format!("detections of {}", self.about.model) });
            let mut file = BufWriter::new(Draft::new(&self.path)?);
            let head =
                format!("{{\"info\":{info},\n\"categories\":{},\n\"annotations\":[", Value::from(categories));
            file.write_all(head.as_bytes()).map_err(|source| self.failed(source))?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was just begun"))
    }

    fn text(&mut self, text: &str) -> Result<(), WriteError> {
        let written = self.file()?.write_all(text.as_bytes());
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), source }
    }
}

impl ResultsWriter for FiftyOne<'_> {
    fn add(&mut self, image: &ImageResults<'_>) -> Result<(), ResultsError> {
        let (width, height) = image.size;
        let file_name = self.about.names.name(image.index);
        self.images
            .push(json!({ "id": image.image_id, "file_name": file_name, "width": width, "height": height }));
        for Detection { image_id, category_id, bbox, score } in image.detections {
            self.annotations += 1;
            let comma = if self.annotations == 1 { "" } else { "," };
            let annotation = json!({
                "id": self.annotations,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
                "score": score,
            });
            self.text(&format!("{comma}\n{annotation}"))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), ResultsError> {
        let images: Vec<String> = self.images.iter().map(|image| format!("\n{image}")).collect();
        self.text(&format!("],\n\"images\":[{}]}}\n", images.join(",")))?;
        self.file.map_or(Ok(()), |file| Ok(Draft::committed(file)?))
    }
}
