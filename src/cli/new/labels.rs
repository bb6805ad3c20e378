//! The configuration of a classifier for images by class.

use std::collections::BTreeMap;
use std::path::Path;

use ckd_detectors::classifier::Architecture;

use super::budget::measure;
use super::fit::quantile;
use super::trained::TrainedClassifier;
use super::wish::{HELD_OUT, Wish, network, toml_text, write};
use crate::cli::{Context, UsageError, check_labelled, say};
use crate::data::cifar::Split;
use crate::data::labelled_data::LabelledData;
use crate::data::split::held_out;
use crate::data::{Labelled, OnBadImage, decode, leakage};
use crate::engine::classify::{LabelledSets, read_split};
use crate::fsx;

/// Makes the configuration, and says how long its training takes.
///
/// # Errors
/// Images that cannot be read; networks that do not exist.
pub(super) fn make(
    data: LabelledData,
    has_val: bool,
    wish: &Wish,
    context: &Context,
) -> anyhow::Result<String> {
    let known = |given: Option<&String>, usual: &str| -> anyhow::Result<Chosen> {
        let text = given.map_or(usual, String::as_str);
        if text.parse::<Architecture>().is_err()
            && let Some(trained) = TrainedClassifier::of(text)?
        {
            return Ok(Chosen { network: trained.network(), trained: Some(trained) });
        }
        let (word, width) = network(text)?;
        match (word.parse::<Architecture>(), width) {
            (Ok(network), None) => Ok(Chosen { network, trained: None }),
            (Ok(_), Some(_)) => {
                Err(UsageError(format!("a classifier has one width: name it {word} alone")).into())
            }
            (Err(error), _) => Err(UsageError(error.to_string()).into()),
        }
    };
    let (teacher, student) =
        (known(wish.teacher.as_ref(), "resnet56")?, known(wish.student.as_ref(), "resnet20")?);
    let mut data = data;
    (data.on_bad_image, data.max_bad_images) = (OnBadImage::Skip, 1.0);
    if !has_val {
        divide(&mut data, wish)?;
    }
    let root = data.root.clone();
    let [train, val] = [Split::Train, Split::Test].map(|split| read_split(&data, &root, split));
    let (train, val) = (train?, val?);
    let (mut bad, mut all) = (0, 0);
    for (name, set) in [("training part", &train), ("validation part", &val)] {
        say("")?;
        bad += check_labelled::tell(name, set, &root, false)?;
        all += set.len();
    }
    let shared = leakage::shared(train.paths(), val.paths(), u64::MAX).unwrap_or_default();
    if let Some(&first) = shared.first() {
        let first = val.path(first);
        say(format!("{} held-out images are training images too, first: {}", shared.len(), first.display()))?;
    }
    let (images, side) = (train.len(), side_px(&train));
    if let Some(trained) = &teacher.trained {
        trained.card.check_classes(&trained.weights, &train.classes)?;
    }
    LabelledSets::new(train, val, &root)?;
    let plan =
        Plan { data: &data, teacher, student, side, images, bad_share: bad as f64 / all.max(1) as f64, wish };
    say("\ntiming a few steps ..")?;
    let time = measure(&wish.out, &plan.toml(1, ""), context)?;
    let passes = time.passes_in(wish.minutes);
    let timed = format!(
        "# Timed on this machine: a pass of all three takes {:.1} s, so {passes} fit into {} minutes.\n",
        time.pass, wish.minutes
    );
    say(format!(
        "chosen: {} teaches {}; images of {side}x{side} px, {} a step, learning rate {}",
        plan.teacher.told(),
        plan.student.told(),
        plan.batch(),
        plan.lr()
    ))?;
    time.warn(passes)?;
    write(&wish.out, &plan.toml(passes, &timed))?;
    Ok(format!("{passes} passes, about {:.1} minutes on this machine", time.minutes(passes)))
}

/// A network of the configuration.
struct Chosen {
    network: Architecture,
    /// Its weights, if it was trained before.
    trained: Option<TrainedClassifier>,
}

impl Chosen {
    /// The network in words.
    fn told(&self) -> String {
        match &self.trained {
            Some(trained) => format!("{} ({})", self.network, trained.weights.display()),
            None => format!("{} from random weights", self.network),
        }
    }
}

/// Holds out a part of each class, and writes it down beside the configuration.
fn divide(data: &mut LabelledData, wish: &Wish) -> anyhow::Result<()> {
    let all = read_split(data, &data.root, Split::Train)?;
    let mut classes: BTreeMap<u32, Vec<&Path>> = BTreeMap::new();
    for (path, &label) in all.paths().iter().zip(&all.labels) {
        classes.entry(label).or_default().push(path);
    }
    let below = data.root.join(&data.train);
    let mut list = String::new();
    for paths in classes.values() {
        for (path, _) in
            paths.iter().zip(held_out(paths, HELD_OUT, wish.seed)).filter(|(_, is_held_out)| *is_held_out)
        {
            let name = path.strip_prefix(&below).unwrap_or(path).to_string_lossy().replace('\\', "/");
            list += &format!("{name}\n");
        }
    }
    let file = wish.split_file("held_out.txt");
    fsx::write_atomic(&file, list.as_bytes())?;
    say(format!("  split written to {}", file.display()))?;
    data.held_out = Some(file);
    Ok(())
}

