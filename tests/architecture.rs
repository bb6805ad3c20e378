//! The structure of the repository, held by tests that read its sources.
//!
//! Each failure names the file and the line. Comments, string literals and `#[cfg(test)]` modules are
//! blanked first, so that only code of the program counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use crate::support::modules;
use crate::support::source::{Source, code_only, names_after, program, root, sources, without_tests, words};

/// The modules of `src/`, each with its floor. A module may use its own floor and those below.
const FLOORS: [(&str, u32); 14] = [
    ("fsx", 0),
    ("machine", 0),
    ("optim", 0),
    ("data", 1),
    ("distill", 1),
    ("config", 2),
    ("weights", 2),
    ("report", 2),
    ("eval", 3),
    ("engine", 4),
    ("export", 4),
    ("training", 5),
    ("cli", 5),
    ("main", 6),
];

/// Crates, by the folder of their `lib.rs`, whose files do not use each other in a circle.
const WITHOUT_CIRCLES: [&str; 3] = ["detectors/kernels/src", "settings/src", "src"];

fn assert_none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// The top module of `src/` that a file belongs to: `src/eval/coco.rs` is of `eval`.
fn module_of(source: &Source) -> &str {
    source.path["src/".len()..].split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn unsafe_code_is_in_the_kernels_and_where_mpi_is_called_only() {
    let everywhere =
        sources(&["src", "collective", "detectors", "settings", "tests", "benches", "examples", "fuzz"]);
    let allowed = ["detectors/kernels/", "collective/src/mpi/"];
    let elsewhere =
        everywhere.iter().filter(|source| !allowed.iter().any(|place| source.path.starts_with(place)));
    assert_none(
        "`unsafe` belongs in detectors/kernels and collective/src/mpi",
        elsewhere
            .flat_map(|source| {
                // Test code too: here only comments and literals are blanked.
                let whole =
                    Source { code: code_only(&source.text), path: source.path.clone(), text: String::new() };
                whole.lines_where(|line| words(line).any(|word| word == "unsafe"))
            })
            .collect(),
    );
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    for path in ["src/lib.rs", "src/main.rs", "detectors/src/lib.rs", "settings/src/lib.rs"] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        assert!(code_only(&text).contains("#![forbid(unsafe_code)]"), "{path} lacks #![forbid(unsafe_code)]");
    }
}

#[test]
fn only_fsx_writes_files() {
    let writing = [
        "File::create",
        "File::options",
        "OpenOptions",
        "fs::write",
        "fs::rename",
        "fs::copy",
        "fs::remove_",
        "fs::create_dir",
        "fs::hard_link",
        "fs::set_permissions",
        "set_len(",
        "tempfile::",
        "NamedTempFile",
        "DirBuilder",
        "serialize_to_file",
        "safetensors::save",
        "save_safetensors",
        "save_buffer",
        "save_with_format",
        "write_npy",
    ];
    // Kernels that were compiled for a GPU are kept by the crate that compiles them.
    let writers = ["src/fsx.rs", "detectors/kernels/src/cuda/cache.rs"];
    let others = program().into_iter().filter(|source| !writers.contains(&&*source.path));
    assert_none(
        "files are written by src/fsx.rs, and compiled kernels by the kernels' cache",
        others
            .flat_map(|source| {
                // There it is `Vec`'s: the kernels fill buffers in place.
                let is_buffers =
                    |call: &str| call == "set_len(" && source.path.starts_with("detectors/kernels/");
                source.lines_where(|line| writing.iter().any(|call| line.contains(call) && !is_buffers(call)))
            })
            .collect(),
    );
}

#[test]
fn a_message_that_nobody_can_hear_ends_nothing() {
    let others = program().into_iter().filter(|source| source.path.starts_with("src/"));
    assert_none(
        "`eprintln!` panics where stderr is lost: messages go through report::progress::tell",
        others.flat_map(|source| source.lines_where(|line| line.contains("eprint"))).collect(),
    );
}

