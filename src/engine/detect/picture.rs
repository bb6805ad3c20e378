//! Pictures of what trained detectors find, beside the truth: `detections.png`, and `shown/` for the run's page.

use std::collections::HashMap;
use std::fs;

use candle_core::Device;
use image::RgbImage;
use serde::Serialize;
use serde_json::Value;

use super::build;
use super::evaluate::{Evaluation, detect_one};
use super::likeness::{self, Model};
use super::sources::DataSets;
use crate::data::{CategoryId, ClassIndex, DataError, Dataset};
use crate::engine::Result;
use crate::engine::task::{Settings, Task, Trained};
use crate::eval::{Detection, Found, Tally, Verdict, judged};
use crate::fsx;
use crate::report::draw::{DrawnBox, Mark, Panel, cell, grid, save_jpeg, save_png};
use crate::report::shown::{Shown, ShownImage, ShownPanel};
use crate::weights::{WeightsFile, load};

/// Images of `detections.png`.
const SHOWN: usize = 4;
/// Worst images of a page, and best ones.
const EXTREMES: usize = 3;
/// Scores below this are not drawn.
const DRAWN_SCORE: f64 = 0.3;
/// Width of an image of a page.
const PAGE_WIDTH: u32 = 450;

/// Writes the pictures of an experiment: what its networks find on the first images that have objects, and on the worst and
/// the best ones of the last evaluation, and how alike their feature maps are.
pub(super) fn draw(val: &Dataset, task: &DataSets, trained: &Trained<'_, DataSets>) -> Result<()> {
    let Trained { config, teacher, init, students, folder, device, step } = *trained;
    let classes = val.categories.len();
    let mut detectors = Vec::new();
    for (label, folder) in students {
        let detector = build::frozen_student(config, classes, device)?;
        load::strict(detector.params(), &WeightsFile::read(&folder.last())?)?;
        detectors.push((*label, detector));
    }
    let teachers_config = config.seen_by_teacher();
    let teacher = teacher.map(|detector| Model { label: "teacher", detector, config: &teachers_config });
    let own = detectors.iter().map(|(label, detector)| Model { label, detector, config });
    let models: Vec<Model<'_>> = teacher.into_iter().chain(own).collect();

    // Where bad images are left out (`data.on_bad_image`), one that does not decode has been told of.
    let is_readable = |index: usize| val.pixels(index).is_ok();
    let first: Vec<usize> = shown_images(val).filter(|&index| is_readable(index)).collect();
    let rows = first.iter().map(|&index| Ok(compared(val, index, &models, device)?.0));
    save_png(&folder.detections(), &grid(&rows.collect::<Result<Vec<_>>>()?, &note()))?;

    let mut images = Vec::new();
    let extremes = extremes(val, &folder.evaluation(step)).into_iter();
    for (kind, index) in extremes.filter(|&(_, index)| is_readable(index)) {
        let (panels, tallies) = compared(val, index, &models, device)?;
        let mut shown = Vec::new();
        for (place, (panel, tally)) in panels.iter().zip(tallies).enumerate() {
            let file = format!("image-{}-{place}.jpg", images.len());
            save_jpeg(&folder.shown().join(&file), &cell(panel, PAGE_WIDTH))?;
            let told = tally.map(|Tally { hits, false_boxes, missed }| {
                format!("{hits} found, {false_boxes} false, {missed} missed")
            });
            shown.push(ShownPanel { title: panel.title.clone(), told, file });
        }
        let name = val.images[index].file_name.clone();
        images.push(ShownImage { kind: kind.to_owned(), name, panels: shown });
    }
    let (mut maps, mut alike) = (Vec::new(), None);
    if let [Model { label: "teacher", .. }, ..] = models[..] {
        // The student before its training: the weights that all parts of the experiment begin with.
        let before = task.student(config, device)?;
        if let Some(init) = init {
            task.initialise(config, &before, init)?;
        }
        let before = Model { label: "student before", detector: &before, config };
        let models: Vec<&Model<'_>> = models[..1].iter().chain([&before]).chain(&models[1..]).collect();
        alike = Some(likeness::alignment(val, &models, device)?);
        if let Some(&index) = first.first() {
            maps = likeness::maps(val, index, &models, folder, device)?;
        }
    }
    let shown = Shown { note: note(), images, maps, alignment: alike };
    let json = serde_json::to_vec_pretty(&shown).expect("names and numbers have a JSON form");
    Ok(fsx::write_atomic(&folder.shown().join(Shown::FILE), &json)?)
}

fn note() -> String {
    format!(
        "boxes with a score of {DRAWN_SCORE:.2} or more; a hit has the right class and an IoU of .50 or more"
    )
}

/// Indices of the first images that have objects.
fn shown_images(val: &Dataset) -> impl Iterator<Item = usize> + '_ {
    (0..val.images.len()).filter(|&index| !val.annotations(index).is_empty()).take(SHOWN)
}

