//! The data set in a folder, told by its files: COCO, YOLO, Pascal VOC, or a folder for each class.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::entries::{is_hidden, is_image};
use super::labelled_data::{LabelledData, LabelledKind};
use super::open::{Data, DataKind};
use super::yolo::{self, YoloError};
use super::{coco, image_folder};

/// A data set as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The section `[data]` that reads it.
    pub data: FoundData,
    /// Whether it has a validation part; without one, the section names its training part alone.
    pub has_val: bool,
    /// Its parts in words, a line each.
    pub told: Vec<String>,
}

/// The section of a configuration that reads the data set.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundData {
    /// Images with boxes.
    Boxes(Box<Data>),
    /// Images by class.
    Labels(Box<LabelledData>),
}

/// A layout to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `data.yaml`, images, labels.
    Yolo,
    /// COCO `instances` files and folders of images.
    Coco,
    /// Pascal VOC, or XML files beside the images.
    Voc,
    /// A folder for each class.
    Folder,
}

impl Layout {
    /// Every layout, the more telling first.
    pub const ALL: [Self; 4] = [Self::Yolo, Self::Coco, Self::Voc, Self::Folder];

    /// The layout's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yolo => "YOLO",
            Self::Coco => "COCO",
            Self::Voc => "Pascal VOC",
            Self::Folder => "images by class",
        }
    }
}

/// No data set, or more than one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// The folder cannot be read.
    #[error("cannot read the folder {}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// No layout is there.
    #[error("{} holds no data set that is known:\n  {}\n{help}", path.display(), seen.join("\n  "))]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// A line for each layout that was looked for.
        seen: Vec<String>,
        /// Advice.
        help: String,
    },
    /// Several files or folders could each be the training part.
    #[error("{}: {what}:\n  {}\n{help}", path.display(), candidates.join("\n  "))]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// The kind of file that there are several of.
        what: &'static str,
        /// They.
        candidates: Vec<String>,
        /// Advice.
        help: &'static str,
    },
    /// A COCO file whose images are not there.
    #[error(
        "the images of {} (first: {first}) are in no folder of {}; put them there, or correct `file_name`",
        annotations.display(), path.display()
    )]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// The COCO file.
        annotations: PathBuf,
        /// Its first image.
        first: String,
    },
    /// A COCO file that cannot be read.
    #[error(transparent)]
    Coco(#[from] super::InstancesError),
    /// A `data.yaml` that cannot be read.
    #[error(transparent)]
    Yolo(#[from] YoloError),
}

type Result<T> = std::result::Result<T, DiscoverError>;

/// The part of a data set that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Train,
    Val,
    Test,
}

/// Names of folders that hold a validation part, the likeliest first.
const VAL_NAMES: [&str; 4] = ["val", "valid", "validation", "test"];

/// Finds the data set in `root`: the first of `layouts` that is there.
///
/// # Errors
/// None is there, or it cannot be told what is what.
pub fn discover(root: &Path, layouts: &[Layout]) -> Result<Found> {
    fs::read_dir(root).map_err(|source| DiscoverError::Read { path: root.to_owned(), source })?;
    let mut seen = Vec::new();
    for layout in layouts {
        let found = match layout {
            Layout::Yolo => in_yolo(root)?,
            Layout::Coco => in_coco(root)?,
            Layout::Voc => in_voc(root)?,
            Layout::Folder => in_folders(root),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(missing) => seen.push(format!("{}: {missing}", layout.name())),
        }
    }
    let (path, help) = (root.to_owned(), advice(root));
    Err(DiscoverError::Nothing { path, seen, help })
}

/// Advice about a folder in which nothing was found.
fn advice(root: &Path) -> String {
    let folders = folders_below(root, 2);
    let has = |name: &str| folders.iter().any(|folder| folder.file_name().is_some_and(|own| own == name));
    if has("labels") && has("images") {
        return "images/ and labels/ look like YOLO's: write data.yaml beside them, for example\n  \
                train: images\n  names: [cat, dog]"
            .to_owned();
    }
    let images = folders.iter().map(|folder| files_in(folder, is_image).len()).sum::<usize>();
    match images {
        0 => "There are no images in it either: is it the right folder?".to_owned(),
        _ => format!(
            "{images} images are in it, and nothing says what they show. docs/DATA.md shows each layout; tools such as \
             CVAT, Label Studio and labelImg write them"
        ),
    }
}

/// A data set, or why it is none of a layout.
type Looked = std::result::Result<Found, String>;

fn in_yolo(root: &Path) -> Result<Looked> {
    let is_yaml = |path: &Path| has_extension(path, &["yaml", "yml"]);
    let mut files = files_in(root, is_yaml);
    files.sort_by_key(|path| path.file_stem().is_none_or(|stem| stem != "data"));
    let found =
        files.into_iter().find(|path| yolo::has_split(path, "train").is_ok_and(|part| part.is_some()));
    let Some(file) = found else {
        return Ok(Err("no data.yaml with `train` and `names`".to_owned()));
    };
    let is_usual = file.file_name().is_some_and(|name| name == "data.yaml");
    let mut data = Data::new(DataKind::Yolo, if is_usual { root.to_owned() } else { file.clone() });
    let mut told = vec![format!("train  {} `train`", shown(&file, root))];
    let mut has_val = false;
    for key in VAL_NAMES {
        match yolo::has_split(&file, key)? {
            Some(true) => {
                data.val_split = key.to_owned();
                has_val = true;
                told.push(format!("val    {} `{key}`", shown(&file, root)));
                break;
            }
            Some(false) => told.push(format!("(its `{key}` names a folder that is not there)")),
            None => {}
        }
    }
    Ok(Ok(Found { data: FoundData::Boxes(Box::new(data)), has_val, told }))
}

