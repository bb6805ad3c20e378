//! `--teacher FILE`: a trained network as the teacher of an experiment that names none.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::builder::PossibleValuesParser;

use super::UsageError;
use super::model::weights_at;
use crate::config::{Architecture, ClassifyConfig, Config, ConfigError, Experiment};
use crate::distill::{Distill, MethodCard, Offer, methods};
use crate::engine::EngineError;
use crate::engine::classify::ClassifierCard;
use crate::engine::detect::method_setting;
use crate::report::progress::tell;
use crate::weights::agree::{detector_of, keys_of_teacher};
use crate::weights::recognise::{Kind, Recognised};
use crate::weights::{ModelCard, WeightsFile};

/// Options that give an experiment its teacher.
#[derive(Debug, Default, clap::Args)]
pub(super) struct TeacherArgs {
    /// Learn from this trained network, a weights file or the folder of a run: for a configuration without teacher
    #[arg(long, value_name = "FILE|RUN")]
    teacher: Option<PathBuf>,
    /// The method to learn by; given again, the next one beside it [default: ckd and rcka; of classifiers, dkd]
    #[arg(long = "method", value_name = "METHOD", requires = "teacher", value_parser = PossibleValuesParser::new(words()))]
    methods: Vec<String>,
}

/// CKD and ReviewKD together, under the name that CKD's authors give them.
const REVIEW_CKD: &str = "review_ckd";

/// Words of `--method`.
fn words() -> Vec<&'static str> {
    of_teachers().map(|card| card.method).chain([REVIEW_CKD]).collect()
}

/// Methods by which a student learns from a teacher.
fn of_teachers() -> impl Iterator<Item = MethodCard> {
    methods().into_iter().filter(|card| card.entry == "[[distill]]")
}

impl TeacherArgs {
    /// The experiment `config` with its `sets`, and with the teacher that is asked for; tells what was chosen.
    ///
    /// # Errors
    /// A file that is no teacher of this student; a method that does not fit them.
    pub(super) fn load(&self, config: &str, sets: &[String]) -> anyhow::Result<Experiment> {
        let Some(file) = &self.teacher else { return Ok(Experiment::load(config, sets)?) };
        let lesson = Lesson::of(config, sets, file)?;
        let (experiment, entries) = lesson.with(&self.methods)?;
        tell(&format!("teacher: {}", file.display()));
        lesson.keys.iter().for_each(|key| tell(&format!("  {key}")));
        entries.iter().for_each(|entry| tell(&format!("  [[distill]] {entry}")));
        Ok(experiment)
    }

    /// The options as they are typed.
    pub(super) fn typed(&self) -> impl Iterator<Item = String> {
        let teacher = self.teacher.iter().map(|file| format!("--teacher={}", file.display()));
        teacher.chain(self.methods.iter().map(|method| format!("--method={method}")))
    }
}

/// A student's configuration and a teacher for it.
pub(super) struct Lesson<'a> {
    config: &'a str,
    sets: &'a [String],
    /// Keys of the teacher, as `--set` takes them.
    keys: Vec<String>,
    /// Foreground classes, of a detector whose file says how many.
    classes: Option<usize>,
}

impl<'a> Lesson<'a> {
    /// The student of `config` and the network in `file`.
    ///
    /// # Errors
    /// A configuration that has a teacher; a network that cannot be its teacher.
    pub(super) fn of(config: &'a str, sets: &'a [String], file: &Path) -> anyhow::Result<Self> {
        let alone = Experiment::load(
            config,
            &but_of_entries(sets).chain(["distill=[]".to_owned()]).collect::<Vec<_>>(),
        )?;
        let has_teacher = match &alone {
            Experiment::Detect(loaded) => loaded.config.teacher.is_some(),
            Experiment::Classify(loaded) => loaded.config.teacher.is_some(),
            Experiment::Pretrain(_) => true,
            Experiment::Cohort(_) => {
                return Err(UsageError(
                    "the networks of a cohort teach each other: --teacher is not for them".to_owned(),
                )
                .into());
            }
        };
        if has_teacher {
            let reason = format!(
                "{config} has a teacher: leave out --teacher, or change it by --set teacher.weights=FILE"
            );
            return Err(UsageError(reason).into());
        }
        let path = weights_at(file)?.ok_or_else(|| {
            let takes = "--teacher takes a weights file or the folder of a finished run";
            EngineError::Missing(format!("there is no {}: {takes}", file.display()))
        })?;
        let weights = WeightsFile::read(&path).map_err(EngineError::from)?;
        let (mut keys, classes) = match &alone {
            Experiment::Detect(loaded) => detector(&weights, &loaded.config)?,
            Experiment::Classify(_) => (classifier(&weights)?, None),
            Experiment::Cohort(_) | Experiment::Pretrain(_) => (Vec::new(), None),
        };
        keys.push(format!("teacher.weights={}", toml::Value::String(path.display().to_string())));
        Ok(Self { config, sets, keys, classes })
    }

