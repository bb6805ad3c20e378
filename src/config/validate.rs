//! What the types cannot say: ranges, and keys that must fit each other. Checked once, at loading;
//! nothing downstream checks again.

mod classify;
mod cohort;
mod detector;
mod distill;

use super::diagnose::Diagnostic;
use super::schema::{
    Backbone, Config, Data, DataKind, Eval, Input, Network, Normalization, Optim, Schedule, ScheduleKind,
    StrideIn, Student, Synth, Teacher, Train,
};
use super::section::join;
use super::tree::Node;

/// A value that cannot be right.
#[derive(Debug)]
pub(super) struct Problem {
    /// The dotted key to change.
    pub(super) key: String,
    /// What is wrong, without the key.
    pub(super) message: String,
    /// What to do.
    pub(super) help: String,
}

impl Problem {
    /// The problem at its key in the tree, or where the key would stand.
    pub(super) fn found_in(self, root: &Node) -> Diagnostic {
        let mut key = self.key.as_str();
        let node = loop {
            match (root.at(key), key.rsplit_once('.')) {
                (Some(node), _) => break node,
                (None, Some((parent, _))) => key = parent,
                (None, None) => break root,
            }
        };
        Diagnostic::at(node.place.clone(), format!("\"{}\" {}", self.key, self.message)).help(self.help)
    }
}

/// Everything wrong with `config`.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    name(&config.name, &mut found);
    detector::check("detector", &config.detector, &mut found);
    input(&config.input, &mut found);
    normalization("normalization", &config.normalization, &mut found);
    data(&config.data, &mut found);
    if let Some(network) = &config.teacher {
        teacher(network, config, &mut found);
    }
    student(&config.student, &mut found);
    distill::check_all(config, &mut found);
    optim(&config.optim, &mut found);
    schedule(&config.schedule, &mut found);
    loops(&config.train, config.distill.is_empty(), &mut found);
    engine(config, &mut found);
    eval(&config.eval, &mut found);
    found
}

/// Collects the problems of one section.
struct Check<'a> {
    section: &'a str,
    found: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn that(&mut self, holds: bool, key: &str, message: impl Into<String>, help: impl Into<String>) {
        if !holds {
            let key = join(self.section, key);
            self.found.push(Problem { key, message: message.into(), help: help.into() });
        }
    }

    fn at_least_one(&mut self, key: &str, value: impl TryInto<u64>) {
        let holds = value.try_into().is_ok_and(|value| value >= 1);
        self.that(holds, key, "is 0", "give 1 or more");
    }

    fn positive(&mut self, key: &str, value: f64) {
        self.that(value > 0.0, key, format!("is {value}"), "give a number above 0");
    }

    fn not_negative(&mut self, key: &str, value: f64) {
        self.that(value >= 0.0, key, format!("is negative: {value}"), "give 0 or more");
    }

    /// A value in [0, 1].
    fn fraction(&mut self, key: &str, value: f64) {
        let holds = (0.0..=1.0).contains(&value);
        self.that(holds, key, format!("is {value}"), "give a number from 0 to 1");
    }

    fn iou_pair(&mut self, fg: f32, bg: f32) {
        self.fraction("fg_iou", fg.into());
        self.fraction("bg_iou", bg.into());
        let message = format!("is above fg_iou: {bg} > {fg}");
        self.that(bg <= fg, "bg_iou", message, "background must overlap less than objects do");
    }
}

fn name(name: &str, found: &mut Vec<Problem>) {
    let is_a_folder = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
    Check { section: "", found }.that(
        is_a_folder,
        "name",
        format!("cannot name a folder: {name:?}"),
        "the run's folder is OUTPUT/NAME; use letters, digits, '-' and '_'",
    );
}

