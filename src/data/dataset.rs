//! Data set of boxes for training and evaluation: images, classes, and the boxes of each image.
//!
//! Nothing is silent: [`Dataset::new`] returns a [`LoadReport`] with the count and the first ids of
//! everything that was not taken as it stands.
//!
//! | found                                     | policy                                              |
//! |-------------------------------------------|-----------------------------------------------------|
//! | crowd (`iscrowd`) or `ignore` box         | kept aside: never a positive, never a negative      |
//! | box without a size (under 0.01 px)        | dropped                                             |
//! | box reaching outside its image            | clipped when it becomes a target                    |
//! | box entirely outside its image            | dropped                                             |
//! | annotation of an image not in the file    | dropped (subsets often keep them)                   |
//! | annotation of an unknown category         | error: the class list is wrong                      |
//! | repeated image or category id             | error                                               |
//! | one name for two categories               | two classes                                         |
//! | image without a size                      | the size of its file                                |
//! | image file missing or broken              | error, or left out ([`ImagePolicy`])                |
//! | image file outside the folder of images   | error, unless [`ImagePolicy`] allows it             |
//! | image turned by EXIF                      | as its size says, or as its boxes alone fit         |
//! | gaps in the category ids                  | mapped to 0..K ([`CategoryMap`])                    |
//!
//! `docs/DATA.md` adds the policies of each format's reader. Boxes stay as they are in the file;
//! [`Annotation::clipped`] gives the box that is trained on. Evaluation takes the same
//! [`Instances`] by pycocotools' rules and is not touched by any of this.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;

use super::coco;
use super::decode::{self, DecodeError};
use super::image_policy::{ImagePolicy, Tolerance};
use super::instances::{AnnotationEntry, CategoryEntry, ImageEntry, Instances, InstancesError};
use super::pixels::Pixels;
use super::report::{FindingKind, LoadReport};
use super::usable::usable;

/// A box side below this, in pixels, is no side: it would vanish in f32 arithmetic.
pub const MIN_SIDE_PX: f32 = 0.01;

/// An image's id in its COCO file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub u64);

/// A category's id in its COCO file; ids may have gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CategoryId(pub u64);

/// A category's place in 0..K, in the order of the ids. No background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIndex(pub u32);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image of the data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Id of the image.
    pub id: ImageId,
    /// The file's name as the annotations give it.
    pub file_name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Path of the file.
    pub path: PathBuf,
    /// Weight in the losses of what is matched with none of its objects.
    pub weight: f32,
}

/// Annotated object.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Id of the annotation.
    pub id: u64,
    /// `[x, y, width, height]` in pixels of the original image, as in the file.
    pub bbox: [f64; 4],
    /// Class of the object.
    pub category: ClassIndex,
    /// Pixels covered: the file's `area`, or the box's where the file has none.
    pub area: f64,
    /// A crowd region (`iscrowd`).
    pub crowd: bool,
    /// To be ignored (`ignore`; VOC's `difficult`).
    pub ignore: bool,
    /// Confidence of the detector that found it; `None` where a person drew it.
    pub score: Option<f64>,
    /// Weight in the losses of what is matched with it: 1, or less of a [pseudo-label](super::unlabelled).
    pub weight: f32,
}

impl Annotation {
    /// True if a detector may be trained to find this object.
    pub fn is_positive(&self) -> bool {
        !self.crowd && !self.ignore
    }

    /// The box as `xyxy` clipped to an image of this size, in f32 as torchvision's reference computes
    /// it; `None` where nothing of at least [`MIN_SIDE_PX`] is left.
    pub fn clipped(&self, width: u32, height: u32) -> Option<[f32; 4]> {
        let [x, y, w, h] = self.bbox.map(|number| number as f32);
        let (right, bottom) = (width as f32, height as f32);
        let [x1, y1] = [x.clamp(0.0, right), y.clamp(0.0, bottom)];
        let [x2, y2] = [(x + w).clamp(0.0, right), (y + h).clamp(0.0, bottom)];
        // NaN fails the comparison too.
        (x2 - x1 >= MIN_SIDE_PX && y2 - y1 >= MIN_SIDE_PX).then_some([x1, y1, x2, y2])
    }
}

/// The contiguous classes 0..K and the category ids they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryMap {
    entries: Vec<(CategoryId, String)>,
}