    /// The experiment in which the student learns by `methods`, and their entries. Without any: by those of the
    /// configuration, or by the usual ones.
    ///
    /// # Errors
    /// The reason why a method does not fit.
    pub(super) fn with(&self, methods: &[String]) -> anyhow::Result<(Experiment, Vec<String>)> {
        let taught = self.taught(&[])?;
        let (offer, usual, entries): (_, &[&str], _) = match &taught {
            Experiment::Detect(loaded) => {
                (loaded.config.offer(), &["ckd", "rcka"], loaded.config.distill.len())
            }
            Experiment::Classify(loaded) => (loaded.config.offer(), &["dkd"], loaded.config.distill.len()),
            Experiment::Cohort(_) | Experiment::Pretrain(_) => return Ok((taught, Vec::new())),
        };
        if methods.is_empty() && entries > 0 {
            return Ok((Experiment::load(self.config, &self.sets_with(&[]))?, Vec::new()));
        }
        let words: Vec<&str> = match methods {
            [] => usual.to_vec(),
            methods => methods.iter().flat_map(|word| parts(word)).collect(),
        };
        let mut entries = Vec::new();
        for word in words {
            entries.push(
                self.entry(word, &taught, &offer)
                    .map_err(|reason| UsageError(format!("{word} does not fit: {reason}")))?,
            );
        }
        Ok((Experiment::load(self.config, &self.sets_with(&entries))?, entries))
    }

    /// Every method, with the entry by which it fits this pair, or the reason why it does not.
    ///
    /// # Errors
    /// A pair that is none, whatever the method.
    pub(super) fn fitting(&self) -> anyhow::Result<Vec<(&'static str, Result<String, String>)>> {
        let taught = self.taught(&[])?;
        let offer = match &taught {
            Experiment::Detect(loaded) => loaded.config.offer(),
            Experiment::Classify(loaded) => loaded.config.offer(),
            Experiment::Cohort(_) | Experiment::Pretrain(_) => return Ok(Vec::new()),
        };
        Ok(of_teachers().map(|card| (card.method, self.entry(card.method, &taught, &offer))).collect())
    }

    /// The keys of the teacher, the entries, and what the user sets over them.
    fn sets_with(&self, entries: &[String]) -> Vec<String> {
        let distill = (!entries.is_empty()).then(|| format!("distill=[{}]", entries.join(", ")));
        self.keys.iter().cloned().chain(distill).chain(self.sets.iter().cloned()).collect()
    }

    /// The experiment with its teacher, and with the entries of `distill` alone.
    fn taught(&self, distill: &[String]) -> Result<Experiment, ConfigError> {
        let sets = self.keys.iter().cloned().chain(but_of_entries(self.sets)).chain(distill.iter().cloned());
        Experiment::load(self.config, &sets.collect::<Vec<_>>())
    }

    /// The `[[distill]]` entry of the method `word` for the networks of `taught`.
    fn entry(&self, word: &str, taught: &Experiment, offer: &Offer) -> Result<String, String> {
        let Some(card) = of_teachers().find(|card| card.method == word) else {
            return Err("there is no such method".to_owned());
        };
        let mut reason = String::new();
        for entry in candidates(&card, taught, offer) {
            match self.try_entry(&entry) {
                Ok(()) => return Ok(entry),
                Err(error) if reason.is_empty() => reason = error,
                Err(_) => {}
            }
        }
        Err(reason)
    }

    fn try_entry(&self, entry: &str) -> Result<(), String> {
        match self.taught(&[format!("distill=[{entry}]")]).map_err(|error| in_a_line(&error))? {
            Experiment::Detect(loaded) => {
                let Some(classes) = self.classes else { return Ok(()) };
                let setting = method_setting(&loaded.config, classes, &Device::Cpu)
                    .map_err(|error| error.to_string())?;
                let build = |entry: &Distill| entry.distiller(0, &setting).map(drop);
                loaded.config.distill.iter().try_for_each(build).map_err(|error| error.to_string())
            }
            Experiment::Classify(_) | Experiment::Cohort(_) | Experiment::Pretrain(_) => Ok(()),
        }
    }
}

/// Sets of the user without changes of entries, which are for all entries together.
fn but_of_entries(sets: &[String]) -> impl Iterator<Item = String> {
    sets.iter().filter(|set| !set.starts_with("distill")).cloned()
}

/// The methods that a word of `--method` stands for.
fn parts(word: &str) -> Vec<&str> {
    match word {
        REVIEW_CKD => vec!["ckd", "review_kd"],
        word => vec![word],
    }
}