fn input(input: &Input, found: &mut Vec<Problem>) {
    let mut check = Check { section: "input", found };
    let sides = &input.short_side_px;
    check.that(
        !sides.is_empty() && !sides.contains(&0),
        "short_side_px",
        "needs at least one size, all above 0",
        "for example [800], or [640, 672, 704, 736, 768, 800] to draw one for each image",
    );
    let longest = sides.iter().copied().chain(input.eval_short_side_px).max().unwrap_or(0);
    check.that(
        input.long_side_px >= longest,
        "long_side_px",
        format!("is {}, below the short side {longest}", input.long_side_px),
        "the longer side cannot be the shorter one",
    );
    check.at_least_one("eval_short_side_px", input.eval_short_side());
    check.at_least_one("size_divisor", input.size_divisor);
    check.fraction("flip_probability", input.flip_probability);
}

fn normalization(section: &str, normalization: &Normalization, found: &mut Vec<Problem>) {
    let holds = normalization.std.iter().all(|std| *std > 0.0);
    Check { section, found }.that(
        holds,
        "std",
        "divides the image and must be above 0",
        "ImageNet's is [0.229, 0.224, 0.225]",
    );
}

fn data(data: &Data, found: &mut Vec<Problem>) {
    let mut check = Check { section: "data", found };
    check.at_least_one("workers", data.workers);
    check.at_least_one("queue", data.queue);
    match (data.kind, &data.synth) {
        (DataKind::Synth, Some(drawn)) => synth(drawn, found),
        (DataKind::Synth, None) => check.that(
            false,
            "synth",
            "is missing, but data.kind = \"synth\"",
            "add a [data.synth] table: how many images, of what size, with how many classes",
        ),
        (DataKind::Coco, Some(_)) => check.that(
            false,
            "synth",
            "is given, but data.kind = \"coco\"",
            "remove [data.synth], or set data.kind = \"synth\"",
        ),
        (DataKind::Coco, None) => {}
    }
}

fn synth(synth: &Synth, found: &mut Vec<Problem>) {
    let mut check = Check { section: "data.synth", found };
    check.at_least_one("images_train", synth.images_train);
    check.at_least_one("images_val", synth.images_val);
    check.at_least_one("classes", synth.classes);
    let size = synth.image_size_px;
    check.that(size >= 32, "image_size_px", format!("is {size}"), "objects need at least 32 pixels");
    check.that(
        synth.min_objects <= synth.max_objects,
        "min_objects",
        format!("is above max_objects: {} > {}", synth.min_objects, synth.max_objects),
        "lower the one or raise the other",
    );
}

fn network(section: &str, network: &Network, found: &mut Vec<Problem>) {
    let mut check = Check { section, found };
    check.at_least_one("width", network.stem_channels());
    check.at_least_one("fpn_channels", network.fpn_channels.unwrap_or(1));
    check.at_least_one("head_width", network.head_width.unwrap_or(1));
    check.that(
        network.stride_in == StrideIn::Middle
            || matches!(network.backbone, Backbone::ResNet50 | Backbone::ResNet101),
        "stride_in",
        format!("is \"{}\", but {} has no bottlenecks", network.stride_in, network.backbone),
        "leave it out",
    );
}

fn teacher(teacher: &Teacher, config: &Config, found: &mut Vec<Problem>) {
    network("teacher", &teacher.network, found);
    if let Some(own) = &teacher.normalization {
        normalization("teacher.normalization", own, found);
    }
    detector::check_teacher(teacher, config, found);
    let mut check = Check { section: "teacher", found };
    match (&teacher.weights, &teacher.train) {
        (Some(_), Some(_)) => check.that(
            false,
            "train",
            "and teacher.weights are both given",
            "keep `weights` to load the teacher, or `train` to train it first",
        ),
        (None, None) => check.that(
            config.distill.is_empty() || teacher.network.allow_random_weights,
            "weights",
            "is missing: the student is to learn from a teacher without weights",
            "give `weights = \"FILE\"` or `train = \"CONFIG\"` (to time a step, allow_random_weights = true)",
        ),
        _ => {}
    }
}

