//! Configurations as laws: what is written reads back, and the topmost layer that gives a key decides it.

use std::collections::BTreeMap;
use std::fs;

use ckd_det::config::{
    Architecture, Backbone, Config, Data, DataKind, DetectorSettings, Document, Network, Optim, Run,
    Schedule, Student,
};
use ckd_det::distill::{Ckd, Distill, Fgd, Maps, Rows, RowsAt, Timing};
use proptest::prelude::*;

/// A configuration that is built in code: nothing is read.
fn built(lr: f64, steps: u64) -> Config {
    let schedule = Schedule { steps: Some(steps), milestones: vec![1.0], ..Schedule::default() };
    let run = Run::new("built".to_owned(), Optim::new(lr), schedule);
    let student = Student::new(Network::new(Backbone::RESNET18));
    let data = Data::new(DataKind::Coco, "data".into());
    Config::new(run, DetectorSettings::new(Architecture::FasterRcnn), data, student)
}

#[test]
fn a_configuration_built_in_code_has_the_defaults_of_one_that_is_read() {
    let text = "name = \"built\"\n[detector]\narchitecture = \"faster_rcnn\"\n[data]\nkind = \"coco\"\nroot = \"data\"\n\
                [student]\nbackbone = \"resnet18\"\n[optim]\nlr = 0.5\n[schedule]\nsteps = 7\nmilestones = [1]\n";
    assert_eq!(Config::from_toml(text, "text").unwrap(), built(0.5, 7));
    assert!(built(0.5, 7).checked().is_ok());
}

#[test]
fn a_configuration_built_in_code_is_checked_like_one_that_is_read() {
    let mut config = built(0.5, 0);
    config.run.optim.momentum = 1.5;
    config.distill = vec![Ckd::new(Rows::new(RowsAt::Logits)).into()];
    let message = config.checked().unwrap_err().to_string();
    for wrong in [
        "\"optim.momentum\" is 1.5",
        "\"schedule.steps\" is 0",
        "\"distill.0.method\" is \"ckd\", but there is no teacher",
        "\"distill.0.at\" is \"logits\", which faster_rcnn does not have",
        "the configuration built in code",
    ] {
        assert!(message.contains(wrong), "{wrong}\n{message}");
    }
}

