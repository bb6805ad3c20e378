//! Image classification: what its keys must be, alone and together.

use super::distill::Offer;
use super::{Check, Problem, eval, loops, name, normalization, optim, schedule};
use crate::config::diagnose::{ConfigError, Diagnostics};
use crate::config::load::{Loaded, Root, load_last};
use crate::config::lookup::{ConfigSource, Reference};
use crate::config::schema::{ClassifyConfig, LabelledInput, Task};
use crate::config::section::Key;
use crate::config::tree::Node;

impl Root for ClassifyConfig {
    const TASKS: &'static [Task] = &[Task::Classify, Task::Probe];

    fn document_root(keys: &mut Vec<Key>) {
        Self::document_fields("", keys);
    }

    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        name(&self.name, &mut found);
        input(&self.input, &mut found);
        if let Some(own) = &self.normalization {
            normalization("normalization", own, &mut found);
        }
        let mut check = Check { section: "", found: &mut found };
        check.not_negative("loss_weight", self.loss_weight);
        check.fraction("label_smoothing", self.label_smoothing);
        check.at_least_one("data.workers", self.data.workers);
        check.at_least_one("data.queue", self.data.queue);
        check.that(
            self.engine.recompute.is_empty(),
            "engine.recompute",
            "names stages of a detector's backbone",
            "leave it out",
        );
        taught(self, &mut check);
        probed(self, &mut check);
        optim(&self.optim, &mut found);
        schedule(&self.schedule, &mut found);
        loops(&self.train, self.distill.is_empty(), &mut found);
        eval(&self.eval, &mut found);
        found
    }

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        loaded.write_out(&mut self.data.root);
        loaded.write_out_given(&mut self.data.class_index);
        loaded.write_out_given(&mut self.student.init);
        if let Some(teacher) = &mut self.teacher {
            loaded.write_out_given(&mut teacher.weights);
            loaded.write_out_teacher(&mut teacher.train);
        }
    }

    /// Loads what `teacher.train` names, and checks that it makes the teacher that is wanted.
    fn teacher_experiment(
        &self,
        root: &Node,
        trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        let Some(teacher) = &self.teacher else { return Ok(None) };
        let (Some(name), Some(node)) = (&teacher.train, root.at("teacher.train")) else { return Ok(None) };
        let found = Reference { key: "teacher.train", name, place: &node.place }.follow(trail)?;
        trail.push(found);
        let mut loaded: Loaded<Self> = load_last(trail, &[])?;
        loaded.config.data = self.data.clone();
        loaded.config.output = self.output.clone();
        let made = &loaded.config;
        let pairs = [
            ("teacher.network", teacher.network.to_string(), made.student.network.to_string()),
            (
                "teacher.normalization",
                format!("{:?}", self.teacher_normalization()),
                format!("{:?}", made.student_normalization()),
            ),
            ("input.side_px", self.input.side_px.to_string(), made.input.side_px.to_string()),
        ];
        let differing = pairs.into_iter().filter(|(_, wanted, made)| wanted != made);
        let findings: Vec<_> = differing
            .map(|(key, wanted, made)| Problem {
                key: key.to_owned(),
                message: format!("is {wanted}, but {} trains a teacher with {made}", loaded.source),
                help: "the teacher must equal the [student] of the configuration that trains it".to_owned(),
            })
            .map(|problem| problem.found_in(root))
            .collect();
        if findings.is_empty() { Ok(Some(loaded)) } else { Err(ConfigError::Invalid(Diagnostics(findings))) }
    }
}

fn input(input: &LabelledInput, found: &mut Vec<Problem>) {
    let mut check = Check { section: "input", found };
    check.at_least_one("side_px", input.side_px);
    check.fraction("flip_probability", input.flip_probability);
    let jitter = &input.jitter;
    check.that(
        jitter.len() == 3 && jitter.iter().all(|strength| *strength >= 0.0),
        "jitter",
        format!("is {jitter:?}"),
        "give three numbers of 0 or more: brightness, contrast, saturation; the ImageNet recipes' are 0.4",
    );
    check.that(
        input.eval_resize_px.is_none_or(|px| px >= input.side_px),
        "eval_resize_px",
        format!("is below side_px, {}", input.side_px),
        "the middle cannot be larger than the image; ImageNet's are 256 and 224",
    );
}

fn taught(config: &ClassifyConfig, check: &mut Check<'_>) {
    let Some(teacher) = &config.teacher else {
        check.that(
            config.distill.is_empty(),
            "distill",
            "is given, but there is no teacher to learn from",
            "add a [teacher] table, or remove [[distill]]",
        );
        return;
    };
    match (&teacher.weights, &teacher.train) {
        (Some(_), Some(_)) => check.that(
            false,
            "teacher.train",
            "and teacher.weights are both given",
            "keep `weights` to load the teacher, or `train` to train it first",
        ),
        (None, None) => check.that(
            config.distill.is_empty() || teacher.allow_random_weights,
            "teacher.weights",
            "is missing: the student is to learn from a teacher without weights",
            "give `weights = \"FILE\"` or `train = \"CONFIG\"`",
        ),
        _ => {}
    }
    let offer = Offer::of_classifiers(teacher.network.stages().min(config.student.network.stages()));
    for (index, entry) in config.distill.iter().enumerate() {
        super::distill::check(&format!("distill.{index}"), entry, &offer, check.found);
    }
    if let Some(own) = &teacher.normalization {
        normalization("teacher.normalization", own, check.found);
    }
}

fn probed(config: &ClassifyConfig, check: &mut Check<'_>) {
    if config.task != Task::Probe {
        return;
    }
    let has_network = config.student.init.is_some() || config.student.allow_random_weights;
    check.that(
        has_network,
        "student.init",
        "is missing: a probe needs a trained network",
        "give the weights of a run, runs/NAME/last.safetensors",
    );
    check.that(
        config.teacher.is_none(),
        "teacher",
        "is given, but a probe has none",
        "remove [teacher] and [[distill]]",
    );
}
