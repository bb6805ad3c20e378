//! Label Studio's tasks with pre-annotations, and the labelling configuration that they fit
//! (<https://labelstud.io/guide/predictions>).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::json_rows::JsonRows;
use super::writer::{About, ImageResults, ResultsError, ResultsWriter};
use crate::data::{CategoryId, CategoryMap};
use crate::eval::Detection;
use crate::fsx;

/// Beginning of the addresses of images that Label Studio serves from its own machine, below its document root.
const LOCAL_FILES: &str = "/data/local-files/?d=";

/// Writer of an array of tasks, a task an image.
pub(super) struct LabelStudio<'a> {
    tasks: JsonRows,
    /// Beginning of the images' addresses.
    address: String,
    /// Path of the labelling configuration; none beside a stream.
    configuration: Option<PathBuf>,
    about: &'a About<'a>,
}

impl<'a> LabelStudio<'a> {
    pub(super) fn new(path: &Path, about: &'a About<'a>) -> Self {
        let configuration = (!fsx::is_stream(path)).then(|| path.with_extension("xml"));
        let address = about.image_url.map_or_else(|| served(about.names.folder()), str::to_owned);
        Self { tasks: JsonRows::new(path), address, configuration, about }
    }
}

/// Address of a local folder. Label Studio refuses its document root itself as a storage, so the folder is one below it.
fn served(folder: &Path) -> String {
    let name = folder.file_name().map(|name| format!("{}/", percent_encoded(&name.to_string_lossy())));
    format!("{LOCAL_FILES}{}", name.unwrap_or_default())
}

impl ResultsWriter for LabelStudio<'_> {
    fn add(&mut self, image: &ImageResults<'_>) -> Result<(), ResultsError> {
        let About { categories, model, names, .. } = self.about;
        let (width, height) = image.size;
        let percent = |part: f64, whole: u32| 100.0 * part / f64::from(whole);
        let mut regions = Vec::with_capacity(image.detections.len());
        for &Detection { category_id, bbox: [x, y, w, h], score, .. } in image.detections {
            let class = categories.class(CategoryId(category_id));
            let Some(name) = class.and_then(|class| categories.name(class)) else { continue };
            regions.push(json!({
                "id": format!("box{}", regions.len() + 1),
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": percent(x, width),
                    "y": percent(y, height),
                    "width": percent(w, width),
                    "height": percent(h, height),
                    "rotation": 0,
                    "rectanglelabels": [name],
                },
                "score": score,
            }));
        }
        // Not `sum`, which of nothing is -0.
        let sum = image.detections.iter().fold(0.0, |sum, detection| sum + detection.score);
        let mean = sum / image.detections.len().max(1) as f64;
        Ok(self.tasks.push(&json!({
            "data": { "image": format!("{}{}", self.address, percent_encoded(names.name(image.index))) },
            "predictions": [{ "model_version": model, "score": mean, "result": regions }],
        }))?)
    }

    fn finish(self: Box<Self>) -> Result<(), ResultsError> {
        self.tasks.finish()?;
        if let Some(path) = &self.configuration {
            fsx::write_atomic(path, configuration(self.about.categories).as_bytes())?;
        }
        Ok(())
    }
}

/// The labelling interface of a project that the tasks are imported into.
fn configuration(categories: &CategoryMap) -> String {
    let mut xml = String::from(
        "<View>\n  <Image name=\"image\" value=\"$image\"/>\n  <RectangleLabels name=\"label\" toName=\"image\">\n",
    );
    for (_, name) in categories.iter() {
        let _ = writeln!(xml, "    <Label value=\"{}\"/>", attribute(name));
    }
    xml + "  </RectangleLabels>\n</View>\n"
}

/// Text as the value of an XML attribute; line breaks and tabs are kept as references.
fn attribute(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            // XML 1.0 has no other control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A name as a part of an address: all but unreserved characters and slashes is percent-encoded (RFC 3986).
fn percent_encoded(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(byte.into());
            }
            byte => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}