/// The lists of a COCO file, whose content does not matter yet.
#[derive(Deserialize)]
struct CocoFile {
    images: Vec<IgnoredAny>,
    annotations: Vec<IgnoredAny>,
    #[serde(rename = "categories")]
    _categories: Vec<IgnoredAny>,
}

/// JSON files that are looked into; a folder of labelme's has one for each image.
const MOST_JSON: usize = 200;

fn in_coco(root: &Path) -> Result<Looked> {
    let folders = folders_below(root, 2);
    let is_json = |path: &Path| has_extension(path, &["json"]);
    let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| files_in(folder, is_json)).collect();
    let is_instances =
        |path: &Path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("instances"));
    if files.iter().any(|path| is_instances(path)) {
        files.retain(|path| is_instances(path));
    }
    files.truncate(MOST_JSON);
    files.retain(|path| {
        let file = fs::read(path).ok().and_then(|text| {
            serde_json::from_slice::<CocoFile>(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text)).ok()
        });
        file.is_some_and(|file| !file.images.is_empty() && !file.annotations.is_empty())
    });
    if files.is_empty() {
        return Ok(Err("no JSON file with images, annotations and categories".to_owned()));
    }
    let of_role = |role: Option<Role>| -> Vec<&PathBuf> {
        files.iter().filter(|path| role_of(path, root) == role).collect()
    };
    let (train, unnamed) = (of_role(Some(Role::Train)), of_role(None));
    let train = match (train.as_slice(), unnamed.as_slice()) {
        ([train], _) | ([], [train]) => (*train).clone(),
        (several, others) => {
            let candidates = match several.is_empty() {
                true if others.is_empty() => files.iter().collect(),
                true => others.to_vec(),
                false => several.to_vec(),
            };
            return Err(DiscoverError::Ambiguous {
                path: root.to_owned(),
                what: "several COCO files could be the training part",
                candidates: candidates.iter().map(|path| shown(path, root)).collect(),
                help: "name one of them with `train` and one with `val` in it, and move the others elsewhere",
            });
        }
    };
    let val = [of_role(Some(Role::Val)), of_role(Some(Role::Test))].into_iter().flatten().next();
    let mut data = Data::new(DataKind::Coco, root.to_owned());
    let mut told = Vec::new();
    let mut part = |name: &str, annotations: &PathBuf, role| -> Result<(PathBuf, PathBuf)> {
        let images = images_of(annotations, root, role)?;
        told.push(format!("{name}  {}, images in {}", shown(annotations, root), shown(&images, root)));
        Ok((relative(annotations, root), relative(&images, root)))
    };
    (data.train_annotations, data.train_images) = part("train", &train, Role::Train)?;
    if let Some(val) = val {
        (data.val_annotations, data.val_images) =
            part("val  ", val, role_of(val, root).unwrap_or(Role::Val))?;
    }
    Ok(Ok(Found { data: FoundData::Boxes(Box::new(data)), has_val: val.is_some(), told }))
}

/// Images by which the folder of a COCO file's images is told.
const SAMPLED: usize = 20;

/// The folder that most images of a COCO file are in; of several, the one that is called after its part, then the
/// file's own.
fn images_of(annotations: &Path, root: &Path, role: Role) -> Result<PathBuf> {
    let instances = coco::read(annotations)?;
    let step = instances.images.len().div_ceil(SAMPLED).max(1);
    let names: Vec<&str> =
        instances.images.iter().step_by(step).map(|image| image.file_name.as_str()).collect();
    let own = annotations.parent().unwrap_or(root);
    let rank = |folder: &PathBuf| {
        let hits = names.iter().filter(|name| !name.is_empty() && folder.join(name).is_file()).count();
        (hits, role_of(folder, root) == Some(role), folder == own)
    };
    let mut folders = folders_below(root, 3);
    // Of equals, the last is taken: those nearer to the root come last.
    folders.reverse();
    let best = folders.into_iter().map(|folder| (rank(&folder), folder)).max_by_key(|(rank, _)| *rank);
    match best {
        Some(((1.., ..), folder)) => Ok(folder),
        _ => Err(DiscoverError::NoImages {
            path: root.to_owned(),
            annotations: annotations.to_owned(),
            first: names.first().copied().unwrap_or_default().to_owned(),
        }),
    }
}