#[test]
fn modules_use_only_their_own_floor_and_those_below() {
    let floors = BTreeMap::from(FLOORS);
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut offences = Vec::new();
    for source in sources(&["src"]) {
        let module = module_of(&source);
        if module == "lib" {
            continue;
        }
        let Some(floor) = floors.get(module) else {
            offences
                .push(format!("{}: the module `{module}` has no floor: give it one in FLOORS", source.path));
            continue;
        };
        for used in names_after(&source.code, "crate").into_iter().chain(names_after(&source.code, "ckd_det"))
        {
            match floors.get(used.as_str()) {
                Some(other) if other > floor => {
                    offences.push(format!("{} uses `{used}`, which is above it", source.path))
                }
                Some(_) if used != module => drop(uses.entry(module.to_owned()).or_default().insert(used)),
                _ => {}
            }
        }
    }
    assert_none("src/ has floors, and a module may use only what is not above it", offences);

    // On one floor, too, arrows run one way.
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = settled.len();
        for (module, _) in FLOORS {
            let used = uses.get(module);
            if used.is_none_or(|used| used.iter().all(|other| settled.contains(other.as_str()))) {
                settled.insert(module);
            }
        }
        if settled.len() == before {
            break;
        }
    }
    let circle: Vec<String> =
        uses.keys().filter(|module| !settled.contains(module.as_str())).cloned().collect();
    assert_none("these modules of src/ use each other in a circle", circle);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in WITHOUT_CIRCLES {
        let uses = modules::uses(root);
        assert!(!uses.is_empty(), "{root}: no such folder");
        assert_none(
            &format!("files of {root} use each other in a circle"),
            modules::circles(&uses, |_| true),
        );
    }
}

#[test]
fn slices_of_tensors_are_for_kernels() {
    let slices = ["elements", "on_host", "channels_last", "Elements"];
    let reads =
        |source: &Source| names_after(&source.code, "memory").iter().any(|name| slices.contains(&&**name));
    let outside = sources(&["src", "detectors/src", "settings/src"]).into_iter().filter(reads);
    let offences = outside.map(|source| format!("{}: make it an operation of ckd_kernels", source.path));
    assert_none("slices of tensors", offences.collect());
}

#[test]
fn the_networks_touch_no_file_no_terminal_and_no_clock() {
    let outside = ["std::fs", "std::io", "std::net", "std::process", "std::env", "std::time", "File::open"];
    let printing = ["println", "eprintln", "print", "eprint", "dbg", "Instant", "SystemTime"];
    let found = sources(&["detectors/src"]).into_iter().flat_map(|source| {
        source.lines_where(|line| {
            outside.iter().any(|path| line.contains(path)) || words(line).any(|word| printing.contains(&word))
        })
    });
    // Kernels that were compiled for a GPU are kept in the user's cache folder.
    let kernels = sources(&["detectors/kernels/src"])
        .into_iter()
        .filter(|source| source.path != "detectors/kernels/src/cuda/cache.rs")
        .flat_map(|source| source.lines_where(|line| line.contains("std::fs") || line.contains("std::net")));
    assert_none(
        "ckd-detectors and ckd-kernels are pure: no file, no terminal, no clock",
        found.chain(kernels).collect(),
    );
}

#[test]
fn the_networks_know_no_distillation() {
    let found = sources(&["detectors/src", "detectors/kernels/src"]).into_iter().flat_map(|source| {
        source.lines_where(|line| {
            words(&line.to_lowercase())
                .any(|word| word.contains("distil") || word.contains("teacher") || word.contains("student"))
        })
    });
    assert_none("ckd-detectors and ckd-kernels know no distillation", found.collect());
}

#[test]
fn distillation_knows_taps_and_no_detector() {
    let found = sources(&["src/distill"]).into_iter().flat_map(|source| {
        // Geometry, layers and their parameters are building blocks; a detector is not.
        let blocks = ["taps", "anchors", "boxes", "box_coder", "init", "nn", "param", "Error"];
        let strangers = names_after(&source.code, "ckd_detectors")
            .into_iter()
            .filter(|name| !blocks.contains(&name.as_str()));
        strangers.map(|name| format!("{} uses ckd_detectors::{name}", source.path)).collect::<Vec<_>>()
    });
    assert_none("src/distill may use building blocks of ckd_detectors and no detector", found.collect());
}