/// Images by whose size the input is chosen.
const MEASURED: usize = 200;

/// Side of the input: 32 px for images up to 48 px, as CIFAR's, else 64 px.
fn side_px(set: &Labelled) -> u32 {
    let step = set.len().div_ceil(MEASURED).max(1);
    let sizes = set.paths().iter().step_by(step).filter_map(|path| decode::size(path).ok());
    let sides: Vec<f64> = sizes.map(|(width, height)| f64::from(width.min(height))).collect();
    if quantile(sides, 0.5) <= 48.0 { 32 } else { 64 }
}

/// All that the configuration says.
struct Plan<'a> {
    data: &'a LabelledData,
    teacher: Chosen,
    student: Chosen,
    side: u32,
    images: usize,
    bad_share: f64,
    wish: &'a Wish,
}

impl Plan<'_> {
    /// Images of a step: the power of two below a tenth of all, 4 to 128.
    fn batch(&self) -> usize {
        let tenth = (self.images / 10).clamp(4, 128);
        1 << tenth.ilog2()
    }

    /// Learning rate: 0.1 for 128 images a step, in proportion.
    fn lr(&self) -> f64 {
        0.1 * self.batch() as f64 / 128.0
    }

    fn toml(&self, passes: u64, timed: &str) -> String {
        let Self { data, side, images, wish, .. } = self;
        let teacher = match &self.teacher.trained {
            Some(trained) => {
                let normalization = trained.card.config.student_normalization();
                format!(
                    "[teacher]\nnetwork = \"{}\"\nweights = {}\nnormalization = {{ mean = {:?}, std = {:?} }}\n",
                    self.teacher.network,
                    toml_text(&trained.weights),
                    normalization.mean,
                    normalization.std
                )
            }
            None => format!(
                "# The teacher is trained first, on the same data, and found again by every later run of these settings.\n\
                 [teacher]\nnetwork = \"{}\"\ntrain = {{ schedule = {{ epochs = {passes} }} }} # what it has of its own; \
                 all else is as below\n",
                self.teacher.network
            ),
        };
        let init = self.student.trained.as_ref();
        let init = init.map_or(String::new(), |trained| format!("init = {}\n", toml_text(&trained.weights)));
        let student = format!("[student]\nnetwork = \"{}\"\n{init}", self.student.network);
        let (batch, lr) = (self.batch(), self.lr());
        let warmup = ((images / batch).max(1) as u64 * passes / 10).clamp(1, 100);
        let mut parts = format!("train = {}\n", toml_text(&data.train));
        parts += &match &data.held_out {
            Some(list) => {
                format!("held_out = {} # a line for each image that is not trained on\n", toml_text(list))
            }
            None => format!("val = {}\n", toml_text(&data.val)),
        };
        if self.bad_share > 0.0 {
            let most = (self.bad_share * 1000.0).ceil() / 1000.0;
            parts += &format!(
                "on_bad_image = \"skip\" # images that cannot be used are left out\nmax_bad_images = {most}\n"
            );
        }
        let resized = side * 9 / 8;
        let folder = wish.folder.display().to_string().replace(['\n', '\r'], " ");
        format!(
            "\
# A teacher, a student, and what the student learns from it; made by `ckd-det new {folder}`
#
# Every value may be changed. `ckd-det config explain KEY` says what a key is for, `ckd-det config keys` lists all.
task = \"classify\"

[data]
kind = \"folder\"
root = {root}
{parts}
[input]
side_px = {side}
crop = \"random_resized\" # a random part of the image, 8 to 100 % of its area
eval_resize_px = {resized} # then the middle {side} px

{teacher}
{student}
[[distill]]
method = \"dkd\"
at = \"logits\"
weight = 1.0
alpha = 1.0
beta = 2.0
temperature = 4.0

[optim]
lr = {lr} # 0.1 for 128 images a step, in proportion
momentum = 0.9
nesterov = true
weight_decay = 5e-4

{timed}[schedule]
epochs = {passes}
kind = \"cosine\"
warmup_steps = {warmup}

[train]
batch_size = {batch} # a tenth of the training images, 4 to 128
compare_alone = true # false: no student without teacher to compare with, a third of the time less

[eval]
batch_size = {batch}
",
            root = toml_text(&data.root),
        )
    }
}
