//! From a name to a checked [`Config`]: its layers, defaults and checks in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckd_settings::{Diagnostic, Diagnostics, Entry, Key, Layer, Node, Read, Section, Text, Value, read_node};
use serde::Serialize;

use super::embedded;
use super::error::ConfigError;
use super::lookup::{ConfigSource, Reference, find};
use super::runs;
use super::schema::{ClassifyConfig, CohortConfig, Config, PretrainConfig, Run, Task, TrainedBy};
use super::sets::{drop_replaced, lay_sets};

/// A checked configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded<C> {
    /// The configuration: layered, with defaults, checked.
    pub config: C,
    /// Origin of its topmost layer.
    pub source: ConfigSource,
    /// The configuration that trains the teacher, if `teacher.train` is given; its `data` and `output` are this
    /// configuration's.
    pub teacher_experiment: Option<Box<Loaded<C>>>,
}

/// A kind of configuration: loading, writing, keys.
pub trait Document: Sized {
    /// Loads the configuration `name`, with `sets` (`a.b=c`, from `--set`) laid over it in order.
    ///
    /// The name is looked up as a path, then in `configs/`, then among the embedded configurations;
    /// `.toml` may be left out.
    ///
    /// ```
    /// use ckd_det::config::{Config, Document};
    ///
    /// let loaded = Config::load("quickstart", &["seed=7".to_owned()])?;
    /// assert_eq!((loaded.config.run.name.as_str(), loaded.config.run.seed), ("quickstart", 7));
    ///
    /// let error = Config::load("quickstart", &["sed=7".to_owned()]).unwrap_err();
    /// assert!(error.to_string().contains("did you mean \"seed\"?"));
    /// # Ok::<(), ckd_det::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`]: not found, unreadable, or everything that is wrong with it; one for another task,
    /// too.
    fn load(name: impl AsRef<Path>, sets: &[String]) -> Result<Loaded<Self>, ConfigError>;

    /// Reads a self-contained document, as [`to_toml`](Self::to_toml) writes it; `origin` stands in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn from_toml(text: &str, origin: &str) -> Result<Self, ConfigError>;

    /// The configuration as a TOML document that needs no other file and loads to the same value.
    fn to_toml(&self) -> String;

    /// The configuration itself, if it could have been loaded: for one that is built in code.
    ///
    /// # Errors
    /// Everything that is wrong with it, shown in its TOML form.
    fn checked(self) -> Result<Self, ConfigError>;

    /// The configuration with the paths that were found beside its file written out in full.
    fn resolved(loaded: &Loaded<Self>) -> Self;

    /// Every key that it may have, in the order of the schema.
    fn keys() -> Vec<Key>;
}

impl<C: Root> Document for C {
    fn load(name: impl AsRef<Path>, sets: &[String]) -> Result<Loaded<C>, ConfigError> {
        load_last(&mut vec![find(name.as_ref(), None)?], sets)
    }

    fn from_toml(text: &str, origin: &str) -> Result<C, ConfigError> {
        let text = Text { name: origin.to_owned(), text: text.to_owned(), layer: Layer::File };
        checked(&Node::parse(&Arc::new(text))?)
    }

    fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has string keys and finite numbers only")
    }

    fn checked(self) -> Result<C, ConfigError> {
        Self::from_toml(&self.to_toml(), "the configuration built in code")?;
        Ok(self)
    }

    fn resolved(loaded: &Loaded<C>) -> C {
        let mut config = loaded.config.clone();
        config.write_out_paths(loaded);
        config
    }

    fn keys() -> Vec<Key> {
        let mut keys = vec![Key {
            path: "extends".to_owned(),
            takes: "a string".to_owned(),
            documentation: "A configuration to begin with, by its path relative to this file or by name."
                .to_owned(),
            default: Some("not given".to_owned()),
        }];
        C::document_fields("", &mut keys);
        keys
    }
}

/// A configuration of any task.
#[derive(Debug, Clone)]
pub enum Experiment {
    /// `task = "detect"`.
    Detect(Box<Loaded<Config>>),
    /// `task = "classify"` and `task = "probe"`.
    Classify(Box<Loaded<ClassifyConfig>>),
    /// `task = "cohort"`.
    Cohort(Box<Loaded<CohortConfig>>),
    /// `task = "pretrain"`.
    Pretrain(Box<Loaded<PretrainConfig>>),
}

impl Experiment {
    /// Loads the configuration `name` as its own task says.
    ///
    /// # Errors
    /// [`ConfigError`]: not found, unreadable, or everything that is wrong with it.
    pub fn load(name: impl AsRef<Path>, sets: &[String]) -> Result<Self, ConfigError> {
        let source = find(name.as_ref(), None)?;
        let root = tree(&source, sets)?;
        let mut findings = Vec::new();
        let task = root.at("task").map(|node| Task::read(node, "task", &mut findings));
        if let Some(wrong) = Diagnostics::of(findings) {
            return Err(wrong.into());
        }
        Ok(match task.flatten().unwrap_or(Task::Detect) {
            Task::Detect => Self::Detect(Box::new(Document::load(name, sets)?)),
            Task::Classify | Task::Probe => Self::Classify(Box::new(Document::load(name, sets)?)),
            Task::Cohort => Self::Cohort(Box::new(Document::load(name, sets)?)),
            Task::Pretrain => Self::Pretrain(Box::new(Document::load(name, sets)?)),
        })
    }