impl CategoryMap {
    /// Sorts the categories by id; an id that comes twice is returned as the error.
    pub fn new(mut categories: Vec<(CategoryId, String)>) -> Result<Self, CategoryId> {
        categories.sort_by_key(|&(id, _)| id);
        match categories.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0),
            None => Ok(Self { entries: categories }),
        }
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no class.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The class of a category id.
    pub fn class(&self, id: CategoryId) -> Option<ClassIndex> {
        let place = self.entries.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(ClassIndex(place as u32))
    }

    /// The category id of a class.
    pub fn id(&self, class: ClassIndex) -> Option<CategoryId> {
        self.entries.get(class.0 as usize).map(|&(id, _)| id)
    }

    /// The name of a class.
    pub fn name(&self, class: ClassIndex) -> Option<&str> {
        self.entries.get(class.0 as usize).map(|(_, name)| name.as_str())
    }

    /// (id, name) of class 0, 1, ...
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (CategoryId, &str)> {
        self.entries.iter().map(|(id, name)| (*id, name.as_str()))
    }
}

/// A loaded data set: images, classes, and the annotations of each image.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The images, in the order of the file.
    pub images: Vec<Image>,
    /// The classes.
    pub categories: CategoryMap,
    annotations: Vec<Vec<Annotation>>,
    pixels: Store,
    listed: Listed,
    tolerance: Tolerance,
}

/// Images as the annotations list them, with those that were left out: the order of training images is
/// theirs, so that an image that breaks changes no other batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Listed {
    /// The index of each image among the usable ones; empty if all are usable.
    pub(super) usable: Vec<Option<usize>>,
    /// The annotated (width, height) of each.
    pub(super) sizes: Vec<(u32, u32)>,
}

/// Storage of the pixels of a data set.
#[derive(Clone)]
enum Store {
    /// The images' files.
    Files,
    /// A function of the image's index.
    Given(Arc<RgbOf>),
}

/// The pixels of the image at an index.
type RgbOf = dyn Fn(usize) -> Result<RgbImage, BoxError> + Send + Sync;

