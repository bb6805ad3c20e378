//! `ckd-det new FOLDER`: from a folder of images to a configuration that trains.

mod boxes;
mod budget;
mod fit;
mod labels;
mod survey;
mod trained;
mod wish;

use std::io::{BufRead, IsTerminal, stdin};
use std::path::PathBuf;

use self::wish::{HELD_OUT, Wish};
use super::train::quoted;
use super::{Context, UsageError, say};
use crate::data::discover::{FoundData, Layout, discover};
use crate::engine::EngineError;
use crate::fsx;
use crate::report::progress::tell;

/// Arguments of `new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Finds COCO, YOLO (data.yaml), Pascal VOC (labelImg's flat folders too) or a folder for each class, and prints what is in \
it. Where there is no validation part, a fifth of the images is held out: drawn by --seed, images of one content \
together, written to OUT-split beside the configuration. The configuration trains a teacher, the student alone and the \
student taught; its sizes and anchors fit the boxes, and its length fits --minutes on this machine, by a few steps that \
are timed. Nothing is written into FOLDER. On a terminal it asks for what no option says.

Examples:
  ckd-det new photos/
  ckd-det new photos/ --out cells.toml --minutes 60
  ckd-det new photos/ --teacher resnet50 --student mobilenet_v2
  ckd-det new photos/ --teacher resnet34:32 --student resnet18:16 --yes
  ckd-det new photos/ --teacher runs/big --student resnet18:16
  ckd-det new photos/ --format voc

Then:
  ckd-det train my.toml
  ckd-det eval --run runs/my
  ckd-det export --run runs/my --out my.onnx")]
pub struct Args {
    /// The folder of the data set
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The network to learn from: its name, with :N the channels of its first layer, or a trained one by its weights
    /// file or its run's folder [default: resnet34:32; of images by class resnet56]
    #[arg(long, value_name = "NETWORK[:N]|FILE|RUN")]
    teacher: Option<String>,
    /// The network to ship: its name, or a trained one that it begins with [default: resnet18:16; of images by class
    /// resnet20]
    #[arg(long, value_name = "NETWORK[:N]|FILE|RUN")]
    student: Option<String>,
    /// The configuration to write [default: my.toml]
    #[arg(long, value_name = "FILE.toml")]
    out: Option<PathBuf>,
    /// The time that training may take on this machine [default: 30]
    #[arg(long, value_name = "M", value_parser = minutes)]
    minutes: Option<f64>,
    /// Look for this layout alone
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Draws the images that are held out
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Ask nothing
    #[arg(long, short)]
    yes: bool,
    /// Write over a configuration that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// An instances_*.json and a folder of images
    Coco,
    /// data.yaml, images, labels
    Yolo,
    /// Annotations, ImageSets/Main, JPEGImages; or XML files beside the images
    Voc,
    /// A folder for each class
    Folder,
}

impl Format {
    fn layout(self) -> Layout {
        match self {
            Self::Coco => Layout::Coco,
            Self::Yolo => Layout::Yolo,
            Self::Voc => Layout::Voc,
            Self::Folder => Layout::Folder,
        }
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|minutes: &f64| *minutes > 0.0 && minutes.is_finite());
    value.ok_or_else(|| "a number of minutes above 0".to_owned())
}

/// Runs the verb.
///
/// # Errors
/// A folder without a data set that is known; a configuration that is there already; what stops a run of it.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    if !args.folder.is_dir() {
        let missing = format!("there is no folder {}; name the folder of the images", args.folder.display());
        return Err(EngineError::Missing(missing).into());
    }
    let layouts = args.format.map_or(Layout::ALL.to_vec(), |format| vec![format.layout()]);
    let folder = std::path::absolute(&args.folder)?;
    let found = discover(&folder, &layouts)?;
    let kind = match &found.data {
        FoundData::Boxes(data) => data.kind.word(),
        FoundData::Labels(_) => "images by class",
    };
    say(format!("{}: {kind}", args.folder.display()))?;
    found.told.iter().try_for_each(|line| say(format!("  {line}")))?;
    if !found.has_val {
        say(format!(
            "  val    none: {:.0} % of the images are held out (--seed {})",
            100.0 * HELD_OUT,
            args.seed
        ))?;
    }
    let asks = !args.yes && !context.quiet && stdin().is_terminal() && std::io::stderr().is_terminal();
    let wish = wish(args, folder, asks.then(|| stdin().lock()))?;
    let made = match found.data {
        FoundData::Boxes(data) => boxes::make(*data, found.has_val, &wish, context)?,
        FoundData::Labels(data) => labels::make(*data, found.has_val, &wish, context)?,
    };
    say(format!("\nwritten: {} ({made})", wish.out.display()))?;
    next(&wish)
}