/// Keys of a detector as the teacher of `student`, and its classes.
fn detector(file: &WeightsFile, student: &Config) -> anyhow::Result<(Vec<String>, Option<usize>)> {
    if let Some(card) = ClassifierCard::of(file)? {
        let reason = format!("{} is {}, and the student a detector", file.path.display(), card.described());
        return Err(UsageError(reason).into());
    }
    let own = detector_of(file).map_err(EngineError::from)?;
    let (theirs, ours) = (own.detector.architecture, student.detector.architecture);
    if theirs != ours {
        let reason = format!(
            "{} is a {theirs}, and the student a {ours}: they are compared level by level and region by region; choose \
             another teacher, or set detector.architecture",
            file.path.display()
        );
        return Err(UsageError(reason).into());
    }
    let classes = ModelCard::of(file).ok().map(|card| card.categories.len());
    let recognised = || match Recognised::of(file).ok()?.kind {
        Kind::Detector { classes } => Some(classes),
        _ => None,
    };
    let keys = keys_of_teacher(&own, student).into_iter().map(|(key, value)| format!("{key}={value}"));
    Ok((keys.collect(), classes.or_else(recognised)))
}

/// Keys of a classifier as a teacher.
fn classifier(file: &WeightsFile) -> anyhow::Result<Vec<String>> {
    if let Some(ClassifierCard { config, .. }) = ClassifierCard::of(file)? {
        return Ok(keys_of_classifier(&config));
    }
    match Recognised::of(file) {
        Ok(Recognised { kind: Kind::Classifier { architecture, .. }, .. }) => {
            Ok(vec![format!("teacher.network=\"{architecture}\"")])
        }
        Ok(Recognised { name, kind: Kind::Body { .. }, .. }) => Err(UsageError(format!(
            "{} is a {name} without its last layer, which tells no class; task = \"pretrain\" learns from it",
            file.path.display()
        ))
        .into()),
        Ok(Recognised { name, .. }) => {
            Err(UsageError(format!("{} is {name}, and the student a classifier", file.path.display())).into())
        }
        Err(reason) => Err(UsageError(format!("{}: {reason}", file.path.display())).into()),
    }
}

fn keys_of_classifier(config: &ClassifyConfig) -> Vec<String> {
    let normalization = config.student_normalization();
    vec![
        format!("teacher.network=\"{}\"", config.student.network),
        format!("teacher.normalization.mean={:?}", normalization.mean),
        format!("teacher.normalization.std={:?}", normalization.std),
    ]
}

/// Entries of a method for the networks of `taught`, the likeliest first.
fn candidates(card: &MethodCard, taught: &Experiment, offer: &Offer) -> Vec<String> {
    let has = |key: &str| card.keys.iter().any(|own| own.path == key);
    let method = card.method;
    if has("levels") {
        let (levels, cells) = match taught {
            Experiment::Detect(loaded) => levels_of_maps(&loaded.config, offer),
            Experiment::Classify(_) | Experiment::Cohort(_) | Experiment::Pretrain(_) => {
                (offer.levels.clone(), usize::MAX)
            }
        };
        let patch = has("patch").then(|| patch(cells)).flatten();
        let patch = patch.map(|side| format!(", patch = {side}")).unwrap_or_default();
        return vec![format!(
            "{{ method = \"{method}\", at = \"{}\", levels = {levels:?}{patch} }}",
            offer.maps
        )];
    }
    if has("at") {
        return offer.rows.iter().map(|at| format!("{{ method = \"{method}\", at = \"{at}\" }}")).collect();
    }
    vec![format!("{{ method = \"{method}\" }}")]
}

/// Levels that show more than the one before, and the cells along the shorter side of the coarsest: Faster R-CNN's last
/// level is every second pixel of the one below.
fn levels_of_maps(config: &Config, offer: &Offer) -> (Vec<String>, usize) {
    let pyramid = config.pyramid(&config.student.network);
    let count = match config.detector.architecture {
        Architecture::FasterRcnn => pyramid.map_strides().len(),
        Architecture::RetinaNet | Architecture::Fcos => pyramid.strides().len(),
    };
    let own = pyramid.levels().iter().map(ToString::to_string).zip(pyramid.strides()).take(count);
    let both: Vec<(String, &usize)> = own.filter(|(name, _)| offer.levels.contains(name)).collect();
    let coarsest = both.last().map_or(1, |(_, stride)| **stride);
    let cells = config.input.eval_short_side() as usize / coarsest;
    (both.into_iter().map(|(name, _)| name).collect(), cells)
}

/// Side of RCKA's patches where the coarsest map is smaller than its default of 16.
fn patch(cells: usize) -> Option<usize> {
    (cells < 16).then(|| (cells + 1).next_power_of_two() / 2).map(|side| side.max(1))
}

/// The first finding about a configuration, with its advice.
fn in_a_line(error: &ConfigError) -> String {
    let ConfigError::Invalid(found) = error else { return error.to_string() };
    let Some(first) = found.all().first() else { return error.to_string() };
    match first.advice() {
        Some(advice) => format!("{}; {advice}", first.message()),
        None => first.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_no_larger_than_the_coarsest_map() {
        assert_eq!(
            [1, 2, 3, 6, 8, 15, 16, 25].map(patch),
            [Some(1), Some(2), Some(2), Some(4), Some(8), Some(8), None, None]
        );
    }
}
