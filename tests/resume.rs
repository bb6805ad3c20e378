//! A run that was interrupted, killed or damaged goes on as if nothing had happened, bit for bit, or says why not.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::tiny::{
    Tiny, assert_ended, assert_mentions, assert_same_run, copy_folder, log, metadata, names, tensors,
};
use ckd_det::engine::EngineError;
use ckd_det::engine::job::Start;
use serde_json::Value;

/// Trains `config` once in one go and once interrupted after every step, and compares.
#[track_caller]
fn check_resuming(config: &str, run: &str, sets: &[&str]) {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train(config, sets).unwrap_or_else(|error| panic!("{error}"));
    let interruptions = resumed.train_step_by_step(config, sets);
    assert!(interruptions >= 3, "interrupted {interruptions} times");
    assert_same_run(&whole.path(run), &resumed.path(run));
}

#[test]
fn resumed_equals_uninterrupted_across_an_epoch_with_accumulation_scales_and_flips() {
    // 5 batches an epoch, 2 a step: the 3rd and the 5th step begin in the middle of an epoch and of a pair.
    let sets = [
        "train.accumulate=2",
        "train.eval_every=3",
        "input.short_side_px=[48, 64, 80]",
        "input.long_side_px=96",
        "optim.nesterov=true",
        "optim.clip_grad_norm=1.0",
    ];
    check_resuming("plain.toml", "runs/plain", &sets);
}

/// Every augmentation that there is, mosaic and mix-up for one pass.
pub(crate) const AUGMENTED: [&str; 7] = [
    "input.augment.mosaic_probability=0.5",
    "input.augment.crop_probability=0.5",
    "input.augment.scale_jitter=[0.5, 2.0]",
    "input.augment.mix_up_probability=0.5",
    "input.augment.jitter=[0.4, 0.4, 0.4, 0.1]",
    "input.augment.vertical_flip_probability=0.5",
    "input.augment.mix_epochs=1",
];

#[test]
fn resumed_equals_uninterrupted_with_every_augmentation() {
    // 5 batches an epoch: mosaic and mix-up end in mid-run.
    let sets = ["input.short_side_px=[48, 64]", "schedule.steps=8", "train.eval_every=3"];
    check_resuming("plain.toml", "runs/plain", &[sets.as_slice(), &AUGMENTED].concat());
}

#[test]
fn resumed_equals_uninterrupted_with_adamw_and_an_average_of_the_weights() {
    let sets = [
        "optim.kind=adamw",
        "optim.lr=0.001",
        "optim.backbone_lr_factor=0.1",
        "train.ema_decay=0.9",
        "train.eval_every=2",
    ];
    check_resuming("plain.toml", "runs/plain", &sets);
}

#[test]
fn resumed_equals_uninterrupted_with_sgd_and_an_average_of_the_weights() {
    check_resuming("plain.toml", "runs/plain", &["train.ema_decay=0.75"]);
}

#[test]
fn resumed_equals_uninterrupted_when_distilled() {
    check_resuming("distilled.toml", "runs/distilled", &["train.accumulate=2", "distill.0.warmup_steps=3"]);
}

#[test]
fn resumed_equals_uninterrupted_for_retinanet_and_epochs() {
    let sets = ["schedule.epochs=2", "schedule.milestones=[1]", "train.eval_every=1", "train.batch_size=3"];
    check_resuming("retina_plain.toml", "runs/retina_plain", &sets);
}

#[test]
fn resumed_equals_uninterrupted_for_a_distilled_fcos() {
    check_resuming("fcos_distilled.toml", "runs/fcos_distilled", &["schedule.steps=4"]);
}

#[test]
fn resumed_equals_uninterrupted_for_a_distilled_retinanet() {
    check_resuming("retina_distilled.toml", "runs/retina_distilled", &["schedule.steps=4"]);
}

