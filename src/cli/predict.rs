//! `ckd-det predict IMAGES...`: boxes drawn on copies of the images, and results for other tools; of a
//! classifier, classes.

use std::path::{Path, PathBuf};

use std::time::Instant;

use ckd_detectors::postprocess::Detections;

use super::annotated::Annotated;
use super::image_files::{for_each_image, named};
use super::model::{Model, ModelArgs};
use super::output::{Output, folder};
use super::predict_labels::{LabelArgs, score};
use super::{Context, UsageError, predict_classifier, say};
use crate::data::{Annotation, CategoryId, CategoryMap, ClassIndex, decode};
use crate::engine::classify::ClassifierCard;
use crate::engine::detect::evaluate::{detect_one, to_coco};
use crate::eval::{Detection, Found, Verdict, judged};
use crate::export::results::{About, ImageNamesBelow, ImageResults, ResultsFormat};
use crate::machine::peak_memory_mib;
use crate::report::draw::{DrawnBox, Mark, Panel, annotated, grid, save_png};
use crate::weights::WeightsFile;

/// Arguments of `predict`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --score, the results hold all that the detector gives (what scores above its own threshold), and \
pictures show boxes from 0.5 on. With it, both have boxes from that score on. \
With --annotations the pictures show the truth, too, and tell hits, false boxes and missed objects apart. \
An image that cannot be read is reported and left out; the exit code is then 1. \
Other formats than COCO's are written beside the pictures; docs/results-files.md has how other tools read them. \
--as-labels turns what is found into labels to train on, with [data.unlabelled] of a configuration (docs/DATA.md). \
With a classifier there are no pictures: the five likeliest classes of each image are printed and written.

Examples:
  ckd-det predict photo.jpg                         with the latest run
  ckd-det predict --weights student.safetensors *.jpg --json results.json
  ckd-det predict --no-pictures --json - photo.jpg | jq
  ckd-det predict --recursive photos/               all below the folder
  ckd-det predict --format yolo,label-studio --score 0.3 photos/
  ckd-det predict --annotations instances_val.json val/   ids for eval --gt --dt
  ckd-det predict --run runs/teacher --no-pictures --as-labels pseudo.json --precision 0.9 unlabelled/
  ckd-det predict --run runs/one --beside runs/teacher/last.safetensors a.jpg
  ckd-det predict --weights student.safetensors --int8 --benchmark photo.jpg")]
pub struct Args {
    /// Image files, folders of them, or patterns such as 'a/*.jpg'
    #[arg(value_name = "IMAGES", required = true)]
    images: Vec<PathBuf>,
    /// Take the images below folders too
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    model: ModelArgs,
    /// Where pictures go
    #[arg(long, value_name = "DIR", default_value = "predictions", value_parser = folder)]
    out: PathBuf,
    /// Where the COCO results go; - is standard output, a line a box as soon as it is found
    /// [default: OUT/results.json]
    #[arg(long, value_name = "FILE")]
    json: Option<Output>,
    /// Formats of the results, with commas between them
    #[arg(
        long,
        value_name = "FORMATS",
        value_delimiter = ',',
        default_value = "coco",
        conflicts_with = "benchmark"
    )]
    format: Vec<ResultsFormat>,
    /// Label Studio: the address below which it finds the images [default: on its machine, see docs/results-files.md]
    #[arg(long, value_name = "URL")]
    image_url: Option<String>,
    /// Give the results the image ids of this COCO file, by file name, and look at the pixels that it is about
    /// [default: 0, 1, ... in order, and upright pixels]
    #[arg(long, value_name = "FILE", conflicts_with = "benchmark")]
    annotations: Option<PathBuf>,
    /// Draw and report boxes from this score on [default: draw from 0.5 on, report all]
    #[arg(long, value_name = "S", value_parser = score)]
    score: Option<f32>,
    /// Show what another detector finds beside it, a teacher beside its student; results are of the first one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_pictures", "benchmark"])]
    beside: Option<PathBuf>,
    /// Compute in 8 bits, by the ranges in a file of `export --int8 activations`
    #[arg(long)]
    int8: bool,
    /// Write no pictures
    #[arg(long)]
    no_pictures: bool,
    /// Time the detector on the images and write nothing: the first boxes, the median image, peak memory
    #[arg(long, conflicts_with_all = ["no_pictures", "json", "score"])]
    benchmark: bool,
    #[command(flatten)]
    labels: LabelArgs,
}

impl Args {
    /// Files of results, each once.
    fn results(&self) -> Vec<(ResultsFormat, Output)> {
        let mut results: Vec<(ResultsFormat, Output)> = Vec::new();
        let asked = self.json.iter().map(|_| ResultsFormat::Coco).chain(self.format.iter().copied());
        for format in asked {
            let place = match (format, &self.json) {
                (ResultsFormat::Coco, Some(json)) => json.clone(),
                _ => self.out.join(format.file_name()).into(),
            };
            if results.iter().all(|(other, _)| *other != format) {
                results.push((format, place));
            }
        }
        results
    }
}