/// An image with the truth, and with the detections of each of `models`, which are counted.
fn compared(
    val: &Dataset,
    index: usize,
    models: &[Model<'_>],
    device: &Device,
) -> Result<(Vec<Panel>, Vec<Option<Tally>>)> {
    let image = val.pixels(index).map_err(DataError::from)?;
    let panel = |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
    let (mut panels, mut tallies) = (vec![panel("ground truth", truth(val, index))], vec![None]);
    for Model { label, detector, config } in models {
        let found = detect_one(detector, &image, config, device)?;
        let boxes = found.boxes.iter().zip(&found.scores).zip(&found.labels);
        let found = boxes.map(|((&[x1, y1, x2, y2], &score), &label)| Found {
            bbox: [x1, y1, x2 - x1, y2 - y1].map(f64::from),
            class: ClassIndex(label),
            score: score.into(),
        });
        let (boxes, tally) = marked(val, index, found);
        panels.push(panel(label, boxes));
        tallies.push(Some(tally));
    }
    Ok((panels, tallies))
}

/// The worst and the best images of an evaluation as its file lists them; none where it lists none.
fn extremes(val: &Dataset, evaluation: &std::path::Path) -> Vec<(&'static str, usize)> {
    let Ok(text) = fs::read_to_string(evaluation) else { return Vec::new() };
    let Ok(written) = serde_json::from_str::<Value>(&text) else { return Vec::new() };
    let index = |entry: &Value| {
        let id = entry.get("id")?.as_u64()?;
        val.images.iter().position(|image| image.id.0 == id)
    };
    let of = |kind: &'static str| {
        let all = written.get("images").and_then(|images| images.get(kind)).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(index).map(|index| (kind, index)).collect::<Vec<_>>()
    };
    [of("worst"), of("best")].concat()
}

/// The images of an evaluation on which a detector was worst and best.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Extremes {
    /// Least score of a detection that counts.
    score: f64,
    worst: Vec<Ranked>,
    best: Vec<Ranked>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Ranked {
    id: u64,
    #[serde(flatten)]
    tally: Tally,
    f1: f64,
}

impl Extremes {
    /// Ranks the images of an evaluation by F1 of what is drawn of them; of equals the worst has most errors and the best
    /// most hits.
    pub(super) fn of(val: &Dataset, evaluation: &Evaluation) -> Self {
        let places: HashMap<u64, usize> =
            val.images.iter().enumerate().map(|(index, image)| (image.id.0, index)).collect();
        let mut found: HashMap<u64, Vec<Found>> = HashMap::new();
        for detection in &evaluation.detections {
            found.entry(detection.image_id).or_default().extend(found_box(val, detection));
        }
        let ranked = |&id: &u64| {
            let &index = places.get(&id)?;
            let own = found.remove(&id).unwrap_or_default();
            let (_, tally) = marked(val, index, own.into_iter());
            (tally.hits + tally.false_boxes + tally.missed > 0).then(|| Ranked { id, tally, f1: tally.f1() })
        };
        let mut all: Vec<Ranked> = evaluation.image_ids.iter().filter_map(ranked).collect();
        let errors = |ranked: &Ranked| ranked.tally.false_boxes + ranked.tally.missed;
        all.sort_by(|a, b| {
            let by_errors = errors(b).cmp(&errors(a));
            a.f1.total_cmp(&b.f1).then(by_errors).then(a.tally.hits.cmp(&b.tally.hits)).then(a.id.cmp(&b.id))
        });
        let worst: Vec<Ranked> = all.iter().take(EXTREMES).copied().collect();
        let best = all[worst.len()..].iter().rev().take(EXTREMES).copied().collect();
        Self { score: DRAWN_SCORE, worst, best }
    }
}

/// The truth and `detections` on the images of a picture, a row each.
pub(super) fn evaluation_picture(val: &Dataset, detections: &[Detection]) -> Result<RgbImage> {
    let mut rows = Vec::new();
    for index in shown_images(val) {
        let image = val.pixels(index).map_err(DataError::from)?;
        let id = val.images[index].id.0;
        let own = detections.iter().filter(|found| found.image_id == id);
        let (boxes, _) = marked(val, index, own.filter_map(|found| found_box(val, found)));
        let panel = |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
        rows.push(vec![panel("ground truth", truth(val, index)), panel("found", boxes)]);
    }
    Ok(grid(&rows, &note()))
}

fn found_box(val: &Dataset, found: &Detection) -> Option<Found> {
    let class = val.categories.class(CategoryId(found.category_id))?;
    Some(Found { bbox: found.bbox, class, score: found.score })
}

/// Boxes of `found` that are worth drawing on the image at `index`, and the objects that were missed.
fn marked(val: &Dataset, index: usize, found: impl Iterator<Item = Found>) -> (Vec<DrawnBox>, Tally) {
    let found: Vec<Found> = found.filter(|found| found.score >= DRAWN_SCORE).collect();
    let objects = val.annotations(index);
    let verdicts = judged(objects, &found);
    let mark = |verdict: &Verdict| match verdict {
        Verdict::Hit => Mark::Hit,
        Verdict::False => Mark::False,
        Verdict::Ignored => Mark::Plain,
    };
    let own = found.iter().zip(&verdicts.found).map(|(found, verdict)| DrawnBox {
        score: Some(found.score as f32),
        mark: mark(verdict),
        ..drawn(val, found.bbox, found.class)
    });
    let missed = verdicts.missed.iter().map(|&place| {
        let object = &objects[place];
        DrawnBox { mark: Mark::Missed, ..drawn(val, object.bbox, object.category) }
    });
    (own.chain(missed).collect(), verdicts.tally())
}

/// The annotated boxes of an image, ready to draw.
fn truth(val: &Dataset, index: usize) -> Vec<DrawnBox> {
    val.annotations(index).iter().map(|object| drawn(val, object.bbox, object.category)).collect()
}

/// A plain box.
fn drawn(val: &Dataset, bbox: [f64; 4], class: ClassIndex) -> DrawnBox {
    let [x, y, w, h] = bbox.map(|value| value as f32);
    let name = val.categories.name(class).unwrap_or_default().to_owned();
    DrawnBox { xyxy: [x, y, x + w, y + h], class: class.0 as usize, name, score: None, mark: Mark::Plain }
}
