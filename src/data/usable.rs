//! Usable images of a set of boxes: every file is looked up and its header read before anything is trained.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use super::decode::{self, DecodeError, Header};
use super::image_policy::{BadImage, BadImages, ImagePolicy, OnBadImage, Tolerance};
use super::instances::{ImageEntry, Instances, InstancesError};
use super::report::{FindingKind, LoadReport};

/// Images that can be used.
pub(super) struct Usable<'a> {
    pub(super) images: Vec<UsableImage<'a>>,
    /// Ids of the images that are left out.
    pub(super) left_out: BTreeSet<u64>,
    /// Images that may still turn out to be broken.
    pub(super) tolerance: Tolerance,
}

/// An image that can be used.
pub(super) struct UsableImage<'a> {
    pub(super) entry: &'a ImageEntry,
    pub(super) path: PathBuf,
    /// (width, height) of the pixels that its boxes are on.
    pub(super) size: (u32, u32),
}

/// The images of `instances` whose files in `folder` can be used, and findings on the others.
///
/// # Errors
/// No image; names that lead out of the folder; more files missing or bad than `policy` allows.
pub(super) fn usable<'a>(
    instances: &'a Instances,
    folder: &Path,
    policy: &ImagePolicy,
    report: &mut LoadReport,
) -> Result<Usable<'a>, InstancesError> {
    let listed = &instances.images;
    if listed.is_empty() {
        return Err(instances.content("`images` is empty".to_owned()));
    }
    if let Some(image) = listed.iter().find(|image| image.file_name.is_empty()) {
        return Err(instances.content(format!("image {} has no file_name; name its file", image.id)));
    }
    refuse_outside(instances, folder, policy)?;
    let looked: Vec<(PathBuf, Result<Header, DecodeError>)> = listed
        .par_iter()
        .map(|image| {
            let path = folder.join(&image.file_name);
            let header = decode::header(&path);
            (path, header)
        })
        .collect();
    let is_missing = |header: &Result<Header, DecodeError>| match header {
        Err(DecodeError::Read { source, .. }) => source.kind() == ErrorKind::NotFound,
        _ => false,
    };
    let missing: Vec<&ImageEntry> = listed
        .iter()
        .zip(&looked)
        .filter(|(_, (_, header))| is_missing(header))
        .map(|(image, _)| image)
        .collect();
    let missing_error = || InstancesError::MissingImages {
        path: instances.origin().to_owned(),
        folder: folder.to_owned(),
        count: missing.len(),
        total: listed.len(),
        first: missing.iter().take(3).map(|image| image.file_name.clone()).collect(),
    };
    if !missing.is_empty() && (policy.on_bad == OnBadImage::Stop || missing.len() == listed.len()) {
        return Err(missing_error());
    }
    missing.iter().for_each(|image| report.findings.found(FindingKind::MissingImage, image.id));

    let turns = Turns::of(instances, &looked);
    let mut left_out: BTreeSet<u64> = missing.iter().map(|image| image.id).collect();
    let (mut images, mut bad) = (Vec::with_capacity(listed.len()), Vec::new());
    let mut files = HashSet::new();
    for (entry, (path, header)) in listed.iter().zip(looked) {
        if is_missing(&header) {
            continue;
        }
        match header.and_then(|header| size_of(entry, &path, header, turns, report)) {
            Ok(size) => {
                if !files.insert(entry.file_name.as_str()) {
                    report.findings.found(FindingKind::SharedFile, entry.id);
                }
                images.push(UsableImage { entry, path, size });
            }
            Err(error) => {
                bad.push(BadImage { path, reason: error.to_string() });
                left_out.insert(entry.id);
                report.findings.found(FindingKind::BadImage, entry.id);
            }
        }
    }
    let tolerance = policy.after(missing.len() + bad.len(), listed.len());
    if tolerance.is_exceeded || images.is_empty() {
        return Err(match bad.is_empty() {
            true => missing_error(),
            false => BadImages::new(instances.origin(), &bad, listed.len(), policy).into(),
        });
    }
    let absent = missing.iter().map(|image| BadImage {
        path: folder.join(&image.file_name),
        reason: format!("{} is not in {}", image.file_name, folder.display()),
    });
    report.bad_images = absent.chain(bad).collect();
    Ok(Usable { images, left_out, tolerance })
}

