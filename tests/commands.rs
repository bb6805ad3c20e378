//! Commands that help texts and documents show are commands of the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ckd_det::cli::Cli;
use ckd_det::config::{self, Experiment};
use clap::{CommandFactory, Parser};

use crate::support::tiny::{Tiny, assert_ended, assert_mentions, names};
use crate::support::typed::{Typed, examples, is_as_shown};

/// Names of a verb and those below it, with their commands; without clap's own `help`.
fn verbs(command: &clap::Command, path: &[String]) -> Vec<(Vec<String>, clap::Command)> {
    let below = command.get_subcommands().filter(|verb| verb.get_name() != "help").flat_map(|verb| {
        let path = [path, &[verb.get_name().to_owned()]].concat();
        verbs(verb, &path)
    });
    std::iter::once((path.to_vec(), command.clone())).chain(below).collect()
}

fn program() -> Vec<(Vec<String>, clap::Command)> {
    let mut program = Cli::command();
    program.build();
    verbs(&program, &[])
}

/// Refuses a command that the program does not have, and `--set` of keys that its configuration does not have.
fn check(place: &str, typed: &Typed) {
    if let Err(error) = Cli::try_parse_from(&typed.words) {
        let is_told = matches!(
            error.kind(),
            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
        );
        assert!(is_told, "{place}: {:?}\n{error}", typed.words);
    }
    let args = typed.args();
    let sets = args.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].to_owned());
    let sets: Vec<String> = sets.collect();
    let listed = config::list();
    let is_listed = |arg: &&&str| listed.iter().any(|listed| listed.name == arg.trim_end_matches(".toml"));
    let known = args.iter().find(is_listed);
    let is_cohort_or_classes = args.iter().any(|arg| arg.starts_with("cifar"));
    let name = known.copied().unwrap_or(if is_cohort_or_classes { "cifar10_r56_r20" } else { "quickstart" });
    if (known.is_some() || !sets.is_empty())
        && let Err(error) = Experiment::load(name, &sets)
    {
        panic!("{place}: {:?}\n{error}", typed.words);
    }
}

/// Whether a command takes little time and needs no file.
fn is_cheap(typed: &Typed) -> bool {
    let args = typed.args();
    let verb = args.first().copied().unwrap_or_default();
    let is_of_files =
        args.iter().any(|arg| arg.contains("mine.toml") || arg.contains("my_") || arg.contains('/'));
    ["config", "methods", "completions", "doctor", "man"].contains(&verb) && !is_of_files
}

#[test]
fn examples_of_help_are_commands_with_keys_that_there_are() {
    let here = Tiny::empty();
    let (mut shown, mut run) = (0, 0);
    for (path, command) in program() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let place = format!("help of {path:?}");
        let own = examples(&help);
        assert_eq!(own.len(), help.lines().filter(|line| line.starts_with("  ckd-det ")).count(), "{place}");
        for typed in own {
            check(&place, &typed);
            shown += 1;
            if is_cheap(&typed) {
                run += 1;
                let output = here.run_program(&typed.args());
                assert!(output.status.success(), "{place}: {typed:?}\n{output:?}");
                assert!(!output.stdout.is_empty(), "{place}: {typed:?}");
            }
        }
    }
    assert!(shown > 80 && run > 20, "{shown} are shown and {run} run");
}

#[test]
fn every_help_page_fits_into_eighty_and_into_a_hundred_and_twenty_columns() {
    let here = Tiny::empty();
    let all = program();
    assert!(all.len() > 30, "{}", all.len());
    for (path, command) in all {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let mut lines = Vec::new();
        for columns in [80, 120] {
            let output =
                here.program(&args).env("COLUMNS", columns.to_string()).stdin(Stdio::null()).output();
            let help = output.expect("the program starts");
            assert_ended(&help, 0, &[]);
            let text = String::from_utf8(help.stdout).unwrap();
            for line in text.lines() {
                assert!(line.chars().count() <= columns, "{path:?} at {columns}: {line}");
            }
            lines.push(text.lines().count());
        }
        assert!(lines[0] >= lines[1], "{path:?}: more room makes it no longer");
        assert!(command.get_about().is_some(), "{path:?}");
    }
}

