//! Images of the command line as an annotation file knows them: their ids, their objects, and the pixels that they were
//! annotated on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::data::decode::{self, DecodeError};
use crate::data::{
    Annotation, CategoryId, ClassIndex, Dataset, ImagePolicy, Instances, InstancesError, coco,
};
use crate::eval::ImageNames;

/// Ids and sizes of images, in their order.
pub(super) struct Annotated {
    ids: Vec<u64>,
    /// (width, height) of the pixels that the boxes of each image are on.
    sizes: Sizes,
    /// The images that can be used, with their objects.
    set: Option<Dataset>,
    /// Places in `set` by image id.
    places: HashMap<u64, usize>,
}

impl Annotated {
    /// Images without annotations, numbered from 0.
    pub(super) fn numbered(images: &[PathBuf]) -> Self {
        let ids = (0..images.len() as u64).collect();
        Self { ids, sizes: HashMap::new(), set: None, places: HashMap::new() }
    }

    /// The images that the names of the files in `annotations` stand for.
    ///
    /// # Errors
    /// An annotation file that cannot be read, or that knows one of the images not, or twice.
    pub(super) fn of(images: &[PathBuf], annotations: &Path) -> anyhow::Result<Self> {
        let listed = coco::read(annotations)?;
        let names = ImageNames::of(&listed);
        let id = |image: &PathBuf| {
            names.id(&image.to_string_lossy()).ok_or_else(|| {
                let (image, annotations) = (image.display(), annotations.display());
                anyhow::anyhow!(
                    "{image} is the name of no one image of {annotations}; leave it out, or add it there"
                )
            })
        };
        let ids = images.iter().map(id).collect::<anyhow::Result<Vec<u64>>>()?;
        let (sizes, set) = used(listed, &ids, images)?;
        let images = set.iter().flat_map(|set| set.images.iter().enumerate());
        let places = images.map(|(place, image)| (image.id.0, place)).collect();
        Ok(Self { ids, sizes, set, places })
    }

    /// The id of the image at `index`.
    pub(super) fn id(&self, index: usize) -> u64 {
        self.ids[index]
    }

    /// The objects of the image at `index`, if an annotation file tells them.
    pub(super) fn objects(&self, index: usize) -> Option<&[Annotation]> {
        Some(self.set.as_ref()?.annotations(*self.places.get(&self.ids[index])?))
    }

    /// The class of a category among those of the objects.
    pub(super) fn class(&self, category: CategoryId) -> Option<ClassIndex> {
        self.set.as_ref()?.categories.class(category)
    }

    /// The name of a class of the objects.
    pub(super) fn name(&self, class: ClassIndex) -> &str {
        self.set.as_ref().and_then(|set| set.categories.name(class)).unwrap_or_default()
    }

    /// The pixels of the image at `index`, whose file is `path`: those that it was annotated on, else upright.
    pub(super) fn read(&self, index: usize, path: &Path) -> Result<RgbImage, DecodeError> {
        match self.sizes.get(&self.ids[index]) {
            Some(&(width, height)) => decode::read_annotated(path, width, height),
            None => decode::read(path),
        }
    }
}

/// (width, height) by image id.
type Sizes = HashMap<u64, (u32, u32)>;

/// The sizes that training and evaluation on `listed` take for these images, and the images that they can use.
fn used(
    mut listed: Instances,
    ids: &[u64],
    images: &[PathBuf],
) -> Result<(Sizes, Option<Dataset>), InstancesError> {
    let paths: HashMap<u64, &PathBuf> = ids.iter().copied().zip(images).collect();
    listed.images.retain(|image| paths.contains_key(&image.id));
    listed.annotations.retain(|row| paths.contains_key(&row.image_id));
    for image in &mut listed.images {
        image.file_name = paths[&image.id].to_string_lossy().into_owned();
    }
    let written = listed.images.iter().filter(|image| image.width > 0 && image.height > 0);
    let mut sizes: Sizes = written.map(|image| (image.id, (image.width, image.height))).collect();
    let policy = ImagePolicy { allow_outside: true, ..ImagePolicy::skip(1.0) };
    match Dataset::new(&listed, Path::new(""), &policy) {
        Ok((set, _)) => {
            sizes.extend(set.images.iter().map(|image| (image.id.0, (image.width, image.height))));
            Ok((sizes, Some(set)))
        }
        // None of the files can be used, which is told of each when it is read.
        Err(InstancesError::MissingImages { .. } | InstancesError::Bad(_)) => Ok((sizes, None)),
        Err(error) => Err(error),
    }
}
