//! `teacher.train`: the experiment that trains the teacher first, of a configuration of its own or of the student's.

use ckd_settings::{Diagnostic, Diagnostics, Entry, Node, Problem, Value};

use super::error::ConfigError;
use super::load::{Loaded, Root, load_last, load_tree};
use super::lookup::{ConfigSource, Reference};
use super::schema::{ClassifyConfig, Config, DetectorSettings, Network, TrainedBy};
use super::sets::drop_replaced;

/// A fact about a teacher, named by the key that decides it.
type Fact = (String, String);

/// The detector that `teacher.train` trains.
pub(super) fn of_detectors(
    config: &Config,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<Config>>, ConfigError> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let Some(mut loaded) = of::<Config>(teacher.train.as_ref(), root, trail)? else { return Ok(None) };
    loaded.config.data = config.data.clone();
    loaded.config.run.output = config.run.output.clone();
    let mut wanted = weight_shapes(&teacher.network, config.teacher_detector());
    wanted.push(("teacher.normalization".to_owned(), format!("{:?}", config.teacher_normalization())));
    wanted.push(("teacher.resize".to_owned(), config.teacher_resize().to_string()));
    let mut made = weight_shapes(&loaded.config.student.network, &loaded.config.detector);
    made.push(("teacher.normalization".to_owned(), format!("{:?}", loaded.config.normalization)));
    made.push(("teacher.resize".to_owned(), loaded.config.input.resize.to_string()));
    agreeing(loaded, wanted, made, root).map(Some)
}

/// The classifier that `teacher.train` trains.
pub(super) fn of_classifiers(
    config: &ClassifyConfig,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<ClassifyConfig>>, ConfigError> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let Some(mut loaded) = of::<ClassifyConfig>(teacher.train.as_ref(), root, trail)? else {
        return Ok(None);
    };
    loaded.config.labelled.data = config.labelled.data.clone();
    loaded.config.run.output = config.run.output.clone();
    let made = &loaded.config;
    let facts = |network: String, normalization: String, side: String| {
        [("teacher.network", network), ("teacher.normalization", normalization), ("input.side_px", side)]
            .map(|(key, value)| (key.to_owned(), value))
            .into()
    };
    let wanted = facts(
        teacher.network.to_string(),
        format!("{:?}", config.teacher_normalization()),
        config.labelled.input.side_px.to_string(),
    );
    let made = facts(
        made.student.network.to_string(),
        format!("{:?}", made.student_normalization()),
        made.labelled.input.side_px.to_string(),
    );
    agreeing(loaded, wanted, made, root).map(Some)
}

/// The experiment that `teacher.train` stands for. `trail` ends with the configuration itself.
fn of<C: Root>(
    train: Option<&TrainedBy>,
    root: &Node,
    trail: &mut Vec<ConfigSource>,
) -> Result<Option<Loaded<C>>, ConfigError> {
    let (Some(train), Some(node)) = (train, root.at("teacher.train")) else { return Ok(None) };
    if let TrainedBy::Named(name) = train {
        let found = Reference { key: "teacher.train", name, place: &node.place }.follow(trail)?;
        trail.push(found);
        return load_last(trail, &[]).map(Some);
    }
    let source = trail.last().expect("the trail begins with what was asked for");
    load_tree(own_tree(root, node, source)?, trail).map(Some)
}

/// Keys of an experiment that are the student's alone: its teacher has none of them, or others.
const STUDENTS_OWN: [&str; 7] =
    ["teacher", "distill", "student", "name", "seed", "extends", "train.compare_alone"];

/// Keys that the table cannot give, and the reason.
const NOT_HERE: [(&str, &str); 6] = [
    ("data", "a teacher trains on its student's data: change [data]"),
    ("output", "a teacher is written where its student is: change `output`"),
    ("task", "a teacher has its student's task"),
    ("extends", "the table is laid over this experiment: give the keys themselves"),
    (
        "teacher",
        "a teacher that is trained here has no teacher: `train = \"CONFIG\"` names an experiment that may",
    ),
    (
        "distill",
        "a teacher that is trained here has no teacher: `train = \"CONFIG\"` names an experiment that may",
    ),
];

/// Keys of `[teacher]` that say how it teaches, not which network it is.
const OF_TEACHING: [&str; 6] = ["weights", "train", "resize", "normalization", "precision", "detector"];