/// The (width, height) that the boxes of an image are on; the size of its file where the entry has none.
fn size_of(
    entry: &ImageEntry,
    path: &Path,
    header: Header,
    turns: Turns,
    report: &mut LoadReport,
) -> Result<(u32, u32), DecodeError> {
    let &ImageEntry { id, width, height, .. } = entry;
    let Header { stored, upright, turned } = header;
    let mut found = |kind| report.findings.found(kind, id);
    if width == 0 || height == 0 {
        found(FindingKind::SizeFromFile);
        return Ok(upright);
    }
    let annotated = (width, height);
    if annotated != stored && annotated != upright {
        return Err(DecodeError::SizeDiffers { path: path.to_owned(), decoded: upright, annotated });
    }
    if !turned {
        return Ok(annotated);
    }
    if stored == upright {
        found(FindingKind::TurnUnseen);
        return Ok(upright);
    }
    match annotated == stored {
        true if turns.stored_are_upright => {
            found(FindingKind::BoxesUpright);
            Ok(upright)
        }
        true => {
            found(FindingKind::StoredPixels);
            Ok(stored)
        }
        false if turns.upright_are_stored => {
            found(FindingKind::BoxesStored);
            Ok(stored)
        }
        false => Ok(upright),
    }
}

/// Evidence of the boxes of images that EXIF turns by a quarter: some exporters write one size beside boxes
/// that were drawn on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turns {
    /// Of the images with the stored size, some boxes fit the upright image alone, and none the stored one
    /// alone.
    stored_are_upright: bool,
    /// Of the images with the upright size, some boxes fit the stored image alone, and none the upright one
    /// alone.
    upright_are_stored: bool,
}

impl Turns {
    fn of(instances: &Instances, looked: &[(PathBuf, Result<Header, DecodeError>)]) -> Self {
        // For each turned image the size it should have, and the other one.
        let mut turned = BTreeMap::new();
        for (image, (_, header)) in instances.images.iter().zip(looked) {
            if let &Ok(Header { stored, upright, .. }) = header
                && stored != upright
            {
                let is_stored = (image.width, image.height) == stored;
                turned.insert(
                    image.id,
                    if is_stored { (stored, upright, true) } else { (upright, stored, false) },
                );
            }
        }
        // A pixel beyond the edge is rounding.
        let fits = |[x, y, w, h]: [f64; 4], (width, height): (u32, u32)| {
            x.min(y) >= -1.0 && x + w <= f64::from(width) + 1.0 && y + h <= f64::from(height) + 1.0
        };
        // Boxes for and against the other size, of images with the upright and with the stored one.
        let mut votes = [(0, 0); 2];
        for row in &instances.annotations {
            let Some(&(own, other, is_stored)) = turned.get(&row.image_id) else { continue };
            let (against, towards) = &mut votes[usize::from(is_stored)];
            match (fits(row.bbox, own), fits(row.bbox, other)) {
                (true, false) => *against += 1,
                (false, true) => *towards += 1,
                _ => {}
            }
        }
        let [upright_are_stored, stored_are_upright] =
            votes.map(|(against, towards)| against == 0 && towards > 0);
        Self { stored_are_upright, upright_are_stored }
    }
}

/// Refuses names of files that lead out of the folder of images, or through a link out of it and the data
/// set's root.
fn refuse_outside(instances: &Instances, folder: &Path, policy: &ImagePolicy) -> Result<(), InstancesError> {
    if policy.allow_outside {
        return Ok(());
    }
    let roots: Vec<PathBuf> = [Some(folder), policy.root.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(|root| root.canonicalize().ok())
        .collect();
    let leads_out = |image: &&ImageEntry| {
        let name = Path::new(&image.file_name);
        let stays = name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        // A file that is not there is told apart later.
        !stays
            || folder
                .join(name)
                .canonicalize()
                .is_ok_and(|place| !roots.iter().any(|root| place.starts_with(root)))
    };
    let outside: Vec<&ImageEntry> = instances.images.par_iter().filter(leads_out).collect();
    let Some(first) = outside.first() else { return Ok(()) };
    Err(instances.content(format!(
        "{} of the {} images lie outside {} (first: image {}, {:?}); move them there and name them without `..`, or set data.allow_outside = true if they are meant",
        outside.len(),
        instances.images.len(),
        folder.display(),
        first.id,
        first.file_name,
    )))
}