fn in_voc(root: &Path) -> Result<Looked> {
    let is_xml = |path: &Path| has_extension(path, &["xml"]);
    let with_annotations: Vec<PathBuf> = folders_below(root, 2)
        .into_iter()
        .filter(|folder| !files_in(&folder.join("Annotations"), is_xml).is_empty())
        .collect();
    if let [home] = with_annotations.as_slice() {
        let list = |name: &str| home.join("ImageSets/Main").join(format!("{name}.txt")).is_file();
        let first = |names: &[&'static str]| names.iter().copied().find(|name| list(name));
        let train = first(&["train", "trainval"]);
        let val = match train {
            Some("train") => first(&VAL_NAMES),
            Some(_) => first(&["test"]),
            None => None,
        };
        return Ok(Ok(voc(home, root, train.unwrap_or("."), val)));
    }
    if !with_annotations.is_empty() {
        return Err(DiscoverError::Ambiguous {
            path: root.to_owned(),
            what: "several folders have Annotations",
            candidates: with_annotations.iter().map(|path| shown(path, root)).collect(),
            help: "name one of them",
        });
    }
    let is_flat = |name: &&str| !files_in(&root.join(name), is_xml).is_empty();
    let train = ["train", "."].into_iter().find(|name| is_flat(name));
    Ok(match train {
        Some(train) => {
            let val = VAL_NAMES.into_iter().find(|name| train != "." && is_flat(name));
            Ok(voc(root, root, train, val))
        }
        None => Err("no folder Annotations with XML files, and none beside images".to_owned()),
    })
}

fn voc(home: &Path, root: &Path, train: &str, val: Option<&str>) -> Found {
    let mut data = Data::new(DataKind::Voc, home.to_owned());
    data.train_split = train.to_owned();
    let called = |split: &str| match (home.join("Annotations").is_dir(), split) {
        (true, ".") => format!("all of {}", shown(&home.join("Annotations"), root)),
        (true, split) => shown(&home.join(format!("ImageSets/Main/{split}.txt")), root),
        (false, split) => format!("XML files beside the images in {}", shown(&home.join(split), root)),
    };
    let mut told = vec![format!("train  {}", called(train))];
    if let Some(val) = val {
        data.val_split = val.to_owned();
        told.push(format!("val    {}", called(val)));
    }
    Found { data: FoundData::Boxes(Box::new(data)), has_val: val.is_some(), told }
}

fn in_folders(root: &Path) -> Looked {
    let is_set = |folder: &Path| {
        let classes = folders_in(folder);
        let with_images = classes
            .iter()
            .filter(|class| image_folder::images_below(class).is_ok_and(|found| !found.is_empty()));
        classes.len() > 1 && with_images.count() == classes.len()
    };
    let mut data = LabelledData::new(LabelledKind::Folder, root.to_owned());
    let (train, val) = match is_set(&root.join("train")) {
        true => ("train", VAL_NAMES.into_iter().find(|name| is_set(&root.join(name)))),
        false if is_set(root) => (".", None),
        false => return Err("no two folders, each with the images of a class".to_owned()),
    };
    let told_of = |name: &str, folder: &str| {
        let folder = root.join(folder);
        format!("{name}  {} classes in {}", folders_in(&folder).len(), shown(&folder, root))
    };
    let mut told = vec![told_of("train", train)];
    data.train = train.into();
    if let Some(val) = val {
        data.val = val.into();
        told.push(told_of("val  ", val));
    }
    Ok(Found { data: FoundData::Labels(Box::new(data)), has_val: val.is_some(), told })
}

/// The part that a file or folder is called after: by its own name, else by those of the folders around it.
fn role_of(path: &Path, root: &Path) -> Option<Role> {
    let names = path.strip_prefix(root).unwrap_or(path).components().rev();
    let of_name = |name: &str| match name.to_lowercase() {
        name if name.contains("train") => Some(Role::Train),
        name if name.contains("val") => Some(Role::Val),
        name if name.contains("test") => Some(Role::Test),
        _ => None,
    };
    names.filter_map(|name| of_name(&name.as_os_str().to_string_lossy())).next()
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| known.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Files of a folder that are of a kind, sorted; none where there is no folder.
fn files_in(folder: &Path, is_kind: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = visible(folder);
    files.retain(|path| is_kind(path) && path.is_file());
    files
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let mut folders = visible(folder);
    folders.retain(|path| path.is_dir());
    folders
}

fn visible(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut entries: Vec<PathBuf> = entries.filter(|path| !is_hidden(path)).collect();
    entries.sort();
    entries
}

/// Folders that are looked into; ImageNet has a thousand for its classes.
const MOST_FOLDERS: usize = 5_000;

/// A folder and those below it, down to `depth`, the nearer first.
fn folders_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let (mut all, mut level) = (vec![folder.to_owned()], vec![folder.to_owned()]);
    for _ in 0..depth {
        level = level.iter().flat_map(|folder| folders_in(folder)).collect();
        all.extend(level.iter().take(MOST_FOLDERS.saturating_sub(all.len())).cloned());
    }
    all
}

fn relative(path: &Path, root: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(below) if below == Path::new("") => PathBuf::from("."),
        Ok(below) => below.to_owned(),
        Err(_) => path.to_owned(),
    }
}

fn shown(path: &Path, root: &Path) -> String {
    relative(path, root).display().to_string()
}
