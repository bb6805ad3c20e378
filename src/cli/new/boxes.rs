//! The configuration of a detector for images with boxes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ckd_detectors::backbone::Backbone;

use super::budget::{FEW_PASSES, Time, measure};
use super::fit::{Anchors, SMALLEST_SIDE_PX, USUAL, anchors, coverage, in_steps, short_side};
use super::survey::{Parts, paths};
use super::trained::Trained;
use super::wish::{HELD_OUT, Wish, network, toml_text, write};
use crate::cli::{Context, UsageError, say};
use crate::config::{Config, Document};
use crate::data::split::held_out;
use crate::data::synth::Split;
use crate::data::{Data, DataKind, Dataset, ImagePolicy, Instances, LoadReport, OnBadImage, coco};
use crate::fsx;

/// Makes the configuration, and says how long its training takes.
///
/// # Errors
/// Data that cannot be read or has nothing to learn from; networks that do not exist.
pub(super) fn make(data: Data, has_val: bool, wish: &Wish, context: &Context) -> anyhow::Result<String> {
    let networks = Networks::of(wish)?;
    let mut data = data;
    if !has_val {
        data = divided(&data, wish)?;
    }
    let root = data.root.clone();
    let load = |split| load(&data, &root, split);
    let mut parts = Parts { train: load(Split::Train)?, val: load(Split::Val)? };
    parts.tell()?;
    if parts.train.1.positives == 0 {
        anyhow::bail!(
            "the training part has no box to learn from: look at its annotations with `ckd-det data check`"
        );
    }
    if let Chosen::Trained(teacher) = &networks.teacher {
        teacher.check_classes("the training part", &parts.train.0.categories)?;
    }
    for class in parts.unlearned() {
        say(format!("note: no training image has a box of the class {class:?}: it will not be found"))?;
    }
    let (width, height) = parts.median_size();
    let shapes = parts.shapes();
    let mut plan = Plan {
        data: &data,
        networks,
        batch: batch(parts.train.0.images.len()),
        short_side: short_side(&shapes, width.min(height)),
        longest: parts.longest(),
        anchors: USUAL,
        most_boxes: parts.most_boxes(),
        bad_share: parts.bad_share(),
        images: parts.train.0.images.len(),
        passes: 1,
        time: None,
        wish,
    };
    plan.anchors = anchors(&shapes, plan.short_side);
    say("\ntiming a few steps ..")?;
    let mut time = measure(&wish.out, &plan.toml()?, context)?;
    // Too few passes at this size: smaller images, as far as they go, take less time each.
    if time.passes_in(wish.minutes) < FEW_PASSES && plan.short_side > SMALLEST_SIDE_PX {
        let share = (60.0 * wish.minutes / (time.pass * FEW_PASSES as f64)).sqrt().min(1.0);
        let smaller = in_steps(f64::from(plan.short_side) * share).max(SMALLEST_SIDE_PX);
        say(format!(
            "at {} px the time is enough for {} passes only; the images are shrunk to {smaller} px",
            plan.short_side,
            time.passes_in(wish.minutes)
        ))?;
        plan.short_side = smaller;
        plan.anchors = anchors(&shapes, plan.short_side);
        time = measure(&wish.out, &plan.toml()?, context)?;
    }
    (plan.passes, plan.time) = (time.passes_in(wish.minutes), Some(time));
    plan.tell(&shapes)?;
    time.warn(plan.passes)?;
    write(&wish.out, &plan.toml()?)?;
    Ok(format!("{} passes, about {:.1} minutes on this machine", plan.passes, time.minutes(plan.passes)))
}

/// Images of a step: a tenth of all, between 1 and 4.
fn batch(images: usize) -> usize {
    (images / 10).clamp(1, 4)
}

fn load(data: &Data, root: &Path, split: Split) -> anyhow::Result<(Dataset, LoadReport)> {
    let files = data.files(root, split);
    let (instances, images) = files.open()?;
    let policy = ImagePolicy { on_bad: OnBadImage::Skip, max_bad: 1.0, ..files.policy };
    Ok(Dataset::new(&instances, &images, &policy)?)
}