    /// The keys that all tasks have.
    pub fn run(&self) -> &Run {
        match self {
            Self::Detect(loaded) => &loaded.config.run,
            Self::Classify(loaded) => &loaded.config.run,
            Self::Cohort(loaded) => &loaded.config.run,
            Self::Pretrain(loaded) => &loaded.config.run,
        }
    }

    /// Origin of its topmost layer.
    pub fn source(&self) -> &ConfigSource {
        match self {
            Self::Detect(loaded) => &loaded.source,
            Self::Classify(loaded) => &loaded.source,
            Self::Cohort(loaded) => &loaded.source,
            Self::Pretrain(loaded) => &loaded.source,
        }
    }

    /// The whole configuration as one TOML document that needs no other file, wherever it is written.
    pub fn resolved_toml(&self) -> String {
        match self {
            Self::Detect(loaded) => loaded.resolved_toml(),
            Self::Classify(loaded) => loaded.resolved_toml(),
            Self::Cohort(loaded) => loaded.resolved_toml(),
            Self::Pretrain(loaded) => loaded.resolved_toml(),
        }
    }
}

/// The root of a kind of configuration.
pub(super) trait Root: Section + Clone + Serialize {
    /// The tasks that it is for.
    const TASKS: &'static [Task];

    /// Writes out the paths that were found beside the file of `loaded`.
    fn write_out_paths(&mut self, loaded: &Loaded<Self>);

    /// The configuration that trains its teacher; `trail` ends with its own.
    fn teacher_experiment(
        &self,
        root: &Node,
        trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError>;
}

impl<C> Loaded<C> {
    /// A configuration that no file is read for: `origin` says where it comes from. Its paths are as given.
    pub fn without_file(config: C, origin: &'static str) -> Self {
        Self { config, source: ConfigSource::Embedded(origin), teacher_experiment: None }
    }

    /// The configuration that a weights file carries.
    pub fn of_weights(config: C) -> Self {
        Self::without_file(config, "the weights' own configuration")
    }

    /// Places of a path of the configuration, in the order of preference: as given (relative to
    /// the current directory), then relative to the configuration's file.
    pub fn places(&self, path: &Path) -> Vec<PathBuf> {
        let mut places = vec![path.to_owned()];
        if let (true, ConfigSource::File(file)) = (path.is_relative(), &self.source) {
            let beside = file.parent().unwrap_or(Path::new("")).join(path);
            if beside != path {
                places.push(beside);
            }
        }
        places
    }

    /// The first of the [`places`](Self::places) of `path` that exists, else the first.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let mut places = self.places(path);
        let existing = places.iter().position(|place| place.exists()).unwrap_or(0);
        places.swap_remove(existing)
    }

    /// Replaces a path that is not where it says, but beside the configuration's file.
    pub(super) fn write_out(&self, path: &mut PathBuf) {
        let resolved = self.resolve(path);
        if resolved != *path {
            *path = in_full(&resolved);
        }
    }

    /// Replaces a path, if it is given, as [`write_out`](Self::write_out) does.
    pub(super) fn write_out_given(&self, path: &mut Option<PathBuf>) {
        if let Some(path) = path {
            self.write_out(path);
        }
    }

    /// The teacher's experiment by its path, unless its name alone leads there too; with a table, its name and the
    /// weights that it begins with.
    pub(super) fn write_out_teacher(&self, train: &mut Option<TrainedBy>, experiment_name: Option<&str>) {
        let (Some(train), Some(experiment)) = (train, self.teacher_experiment.as_deref()) else { return };
        match (train, &experiment.source) {
            (TrainedBy::Named(name), ConfigSource::File(path)) => {
                if !find(Path::new(name), None).is_ok_and(|found| found.path() == path) {
                    *name = in_full(path).to_string_lossy().into_owned();
                }
            }
            (TrainedBy::Named(_), ConfigSource::Embedded(_)) => {}
            (TrainedBy::Here(table), _) => {
                let name = experiment_name.unwrap_or_default();
                table.entry("name").or_insert_with(|| name.into());
                let student = table.get_mut("student").and_then(toml::Value::as_table_mut);
                if let Some(toml::Value::String(init)) = student.and_then(|student| student.get_mut("init")) {
                    let mut path = PathBuf::from(&*init);
                    self.write_out(&mut path);
                    *init = path.to_string_lossy().into_owned();
                }
            }
        }
    }
}