#[test]
fn a_comparison_that_is_interrupted_everywhere_goes_on_stage_by_stage() {
    let sets = ["schedule.steps=3", "train.compare_alone=true"];
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("distilled.toml", &sets).unwrap();
    // After each of 2, 3 and 3 steps, and before the first step of each student, since an evaluation was made just then.
    assert_eq!(resumed.train_step_by_step("distilled.toml", &sets), 2 + 4 + 4);
    for run in ["runs/teacher", "runs/distilled/alone", "runs/distilled"] {
        assert_same_run(&whole.path(run), &resumed.path(run));
    }
}

#[test]
fn to_resume_a_finished_run_trains_nothing() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let before = fs::read(tiny.path("runs/plain/log.jsonl")).unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_eq!(fs::read(tiny.path("runs/plain/log.jsonl")).unwrap(), before, "timings and all");
    assert_eq!(names(&tiny.path("runs")), ["plain"]);
}

#[test]
fn a_run_that_ended_before_its_outcome_was_written_is_finished_by_resuming() {
    let tiny = Tiny::new();
    tiny.train("plain.toml", &[]).unwrap();
    let whole = Tiny::new();
    whole.train("plain.toml", &[]).unwrap();
    for lost in ["outcome.json", "last.safetensors", "summary.json"] {
        fs::remove_file(tiny.path("runs/plain").join(lost)).unwrap();
    }
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
    assert!(tiny.path("runs/plain/summary.json").exists());
}

#[test]
fn resuming_without_a_checkpoint_starts_at_step_0() {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    resumed.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
}

#[test]
fn another_configuration_cannot_resume_a_run_and_the_differing_keys_are_named() {
    let tiny = Tiny::new();
    let interrupted = tiny.start("plain.toml", &["optim.clip_grad_norm=5.0"], Start::Anew, true);
    assert!(matches!(interrupted, Err(EngineError::Interrupted { step: 1, .. })));
    let checkpoints = names(&tiny.path("runs/plain/checkpoints"));
    let sets = ["optim.lr=0.5", "student.width=16", "input.short_side_px=[32, 64]"];
    let error = tiny.start("plain.toml", &sets, Start::Resume, false).unwrap_err();
    assert!(matches!(error, EngineError::Run { .. }));
    assert_mentions(
        &error.to_string(),
        &[
            "runs/plain/config.toml",
            "optim.lr: was 0.02, now 0.5",
            "student.width: was 8, now 16",
            "input.short_side_px: was [64], now [32, 64]",
            "optim.clip_grad_norm: was 5.0, now not given",
            "start anew without --resume",
        ],
    );
    assert!(!error.to_string().contains("seed"), "what agrees is not named: {error}");
    assert_eq!(names(&tiny.path("runs/plain/checkpoints")), checkpoints);
}

#[test]
fn settings_of_speed_and_reporting_may_change_on_resuming() {
    let (whole, resumed) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    resumed.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let sets = ["data.workers=1", "data.queue=1", "train.checkpoint_every=2", "train.keep_checkpoints=5"];
    resumed.start("plain.toml", &sets, Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &resumed.path("runs/plain"));
    let kept = ["step-00000001", "step-00000002", "step-00000004", "step-00000006"];
    assert_eq!(
        names(&resumed.path("runs/plain/checkpoints")),
        kept.map(|name| format!("{name}.safetensors"))
    );
}

#[test]
fn another_teacher_cannot_resume_a_distilled_run() {
    let tiny = Tiny::new();
    tiny.train("teacher.toml", &[]).unwrap();
    tiny.train("teacher.toml", &["seed=4", "name=other"]).unwrap();
    let teacher = tiny.path("teacher.safetensors");
    fs::copy(tiny.path("runs/teacher/last.safetensors"), &teacher).unwrap();
    let set = format!("teacher.weights={}", teacher.display());
    tiny.start("distilled.toml", &[&set], Start::Anew, true).unwrap_err();
    fs::copy(tiny.path("runs/other/last.safetensors"), &teacher).unwrap();
    let error = tiny.start("distilled.toml", &[&set], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["another teacher", "step-00000001.safetensors"]);
}