/// The data set with a validation part, both parts written down as COCO files beside the configuration.
fn divided(data: &Data, wish: &Wish) -> anyhow::Result<Data> {
    let (instances, images) = data.files(&data.root, Split::Train).open()?;
    let findings = instances.findings();
    if !findings.is_empty() {
        // The parts that are written down are corrected already.
        say(format!("as it was read:{findings}"))?;
    }
    let files = paths(&images, instances.images.iter().map(|image| image.file_name.clone()));
    let is_held_out = held_out(&files, HELD_OUT, wish.seed);
    if !is_held_out.contains(&true) {
        anyhow::bail!(
            "{} has too few images to hold any out: two that differ are the least",
            images.display()
        );
    }
    let part = |wanted: bool| {
        let mut part: Instances = instances.clone();
        let mut place = is_held_out.iter();
        part.images.retain(|_| place.next() == Some(&wanted));
        let ids: BTreeSet<u64> = part.images.iter().map(|image| image.id).collect();
        part.annotations.retain(|annotation| ids.contains(&annotation.image_id));
        part
    };
    let mut divided = Data::new(DataKind::Coco, std::path::absolute(&images)?);
    (divided.train_images, divided.val_images) = (PathBuf::from("."), PathBuf::from("."));
    divided.allow_outside = data.allow_outside;
    for (file, wanted, annotations) in [
        ("train.json", false, &mut divided.train_annotations),
        ("val.json", true, &mut divided.val_annotations),
    ] {
        *annotations = wish.split_file(file);
        fsx::write_atomic(annotations, &coco::to_json(&part(wanted)))?;
    }
    let folder = divided.train_annotations.parent().unwrap_or(Path::new(""));
    say(format!("  split written to {} (train.json, val.json)", folder.display()))?;
    Ok(divided)
}

/// Teacher and student.
struct Networks {
    teacher: Chosen,
    student: Chosen,
}

/// A network of the configuration.
enum Chosen {
    /// A backbone with random weights, and the channels of its first layer.
    Named(Backbone, Option<usize>),
    /// A detector that was trained before.
    Trained(Box<Trained>),
}

impl Chosen {
    /// The network that `given` names: a backbone, or else trained weights; `usual` if nothing is given.
    fn of(given: Option<&String>, usual: &str) -> anyhow::Result<Self> {
        let text = given.map_or(usual, String::as_str);
        let name = text.split(':').next().unwrap_or_default();
        if name.parse::<Backbone>().is_err()
            && let Some(trained) = Trained::of(text)?
        {
            return Ok(Self::Trained(Box::new(trained)));
        }
        let (word, width) = network(text)?;
        let backbone = word.parse::<Backbone>().map_err(|_| {
            let names: Vec<&str> = Backbone::all().map(Backbone::name).collect();
            UsageError(format!(
                "{word:?} is no backbone of a detector, and no weights file or run is there by that name; choose from {}",
                names.join(", ")
            ))
        })?;
        Ok(Self::Named(backbone, width))
    }

    /// The network in words.
    fn told(&self) -> String {
        match self {
            Self::Named(backbone, Some(width)) => format!("{backbone} of {width} channels"),
            Self::Named(backbone, None) => backbone.to_string(),
            Self::Trained(trained) => trained.told(),
        }
    }

    /// Keys of a network with random weights.
    fn keys(backbone: Backbone, width: Option<usize>) -> String {
        let width = width.map(|width| format!("width = {width} # channels of the first layer\n"));
        format!("backbone = \"{backbone}\"\n{}norm = \"bn\"\n", width.unwrap_or_default())
    }
}

impl Networks {
    fn of(wish: &Wish) -> anyhow::Result<Self> {
        Ok(Self {
            teacher: Chosen::of(wish.teacher.as_ref(), "resnet34:32")?,
            student: Chosen::of(wish.student.as_ref(), "resnet18:16")?,
        })
    }