/// The score from which boxes are drawn, if the user does not say.
const DRAWN_SCORE: f32 = 0.5;

/// Images that a benchmark times at least; the given ones are repeated.
const TIMED: usize = 10;

/// Runs the verb.
///
/// # Errors
/// Missing weights. An image that cannot be read is named at once and again at the end; the others are done.
pub(super) fn run(mut args: Args, context: &Context) -> anyhow::Result<()> {
    let start = Instant::now();
    let results = args.results();
    if !args.benchmark {
        for (format, place) in &results {
            Output::from(format.first_file(place.path())).check()?;
        }
    }
    args.labels.check()?;
    // Words go to standard error if results go to standard output.
    let words = &results[0].1;
    args.images = named(&args.images, args.recursive)?;
    let images = match &args.annotations {
        Some(annotations) => Annotated::of(&args.images, annotations)?,
        None => Annotated::numbered(&args.images),
    };
    let file = WeightsFile::read(&args.model.find()?)?;
    if let Some(card) = ClassifierCard::of(&file)? {
        let detectors_only = [
            (args.score.is_some(), "--score"),
            (args.benchmark, "--benchmark"),
            (args.beside.is_some(), "--beside"),
            (args.int8, "--int8"),
            (args.annotations.is_some(), "--annotations"),
            (args.labels.as_labels.is_some(), "--as-labels"),
            (results.iter().any(|(format, _)| *format != ResultsFormat::Coco), "--format"),
        ];
        if let Some((_, option)) = detectors_only.into_iter().find(|(given, _)| *given) {
            let (path, card) = (file.path.display(), card.described());
            return Err(UsageError(format!("{option} is for detectors, and {path} is {card}")).into());
        }
        return predict_classifier::run(&args.images, words, (&file, card), context);
    }
    let model = args.model.load(file, &context.device, |_| {
        Err(UsageError(
            "the weights do not name their classes; predict needs weights of a run or an export".to_owned(),
        )
        .into())
    })?;
    if args.int8 {
        model.round()?;
    }
    if args.benchmark {
        return benchmark(&args.images, &model, start, context);
    }
    let beside = args.beside.as_deref().map(|path| other(path, context)).transpose()?;
    let map = model.category_map()?;
    let reported = args.score.unwrap_or(0.0);
    let shown = args.score.unwrap_or(DRAWN_SCORE);
    let (names, name) = (ImageNamesBelow::of(&args.images), named_by(&model.file.path));
    let about = About { categories: &map, model: &name, names: &names, image_url: args.image_url.as_deref() };
    let mut labels = args.labels.begin(&model, &map, names.folder(), context)?;
    let writers = results.iter().map(|(format, place)| format.writer(place.path(), &about));
    let mut writers = writers.collect::<Result<Vec<_>, _>>()?;
    let mut count = 0;
    let read = |index: usize, path: &Path| images.read(index, path);
    let note = format!("boxes with a score of {shown:.2} or more");
    let unread = for_each_image(&args.images, read, |index, file_name, image| {
        let found = detect_one(&model.detector, &image, &model.config, &context.device)?;
        let image_id = images.id(index);
        let mut detections: Vec<Detection> = to_coco(&found, image_id, &map).collect();
        if let Some(labels) = &mut labels {
            labels.add(&model, (image_id, names.name(index)), &image, (&found, &detections), context)?;
        }
        detections.retain(|detection| detection.score as f32 >= reported);
        let own = ImageResults {
            index,
            image_id,
            file_name: Some(&file_name),
            size: image.dimensions(),
            detections: &detections,
        };
        for writer in &mut writers {
            writer.add(&own)?;
        }
        count += detections.len();
        let objects = detections.iter().filter(|detection| detection.score as f32 >= shown).count();
        let mut line = format!("{file_name}: {objects} objects");
        if !args.no_pictures {
            let of = Drawn { images: &images, index, shown };
            let own = of.boxes(&found, &map);
            let picture = picture_path(&args.out, index, &args.images[index]);
            let truth = of.truth();
            let drawn = if truth.is_none() && beside.is_none() {
                annotated(&image, &own, &note)
            } else {
                let panel =
                    |title: &str, boxes| Panel { title: title.to_owned(), image: image.clone(), boxes };
                let mut row: Vec<Panel> =
                    truth.into_iter().map(|boxes| panel("ground truth", boxes)).collect();
                if let Some(other) = &beside {
                    let found = detect_one(&other.detector, &image, &other.config, &context.device)?;
                    row.push(panel(&named_by(&other.file.path), of.boxes(&found, &other.category_map()?)));
                }
                row.push(panel(&named_by(&model.file.path), own));
                grid(&[row], &note)
            };
            save_png(&picture, &drawn)?;
            line += &format!(" -> {}", picture.display());
        }
        Ok(words.say(line)?)
    })?;
    let places = results.iter().map(|(_, place)| place).chain(&args.labels.as_labels);
    let places: Vec<&Output> = places.collect();
    unread.settle(&places, || {
        writers.into_iter().try_for_each(|writer| writer.finish())?;
        if let Some(labels) = labels {
            labels.write()?.iter().try_for_each(|line| words.say(line))?;
        }
        results.iter().try_for_each(|(format, place)| {
            let below = match format {
                ResultsFormat::Coco => String::new(),
                _ => format!(" (images are named below {})", names.folder().display()),
            };
            Ok(words.say(format!("{count} detections -> {}{below}", place.told()))?)
        })
    })
}

