//! The published recipes of image classification are as the tables of `tools/recipes` say, and load.

use std::fs;
use std::path::{Path, PathBuf};

use ckd_det::config::{ClassifyConfig, CohortConfig, Document, Experiment, LabelOrder, ScheduleKind};
use ckd_det::distill::mcl::{CohortMethod, Instance};
use ckd_recipes::{cohorts, recipes};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

#[test]
fn every_recipe_is_as_its_table_says_and_there_is_no_other() {
    let recipes = recipes();
    for (name, text) in &recipes {
        let written = fs::read_to_string(configs().join(name)).unwrap_or_default();
        assert_eq!(
            &written, text,
            "configs/{name} differs from its table: `cargo run --release -p ckd-recipes` writes it"
        );
    }
    for folder in ["cifar100", "imagenet"] {
        for entry in fs::read_dir(configs().join(folder)).expect("a folder of recipes") {
            let name = format!("{folder}/{}", entry.expect("an entry").file_name().to_string_lossy());
            assert!(recipes.contains_key(&name), "configs/{name} is in no table");
        }
    }
}

#[test]
fn every_recipe_loads_and_is_found_by_its_name_from_any_folder() {
    for name in recipes().keys() {
        if cohorts().contains_key(name) {
            let loaded = CohortConfig::load(name, &[]).unwrap_or_else(|error| panic!("{error}"));
            let again = CohortConfig::from_toml(&loaded.resolved_toml(), name).expect("it reads back");
            assert_eq!(again, loaded.config);
            assert!(matches!(Experiment::load(name, &[]), Ok(Experiment::Cohort(_))));
            continue;
        }
        let loaded = ClassifyConfig::load(name, &[]).unwrap_or_else(|error| panic!("{error}"));
        let again = ClassifyConfig::from_toml(&loaded.resolved_toml(), name).expect("it reads back");
        assert_eq!(again.student, loaded.config.student);
        assert!(matches!(Experiment::load(name, &[]), Ok(Experiment::Classify(_))));
    }
}

#[test]
fn the_recipes_are_the_published_ones() {
    let load = |name: &str| ClassifyConfig::load(name, &[]).expect("a recipe").config;
    let ckd = load("cifar100/ckd_w40_2_w40_1.toml");
    assert_eq!((ckd.run.schedule.epochs, ckd.run.train.batch_size, ckd.run.optim.lr), (Some(480), 32, 0.05));
    assert!(ckd.run.schedule.kind == ScheduleKind::Cosine && !ckd.run.optim.nesterov);
    let plain = load("cifar100/plain_sv1.toml");
    assert_eq!(
        (plain.run.schedule.epochs, plain.run.train.batch_size, plain.run.optim.lr),
        (Some(240), 64, 0.01)
    );
    assert_eq!(plain.run.schedule.milestones, [150.0, 180.0, 210.0]);
    assert_eq!(plain.student_normalization().mean, [0.5071, 0.4867, 0.4408]);
    let imagenet = load("imagenet/plain_r18.toml");
    assert_eq!(
        (imagenet.run.schedule.epochs, imagenet.run.train.batch_size, imagenet.run.optim.lr),
        (Some(100), 512, 0.2)
    );
    assert_eq!((imagenet.labelled.input.side_px, imagenet.labelled.input.eval_resize_px), (224, Some(256)));
}

#[test]
fn the_recipes_of_cohorts_are_the_authors() {
    let load = |name: &str| CohortConfig::load(name, &[]).expect("a recipe").config;
    let cifar = load("cifar100/lmcl_w16_2_w40_2.toml");
    assert_eq!(
        (cifar.run.schedule.epochs, cifar.run.train.batch_size, cifar.run.optim.lr),
        (Some(300), 128, 0.1)
    );
    assert!(cifar.run.schedule.kind == ScheduleKind::Cosine && cifar.run.optim.nesterov);
    assert_eq!((cifar.run.optim.weight_decay, cifar.labelled.data.order), (5e-4, LabelOrder::ClassPairs));
    assert_eq!(
        cifar.peer.iter().map(|peer| peer.network.name()).collect::<Vec<_>>(),
        ["wrn_16_2", "wrn_40_2"]
    );
    let own = &cifar.cohort;
    assert_eq!(
        (own.method, own.alpha, own.beta, own.gamma, own.lambda),
        (CohortMethod::LMcl, 0.1, 0.1, 1.0, 1.0)
    );
    assert_eq!((own.tau, own.temperature, own.width), (0.1, 3.0, 128));
    assert_eq!((own.layers.meta_every, own.layers.meta_steps, own.layers.kd_temperature), (50, 2, 3.0));
    assert_eq!(load("cifar100/mcl_sv2_x4.toml").peer.len(), 4);
    let imagenet = load("imagenet/mcl_r18_r18.toml");
    assert_eq!(
        (imagenet.run.schedule.epochs, imagenet.run.train.batch_size, imagenet.run.optim.lr),
        (Some(90), 256, 0.1)
    );
    assert_eq!((imagenet.cohort.alpha, imagenet.cohort.tau), (0.1, 0.07));
    assert_eq!(imagenet.cohort.bank.map(|bank| (bank.negatives, bank.momentum)), Some((8192, 0.5)));
    let deep = load("imagenet/lmcl_r50_r50.toml");
    assert_eq!(
        (deep.run.schedule.epochs, deep.cohort.alpha, deep.cohort.same_image),
        (Some(100), 0.01, Instance::Included)
    );
    assert_eq!((deep.cohort.layers.meta_every, deep.cohort.layers.branch_blocks), (500, Some(1)));
    assert!(deep.cohort.bank.is_some() && deep.labelled.data.order == LabelOrder::Shuffled);
}