    /// Weights that training begins with, in words.
    fn weights(&self) -> &'static str {
        match (&self.teacher, &self.student) {
            (Chosen::Named(..), Chosen::Named(..)) => ", both from random weights",
            (Chosen::Trained(_), Chosen::Named(..)) => ", which begins with random weights",
            (Chosen::Named(..), Chosen::Trained(_)) => "; the teacher begins with random weights",
            (Chosen::Trained(_), Chosen::Trained(_)) => "",
        }
    }

    /// The table of the student.
    fn student(&self) -> String {
        match &self.student {
            Chosen::Named(backbone, width) => format!("[student]\n{}", Chosen::keys(*backbone, *width)),
            Chosen::Trained(trained) => trained.as_student(),
        }
    }
}

/// All that the configuration says.
struct Plan<'a> {
    data: &'a Data,
    networks: Networks,
    batch: usize,
    short_side: u32,
    /// Longer over shorter side.
    longest: f64,
    anchors: Anchors,
    most_boxes: usize,
    bad_share: f64,
    images: usize,
    passes: u64,
    time: Option<Time>,
    wish: &'a Wish,
}

impl Plan<'_> {
    /// Prints what was chosen, and the rules.
    fn tell(&self, shapes: &[super::fit::Shape]) -> anyhow::Result<()> {
        let percent = |anchors: &Anchors| 100.0 * coverage(shapes, self.short_side, anchors);
        let Anchors { sizes, ratios } = &self.anchors;
        say(format!(
            "chosen: {} teaches {}{}; images of {} px (shorter side)",
            self.networks.teacher.told(),
            self.networks.student.told(),
            self.networks.weights(),
            self.short_side
        ))?;
        say(format!(
            "  anchors {sizes:?}, height over width {ratios:?}: {:.0} % of the boxes have one with an IoU of .5 (torchvision's: {:.0} %)",
            percent(&self.anchors),
            percent(&USUAL)
        ))?;
        Ok(say(format!("  {} images a step, learning rate {}", self.batch, self.lr()))?)
    }

    /// Learning rate: 0.015 for 4 images a step, in proportion.
    fn lr(&self) -> f64 {
        0.015 * self.batch as f64 / 4.0
    }

    /// Short sides of training images: around the one of the evaluation.
    fn short_sides(&self) -> Vec<u32> {
        let around = [0.87, 0.93, 1.0, 1.07, 1.13].map(|share| in_steps(f64::from(self.short_side) * share));
        match self.short_side > SMALLEST_SIDE_PX {
            true => BTreeSet::from(around).into_iter().collect(),
            false => vec![self.short_side],
        }
    }

    fn long_side(&self) -> u32 {
        let short = self.short_sides().last().copied().unwrap_or(self.short_side);
        in_steps(f64::from(short) * self.longest.clamp(1.0, 2.0) + 15.0).max(short)
    }

    /// The configuration, its choices explained.
    fn toml(&self) -> anyhow::Result<String> {
        let loaded = |teacher: &str| {
            Config::from_toml(&format!("name = \"x\"\n{}", self.text(teacher, "")), "the new configuration")
        };
        let teacher = match &self.networks.teacher {
            Chosen::Named(backbone, width) => format!(
                "# The teacher is trained first, on the same data, and found again by every later run of these settings.\n\
                 # With weights of your own: weights = \"FILE\" instead of `train`.\n[teacher]\n{}train = {{ schedule = \
                 {{ epochs = {} }} }} # what it has of its own; all else is as below\n",
                Chosen::keys(*backbone, *width),
                self.passes
            ),
            Chosen::Trained(trained) => {
                let any = format!("[teacher]\n{}train = {{}}\n", Chosen::keys(Backbone::RESNET18, None));
                trained.as_teacher(&loaded(&any)?)
            }
        };
        let levels = loaded(&teacher)?
            .common_levels()
            .iter()
            .map(|level| format!("\"{level}\""))
            .collect::<Vec<_>>()
            .join(", ");
        Ok(self.text(&teacher, &format!(
            "\n[[distill]] # the maps of the pyramid, level by level\nmethod = \"review_kd\"\nlevels = [{levels}]\nweight = 1.2\n"
        )))
    }

    fn text(&self, teacher: &str, maps: &str) -> String {
        let Self { wish, batch, passes, short_side, images, .. } = self;
        let (sides, long_side, lr) = (self.short_sides(), self.long_side(), self.lr());
        let Anchors { sizes, ratios } = &self.anchors;
        let sizes = sizes.map(|size| format!("[{size:.1}]")).join(", ");
        let steps = (images / batch).max(1) as u64 * passes;
        let warmup = (steps / 10).clamp(1, 100);
        let detections = (2 * self.most_boxes).clamp(50, 300);
        let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(1, 4));
        let data = self.data_section();
        let time = self.time.map_or(String::new(), |time| {
            format!(
                "# Timed on this machine: a pass of all three takes {:.1} s, so {passes} fit into {} minutes.\n",
                time.pass, wish.minutes
            )
        });
        let student = self.networks.student();
        format!(
            "\
# A teacher, a student, and what the student learns from it; made by `ckd-det new {}`
#
# Every value may be changed. `ckd-det config explain KEY` says what a key is for, `ckd-det config keys` lists all.

{data}
[input]
# At this size half of the boxes have 48 px and nine tenths 16 px, as far as images and time allow.
# Smaller images train faster; larger ones show small objects.
short_side_px = {sides:?}
eval_short_side_px = {short_side}
long_side_px = {long_side}

[detector]
architecture = \"faster_rcnn\"
fpn_channels = 64
# Fitted to the boxes at that size: even steps from their 5th to their 95th percentile, one size a level.
anchor_sizes = [{sizes}]
aspect_ratios = {ratios:?} # height over width: the 15th, 50th and 85th percentile

# Fewer proposals than on COCO: there is less to find, and every one takes time.
[detector.rpn]
pre_nms_top_n_train = 500
post_nms_top_n_train = 300
pre_nms_top_n_test = 300
post_nms_top_n_test = {proposals}
batch_per_image = 128

[detector.roi]
batch_per_image = 128
head_width = 256
detections_per_image = {detections} # twice the fullest image's objects, 50 to 300

{teacher}
{student}
[[distill]] # the classes of regions, by contrast
method = \"ckd\"
at = \"roi_logits\"
weight = 0.5
{maps}
[optim]
lr = {lr} # 0.015 for 4 images a step, in proportion
momentum = 0.9
weight_decay = 1e-4
clip_grad_norm = 10.0

{time}[schedule]
epochs = {passes}
kind = \"cosine\"
warmup_steps = {warmup}

[train]
batch_size = {batch} # a tenth of the training images, 1 to 4
log_every = 20
compare_alone = true # false: no student without teacher to compare with, a third of the time less

[eval]
batch_size = {batch}
",
            printable(&wish.folder),
            proposals = detections.max(100),
        )
        .replace("WORKERS", &workers.to_string())
    }

    fn data_section(&self) -> String {
        let data = self.data;
        let mut text = format!("[data]\nkind = \"{}\"\nroot = {}\n", data.kind, toml_text(&data.root));
        let mut key = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            text += &format!("{name} = {}\n", toml_text(value));
        };
        match data.kind {
            DataKind::Coco | DataKind::Synth => {
                key("train_images", &data.train_images);
                key("train_annotations", &data.train_annotations);
                key("val_images", &data.val_images);
                key("val_annotations", &data.val_annotations);
            }
            DataKind::Yolo | DataKind::Voc => {
                key("train_split", &data.train_split);
                key("val_split", &data.val_split);
            }
        }
        text += "workers = WORKERS\n";
        if self.bad_share > 0.0 {
            let most = (self.bad_share * 1000.0).ceil() / 1000.0;
            text += &format!(
                "on_bad_image = \"skip\" # images that cannot be used are left out\nmax_bad_images = {most}\n"
            );
        }
        text
    }
}

/// A path for a comment: on one line.
fn printable(path: &Path) -> String {
    path.display().to_string().replace(['\n', '\r'], " ")
}