/// The detector whose findings are shown beside.
fn other(path: &Path, context: &Context) -> anyhow::Result<Model> {
    let model = ModelArgs { run: None, weights: Some(path.to_owned()), ema: false, config: None };
    model.open(&context.device, |_| {
        Err(UsageError(format!(
            "{} does not name its classes: --beside needs weights of a run or an export",
            path.display()
        ))
        .into())
    })
}

/// A weights file in a title: its name and that of its folder.
fn named_by(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// Boxes of the picture of an image.
struct Drawn<'a> {
    images: &'a Annotated,
    index: usize,
    /// Least score of a box that is drawn.
    shown: f32,
}

impl Drawn<'_> {
    /// The annotated objects, if they are known.
    fn truth(&self) -> Option<Vec<DrawnBox>> {
        let objects = self.images.objects(self.index)?.iter();
        Some(objects.map(|object| self.object(object, Mark::Plain)).collect())
    }

    fn object(&self, object: &Annotation, mark: Mark) -> DrawnBox {
        let (class, name) = (object.category.0 as usize, self.images.name(object.category).to_owned());
        DrawnBox { xyxy: corners(object.bbox), class, name, score: None, mark }
    }

    /// Boxes that were found: told apart where the objects are known, with objects that were missed.
    fn boxes(&self, found: &Detections, map: &CategoryMap) -> Vec<DrawnBox> {
        let all = to_coco(found, self.images.id(self.index), map).zip(&found.labels);
        let shown: Vec<(Detection, u32)> = all
            .filter(|(detection, _)| detection.score as f32 >= self.shown)
            .map(|(detection, &label)| (detection, label))
            .collect();
        let plain = |(detection, label): &(Detection, u32)| DrawnBox {
            xyxy: corners(detection.bbox),
            class: *label as usize,
            name: map.name(ClassIndex(*label)).unwrap_or_default().to_owned(),
            score: Some(detection.score as f32),
            mark: Mark::Plain,
        };
        let mut boxes: Vec<DrawnBox> = shown.iter().map(plain).collect();
        let Some(objects) = self.images.objects(self.index) else { return boxes };
        let judgeable = |(detection, _): &(Detection, u32)| Found {
            bbox: detection.bbox,
            // A category that the annotations do not know is none of theirs.
            class: self.images.class(CategoryId(detection.category_id)).unwrap_or(ClassIndex(u32::MAX)),
            score: detection.score,
        };
        let verdicts = judged(objects, &shown.iter().map(judgeable).collect::<Vec<_>>());
        for (drawn, verdict) in boxes.iter_mut().zip(&verdicts.found) {
            drawn.mark = match verdict {
                Verdict::Hit => Mark::Hit,
                Verdict::False => Mark::False,
                Verdict::Ignored => Mark::Plain,
            };
        }
        boxes.extend(verdicts.missed.iter().map(|&place| self.object(&objects[place], Mark::Missed)));
        boxes
    }
}

fn corners(bbox: [f64; 4]) -> [f32; 4] {
    let [x, y, w, h] = bbox.map(|value| value as f32);
    [x, y, x + w, y + h]
}

/// Times the first boxes from the start of the verb (cold start), then the median image.
fn benchmark(images: &[PathBuf], model: &Model, start: Instant, context: &Context) -> anyhow::Result<()> {
    let detect = |path: &Path| -> anyhow::Result<f64> {
        let image = decode::read(path)?;
        let start = Instant::now();
        detect_one(&model.detector, &image, &model.config, &context.device)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    detect(&images[0])?;
    let first = start.elapsed().as_secs_f64() * 1e3;
    let count = images.len().max(TIMED);
    let mut times =
        images.iter().cycle().take(count).map(|path| detect(path)).collect::<anyhow::Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    say(format!(
        "cold start to the first boxes {first:>10.1} ms   (weights read, network built, one image)"
    ))?;
    let median = times[count / 2];
    say(format!("median of {count:>4} images         {median:>10.1} ms   (from pixels to boxes)"))?;
    if let Some(peak) = peak_memory_mib() {
        say(format!("peak memory                   {peak:>10.1} MiB"))?;
    }
    Ok(())
}

/// Numbered, so that equal names from two folders do not meet.
fn picture_path(out: &Path, index: usize, image: &Path) -> PathBuf {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    out.join(format!("{:04}-{stem}.png", index + 1))
}