fn entry() -> impl Strategy<Value = Distill> {
    let timing = (0u64..100, 0u64..100, proptest::option::of(200u64..300)).prop_map(
        |(from_step, warmup_steps, until_step)| Timing {
            from_step,
            warmup_steps,
            until_step,
            decay_steps: 0,
        },
    );
    (timing, 0f32..100.0, 0.01f32..10.0, any::<bool>()).prop_map(|(timing, weight, temperature, rows)| {
        match rows {
            true => {
                let place = Rows { timing, ..Rows::new(RowsAt::RoiLogits) };
                Ckd { weight, temperature, ..Ckd::new(place) }.into()
            }
            false => {
                let place = Maps { timing, ..Maps::new(vec!["p2".to_owned(), "p5".to_owned()]) };
                Fgd { weight, temperature, ..Fgd::new(place) }.into()
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_configuration_writes_reads_back_to_the_same(
        lr in 1e-9f64..10.0,
        steps in 1u64..u64::MAX / 2,
        seed in 0u64..i64::MAX as u64,
        name in "[a-zA-Z0-9 _\"\u{e4}-]{1,12}",
        mean in any::<[u16; 3]>(),
        decay in proptest::option::of(0f64..1.0),
        distill in proptest::collection::vec(entry(), 0..3),
    ) {
        let mut config = built(lr, steps);
        config.run.seed = seed;
        config.run.name = name;
        config.run.optim.weight_decay_bias = decay;
        config.normalization.mean = mean.map(|mean| f32::from(mean) / 65_537.0);
        if !distill.is_empty() {
            let teacher = Network { allow_random_weights: true, ..Network::new(Backbone::RESNET50) };
            config.teacher = Some(ckd_det::config::Teacher::new(teacher));
        }
        config.distill = distill;
        let written = config.to_toml();
        prop_assert_eq!(Config::from_toml(&written, "written").unwrap(), config, "{}", written);
    }

    #[test]
    fn the_topmost_layer_that_gives_a_key_decides_it(
        layers in proptest::collection::vec(
            proptest::collection::btree_map(0usize..KEYS.len(), 1u32..1000, 0..KEYS.len()), 3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let text = |layer: &BTreeMap<usize, u32>| -> String {
            layer.iter().map(|(&key, value)| format!("{} = {value}\n", KEYS[key])).collect()
        };
        let below = built(0.5, 7).to_toml();
        fs::write(folder.path().join("bottom.toml"), below).unwrap();
        fs::write(folder.path().join("base.toml"), format!("extends = \"bottom.toml\"\n{}", text(&layers[0]))).unwrap();
        fs::write(folder.path().join("top.toml"), format!("extends = \"base.toml\"\n{}", text(&layers[1]))).unwrap();
        let sets: Vec<String> = layers[2].iter().map(|(&key, value)| format!("{}={value}", KEYS[key])).collect();
        let loaded = Config::load(folder.path().join("top.toml"), &sets).unwrap().config;
        let plain = built(0.5, 7);
        for (key, (name, read)) in KEYS.iter().zip(READERS).enumerate() {
            let given = layers.iter().rev().find_map(|layer| layer.get(&key)).copied();
            prop_assert_eq!(read(&loaded), given.unwrap_or(read(&plain)), "{}", name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_key_that_is_set_is_the_key_written_into_the_file(
        given in proptest::collection::btree_map(0usize..KEYS.len(), 1u32..1000, 1..KEYS.len()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("base.toml"), built(0.5, 7).to_toml()).unwrap();
        let assigned = |layer: &BTreeMap<usize, u32>, glue: &str| -> Vec<String> {
            layer.iter().map(|(&key, value)| format!("{}{glue}{value}", KEYS[key])).collect()
        };
        let above = format!("extends = \"base.toml\"\n{}\n", assigned(&given, " = ").join("\n"));
        fs::write(folder.path().join("file.toml"), above).unwrap();
        // Sections of the file that stands above: the base with its own lines replaced.
        let mut edited: toml::Table = built(0.5, 7).to_toml().parse().unwrap();
        for (&key, &value) in &given {
            let (tables, name) = KEYS[key].rsplit_once('.').map_or((None, KEYS[key]), |(t, n)| (Some(t), n));
            let mut table = &mut edited;
            for part in tables.into_iter().flat_map(|tables| tables.split('.')) {
                table = table.entry(part).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
            }
            table.insert(name.to_owned(), i64::from(value).into());
        }
        fs::write(folder.path().join("edited.toml"), edited.to_string()).unwrap();
        let load = |name: &str, sets: &[String]| Config::load(folder.path().join(name), sets).unwrap().config;
        let set = load("base.toml", &assigned(&given, "="));
        prop_assert_eq!(&load("file.toml", &[]), &set);
        prop_assert_eq!(&load("edited.toml", &[]), &set);
    }

    #[test]
    fn layers_give_the_same_however_they_are_grouped_and_the_last_of_two_values_counts(
        layers in proptest::collection::vec(
            proptest::collection::btree_map(0usize..KEYS.len(), 1u32..1000, 0..KEYS.len()), 3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let lines = |layer: &BTreeMap<usize, u32>| -> String {
            layer.iter().map(|(&key, value)| format!("{} = {value}\n", KEYS[key])).collect()
        };
        let write = |name: &str, base: &str, layer: &BTreeMap<usize, u32>| {
            let text = format!("extends = \"{base}.toml\"\n{}", lines(layer));
            fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        };
        let merged = |below: &BTreeMap<usize, u32>, above: &BTreeMap<usize, u32>| {
            let mut both = below.clone();
            both.extend(above.iter().map(|(&key, &value)| (key, value)));
            both
        };
        let [a, b, c] = <[_; 3]>::try_from(layers).unwrap();
        fs::write(folder.path().join("base.toml"), built(0.5, 7).to_toml()).unwrap();
        write("a", "base", &a);
        write("ab", "a", &b);
        write("abc", "ab", &c);
        write("left", "base", &merged(&a, &b));
        write("left_c", "left", &c);
        write("a_right", "a", &merged(&b, &c));
        let load = |name: &str, sets: &[String]| {
            let mut config = Config::load(folder.path().join(name), sets).unwrap().config;
            config.run.name = "any".to_owned();
            config
        };
        let whole = load("abc.toml", &[]);
        prop_assert_eq!(&load("left_c.toml", &[]), &whole);
        prop_assert_eq!(&load("a_right.toml", &[]), &whole);
        let sets: Vec<String> = [&a, &b, &c]
            .into_iter()
            .flat_map(|layer| layer.iter().map(|(&key, value)| format!("{}={value}", KEYS[key])))
            .collect();
        prop_assert_eq!(&load("base.toml", &sets), &whole);
    }
}

/// Keys of several tables and depths that take any positive integer.
const KEYS: [&str; 6] = [
    "seed",
    "train.batch_size",
    "train.accumulate",
    "detector.fpn_channels",
    "detector.rpn.batch_per_image",
    "eval.batch_size",
];

/// The values of [`KEYS`].
const READERS: [fn(&Config) -> u32; 6] = [
    |config| config.run.seed as u32,
    |config| config.run.train.batch_size as u32,
    |config| config.run.train.accumulate as u32,
    |config| config.detector.fpn_channels as u32,
    |config| config.detector.rpn.batch_per_image as u32,
    |config| config.run.eval.batch_size as u32,
];

/// Whether a value is one that the schema allows, as far as our schemas go; `at` is its place.
fn assert_allowed(schema: &serde_json::Value, value: &serde_json::Value, at: &str) {
    use serde_json::Value;
    if let Some(alternatives) = schema["anyOf"].as_array() {
        let method = &value["method"];
        let own = alternatives.iter().find(|own| own["properties"]["method"]["enum"][0] == *method);
        return assert_allowed(own.unwrap_or_else(|| panic!("{at}: no alternative for {method}")), value, at);
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    let kind = match value {
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Null => panic!("{at}: TOML has no null"),
    };
    let allowed = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec![kind],
    };
    let is_allowed = allowed.contains(&kind) || (kind == "integer" && allowed.contains(&"number"));
    assert!(is_allowed, "{at}: {value} is no {allowed:?}");
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        assert_allowed(&schema["items"], item, &format!("{at}.{index}"));
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let own = &schema["properties"][key.as_str()];
        assert!(!own.is_null() || schema.get("properties").is_none(), "{at}.{key} is not in the schema");
        assert_allowed(own, value, &format!("{at}.{key}"));
    }
}

#[test]
fn every_configuration_is_one_that_the_schema_for_editors_allows() {
    use ckd_det::config::{ClassifyConfig, CohortConfig, Experiment, PretrainConfig, json_schema, list};
    let schemas = [
        json_schema("detect", &Config::keys()),
        json_schema("classify", &ClassifyConfig::keys()),
        json_schema("cohort", &CohortConfig::keys()),
        json_schema("pretrain", &PretrainConfig::keys()),
    ];
    let mut seen = [0; 4];
    for listed in list() {
        let experiment = Experiment::load(&listed.name, &[]).unwrap();
        let task = match &experiment {
            Experiment::Detect(_) => 0,
            Experiment::Classify(_) => 1,
            Experiment::Cohort(_) => 2,
            Experiment::Pretrain(_) => 3,
        };
        let document: toml::Table = toml::from_str(&experiment.resolved_toml()).unwrap();
        assert_allowed(&schemas[task], &serde_json::to_value(document).unwrap(), &listed.name);
        seen[task] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let schema = &schemas[0];
    assert_eq!(schema["additionalProperties"], false, "an unknown key is marked");
    assert_eq!(schema["properties"]["optim"]["properties"]["lr"]["type"], "number");
    assert_eq!(schema["properties"]["train"]["properties"]["batch_size"]["default"], 2);
    let docs = schema["properties"]["schedule"]["properties"]["warmup_factor"]["description"].as_str();
    assert!(docs.is_some_and(|docs| docs.starts_with("Initial learning rate of the warmup")), "{docs:?}");
}
