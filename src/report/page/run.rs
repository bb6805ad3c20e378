//! A run as a page shows it, from the files of its folder.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::config::{ClassifyConfig, CohortConfig, Config, Document, Key, PretrainConfig, flat};
use crate::report::progress::duration;
use crate::report::run_folder::{EvalLine, Line, RunFolder, RunFolderError, StepLine};
use crate::report::shares::Shares;

/// Name, AP and AP50 of a class.
pub(super) type ClassScore = (String, f64, f64);

/// Content of a run's files.
#[derive(Debug, Clone)]
pub struct Run {
    /// Name of the run for people.
    pub label: String,
    pub(super) folder: RunFolder,
    pub(super) steps: Vec<StepLine>,
    evaluations: Vec<EvalLine>,
    left_out: usize,
    bad_images: usize,
    config: BTreeMap<String, String>,
    /// The shares of the losses in the gradient.
    pub(super) shares: Option<Shares>,
    /// Score of the teacher in points, once the experiment is finished.
    pub(super) teacher: Option<f64>,
    /// The file of the last evaluation.
    last: Option<Value>,
    outcome: Option<Value>,
}

impl Run {
    /// The run in `folder`, called `label`; its log may still be growing.
    ///
    /// # Errors
    /// A folder without a run; a line of its log that is none.
    pub fn read(folder: &RunFolder, label: &str) -> Result<Self, RunFolderError> {
        let folder = RunFolder::open(folder.path())?;
        let lines = if folder.log().exists() { folder.lines()? } else { Vec::new() };
        let text = fs::read_to_string(folder.config()).unwrap_or_default();
        let json = |path: &std::path::Path| -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
        };
        let mut run = Self {
            label: label.to_owned(),
            steps: Vec::new(),
            evaluations: Vec::new(),
            left_out: 0,
            bad_images: 0,
            config: text.parse::<toml::Table>().map(|table| flat(&table)).unwrap_or_default(),
            last: None,
            shares: None,
            teacher: json(&folder.summary()).as_ref().and_then(teacher_in),
            outcome: json(&folder.outcome()),
            folder,
        };
        for line in lines {
            match line {
                Line::Step(step) => run.steps.push(step),
                Line::Eval(eval) => run.evaluations.push(eval),
                Line::LeftOut(_) => run.left_out += 1,
                Line::BadImage(_) => run.bad_images += 1,
                Line::Shares(line) => run.shares = Some(line.shares),
            }
        }
        run.last = run.evaluations.last().and_then(|eval| json(&run.folder.evaluation(eval.step)));
        Ok(run)
    }

    /// The run in `folder` and, before it, the one of the same student alone, if there is one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn with_parts(folder: &RunFolder) -> Result<Vec<Self>, RunFolderError> {
        let name = folder.path().file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
        let alone = folder.alone();
        let mut parts = Vec::new();
        if alone.config().exists() {
            parts.push(Self::read(&alone, &format!("{name} (alone)"))?);
        }
        let own = Self::read(folder, &name)?;
        // A teacher's folder, and that of a student that has not begun, have nothing to show yet.
        if parts.is_empty() || !own.steps.is_empty() {
            parts.push(own);
        }
        Ok(parts)
    }

    /// The evaluations so far.
    pub(super) fn evaluations(&self) -> &[EvalLine] {
        &self.evaluations
    }

    /// Updates so far.
    pub fn steps(&self) -> u64 {
        let steps = self.steps.last().map_or(0, |step| step.step);
        steps.max(self.evaluations.last().map_or(0, |eval| eval.step))
    }

    /// State of the run in words.
    pub fn state(&self) -> String {
        let ended = self.outcome.as_ref().and_then(|outcome| outcome.get("ended")).and_then(Value::as_str);
        let mut state = match (&self.outcome, ended) {
            (Some(_), Some(reason)) => format!("ended: {reason}"),
            (Some(_), None) => "finished".to_owned(),
            (None, _) => "not finished".to_owned(),
        };
        for (count, what) in [(self.left_out, "steps left out"), (self.bad_images, "bad images")] {
            if count > 0 {
                state += &format!(", {count} {what}");
            }
        }
        state
    }

    /// Name of the number that decides which weights are the best.
    pub fn measure(&self) -> Option<&'static str> {
        match self.evaluations.first()?.eval {
            Value::Array(_) => Some("AP"),
            ref named if named.get("cosine").is_some() => Some("cosine"),
            _ => Some("top-1"),
        }
    }

    /// That number, in points, at each evaluation.
    pub fn scores(&self) -> Vec<(f64, f64)> {
        let score = |eval: &EvalLine| {
            let score = match &eval.eval {
                Value::Array(stats) => stats.first()?.as_f64()?,
                named => named.get("top1").or_else(|| named.get("cosine"))?.as_f64()?,
            };
            (score >= 0.0).then_some((eval.step as f64, 100.0 * score))
        };
        self.evaluations.iter().filter_map(score).collect()
    }

    /// Name and top-1, in points, at each evaluation of each network that trained with others.
    pub(super) fn peers(&self) -> Vec<(String, Vec<(f64, f64)>)> {
        let first = self.evaluations.first().and_then(|eval| eval.eval.get("peers")?.as_array());
        let count = first.map_or(0, Vec::len);
        let score = |eval: &EvalLine, peer: usize| {
            Some((eval.step as f64, 100.0 * eval.eval.get("peers")?.get(peer)?.get("top1")?.as_f64()?))
        };
        let of = |peer| self.evaluations.iter().filter_map(|eval| score(eval, peer)).collect();
        (0..count).map(|peer| (format!("peer{peer} of {}", self.label), of(peer))).collect()
    }

    /// Step and score, in points, of the best evaluation.
    pub fn best(&self) -> Option<(f64, f64)> {
        // The first of equals, as the run has it.
        self.scores().into_iter().rev().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Wall time from the first line of the log to the last.
    pub fn duration(&self) -> Option<String> {
        let times = self.steps.iter().filter_map(|step| step.time);
        let times: Vec<f64> = times.chain(self.evaluations.iter().filter_map(|eval| eval.time)).collect();
        let (first, last) =
            (times.iter().copied().reduce(f64::min)?, times.iter().copied().reduce(f64::max)?);
        let before = self.steps.first().map_or(0.0, |step| step.ms / 1e3 * step.step as f64);
        Some(duration(last - first + before))
    }

    pub(super) fn images_per_second(&self) -> Option<f64> {
        let (images, ms) = self
            .steps
            .iter()
            .fold((0.0, 0.0), |(images, ms), step| (images + step.images as f64, ms + step.ms));
        (ms > 0.0).then(|| 1e3 * images / ms)
    }

    /// Each term of the loss over the steps.
    pub(super) fn terms(&self) -> Vec<(String, Vec<(f64, f64)>)> {
        let mut terms: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for step in &self.steps {
            for (name, value) in &step.losses {
                let Some(value) = value.as_f64() else { continue };
                let point = (step.step as f64, value);
                match terms.iter_mut().find(|(known, _)| known == name) {
                    Some((_, points)) => points.push(point),
                    None => terms.push((name.clone(), vec![point])),
                }
            }
        }
        terms
    }

    /// Name, AP and AP50 of each class at the last evaluation.
    pub(super) fn classes(&self) -> Vec<ClassScore> {
        let class = |class: &Value| {
            let number = |key: &str| class.get(key).and_then(Value::as_f64);
            Some((class.get("name")?.as_str()?.to_owned(), number("ap")?, number("ap50")?))
        };
        let all = self.last.as_ref().and_then(|last| last.get("per_class")).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(class).collect()
    }

    /// Curves, errors and confusions of the last evaluation.
    pub(super) fn analysis(&self) -> Option<&Value> {
        self.last.as_ref()?.get("analysis")
    }

    /// Precision over recall of each class that was measured.
    pub(super) fn precisions(&self) -> Vec<(String, Vec<(f64, f64)>)> {
        let curve = |curve: &Value| {
            let values: Vec<f64> =
                curve.get("precision")?.as_array()?.iter().filter_map(Value::as_f64).collect();
            let last = values.len().checked_sub(1).filter(|&last| last > 0)? as f64;
            let points = values.into_iter().enumerate().map(|(place, value)| (place as f64 / last, value));
            Some((curve.get("name")?.as_str()?.to_owned(), points.collect()))
        };
        let all = self.analysis().and_then(|analysis| analysis.get("curves")).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(curve).collect()
    }

    /// Key, value and default of every setting.
    pub(super) fn settings(&self) -> Vec<(String, String, Option<String>)> {
        let keys: Vec<Key> = match self.config.get("task").map(|task| task.trim_matches('"')) {
            Some("classify" | "probe") => ClassifyConfig::keys(),
            Some("cohort") => CohortConfig::keys(),
            Some("pretrain") => PretrainConfig::keys(),
            _ => Config::keys(),
        };
        let default = |key: &str| {
            let general: Vec<&str> =
                key.split('.').map(|part| if part.parse::<u32>().is_ok() { "N" } else { part }).collect();
            let general = general.join(".");
            keys.iter().find(|known| known.path == general)?.default.clone()
        };
        self.config.iter().map(|(key, value)| (key.clone(), value.clone(), default(key))).collect()
    }

    /// Facts about program, machine and data.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let environment = fs::read_to_string(self.folder.environment()).ok();
        let environment =
            environment.and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(&text).ok());
        facts.extend(environment.into_iter().flatten());
        for (name, path) in [("program", self.folder.program()), ("BLAKE3 of the data", self.folder.data())] {
            facts.extend(fs::read_to_string(path).ok().map(|text| (name.to_owned(), text.trim().to_owned())));
        }
        let hash = fs::read(self.folder.config()).ok().map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        facts.extend(hash.map(|hash| ("BLAKE3 of config.toml".to_owned(), hash)));
        let teacher =
            self.outcome.as_ref().and_then(|outcome| outcome.get("teacher")).and_then(Value::as_str);
        facts.extend(teacher.map(|hash| ("BLAKE3 of the teacher".to_owned(), hash.to_owned())));
        facts
    }
}

/// The teacher's score, in points, in a summary.
fn teacher_in(summary: &Value) -> Option<f64> {
    let teacher = summary.get("teacher")?;
    let score = teacher.get("AP").or_else(|| teacher.get("top1"))?.as_f64()?;
    (score >= 0.0).then_some(100.0 * score)
}