/// An error of a caller's own function.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Dataset {
    /// Reads `annotations` (COCO `instances_*.json`) of the images in the folder `images`.
    ///
    /// The header of every image is read.
    ///
    /// # Errors
    /// Errors of [`coco::read`] and [`Dataset::new`].
    pub fn load(
        annotations: &Path,
        images: &Path,
        policy: &ImagePolicy,
    ) -> Result<(Self, LoadReport), InstancesError> {
        Self::new(&coco::read(annotations)?, images, policy)
    }

    /// The data set of `instances`, whose images are files in `folder`.
    ///
    /// # Errors
    /// If the instances contradict themselves, or more image files are missing or broken than `policy`
    /// allows.
    pub fn new(
        instances: &Instances,
        folder: &Path,
        policy: &ImagePolicy,
    ) -> Result<(Self, LoadReport), InstancesError> {
        let mut report = report_on(instances);
        let categories = categories(instances, &mut report)?;
        let found = usable(instances, folder, policy, &mut report)?;
        let mut listed = Listed::default();
        if !found.left_out.is_empty() {
            let mut index = 0..;
            let place =
                |image: &ImageEntry| (!found.left_out.contains(&image.id)).then(|| index.next()).flatten();
            listed.usable = instances.images.iter().map(place).collect();
            listed.sizes = instances.images.iter().map(|image| (image.width, image.height)).collect();
        }
        let images = found.images.into_iter().map(|image| {
            let (width, height) = image.size;
            Image { width, height, ..image_of(image.entry, image.path) }
        });
        let set = Self {
            listed,
            tolerance: found.tolerance,
            ..Self::of(images.collect(), categories, Store::Files)
        };
        set.with_boxes(instances, &found.left_out, report)
    }

    /// BLAKE3 of the set, hexadecimal: the classes, and of each image its file's name, size and boxes; not its pixels.
    pub fn blake3(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for (id, name) in self.categories.iter() {
            part(&id.0.to_le_bytes());
            part(name.as_bytes());
        }
        for (image, annotations) in self.images.iter().zip(&self.annotations) {
            part(image.file_name.as_bytes());
            part(&[image.width.to_le_bytes(), image.height.to_le_bytes()].concat());
            if image.weight != 1.0 {
                part(&image.weight.to_bits().to_le_bytes());
            }
            for annotation in annotations {
                let ClassIndex(class) = annotation.category;
                part(&class.to_le_bytes());
                part(&annotation.bbox.map(|value| value.to_bits().to_le_bytes()).concat());
                part(&[u8::from(annotation.crowd), u8::from(annotation.ignore)]);
                if annotation.weight != 1.0 {
                    part(&annotation.weight.to_bits().to_le_bytes());
                }
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// The data set of `instances`, whose images are made by a function: image `i` of
    /// `instances.images` is `pixels(i)`, as wide and high as the entry says: an image of the `image` crate,
    /// or an array (height, width, 3) of `ndarray`.
    ///
    /// The loader calls the function from several threads at once, anew in every epoch.
    ///
    /// ```
    /// use ckd_det::data::{Dataset, Instances};
    /// use image::RgbImage;
    ///
    /// let mut set = Instances::of_classes(["square", "disc"]);
    /// set.push_image("frame 0", (64, 48), [(0, [8.0, 8.0, 16.0, 16.0])]); // x, y, width, height
    /// set.push_image("frame 1", (64, 48), []);
    /// let (dataset, report) = Dataset::with_pixels(&set, |_index| Ok(RgbImage::new(64, 48)))?;
    /// assert_eq!((dataset.images.len(), report.positives), (2, 1));
    /// # Ok::<(), ckd_det::data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// If the instances contradict themselves, or do not say an image's size.
    pub fn with_pixels<P: Pixels>(
        instances: &Instances,
        pixels: impl Fn(usize) -> Result<P, BoxError> + Send + Sync + 'static,
    ) -> Result<(Self, LoadReport), InstancesError> {
        let mut report = report_on(instances);
        let categories = categories(instances, &mut report)?;
        let entries = instances.images.iter().map(|entry| image_of(entry, &entry.file_name)).collect();
        if let Some(ImageEntry { id, file_name, width, height }) =
            instances.images.iter().find(|image| image.width == 0 || image.height == 0)
        {
            let problem =
                format!("image {id} ({file_name}) is {width}x{height} pixels; give the size it will have");
            return Err(instances.content(problem));
        }
        let rgb = move |index| Ok(pixels(index)?.rgb()?.into_owned());
        let set = Self::of(entries, categories, Store::Given(Arc::new(rgb)));
        set.with_boxes(instances, &BTreeSet::new(), report)
    }

    /// A data set of image files from its parts: `annotations[i]` belong to `images[i]`.
    ///
    /// # Panics
    /// When the two differ in length.
    pub fn from_parts(
        images: Vec<Image>,
        categories: CategoryMap,
        annotations: Vec<Vec<Annotation>>,
    ) -> Self {
        assert_eq!(images.len(), annotations.len(), "one list of annotations per image");
        let (listed, tolerance) = (Listed::default(), Tolerance::default());
        Self { images, categories, annotations, pixels: Store::Files, listed, tolerance }
    }

    /// These images and those of `more` with their boxes as `changed`, whose classes are then these and whose ids follow these;
    /// `None` where pixels are made in code.
    pub(super) fn with_more(
        &self,
        more: Self,
        weight: f32,
        changed: impl Fn(&mut Annotation),
    ) -> Option<Self> {
        let (Store::Files, Store::Files) = (&self.pixels, &more.pixels) else { return None };
        let mut all = self.clone();
        let first = self.images.iter().map(|image| image.id.0 + 1).max().unwrap_or(0);
        let listed = [self.whole_list(), more.whole_list()];
        if listed.iter().any(|listed| listed.usable.contains(&None)) {
            let [ours, theirs] = listed;
            let moved = theirs.usable.iter().map(|place| place.map(|place| place + self.images.len()));
            all.listed.usable = ours.usable.into_iter().chain(moved).collect();
            all.listed.sizes = [ours.sizes, theirs.sizes].concat();
        }
        all.tolerance = self.tolerance.and(more.tolerance);
        let images = (first..).zip(more.images);
        all.images.extend(images.map(|(id, image)| Image { id: ImageId(id), weight, ..image }));
        all.annotations.extend(more.annotations.into_iter().map(|mut annotations| {
            annotations.iter_mut().for_each(&changed);
            annotations
        }));
        Some(all)
    }

    /// All images as they are listed, also where all of them are usable.
    fn whole_list(&self) -> Listed {
        match self.listed.usable.is_empty() {
            false => self.listed.clone(),
            true => Listed {
                usable: (0..self.images.len()).map(Some).collect(),
                sizes: self.images.iter().map(|image| (image.width, image.height)).collect(),
            },
        }
    }

    /// The images as they are listed; empty if all of them are usable.
    pub(super) fn listed(&self) -> &Listed {
        &self.listed
    }

    /// Images that may still turn out to be broken.
    pub(super) fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    /// The annotations of the image at index `image`, crowd and ignored ones included.
    pub fn annotations(&self, image: usize) -> &[Annotation] {
        &self.annotations[image]
    }

    /// The images that `keep` names by index, and their boxes as they are trained on: sizes from the files,
    /// boxes clipped.
    pub fn corrected(&self, keep: impl Fn(usize) -> bool) -> Instances {
        let categories =
            self.categories.iter().map(|(id, name)| CategoryEntry { id: id.0, name: name.to_owned() });
        let mut set = Instances::new(Vec::new(), Vec::new(), categories.collect());
        for (index, image) in self.images.iter().enumerate().filter(|(index, _)| keep(*index)) {
            let Image { id, file_name, width, height, .. } = image;
            let (id, file_name) = (id.0, file_name.clone());
            set.images.push(ImageEntry { id, file_name, width: *width, height: *height });
            for annotation in &self.annotations[index] {
                let bbox = within(annotation.bbox, *width, *height);
                let area = match bbox == annotation.bbox {
                    true => annotation.area,
                    false => annotation.area.min(bbox[2] * bbox[3]),
                };
                set.annotations.push(AnnotationEntry {
                    id: annotation.id,
                    image_id: id,
                    category_id: self.categories.id(annotation.category).map_or(0, |id| id.0),
                    bbox,
                    area: Some(area),
                    iscrowd: annotation.crowd,
                    ignore: annotation.ignore,
                    score: annotation.score,
                });
            }
        }
        set
    }

    /// The image at index `image`, as it was annotated: decoded, or made by the caller's function.
    ///
    /// # Errors
    /// If it cannot be had, or has another size than its annotations say.
    pub fn pixels(&self, image: usize) -> Result<RgbImage, DecodeError> {
        let Image { width, height, path, .. } = &self.images[image];
        match &self.pixels {
            Store::Files => decode::read_annotated(path, *width, *height),
            Store::Given(pixels) => {
                let given = pixels(image)
                    .map_err(|source| DecodeError::Given { image: path.display().to_string(), source })?;
                let (decoded, annotated) = ((given.width(), given.height()), (*width, *height));
                match decoded == annotated {
                    true => Ok(given),
                    false => Err(DecodeError::SizeDiffers { path: path.clone(), decoded, annotated }),
                }
            }
        }
    }

    fn of(images: Vec<Image>, categories: CategoryMap, pixels: Store) -> Self {
        let annotations = vec![Vec::new(); images.len()];
        let (listed, tolerance) = (Listed::default(), Tolerance::default());
        Self { annotations, images, categories, pixels, listed, tolerance }
    }

    /// Sorts the boxes to their images, dropping those that the policies name, and counts.
    fn with_boxes(
        mut self,
        instances: &Instances,
        skipped: &BTreeSet<u64>,
        mut report: LoadReport,
    ) -> Result<(Self, LoadReport), InstancesError> {
        let mut known = HashMap::with_capacity(self.images.len());
        for (place, image) in self.images.iter().enumerate() {
            if known.insert(image.id.0, place).is_some() {
                let id = image.id;
                let problem = format!("`images` lists id {id} twice; give every image its own id");
                return Err(instances.content(problem));
            }
        }
        for entry in &instances.annotations {
            let category = self.categories.class(CategoryId(entry.category_id)).ok_or_else(|| {
                instances.content(format!(
                    "annotation {} has category_id {}, which `categories` does not list; add the category or remove the annotation",
                    entry.id, entry.category_id
                ))
            })?;
            match known.get(&entry.image_id) {
                Some(&image) => self.take(entry, category, image, &mut report),
                None if skipped.contains(&entry.image_id) => {}
                None => report.findings.found(FindingKind::UnknownImage, entry.id),
            }
        }
        find_fractions(&instances.annotations, &mut report);
        report.images = self.images.len();
        report.categories = self.categories.len();
        for annotations in &self.annotations {
            let positives = annotations.iter().filter(|annotation| annotation.is_positive()).count();
            report.positives += positives;
            report.images_without_positives += usize::from(positives == 0);
        }
        Ok((self, report))
    }

    fn take(&mut self, entry: &AnnotationEntry, category: ClassIndex, image: usize, report: &mut LoadReport) {
        let &AnnotationEntry { id, bbox, iscrowd: crowd, ignore, score, .. } = entry;
        let area = entry.area();
        let annotation = Annotation { id, bbox, category, area, crowd, ignore, score, weight: 1.0 };
        if let Some(kind) = trouble(&annotation, &self.images[image]) {
            report.findings.found(kind, id);
            if kind != FindingKind::Clipped {
                return;
            }
        }
        if crowd {
            report.findings.found(FindingKind::Crowd, id);
        } else if ignore {
            report.findings.found(FindingKind::Ignored, id);
        }
        self.annotations[image].push(annotation);
    }
}

fn report_on(instances: &Instances) -> LoadReport {
    LoadReport {
        path: instances.origin().to_owned(),
        images: 0,
        categories: 0,
        positives: 0,
        images_without_positives: 0,
        findings: instances.findings().clone(),
        bad_images: Vec::new(),
    }
}

fn categories(instances: &Instances, report: &mut LoadReport) -> Result<CategoryMap, InstancesError> {
    if instances.categories.is_empty() {
        let problem = "`categories` is empty; a detector needs at least one class";
        return Err(instances.content(problem.to_owned()));
    }
    let listed = instances.categories.iter();
    let map =
        CategoryMap::new(listed.map(|category| (CategoryId(category.id), category.name.clone())).collect());
    let map = map.map_err(|id| {
        instances.content(format!("`categories` lists id {} twice; give every category its own id", id.0))
    })?;
    for (before, after) in map.entries.iter().zip(map.entries.iter().skip(1)) {
        if after.0.0 - before.0.0 > 1 {
            report.findings.found(FindingKind::CategoryGap, before.0.0);
        }
    }
    let mut names = HashSet::new();
    for CategoryEntry { id, name } in &instances.categories {
        if !names.insert(name) {
            report.findings.found(FindingKind::SharedName, *id);
        }
    }
    Ok(map)
}

fn image_of(entry: &ImageEntry, path: impl AsRef<Path>) -> Image {
    let ImageEntry { id, file_name, width, height } = entry.clone();
    Image { id: ImageId(id), file_name, width, height, path: path.as_ref().to_owned(), weight: 1.0 }
}

/// A box cut to its image if it reaches out of it.
fn within([x, y, w, h]: [f64; 4], width: u32, height: u32) -> [f64; 4] {
    let (right, bottom) = (f64::from(width), f64::from(height));
    if x >= 0.0 && y >= 0.0 && x + w <= right && y + h <= bottom {
        return [x, y, w, h];
    }
    let [x1, y1] = [x.clamp(0.0, right), y.clamp(0.0, bottom)];
    [x1, y1, (x + w).clamp(0.0, right) - x1, (y + h).clamp(0.0, bottom) - y1]
}

/// Boxes in fractions of the image would be taken for specks in its corner.
fn find_fractions(annotations: &[AnnotationEntry], report: &mut LoadReport) {
    let is_fraction = |entry: &AnnotationEntry| {
        let [x, y, w, h] = entry.bbox;
        x >= 0.0 && y >= 0.0 && x + w <= 1.0 && y + h <= 1.0
    };
    if annotations.iter().all(is_fraction) {
        annotations.iter().for_each(|entry| report.findings.found(FindingKind::Fractions, entry.id));
    }
}

/// The reason to drop or clip a box, if there is one.
fn trouble(annotation: &Annotation, image: &Image) -> Option<FindingKind> {
    let [x, y, w, h] = annotation.bbox;
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let least = f64::from(MIN_SIDE_PX);
    if !(annotation.bbox.iter().all(|number| number.is_finite()) && w >= least && h >= least) {
        return Some(FindingKind::NoSize);
    }
    if annotation.clipped(image.width, image.height).is_none() {
        return Some(FindingKind::Outside);
    }
    // COCO's own boxes overshoot by rounding; only a pixel or more is worth a word.
    let overshoot = (-x).max(-y).max(x + w - width).max(y + h - height);
    (overshoot >= 1.0).then_some(FindingKind::Clipped)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "Files",
            Self::Given(_) => "Given(..)",
        })
    }
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Files, Self::Files) => true,
            (Self::Given(ours), Self::Given(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}