fn student(student: &Student, found: &mut Vec<Problem>) {
    network("student", &student.network, found);
    let mut check = Check { section: "student", found };
    let frozen = student.frozen_stages();
    check.that(
        frozen <= 5,
        "freeze_at",
        format!("is {frozen}"),
        "a backbone has 5 stages: the stem and four more",
    );
    check.that(
        frozen == 0 || student.init.is_some(),
        "freeze_at",
        format!("is {frozen}, which would freeze random weights"),
        "give `init`, or set freeze_at = 0",
    );
}

fn optim(optim: &Optim, found: &mut Vec<Problem>) {
    let mut check = Check { section: "optim", found };
    check.positive("lr", optim.lr);
    check.that(
        (0.0..1.0).contains(&optim.momentum),
        "momentum",
        format!("is {}", optim.momentum),
        "give a number from 0 to below 1",
    );
    check.that(
        !optim.nesterov || optim.momentum > 0.0,
        "nesterov",
        "needs momentum, which is 0",
        "raise momentum, or set nesterov = false",
    );
    check.not_negative("weight_decay", optim.weight_decay);
    check.not_negative("weight_decay_norm", optim.norm_decay());
    check.not_negative("weight_decay_bias", optim.bias_decay());
    if let Some(norm) = optim.clip_grad_norm {
        check.positive("clip_grad_norm", norm);
    }
}

fn schedule(schedule: &Schedule, found: &mut Vec<Problem>) {
    let mut check = Check { section: "schedule", found };
    match (schedule.steps, schedule.epochs) {
        (Some(_), Some(_)) => {
            check.that(false, "epochs", "and schedule.steps are both given", "keep one of the two");
        }
        (None, None) => {
            check.that(false, "steps", "is missing, and so is schedule.epochs", "give one of the two");
        }
        (Some(steps), None) => check.at_least_one("steps", steps),
        (None, Some(epochs)) => check.at_least_one("epochs", epochs),
    }
    let milestones = &schedule.milestones;
    if schedule.kind == ScheduleKind::MultiStep {
        check.that(
            !milestones.is_empty(),
            "milestones",
            "is empty, but schedule.kind = \"multi_step\"",
            "say when the learning rate drops (in the unit of steps or epochs), or set kind = \"constant\"",
        );
    }
    let ascending = milestones.windows(2).all(|pair| pair[0] < pair[1]);
    check.that(
        ascending && milestones.iter().all(|milestone| *milestone > 0.0),
        "milestones",
        format!("is not ascending from above 0: {milestones:?}"),
        "give the steps (or epochs) in order, each once",
    );
    check.positive("gamma", schedule.gamma);
    check.fraction("warmup_factor", schedule.warmup_factor);
    check.fraction("final_lr_factor", schedule.final_lr_factor);
}

fn loops(train: &Train, plain: bool, found: &mut Vec<Problem>) {
    let mut check = Check { section: "train", found };
    check.at_least_one("batch_size", train.batch_size);
    check.at_least_one("accumulate", train.accumulate);
    check.at_least_one("eval_every", train.eval_every.unwrap_or(1));
    check.at_least_one("checkpoint_every", train.checkpoint_every.unwrap_or(1));
    check.at_least_one("keep_checkpoints", train.keep_checkpoints);
    check.at_least_one("log_every", train.log_every);
    check.that(
        !train.compare_alone || !plain,
        "compare_alone",
        "needs a [[distill]] entry to compare with",
        "set compare_alone = false: without distillation the student trains alone anyway",
    );
}

fn engine(config: &Config, found: &mut Vec<Problem>) {
    let backbone = config.student.network.backbone;
    let is_mobile = matches!(backbone, Backbone::MobileNetV1 | Backbone::MobileNetV2);
    if is_mobile && !config.engine.recompute.is_empty() {
        found.push(Problem {
            key: "engine.recompute".to_owned(),
            message: format!("names stages of a ResNet, but the student's backbone is {backbone}"),
            help: "leave it out".to_owned(),
        });
    }
}

fn eval(eval: &Eval, found: &mut Vec<Problem>) {
    let mut check = Check { section: "eval", found };
    check.at_least_one("batch_size", eval.batch_size);
    check.at_least_one("max_images", eval.max_images.unwrap_or(1));
}
