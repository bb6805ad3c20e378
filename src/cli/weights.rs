//! `ckd-det weights import|inspect|diff`: weights that other programs trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use ckd_detectors::param::Builder;
use clap::Subcommand;
use serde_json::json;

use super::output::Output;
use super::{Context, UsageError, say};
use crate::config::Document;
use crate::engine::EngineError;
use crate::engine::classify::ClassifierCard;
use crate::engine::detect::build;
use crate::report::progress::tell;
use crate::report::table::WIDEST;
use crate::weights::card::category_map;
use crate::weights::diff::Difference;
use crate::weights::file::write_safetensors;
use crate::weights::finite::Unusable;
use crate::weights::import::{Part, categories_of_annotations};
use crate::weights::recognise::{Kind, Recognised};
use crate::weights::{ModelCard, Selection, TrainedEpsilon, WeightsError, WeightsFile, load};

/// Arguments of `weights`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a file that describes itself from another program's weights
    Import(Import),
    /// Tell what is in a file of weights
    Inspect(Inspect),
    /// Compare two files of weights, tensor by tensor; ends with 1 if they differ
    Diff(Diff),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads torch files (.pth, .pt, .th, zip or legacy), pickles of arrays (Detectron2's .pkl) and safetensors, with the names of \
torchvision, Detectron2, Caffe2, MMDetection or RepDistiller; which of them is told from the file. Nothing in it is \
executed.
Colours, the place of the background, normalisation, anchors and resizing are taken along, so `predict` sees an \
image as the network was trained to see it.

Examples:
  ckd-det weights import fasterrcnn_resnet50_fpn_coco.pth --out t.safetensors
  ckd-det weights import model_final_280758.pkl --out t.safetensors \\
    --arch faster_rcnn_resnet50_fpn
  ckd-det weights import faster_rcnn_r50_fpn_1x_coco.pth --out t.safetensors
  ckd-det weights import model_final.pkl --out t.safetensors \\
    --set student.stride_in=3x3
  ckd-det weights import maskrcnn_resnet50_fpn_coco.pth --out t.safetensors \\
    --partial detector
  ckd-det weights import my_copy_of_torchvisions.pth --out t.safetensors \\
    --batch-norm-eps 0
  ckd-det weights import distilled.pth --out s.safetensors --under student \\
    --strip backbone
  ckd-det weights import my_resnet20.pth --out r20.safetensors \\
    --rename conv=conv1,bn=bn1,linear=fc
  ckd-det weights import mobilenet_v2.pth --out mobilenet_v2.safetensors
  ckd-det weights import mine.pth --out mine.safetensors \\
    --arch fasterrcnn_mobilenet_v3_large_320_fpn
  ckd-det weights import wrn_40_2_vanilla/ckpt_epoch_240.pth --out w.safetensors")]
struct Import {
    /// The weights to read
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The safetensors file to write; - is standard output
    #[arg(long, value_name = "FILE")]
    out: Output,
    /// Refuse a file that is another network than this, such as faster_rcnn_resnet50_fpn or resnet18
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Take a part and say what is left out: the `backbone`; all but the class layers of the `head`, which
    /// are for other classes; the box `detector` without masks and the like
    #[arg(long, value_name = "PART", value_parser = part)]
    partial: Option<Part>,
    /// A COCO annotation file whose categories the detector knows [default: the file's, or COCO's 80]
    #[arg(long, value_name = "FILE")]
    categories: Option<PathBuf>,
    /// The epsilon that the batch norms were trained with, made up for in their weights [default: 1e-5; 0 for
    /// the detectors that torchvision publishes as COCO_V1, which are known by their names or SHA-256]
    #[arg(long, value_name = "EPSILON", value_parser = epsilon)]
    batch_norm_eps: Option<f64>,
    #[command(flatten)]
    selected: Selected,
    /// A key of the configuration that the file cannot say, over what is known; may be given often
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Take numbers that are infinite or not numbers, to look at them
    #[arg(long)]
    allow_non_finite: bool,
}

fn epsilon(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("it is a number from 0 to below 1, such as 0, 1e-5 or 0.001".to_owned()),
    }
}