#[test]
fn there_is_one_iou_and_one_nms() {
    for (word, home) in [("iou", "detectors/src/boxes.rs"), ("nms", "detectors/src/nms.rs")] {
        let defines = |line: &str| {
            let name = words(line).skip_while(|&part| part != "fn").nth(1).unwrap_or_default();
            name.split('_').next_back() == Some(word) || name == format!("{word}_matrix")
        };
        let (at_home, elsewhere): (Vec<Source>, Vec<Source>) =
            program().into_iter().partition(|source| source.path == home);
        assert_none(
            &format!("`{word}` is defined in {home}, use that one"),
            elsewhere.iter().flat_map(|source| source.lines_where(defines)).collect(),
        );
        let here: usize = at_home.iter().map(|source| source.lines_where(defines).len()).sum();
        assert!(here > 0, "{home} defines no `{word}`: if it moved, say so here");
    }
}

/// `autotests = false`: what `main.rs` does not name would be neither compiled nor run.
#[test]
fn every_file_of_tests_is_in_its_crates_one_binary() {
    let mut unnamed = Vec::new();
    for folder in ["tests", "detectors/tests"] {
        let main = fs::read_to_string(root().join(folder).join("main.rs")).unwrap();
        let main = code_only(&main);
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_module =
                path.extension().is_some_and(|extension| extension == "rs") || path.join("mod.rs").is_file();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if is_module && name != "main" && !main.contains(&format!("mod {name};")) {
                unnamed.push(format!("{folder}/{name}"));
            }
        }
    }
    assert_none("a test file is a module of its crate's tests/main.rs", unnamed);
}

/// By its formula, whatever the function is called.
#[test]
fn areas_are_divided_by_a_union_in_the_geometry_and_in_its_loss_only() {
    let homes = ["detectors/src/boxes.rs", "detectors/kernels/src/losses/giou.rs"];
    let divides =
        |line: &str| line.split('/').skip(1).any(|right| words(right).take(2).any(|word| word == "union"));
    let (at_home, elsewhere): (Vec<Source>, Vec<Source>) =
        program().into_iter().partition(|source| homes.contains(&source.path.as_str()));
    let found = elsewhere.iter().flat_map(|source| source.lines_where(divides));
    assert_none("the IoU of boxes is `ckd_detectors::boxes::iou`", found.collect());
    assert!(
        at_home.iter().all(|source| !source.lines_where(divides).is_empty()),
        "{homes:?}: if it moved, say so here"
    );
}

#[test]
fn crates_depend_on_those_below_only() {
    let allowed = BTreeMap::from([
        ("collective", vec![]),
        ("detectors/kernels", vec![]),
        ("settings", vec![]),
        ("detectors", vec!["ckd-kernels", "ckd-settings"]),
        (".", vec!["ckd-collective", "ckd-kernels", "ckd-settings", "ckd-detectors"]),
    ]);
    let offences = allowed.iter().flat_map(|(folder, below)| {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let used =
            manifest["dependencies"].as_table().unwrap().keys().filter(|name| name.starts_with("ckd-"));
        let strangers = used.filter(|name| !below.contains(&name.as_str()));
        strangers.map(|name| format!("{folder}/Cargo.toml: {name}")).collect::<Vec<_>>()
    });
    assert_none("arrows between crates point down", offences.collect());
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty = ["util", "utils", "helper", "helpers", "manager", "common", "misc", "stuff"];
    let found = sources(&["src", "detectors", "tests", "benches"]).into_iter().map(|source| source.path);
    let parts = |path: &str| path.trim_end_matches(".rs").split('/').map(str::to_owned).collect::<Vec<_>>();
    assert_none(
        "a file is named after the one idea in it",
        found.filter(|path| parts(path).iter().any(|part| empty.contains(&part.as_str()))).collect(),
    );
}