/// A run of two steps, each of them saved.
fn interrupted_after_two_steps() -> Tiny {
    let tiny = Tiny::new();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    tiny.start("plain.toml", &[], Start::Resume, true).unwrap_err();
    tiny
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before() {
    let (whole, tiny) = (Tiny::new(), interrupted_after_two_steps());
    whole.train("plain.toml", &[]).unwrap();
    copy_folder(&tiny.path("runs/plain"), &tiny.path("kept"));
    let newest = tiny.path("runs/plain/checkpoints/step-00000002.safetensors");
    let good = fs::read(&newest).unwrap();
    let middle = good.len() / 2;
    let flipped = |at: usize| [&good[..at], &[good[at] ^ 8], &good[at + 1..]].concat();
    let zeroed = [&good[..middle], &vec![0; good.len() - middle]].concat();
    let cases = [
        good[..middle].to_vec(),
        good[..5].to_vec(),
        Vec::new(),
        b"not a checkpoint at all".to_vec(),
        flipped(middle),
        flipped(good.len() - 1),
        zeroed,
    ];
    for (case, damaged) in cases.iter().enumerate() {
        fs::remove_dir_all(tiny.path("runs/plain")).unwrap();
        copy_folder(&tiny.path("kept"), &tiny.path("runs/plain"));
        fs::write(&newest, damaged).unwrap();
        let told = tiny.told("plain.toml", &[], Start::Resume).unwrap();
        let said = [
            "step-00000002.safetensors is damaged (",
            "kept as",
            "goes on from",
            "step-00000001.safetensors",
        ];
        assert_mentions(&told, &said);
        let kept = newest.with_file_name("step-00000002.safetensors.damaged");
        assert_eq!(&fs::read(kept).unwrap(), damaged, "case {case}");
        assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
    }
}

#[test]
fn where_no_checkpoint_is_whole_the_run_says_so_and_touches_nothing() {
    let tiny = interrupted_after_two_steps();
    let folder = tiny.path("runs/plain/checkpoints");
    for name in names(&folder) {
        let mut bytes = fs::read(folder.join(&name)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(folder.join(&name), bytes).unwrap();
    }
    let before = names(&folder);
    let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
    assert!(matches!(error, EngineError::Checkpoint { .. }));
    assert_mentions(
        &error.to_string(),
        &["step-00000002.safetensors", "none of the others is whole", "--resume"],
    );
    assert_eq!(names(&folder), before);
}

/// Rewrites a checkpoint as versions did whose files carried no hash.
fn as_of_an_earlier_version(path: &Path) {
    let (tensors, mut header) = (tensors(path), metadata(path));
    header.remove("ckd_det.blake3").expect("a hash");
    let mut state: Value = serde_json::from_str(&header["ckd_det.train_state"]).unwrap();
    for key in ["config", "log", "evaluation_due"] {
        state.as_object_mut().unwrap().shift_remove(key);
    }
    header.insert("ckd_det.train_state".to_owned(), state.to_string());
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let header = header.into_iter().collect();
    fs::write(path, safetensors::serialize(views, Some(header)).unwrap()).unwrap();
}

#[test]
fn a_run_of_a_version_without_hashes_resumes_and_that_is_said() {
    let (whole, tiny) = (Tiny::new(), interrupted_after_two_steps());
    whole.train("plain.toml", &[]).unwrap();
    for name in names(&tiny.path("runs/plain/checkpoints")) {
        as_of_an_earlier_version(&tiny.path("runs/plain/checkpoints").join(name));
    }
    let config = tiny.text("runs/plain/config.toml");
    tiny.write("runs/plain/config.toml", config.split("# blake3").next().unwrap());
    let told = tiny.told("plain.toml", &[], Start::Resume).unwrap();
    assert_mentions(&told, &["step-00000002.safetensors was written by a version", "carry no hash"]);
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

#[test]
fn a_checkpoint_that_lost_its_hash_alone_is_damaged() {
    let tiny = interrupted_after_two_steps();
    let newest = tiny.path("runs/plain/checkpoints/step-00000002.safetensors");
    let bytes = fs::read(&newest).unwrap();
    let at = bytes.windows(14).position(|part| part == b"ckd_det.blake3").unwrap();
    fs::write(&newest, [&bytes[..at], b"ckd_det.blake2", &bytes[at + 14..]].concat()).unwrap();
    let told = tiny.told("plain.toml", &[], Start::Resume).unwrap();
    assert_mentions(&told, &["step-00000002.safetensors is damaged (", "hash of its content is gone"]);
}

#[test]
fn a_damaged_record_of_the_configuration_is_written_anew_where_the_checkpoint_knows_it() {
    let (whole, tiny) = (Tiny::new(), interrupted_after_two_steps());
    whole.train("plain.toml", &[]).unwrap();
    let config = tiny.text("runs/plain/config.toml");
    for damaged in
        [config.replace("lr = 0.02", "lr = 0.03"), config.replace("[optim]", "[optin]"), String::new()]
    {
        assert_ne!(damaged, config);
        tiny.write("runs/plain/config.toml", &damaged);
        let error = tiny.start("plain.toml", &["optim.lr=0.05"], Start::Resume, false).unwrap_err();
        assert_mentions(&error.to_string(), &["runs/plain/config.toml", "it is damaged", "without --resume"]);
    }
    tiny.write("runs/plain/config.toml", &config.replace("lr = 0.02", "lr = 0.03"));
    tiny.start("plain.toml", &[], Start::Resume, true).unwrap_err();
    assert_eq!(tiny.text("runs/plain/config.toml"), config);
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

#[test]
fn damaged_weights_of_a_finished_teacher_are_made_again_from_its_checkpoint() {
    let tiny = Tiny::new();
    tiny.train("distilled.toml", &[]).unwrap();
    let student = fs::read(tiny.path("runs/distilled/last.safetensors")).unwrap();
    let files = ["last.safetensors", "log.jsonl"].map(|name| tiny.path("runs/teacher").join(name));
    let before = files.clone().map(|file| fs::read(file).unwrap());
    let mut damaged = before[0].clone();
    *damaged.last_mut().unwrap() ^= 64;
    fs::write(&files[0], damaged).unwrap();
    let told = tiny.told("distilled.toml", &[], Start::Anew).unwrap();
    let again = "it is made again from the last checkpoint";
    assert_mentions(&told, &["runs/teacher/last.safetensors", "not what its hash says", again]);
    assert_eq!(files.map(|file| fs::read(file).unwrap()), before, "timings and all");
    assert_eq!(fs::read(tiny.path("runs/distilled/last.safetensors")).unwrap(), student);
    assert_eq!(names(&tiny.path("runs")), ["distilled", "distilled.1", "teacher"]);
}

#[test]
fn a_log_that_was_changed_behind_the_runs_back_is_noticed() {
    let tiny = interrupted_after_two_steps();
    let log = tiny.text("runs/plain/log.jsonl");
    let changed = log.replacen("\"images\":2", "\"images\":3", 1);
    assert_ne!(changed, log);
    tiny.write("runs/plain/log.jsonl", &changed);
    let told = tiny.told("plain.toml", &[], Start::Resume).unwrap();
    assert_mentions(&told, &["runs/plain/log.jsonl is not what it was"]);
}
#[test]
fn a_checkpoint_of_another_network_or_a_weights_file_in_its_place_is_refused() {
    let tiny = Tiny::new();
    tiny.train("teacher.toml", &[]).unwrap();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let newest = tiny.path("runs/plain/checkpoints/step-00000001.safetensors");
    fs::copy(tiny.path("runs/teacher/checkpoints/step-00000002.safetensors"), &newest).unwrap();
    let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["step-00000001.safetensors", "belongs to another network"]);
    fs::copy(tiny.path("runs/teacher/last.safetensors"), &newest).unwrap();
    let error = tiny.start("plain.toml", &[], Start::Resume, false).unwrap_err();
    assert_mentions(&error.to_string(), &["step-00000001.safetensors", "not a checkpoint"]);
}

#[test]
fn what_a_killed_write_left_is_no_checkpoint() {
    let (whole, tiny) = (Tiny::new(), Tiny::new());
    whole.train("plain.toml", &[]).unwrap();
    tiny.start("plain.toml", &[], Start::Anew, true).unwrap_err();
    let folder = tiny.path("runs/plain/checkpoints");
    fs::write(folder.join(".write-x7Gk2p.partial"), b"half of a checkp").unwrap();
    tiny.start("plain.toml", &[], Start::Resume, false).unwrap();
    assert_same_run(&whole.path("runs/plain"), &tiny.path("runs/plain"));
}

/// Enough steps to be in the middle of when the signal comes.
const LONG: [&str; 6] =
    ["--set", "schedule.steps=40", "--set", "schedule.milestones=[30]", "--set", "train.checkpoint_every=2"];

fn train_in_background(tiny: &Tiny) -> Child {
    let args = [["train", "plain.toml"].as_slice(), &LONG].concat();
    tiny.program(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn wait_for(child: &mut Child, file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run ended before {}", file.display());
        assert!(start.elapsed() < Duration::from_secs(60), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let (whole, killed) = (Tiny::new(), Tiny::new());
    assert_ended(&whole.run_program(&[["train", "plain.toml"].as_slice(), &LONG].concat()), 0, &["AP "]);
    let mut child = train_in_background(&killed);
    wait_for(&mut child, &killed.path("runs/plain/checkpoints/step-00000004.safetensors"));
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
    assert!(!killed.path("runs/plain/last.safetensors").exists(), "it was killed in the middle");
    let resumed = killed.run_program(&[["train", "plain.toml", "--resume"].as_slice(), &LONG].concat());
    assert_ended(&resumed, 0, &["AP "]);
    assert_same_run(&whole.path("runs/plain"), &killed.path("runs/plain"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_state_and_says_how_to_go_on() {
    let (whole, stopped) = (Tiny::new(), Tiny::new());
    assert_ended(&whole.run_program(&[["train", "plain.toml"].as_slice(), &LONG].concat()), 0, &["AP "]);
    let mut child = train_in_background(&stopped);
    wait_for(&mut child, &stopped.path("runs/plain/checkpoints/step-00000002.safetensors"));
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    let output = child.wait_with_output().expect("it ends");
    let go_on = "ckd-det train plain.toml --set schedule.steps=40 --set 'schedule.milestones=[30]' \
                 --set train.checkpoint_every=2";
    assert_ended(&output, 130, &["interrupted after step", "the state is saved", go_on, "--resume"]);
    let steps = log(&stopped.path("runs/plain")).len();
    assert!((2..40).contains(&steps), "{steps} steps");
    let newest = names(&stopped.path("runs/plain/checkpoints")).pop().unwrap();
    assert_eq!(newest, format!("step-{steps:08}.safetensors"), "saved at its last step");
    let resumed = stopped.run_program(&[["train", "plain.toml", "--resume"].as_slice(), &LONG].concat());
    assert_ended(&resumed, 0, &["AP "]);
    assert_same_run(&whole.path("runs/plain"), &stopped.path("runs/plain"));
}

#[test]
fn runs_that_were_moved_to_another_folder_go_on_there_and_their_teacher_is_not_trained_again() {
    let tiny = Tiny::new();
    let train = ["train", "distilled.toml", "--set", "schedule.steps=2"];
    assert_ended(&tiny.run_program(&train), 0, &["everything is in runs/distilled"]);
    fs::rename(tiny.path("runs"), tiny.path("moved")).unwrap();
    let train = [&train[..], &["--set", "output=moved"]].concat();
    let again = tiny.run_program(&[&train[..], &["--set", "name=again"]].concat());
    assert_ended(&again, 0, &["the teacher was trained before: moved/teacher/last.safetensors"]);
    assert_ended(&tiny.run_program(&[&train[..], &["--resume"]].concat()), 0, &["moved/distilled"]);
    assert!(!tiny.path("runs").exists());
}
