//! Pictures of a page: the worst and the best images, feature maps, and their alignment with the teacher's.

use std::fs;
use std::path::Path;

use super::chart::{Chart, Series};
use super::html::{base64, cell, escaped, headings, section, table};
use super::run::Run;
use crate::report::shown::{Shown, ShownPanel};

/// Bytes of pictures that a page takes, before they are written in letters.
const MOST: usize = 1_900_000;

/// Bytes that a page's pictures may still take.
pub(super) struct Room(usize);

impl Room {
    /// Room of a page without a picture.
    pub(super) fn whole() -> Self {
        Self(MOST)
    }

    /// The picture as an image of the page, if it is there and there is room for it.
    fn image(&mut self, path: &Path, told: &str) -> Option<String> {
        let bytes = fs::read(path).ok().filter(|bytes| bytes.len() <= self.0)?;
        self.0 -= bytes.len();
        let kind = if path.extension().is_some_and(|kind| kind == "jpg") { "jpeg" } else { "png" };
        Some(format!("<img alt=\"{}\" src=\"data:image/{kind};base64,{}\">", escaped(told), base64(&bytes)))
    }
}

/// The sections about the pictures of a run.
pub(super) fn sections(run: &Run, room: &mut Room) -> String {
    let folder = run.folder.shown();
    let shown = fs::read_to_string(folder.join(Shown::FILE)).ok();
    let Some(shown) = shown.and_then(|text| serde_json::from_str::<Shown>(&text).ok()) else {
        return picture(run, room);
    };
    let mut text = images(run, &shown, &folder, room);
    // Without worst and best ones, the first.
    if text.is_empty() {
        text = picture(run, room);
    }
    text + &maps(run, &shown, &folder, room) + &alignment(run, &shown)
}

/// Detections on the first images, where they are there and small.
fn picture(run: &Run, room: &mut Room) -> String {
    let image = room.image(&run.folder.detections(), "detections beside the truth");
    section(&format!("Detections of {}", run.label), &image.map(|image| image + "\n").unwrap_or_default())
}

fn images(run: &Run, shown: &Shown, folder: &Path, room: &mut Room) -> String {
    let mut text = String::new();
    for (kind, heading) in [("worst", "Worst"), ("best", "Best")] {
        for image in shown.images.iter().filter(|image| image.kind == kind) {
            let panels = figures(&image.panels, &image.name, folder, room);
            if !panels.is_empty() {
                text += &format!(
                    "<h3>{heading}: {}</h3>\n<div class=\"panels\">\n{panels}</div>\n",
                    escaped(&image.name)
                );
            }
        }
    }
    if !text.is_empty() {
        let about =
            "Worst and best of all held-out images by the student's F1 at the last evaluation. Drawn are";
        text = format!(
            "<p>{about} {}. Lines: whole, a hit; dashed, false; dotted, missed.</p>\n{text}",
            escaped(&shown.note)
        );
    }
    section(&format!("Images of {}", run.label), &text)
}

fn maps(run: &Run, shown: &Shown, folder: &Path, room: &mut Room) -> String {
    let mut text = String::new();
    for level in &shown.maps {
        let panels = figures(&level.panels, &format!("level {}", level.level), folder, room);
        if !panels.is_empty() {
            text += &format!(
                "<div><h3>{}</h3>\n<div class=\"panels maps\">\n{panels}</div></div>\n",
                escaped(&level.level)
            );
        }
    }
    if !text.is_empty() {
        let about = "<p>The root mean square over the channels of each level on one held-out image, each map on a scale of \
                     its own.</p>\n";
        text = format!("{about}<div class=\"levels\">\n{text}</div>\n");
    }
    section(&format!("Feature maps of {}", run.label), &text)
}

fn figures(panels: &[ShownPanel], of: &str, folder: &Path, room: &mut Room) -> String {
    let mut text = String::new();
    for ShownPanel { title, told, file } in panels {
        // A name that leads out of the folder is no picture of the run.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            continue;
        }
        let Some(image) = room.image(&folder.join(file), &format!("{of}: {title}")) else { continue };
        let told = told.iter().map(|told| format!("<br><small>{}</small>", escaped(told)));
        let told: String = told.collect();
        text += &format!("<figure>{image}<figcaption>{}{told}</figcaption></figure>\n", escaped(title));
    }
    text
}

/// Alignment of feature maps level by level: a chart and a table.
fn alignment(run: &Run, shown: &Shown) -> String {
    let Some(alignment) = &shown.alignment else { return String::new() };
    if alignment.levels.is_empty() {
        return String::new();
    }
    let about = format!(
        "<p>Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) of each level's cells with the teacher's, on {} held-out \
         images: 1 where a map is the teacher's, turned and scaled. The student before is the one that each training begins \
         with.</p>\n",
        alignment.images
    );
    let mut head = headings(&["level"]);
    head.extend(alignment.models.iter().map(|model| escaped(model)));
    let rows: Vec<Vec<String>> = alignment
        .levels
        .iter()
        .map(|(level, own)| {
            let numbers = own.iter().map(|value| cell(&format!("{value:.3}")));
            [cell(level)].into_iter().chain(numbers).collect()
        })
        .collect();
    let number = |level: &str| level.trim_start_matches('p').parse::<f64>().ok();
    let series = alignment.models.iter().enumerate().map(|(place, model)| Series {
        label: model.clone(),
        points: alignment
            .levels
            .iter()
            .filter_map(|(level, own)| Some((number(level)?, *own.get(place)?)))
            .collect(),
    });
    let chart = Chart {
        title: "Alignment with the teacher".to_owned(),
        unit: "CKA".to_owned(),
        across: "level",
        series: series.collect(),
        has_marks: true,
        ..Chart::default()
    };
    let content = format!("{about}<div class=\"charts\">\n{}</div>\n{}", chart.figure(), table(&head, &rows));
    section(&format!("Likeness of {}", run.label), &content)
}