impl<C: Document> Loaded<C> {
    /// The whole configuration as one TOML document that needs no other file, wherever it is written.
    pub fn resolved_toml(&self) -> String {
        format!("# resolved from {}\n{}", self.source, self.resolved().to_toml())
    }

    /// The configuration with the paths that were found beside its file written out in full.
    pub fn resolved(&self) -> C {
        C::resolved(self)
    }
}

/// The path as seen from anywhere.
fn in_full(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Loads the last configuration of `trail`; those before it led here by `teacher.train`.
pub(super) fn load_last<C: Root>(
    trail: &mut Vec<ConfigSource>,
    sets: &[String],
) -> Result<Loaded<C>, ConfigError> {
    let source = trail.last().expect("the trail begins with what was asked for").clone();
    load_tree(tree(&source, sets)?, trail)
}

/// Loads the experiment of a tree, which the last configuration of `trail` gave.
pub(super) fn load_tree<C: Root>(
    root: Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Loaded<C>, ConfigError> {
    let source = trail.last().expect("the trail begins with what was asked for").clone();
    let config: C = checked(&root)?;
    let teacher_experiment = config.teacher_experiment(&root, trail)?.map(Box::new);
    Ok(Loaded { config, source, teacher_experiment })
}

/// All layers as one tree.
fn tree(source: &ConfigSource, sets: &[String]) -> Result<Node, ConfigError> {
    let mut root = layers(&mut vec![source.clone()])?;
    lay_sets(&mut root, sets)?;
    name_after_file(&mut root, source);
    Ok(root)
}

/// The typed configuration of a tree, if nothing is wrong with it.
fn checked<C: Root>(root: &Node) -> Result<C, ConfigError> {
    let mut root = with_overlays(root);
    runs::expand(&mut root)?;
    let root = &root;
    let mut findings = Vec::new();
    if let Some(node) = root.at("task")
        && let Some(task) = Task::read(node, "task", &mut findings)
        && !C::TASKS.contains(&task)
    {
        let taken: Vec<&str> = C::TASKS.iter().map(|task| task.word()).collect();
        let message = format!("\"task\" is \"{task}\", which is not for this use");
        let help = format!("it takes experiments with task = {}", taken.join(" or "));
        return Err(Diagnostic::at(node.place.clone(), message).help(help).into());
    }
    if root.at("task").is_none() && !C::TASKS.contains(&Task::Detect) {
        let mut missing = Vec::new();
        Task::absent("task", &root.place, &mut missing);
        return Err(missing.remove(0).into());
    }
    Ok(read_node(root)?)
}

/// The tree with what `[teacher.detector]` leaves out taken from `[detector]`.
fn with_overlays(root: &Node) -> Node {
    let mut root = root.clone();
    if let (Some(below), Some(over)) = (root.at("detector").cloned(), root.at_mut("teacher.detector"))
        && over.table().is_some()
    {
        let mut all = below;
        all.merge(over.clone());
        *over = all;
    }
    root
}

/// Files that may extend one another; ours need three.
const MOST_LAYERS: usize = 32;

/// The last file of `trail` and all it extends, as one tree; the files before it led here.
fn layers(trail: &mut Vec<ConfigSource>) -> Result<Node, ConfigError> {
    let text = read(trail.last().expect("the trail begins with the file that was asked for"))?;
    let mut over = Node::parse(&text)?;
    let Some(extends) = over.table_mut().and_then(|table| table.remove("extends")) else {
        return Ok(over);
    };
    let mut findings = Vec::new();
    let name = String::read(&extends.node, "extends", &mut findings).unwrap_or_default();
    if let Some(wrong) = Diagnostics::of(findings) {
        return Err(wrong.into());
    }
    if trail.len() > MOST_LAYERS {
        let message = format!("more than {MOST_LAYERS} files extend one another");
        return Err(Diagnostic::at(extends.node.place.clone(), message)
            .help("write the keys of several into one")
            .into());
    }
    let base = Reference { key: "extends", name: &name, place: &extends.node.place }.follow(trail)?;
    trail.push(base);
    let mut tree = layers(trail)?;
    drop_replaced(&mut tree, |key| over.at(key).is_some());
    tree.merge(over);
    Ok(tree)
}

fn read(source: &ConfigSource) -> Result<Arc<Text>, ConfigError> {
    let text = match source {
        ConfigSource::File(path) => fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?,
        ConfigSource::Embedded(name) => {
            embedded::find(name).map(|(_, text)| text.to_owned()).unwrap_or_default()
        }
    };
    Ok(Arc::new(Text { name: source.to_string(), text, layer: Layer::File }))
}

/// A configuration without a name is called as its file.
fn name_after_file(root: &mut Node, source: &ConfigSource) {
    let stem = source.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let place = root.place.clone();
    if let Some(table) = root.table_mut() {
        let node = Node { value: Value::String(stem), place: place.clone() };
        table.entry("name".to_owned()).or_insert(Entry { key: place, node });
    }
}