#[test]
fn every_verb_has_a_manual_page_without_a_warning_of_groff() {
    let here = Tiny::empty();
    let all = program();
    let output = here.run_program(&["man", "--out", "man1"]);
    assert_ended(&output, 0, &[&format!("{} pages -> man1", all.len())]);
    let mut wanted: Vec<String> = all
        .iter()
        .map(|(path, _)| [&["ckd-det".to_owned()], path.as_slice()].concat().join("-") + ".1")
        .collect();
    wanted.sort();
    assert_eq!(names(&here.path("man1")), wanted);
    let has_groff = Command::new("groff").arg("--version").output().is_ok();
    for name in &wanted {
        let page = here.text(&format!("man1/{name}"));
        let title = format!(".TH {} 1", name.trim_end_matches(".1"));
        assert_mentions(&page, &[&title, ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"]);
        if has_groff {
            let path = here.path("man1").join(name);
            let set = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).arg(path).output().unwrap();
            assert!(set.status.success() && set.stderr.is_empty(), "{name}: {set:?}");
        }
    }
    let printed = here.run_program(&["man", "data", "convert"]);
    assert_eq!(
        String::from_utf8_lossy(&printed.stdout),
        here.text("man1/ckd-det-data-convert.1").trim_end().to_owned() + "\n"
    );
    assert_ended(&here.run_program(&["man", "data", "confog"]), 2, &["there is no verb \"confog\""]);
}

/// A block of code with its language, the line that it begins at, and its lines.
struct Block<'a> {
    language: &'a str,
    line: usize,
    lines: Vec<&'a str>,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block<'_>>);
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language, line: number + 1, lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    blocks
}

/// The commands of a transcript, each with what it prints.
fn transcript<'a>(lines: &[&'a str]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, printed))) => printed.push(line),
            (None, None) => panic!("a transcript begins with a command: {line}"),
        }
    }
    commands
}

/// Commands of the program in lines that are indented as code, without options in brackets.
fn listed_commands(page: &str) -> Vec<String> {
    let (mut commands, mut is_code) = (Vec::new(), false);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        is_code ^= line.starts_with("```");
        let Some(command) = line.strip_prefix("    ").filter(|line| line.starts_with("ckd-det ")) else {
            continue;
        };
        if is_code {
            continue;
        }
        let mut whole = command.to_owned();
        while let Some(begun) = whole.strip_suffix('\\') {
            whole = begun.to_owned() + lines.next().expect("a line behind the backslash").trim();
        }
        while let Some((start, end)) = whole.find('[').zip(whole.find(']')).filter(|(start, end)| start < end)
        {
            whole.replace_range(start..=end, "");
        }
        commands.push(whole);
    }
    commands
}

#[test]
fn commands_that_the_documents_list_are_commands_with_keys_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for path in pages(root) {
        for command in listed_commands(&fs::read_to_string(&path).unwrap()) {
            check(&path.display().to_string(), &Typed::of(&command));
            read += 1;
        }
    }
    assert!(read > 20, "{read}");
}

/// The README and the pages of the book.
fn pages(root: &Path) -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        names(&root.join("docs")).into_iter().map(|name| root.join("docs").join(name)).collect();
    pages.extend([root.join("README.md"), root.join("CONTRIBUTING.md")]);
    pages.retain(|path| path.extension().is_some_and(|end| end == "md"));
    pages
}

/// Runs a command in a folder; what it printed, in the order in which a terminal shows it.
#[cfg(unix)]
fn run(here: &Tiny, typed: &Typed) -> (bool, String) {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_ckd-det")]).args(typed.args());
    let folder = here.path("").canonicalize().unwrap();
    let output = command.current_dir(&folder).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(into) = &typed.into {
        fs::write(here.path(into), &text).unwrap();
        return (output.status.success(), String::new());
    }
    (output.status.success(), text.replace(&folder.display().to_string(), "/home/me"))
}

#[cfg(unix)]
#[test]
fn transcripts_of_the_documents_are_what_the_program_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut ran, mut read) = (0, 0);
    for path in pages(root) {
        let (page, here) = (fs::read_to_string(&path).unwrap(), Tiny::empty());
        for block in blocks(&page).iter().filter(|block| block.language.starts_with("console")) {
            let place = format!("{}:{}", path.display(), block.line);
            let is_run = match block.language {
                "console" => true,
                "console,no_run" => false,
                other => {
                    panic!("{place}: the block is {other:?}, neither \"console\" nor \"console,no_run\"")
                }
            };
            for (command, shown) in transcript(&block.lines) {
                let typed = Typed::of(command);
                let is_own = typed.words.first().is_some_and(|word| word == "ckd-det");
                assert!(is_own || !is_run, "{place}: only ckd-det is run: {command}");
                if is_own {
                    check(&place, &typed);
                    read += 1;
                }
                if !is_run {
                    continue;
                }
                let (is_done, printed) = run(&here, &typed);
                ran += 1;
                assert!(is_done, "{place}: {command}\n{printed}");
                let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
                let fits = shown.is_empty() || is_as_shown(&shown, &lines);
                assert!(
                    fits,
                    "{place}: {command}\nprints\n{printed}\nand the page shows\n{}",
                    shown.join("\n")
                );
            }
        }
    }
    assert!(ran >= 8 && read > ran, "{ran} of {read} commands were run");
}
