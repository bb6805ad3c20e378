//! Names of images below the folder that holds them all.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Two images that would have one file of results.
#[derive(Debug, thiserror::Error)]
#[error(
    "the images {} and {} would both have the label file {file}; rename one of them, or write their results to \
     two folders",
    first.display(), second.display()
)]
pub struct SameName {
    /// The first image.
    pub first: PathBuf,
    /// The second image.
    pub second: PathBuf,
    /// The file.
    pub file: String,
}

/// Images, each named by its path below the deepest folder that holds them all, with forward slashes.
#[derive(Debug)]
pub struct ImageNamesBelow {
    folder: PathBuf,
    images: Vec<PathBuf>,
    names: Vec<String>,
}

impl ImageNamesBelow {
    /// Names of the images at `paths`.
    pub fn of<P: AsRef<Path>>(paths: &[P]) -> Self {
        let images: Vec<PathBuf> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        let whole: Vec<PathBuf> = images.iter().map(|path| absolute(path)).collect();
        let mut folder = whole.first().and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned();
        for path in &whole {
            while !path.starts_with(&folder) && folder.pop() {}
        }
        let names = whole.iter().map(|path| slashed(path.strip_prefix(&folder).unwrap_or(path))).collect();
        Self { folder, images, names }
    }

    /// The folder that holds all images.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of the image at `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// The name of the image at `index` without what follows its last dot.
    pub fn stem(&self, index: usize) -> &str {
        let name = self.name(index);
        match name.rsplit_once('.') {
            Some((stem, end)) if !stem.is_empty() && !stem.ends_with('/') && !end.contains('/') => stem,
            _ => name,
        }
    }

    /// Checks that no two images have the same name but for its end.
    ///
    /// # Errors
    /// Names the first two.
    pub(super) fn check_stems(&self) -> Result<(), SameName> {
        let mut seen = HashMap::new();
        for index in 0..self.names.len() {
            if let Some(other) = seen.insert(self.stem(index), index) {
                return Err(SameName {
                    first: self.images[other].clone(),
                    second: self.images[index].clone(),
                    file: format!("{}.txt", self.stem(index)),
                });
            }
        }
        Ok(())
    }
}

/// The whole path, without `.` and `..`: a name must not lead out of the folder of results.
fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn slashed(path: &Path) -> String {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_below_the_folder_that_holds_them_all() {
        let names = |paths: &[&str]| {
            let names = ImageNamesBelow::of(paths);
            (0..paths.len()).map(|index| names.name(index).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["photos/a.jpg"]), ["a.jpg"]);
        assert_eq!(names(&["photos/a.jpg", "photos/deep/b.jpg"]), ["a.jpg", "deep/b.jpg"]);
        assert_eq!(names(&["x/../one/a.jpg", "./two/a.jpg"]), ["one/a.jpg", "two/a.jpg"]);
        assert!(names(&["../../a.jpg", "b.jpg"]).iter().all(|name| !name.contains("..")));
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn two_images_with_one_label_file_are_named() {
        let stems = |paths: &[&str]| ImageNamesBelow::of(paths).check_stems();
        assert!(stems(&["p/a.jpg", "p/b.jpg", "p/c/a.png", "p/a.b/c", "p/.png"]).is_ok());
        let error = stems(&["p/a.jpg", "p/c/a.jpg", "p/c/a.png"]).unwrap_err().to_string();
        assert!(error.contains("p/c/a.jpg and p/c/a.png") && error.contains("c/a.txt"), "{error}");
    }
}