fn part(text: &str) -> Result<Part, String> {
    match text {
        "backbone" => Ok(Part::Backbone),
        "head" => Ok(Part::Head),
        "detector" => Ok(Part::Detector),
        _ => Err("choose from backbone, head, detector".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ckd-det weights inspect resnet18-f37072fd.pth
  ckd-det weights inspect model_final.pkl --json")]
struct Inspect {
    /// The weights to read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    selected: Selected,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// End with 0 where numbers are infinite or not numbers, too
    #[arg(long)]
    allow_non_finite: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tensors are compared under torchvision's names, with what an import changes: a file and its import are equal.

Examples:
  ckd-det weights diff runs/a/last.safetensors runs/b/last.safetensors
  ckd-det weights diff model_final.pkl teacher.safetensors --json")]
struct Diff {
    /// One file
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The other file
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Files that cannot be read, or are no weights, or of no known network, or of another one than is asked for;
/// for `diff`, files that differ.
pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.verb {
        Verb::Import(args) => import(&args, context),
        Verb::Inspect(args) => inspect(&args),
        Verb::Diff(args) => diff(&args),
    }
}

/// Tensors of a file that are meant.
#[derive(Debug, Default, clap::Args)]
struct Selected {
    /// The key of the state dict, where a checkpoint has several: `ema`, `student.state_dict`
    #[arg(long, value_name = "KEY")]
    under: Option<String>,
    /// Take the tensors whose names begin with this, without it
    #[arg(long, value_name = "PREFIX")]
    strip: Option<String>,
    /// Layers that are called otherwise here, such as conv=conv1,bn=bn1
    #[arg(long, value_name = "THEIRS=OURS", value_delimiter = ',', value_parser = renamed)]
    rename: Vec<(String, String)>,
}

fn renamed(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((theirs, ours)) if !theirs.is_empty() && !ours.is_empty() => {
            Ok((theirs.trim_end_matches('.').to_owned(), ours.trim_end_matches('.').to_owned()))
        }
        _ => Err("give the layer in the file and the layer here, such as conv=conv1".to_owned()),
    }
}

fn read(path: &Path, selected: &Selected) -> anyhow::Result<WeightsFile> {
    if !path.exists() {
        return Err(EngineError::Missing(format!("there is no file {}", path.display())).into());
    }
    let Selected { under, strip, rename } = selected;
    let selection = Selection { under: under.clone(), strip: strip.clone(), rename: rename.clone() };
    Ok(WeightsFile::read_as(path, &selection)?)
}

fn import(args: &Import, context: &Context) -> anyhow::Result<()> {
    args.out.check()?;
    let mut file = read(&args.source, &args.selected)?;
    file.allows_non_finite = args.allow_non_finite;
    file.check_finite()?;
    if let Some(value) = args.batch_norm_eps {
        let because = "--batch-norm-eps".to_owned();
        file = file.trained_with_epsilon(TrainedEpsilon { value, because })?;
    }
    let refused = |reason: String| WeightsError::Card { path: args.source.clone(), reason };
    let mut recognised = Recognised::of(&file).map_err(refused)?;
    if let Some(wanted) = &args.arch {
        recognised = recognised.called(wanted);
    }
    if let Some(wanted) = args.arch.as_deref().filter(|wanted| !recognised.is_called(wanted)) {
        return Err(UsageError(format!(
            "{} is {}, not {wanted}; leave out --arch, or name another file",
            args.source.display(),
            recognised.name
        ))
        .into());
    }
    let mut notes: Vec<String> =
        recognised.assumed.iter().map(|assumed| format!("taken for granted: {assumed}")).collect();
    notes.extend(file.trained_epsilon.as_ref().map(TrainedEpsilon::to_string));
    let mut left_out = Vec::new();
    let (tensors, metadata) = match (recognised.kind, args.partial) {
        (Kind::Classifier { architecture, classes }, None) => {
            let network = architecture.build(Builder::new(0, &context.device).frozen(), classes)?;
            load::strict(network.params(), &file)?;
            (network.params().snapshot()?, bare_metadata(&file, &recognised, None))
        }
        (Kind::Body { .. }, None | Some(Part::Backbone)) => {
            (file.tensors.clone(), bare_metadata(&file, &recognised, Some("backbone")))
        }
        (Kind::Classifier { .. } | Kind::Body { .. }, Some(_)) => {
            return Err(
                UsageError(format!("{} is imported whole; leave out --partial", recognised.name)).into()
            );
        }
        (Kind::Backbone, _) | (_, Some(Part::Backbone)) => {
            // Any detector tells whether the trunk is whole.
            let config = recognised.config(&file, &args.sets)?;
            let network = build::frozen_student(&config, 1, &context.device)?;
            if args.partial == Some(Part::Backbone) {
                left_out = file.keep(Part::Backbone, |_| true);
            }
            load::init(network.params(), &file)?;
            let part = args.partial.map(|_| "backbone");
            (file.tensors.clone(), bare_metadata(&file, &recognised, part))
        }
        (Kind::Detector { .. }, part) => {
            if let Some(reason) = recognised.differs {
                return Err(refused(reason.to_owned()).into());
            }
            let config = recognised.config(&file, &args.sets)?;
            let categories = args.categories.as_deref().map(categories_of_annotations).transpose()?;
            let (card, remark) = recognised.card(&file, config, categories)?;
            category_map(&card.categories)
                .map_err(|id| UsageError(format!("the categories list the id {} twice", id.0)))?;
            notes.extend(remark);
            if part != Some(Part::Head) {
                file = file.for_categories(&card.categories)?;
            }
            let network = build::frozen_student(&card.config, card.categories.len(), &context.device)?;
            if let Some(part) = part {
                left_out = file.keep(part, |name| network.params().get(name).is_some());
            }
            match part {
                Some(Part::Head) => {
                    load::init(network.params(), &file)?;
                    (
                        file.tensors.clone(),
                        bare_metadata(&file, &recognised, Some("all but the class layers")),
                    )
                }
                _ => {
                    load::strict(network.params(), &file)?;
                    (network.params().snapshot()?, card.to_metadata())
                }
            }
        }
    };
    write_safetensors(args.out.path(), &tensors, &metadata)?;
    if !context.quiet {
        for note in notes {
            tell(&note);
        }
    }
    if !left_out.is_empty() {
        args.out.say(format!(
            "left out {}:\n  {}",
            counted(left_out.len(), "tensor"),
            left_out.join("\n  ")
        ))?;
    }
    let numbers: usize = tensors.values().map(Tensor::elem_count).sum();
    Ok(args.out.say(format!(
        "{}: {}, {} ({:.2} M numbers){}",
        args.out.told(),
        recognised.name,
        counted(tensors.len(), "tensor"),
        numbers as f64 / 1e6,
        match metadata.contains_key("ckd_det.config") {
            true => "",
            false => "; no detector by itself: name it as student.init or teacher.weights",
        }
    ))?)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The header of weights that are no detector by themselves.
fn bare_metadata(
    file: &WeightsFile,
    recognised: &Recognised,
    part: Option<&str>,
) -> BTreeMap<String, String> {
    let mut provenance = file.provenance(recognised);
    provenance.extend(part.map(|part| ("part".to_owned(), part.to_owned())));
    BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("ckd_det.provenance".to_owned(), json!(provenance).to_string()),
    ])
}

fn inspect(args: &Inspect) -> anyhow::Result<()> {
    let mut file = read(&args.file, &args.selected)?;
    show(args, &file)?;
    file.allows_non_finite = args.allow_non_finite;
    Ok(file.check_finite()?)
}

fn show(args: &Inspect, file: &WeightsFile) -> anyhow::Result<()> {
    let unusable = file.tensors.iter().filter_map(|(name, tensor)| Some((name, Unusable::of(tensor).ok()??)));
    let unusable: BTreeMap<&String, Unusable> = unusable.collect();
    let recognised = Recognised::of(file);
    let card = ModelCard::of(file).ok();
    let classifier = ClassifierCard::of(file)?;
    let ours: BTreeMap<&str, &str> =
        file.names.origins.iter().map(|(ours, theirs)| (theirs.as_str(), ours.as_str())).collect();
    let mut types: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for entry in file.entries.values() {
        let (tensors, numbers) = types.entry(entry.number.to_string()).or_default();
        *tensors += 1;
        *numbers += entry.shape.iter().product::<usize>();
    }
    if args.json {
        let tensors: Vec<_> = file
            .entries
            .iter()
            .map(|(name, entry)| {
                let (number, shape) = (entry.number.to_string(), &entry.shape);
                json!({ "name": name, "type": number, "shape": shape, "ours": ours.get(name.as_str()) })
            })
            .collect();
        let network = recognised.as_ref().ok();
        let report = json!({
            "file": args.file,
            "format": file.format.to_string(),
            "names": file.names.scheme.to_string(),
            "blake3": file.hash,
            "architecture": match &classifier {
                Some(card) => Some(card.config.student.network.name()),
                None => network.map(|network| network.name.as_str()),
            },
            "classes": match &classifier {
                Some(card) => Some(card.classes.len()),
                None => network.and_then(classes),
            },
            "batch_norm_epsilon": file.trained_epsilon.as_ref().map(|trained| trained.value),
            "assumed": network.map(|network| &network.assumed),
            "not_recognised": recognised.as_ref().err().filter(|_| classifier.is_none()),
            "unused": file.names.unused,
            "categories": card.as_ref().map(|card| &card.categories),
            "class_names": classifier.as_ref().map(|card| &card.classes),
            "provenance": match &classifier {
                Some(card) => Some(&card.provenance),
                None => card.as_ref().map(|card| &card.provenance),
            },
            "config": match &classifier {
                Some(card) => Some(card.config.to_toml()),
                None => card.as_ref().map(|card| card.config.to_toml()),
            },
            "non_finite": unusable.iter().map(|(name, found)| (name, found.to_string())).collect::<BTreeMap<_, _>>(),
            "tensors": tensors,
        });
        return Ok(say(serde_json::to_string_pretty(&report)?)?);
    }
    say(format!("{}: {}, names of {}", args.file.display(), file.format, file.names.scheme))?;
    match (&classifier, &recognised) {
        (Some(card), _) => say(format!("architecture  {}", card.described()))?,
        (None, Ok(network)) => {
            let outputs = match network.kind {
                Kind::Body { .. } => " without its last layer".to_owned(),
                _ => classes(network)
                    .map_or(String::new(), |classes| format!(", {classes} outputs for classes")),
            };
            say(format!("architecture  {}{outputs}", network.name))?;
            for assumed in &network.assumed {
                say(format!("assumed       {assumed}"))?;
            }
            if let Some(differs) = network.differs {
                say(format!("differs       {differs}"))?;
            }
        }
        (None, Err(reason)) => say(format!("architecture  not known: {reason}"))?,
    }
    if let Some(trained) = &file.trained_epsilon {
        say(format!("batch norms   {trained}"))?;
    }
    let known = match (&classifier, &card) {
        (Some(card), _) => Some((card.classes.iter().map(String::as_str).collect(), &card.provenance)),
        (None, Some(card)) => {
            let names = card.categories.iter().map(|category| category.name.as_str());
            Some((names.collect::<Vec<&str>>(), &card.provenance))
        }
        (None, None) => None,
    };
    if let Some((names, provenance)) = known {
        let dots = if names.len() > 8 { ", ..." } else { "" };
        say(format!("classes       {} ({}{dots})", names.len(), names[..names.len().min(8)].join(", ")))?;
        for (what, fact) in provenance {
            say(format!("provenance    {what}: {fact}"))?;
        }
    }
    say(format!("blake3        {}", file.hash))?;
    for (number, (tensors, numbers)) in &types {
        say(format!("{number:<13} {}, {numbers} numbers", counted(*tensors, "tensor")))?;
    }
    for (name, found) in &unusable {
        say(format!("unusable      {name}: {found}"))?;
    }
    let width = file.entries.keys().map(|name| name.chars().count()).max().unwrap_or(0).min(WIDEST);
    for (name, entry) in &file.entries {
        let shape = format!("{:?}", entry.shape);
        let ours = match ours.get(name.as_str()) {
            Some(ours) => format!("  {ours}"),
            None if file.names.unused.contains(name) => "  not used".to_owned(),
            None => String::new(),
        };
        say(format!("  {name:<width$}  {:<5} {shape:<18}{ours}", entry.number.to_string()).trim_end())?;
    }
    Ok(())
}

fn classes(network: &Recognised) -> Option<usize> {
    match network.kind {
        Kind::Detector { classes } | Kind::Classifier { classes, .. } => Some(classes),
        Kind::Backbone | Kind::Body { .. } => None,
    }
}

fn diff(args: &Diff) -> anyhow::Result<()> {
    let difference = Difference::of(
        &read(&args.first, &Selected::default())?,
        &read(&args.second, &Selected::default())?,
    )?;
    if args.json {
        say(serde_json::to_string_pretty(&difference)?)?;
    } else {
        let names = |what: &Path, names: &[String]| match names.is_empty() {
            true => Ok(()),
            false => say(format!(
                "only in {}: {}\n  {}",
                what.display(),
                counted(names.len(), "tensor"),
                names.join("\n  ")
            )),
        };
        names(&args.first, &difference.only_first)?;
        names(&args.second, &difference.only_second)?;
        if !difference.shapes.is_empty() {
            say("of another shape:")?;
        }
        for (name, first, second) in &difference.shapes {
            say(format!("  {name}: {first:?} and {second:?}"))?;
        }
        if !difference.values.is_empty() {
            say("largest absolute difference:")?;
        }
        for (name, apart) in &difference.values {
            say(format!("  {apart:<10.3e} {name}"))?;
        }
        say(format!("equal: {}", counted(difference.equal, "tensor")))?;
    }
    match difference.is_none() {
        true => Ok(()),
        false => anyhow::bail!("{} and {} differ", args.first.display(), args.second.display()),
    }
}