#[test]
fn no_committed_file_is_a_mebibyte_or_more() {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    let listed = listed.expect("git is installed");
    assert!(listed.status.success(), "not a git checkout: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let too_big = names.split('\0').filter(|name| !name.is_empty()).filter_map(|name| {
        let bytes = fs::metadata(root().join(name)).ok()?.len();
        (bytes >= 1 << 20).then(|| format!("{name}: {bytes} bytes"))
    });
    assert_none("large files do not belong in the repository", too_big.collect());
}

#[test]
fn every_crate_has_the_workspace_lints_and_they_deny_candles_wrong_operations() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = workspace.parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    for member in members.iter().map(|member| member.as_str().unwrap()) {
        let text = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{member} does not take the workspace's lints");
    }
    assert!(workspace.contains("disallowed_methods = \"deny\""));
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    for method in ["conv2d", "max_pool2d", "upsample_nearest2d", "scatter", "scatter_add", "rand", "randn"] {
        assert!(
            clippy.contains(&format!("\"candle_core::Tensor::{method}\"")),
            "clippy.toml lets Tensor::{method} pass"
        );
    }
}

#[test]
fn the_scanner_sees_code_and_nothing_else() {
    let text = r##"
        let a = "unsafe \" unsafe"; // unsafe
        let b = r#"unsafe " unsafe"#; /* unsafe /* unsafe */ unsafe */
        let c = ('"', '\'', '\u{1F600}', b'"'); fn d<'a>(e: &'a str) { keep(e) }
        use crate::{fsx::{self, WriteError}, eval, data::coco}; let f = crate::report::table(); my_crate::cli;
        #[cfg(test)] mod tests { fn g() { if h { gone } } }
        let i = r#kept;
    "##;
    let code = without_tests(&code_only(text));
    assert!(!words(&code).any(|word| word == "unsafe" || word == "gone"), "{code}");
    assert!(words(&code).any(|word| word == "keep") && words(&code).any(|word| word == "kept"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(names_after(&code, "crate"), ["fsx", "eval", "data", "report"]);
}

#[test]
fn the_module_graph_sees_through_re_exports_and_imports_of_modules() {
    let files = [
        ("", "pub mod a; mod b; pub mod c; pub use b::Made; use a::only_passed_on;"),
        (
            "a",
            "use crate::Made; use crate::c::{self, deep as short}; fn only_passed_on() { c::made(); short() }",
        ),
        ("b", "pub struct Made; fn f() { super::c::inner::g::<Made>() }"),
        (
            "c",
            "pub mod inner; pub use inner::*; pub(crate) fn made() {} #[cfg(test)] mod tests { use crate::a::X; }",
        ),
        ("c::inner", "pub fn deep() {} pub fn g() { // crate::a::only_passed_on()\n }"),
    ];
    let sources: Vec<(Vec<String>, Source)> = files
        .iter()
        .map(|(module, text)| {
            let path = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let code = without_tests(&code_only(text));
            (path, Source { path: format!("{module}.rs"), text: (*text).to_owned(), code })
        })
        .collect();
    let graph = |sources: &[(Vec<String>, Source)]| {
        modules::graph(sources.iter().map(|(path, source)| (path.clone(), source)).collect())
    };
    let uses = graph(&sources);
    let of = |file: &str| uses[file].keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("a.rs"), ["b.rs", "c.rs", "c::inner.rs"]);
    assert_eq!(of("b.rs"), ["c::inner.rs"]);
    assert!(of("c.rs").is_empty() && of("c::inner.rs").is_empty(), "{uses:?}");
    assert_eq!(modules::circles(&uses, |_| true), [""; 0]);

    // One more use closes a circle of three.
    let mut circular = sources;
    circular[4].1.code += "use super::super::a::only_passed_on;";
    let found = modules::circles(&graph(&circular), |_| true);
    assert_eq!(found, ["a.rs -(deep)-> c::inner.rs -(only_passed_on)-> a.rs"]);
    assert_eq!(modules::circles(&graph(&circular), |file| !file.starts_with("c::")), [""; 0]);
}