/// The teacher's own experiment: the student's with the teacher as its student, under the `table` of `teacher.train`.
fn own_tree(root: &Node, table: &Node, source: &ConfigSource) -> Result<Node, ConfigError> {
    let misplaced = NOT_HERE.iter().filter_map(|(key, reason)| {
        let entry = table.table()?.get(*key)?;
        let message = format!("\"teacher.train.{key}\" cannot be given");
        Some(Diagnostic::at(entry.key.clone(), message).help(*reason))
    });
    if let Some(wrong) = Diagnostics::of(misplaced.collect()) {
        return Err(wrong.into());
    }
    let mut own = root.clone();
    STUDENTS_OWN.iter().for_each(|key| own.remove(key));
    let mut give = |key: &str, node: Option<Node>| {
        let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
        let Some(node) = node else { return };
        let place = node.place.clone();
        if !parent.is_empty() && own.at(parent).is_none() {
            let entry = Entry { key: place.clone(), node: Node::empty_table(place.clone()) };
            own.table_mut().expect("a document is a table").insert(parent.to_owned(), entry);
        }
        let Some(keys) = own.at_mut(parent).and_then(Node::table_mut) else { return };
        match keys.get_mut(name) {
            Some(below) => below.node.merge(node),
            None => drop(keys.insert(name.to_owned(), Entry { key: place, node })),
        }
    };
    let mut network = root.at("teacher").cloned();
    if let Some(keys) = network.as_mut().and_then(Node::table_mut) {
        keys.retain(|key, _| !OF_TEACHING.contains(&key.as_str()));
    }
    give("student", network);
    give("detector", root.at("teacher.detector").cloned());
    give("normalization", root.at("teacher.normalization").cloned());
    give("input.resize", root.at("teacher.resize").cloned());
    // After the file, not after the run: runs of other seeds have the same teacher.
    let stem = source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = Value::String(format!("{stem}_teacher"));
    give("name", Some(Node { value: name, place: table.place.clone() }));
    drop_replaced(&mut own, |key| table.at(key).is_some());
    own.merge(table.clone());
    Ok(own)
}

/// `loaded`, if the teacher that it makes is the one that is wanted.
fn agreeing<C>(
    loaded: Loaded<C>,
    wanted: Vec<Fact>,
    made: Vec<Fact>,
    root: &Node,
) -> Result<Loaded<C>, ConfigError> {
    // Another architecture has other keys; the difference is named already.
    let pairs = wanted.into_iter().filter_map(|(key, wanted)| {
        let made = made.iter().find(|(other, _)| *other == key).map(|(_, made)| made)?;
        (wanted != *made).then_some((key, wanted, made))
    });
    let problems = pairs.map(|(key, wanted, made)| Problem {
        key,
        message: format!("is {wanted}, but {} trains a teacher with {made}", loaded.source),
        help: "the teacher must equal the [student] of the configuration that trains it; in a table `train`, leave out \
               what [teacher] says"
            .to_owned(),
    });
    match Diagnostics::of(problems.map(|problem| problem.found_in(root)).collect()) {
        Some(wrong) => Err(wrong.into()),
        None => Ok(loaded),
    }
}

/// Settings that decide which weights a network has, of what shapes, and what they mean.
fn weight_shapes(network: &Network, detector: &DetectorSettings) -> Vec<Fact> {
    let settings = network.settings(detector);
    let in_table = |key: &str| format!("detector.{key}");
    let mut facts: Vec<Fact> =
        settings.facts().into_iter().map(|(key, value)| (in_table(key), value)).collect();
    facts.extend(settings.head_norms().into_iter().map(|(key, norm)| (in_table(key), norm.to_string())));
    let of_network = [
        ("backbone", network.backbone.to_string()),
        ("width", network.stem_channels().to_string()),
        ("norm", network.norm.to_string()),
        ("stride_in", network.stride_in.to_string()),
        ("fpn_norm", network.fpn_norm.to_string()),
        ("fpn_channels", settings.fpn_channels.to_string()),
        ("head_width", settings.roi.head_width.to_string()),
    ];
    facts.extend(of_network.map(|(key, value)| (format!("teacher.{key}"), value)));
    facts
}