/// The arguments, and the answers to what they leave open, if there is a person to ask.
fn wish(args: Args, folder: PathBuf, mut person: Option<impl BufRead>) -> anyhow::Result<Wish> {
    let mut ask = |question: &str, given: Option<String>| match (given, &mut person) {
        (None, Some(person)) => answer(question, person),
        (given, _) => Ok(given),
    };
    let question =
        "teacher, the network to learn from: a name, a weights file or a run [enter: chosen by the data]";
    let teacher = ask(question, args.teacher)?;
    let question =
        "student, the network to ship: a name, a weights file or a run [enter: chosen by the data]";
    let student = ask(question, args.student)?;
    let given = ask("minutes that training may take [30]", args.minutes.map(|minutes| minutes.to_string()))?;
    let minutes = given.map_or(Ok(30.0), |text| minutes(&text)).map_err(UsageError)?;
    let given = ask("file of the configuration [my.toml]", args.out.map(|out| out.display().to_string()))?;
    let mut out = PathBuf::from(given.unwrap_or_else(|| "my.toml".to_owned()));
    if out.extension().is_none() {
        out.set_extension("toml");
    }
    if out.exists() && !args.force {
        let out = out.display();
        return Err(UsageError(format!(
            "{out} is there already; name another with --out, or write over it with --force"
        ))
        .into());
    }
    fsx::check_output(&out).map_err(|error| UsageError(error.to_string()))?;
    Ok(Wish { folder, teacher, student, out, minutes, seed: args.seed })
}

/// The line that is typed; `None` for an empty one.
fn answer(question: &str, person: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    tell(&format!("{question}:"));
    let mut line = String::new();
    person.read_line(&mut line)?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

/// Prints the commands that follow.
fn next(wish: &Wish) -> anyhow::Result<()> {
    let (config, name) = (quoted(&wish.out.display().to_string()), wish.name());
    let run = quoted(&format!("runs/{name}"));
    say("next:")?;
    say(format!("  ckd-det train {config}"))?;
    say(format!("  ckd-det eval --run {run}"))?;
    Ok(say(format!("  ckd-det export --run {run} --out {}", quoted(&format!("{name}.onnx"))))?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn wished(args: &[&str], answers: Option<&str>) -> anyhow::Result<Wish> {
        let typed = Typed::parse_from([&["new", "photos"], args].concat());
        wish(typed.args, PathBuf::from("/photos"), answers.map(|text| Cursor::new(text.to_owned())))
    }

    #[test]
    fn a_person_is_asked_for_what_no_option_says_and_enter_takes_what_is_proposed() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("cells").display().to_string();
        let wish = wished(&[], Some(&format!(" resnet34 \n\n5\n{out}\n"))).unwrap();
        assert_eq!((wish.teacher.as_deref(), wish.student.as_deref()), (Some("resnet34"), None));
        assert_eq!((wish.minutes, wish.name().as_str()), (5.0, "cells"));
        assert!(wish.out.extension().is_some_and(|end| end == "toml"));
        // An option is no question: the first answer is to the next one.
        let out = ["--out", &out];
        let wish = wished(&[&["--teacher", "resnet50"][..], &out].concat(), Some("resnet18\n7\n")).unwrap();
        assert_eq!((wish.teacher.as_deref(), wish.student.as_deref()), (Some("resnet50"), Some("resnet18")));
        assert_eq!(wish.minutes, 7.0);
        // Who goes away, and who is not there, takes what is proposed.
        for answers in [Some(""), None] {
            let wish = wished(&out, answers).unwrap();
            assert_eq!((wish.teacher, wish.student, wish.minutes), (None, None, 30.0));
        }
        let error = wished(&out, Some("\n\nsoon\n")).err().expect("no number").to_string();
        assert!(error.contains("a number of minutes above 0"), "{error}");
    }
}
