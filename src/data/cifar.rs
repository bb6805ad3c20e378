//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary and python version.
//!
//! A row is a label (CIFAR-100: the coarse label, then the fine one, which counts) and 3,072 bytes: 32x32
//! pixels, all red ones first. Training batches `data_batch_1.bin` to `data_batch_5.bin` may be fewer or have
//! other numbers of rows. The python version has the same names without `.bin`, each a pickle of a
//! dictionary; it is read as data, by the function that is given for it.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::LabelledError;
use super::labelled::Labelled;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// CIFAR-10 or CIFAR-100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cifar {
    /// 10 classes.
    Ten,
    /// 100 classes.
    Hundred,
}

/// Training or test images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For testing.
    Test,
}

impl Cifar {
    /// The folders that its archives unpack to: binary and python version.
    fn folders(self) -> [&'static str; 2] {
        match self {
            Self::Ten => ["cifar-10-batches-bin", "cifar-10-batches-py"],
            Self::Hundred => ["cifar-100-binary", "cifar-100-python"],
        }
    }

    /// Folder of the images if `root` is one of these folders or the one around them; else `root`.
    pub fn find(self, root: &Path) -> PathBuf {
        let below = self.folders().map(|folder| root.join(folder));
        below.into_iter().find(|folder| folder.is_dir()).unwrap_or_else(|| root.to_owned())
    }

    /// Reads a split of the data set in `folder`; `unpickle` reads a file of the python version: the labels
    /// under a name, and the rows of bytes.
    ///
    /// # Errors
    /// Files that are missing or hold no whole rows; labels beyond the classes.
    pub fn load(
        self,
        folder: &Path,
        split: Split,
        unpickle: impl Fn(&[u8], &str) -> Result<(Vec<u32>, Vec<u8>), String>,
    ) -> Result<Labelled, LabelledError> {
        let classes = self.classes(folder)?;
        let (mut labels, mut bytes) = (Vec::new(), Vec::new());
        for path in self.files(folder, split) {
            if path.extension().is_some() {
                self.append(&path, &mut labels, &mut bytes)?;
                continue;
            }
            let format = |reason: String| LabelledError::Format { path: path.clone(), reason };
            let key = match self {
                Self::Ten => "labels",
                Self::Hundred => "fine_labels",
            };
            let (more, rows) = unpickle(&read(&path)?, key).map_err(format)?;
            if rows.len() != more.len() * 3 * PLANE {
                let images = rows.len() / (3 * PLANE);
                return Err(LabelledError::Counts { path, images, labels: more.len() });
            }
            labels.extend(more);
            rows.chunks_exact(3 * PLANE).for_each(|planes| interleave(planes, &mut bytes));
        }
        Labelled::decoded(classes, labels, (SIDE, SIDE), bytes, folder.to_owned())
    }

    /// The first file of a split, which must be there.
    pub fn first_file(self, folder: &Path, split: Split) -> PathBuf {
        self.files(folder, split).swap_remove(0)
    }

    /// The files of a split that there are, of the python version if only that is there; the first one
    /// always.
    fn files(self, folder: &Path, split: Split) -> Vec<PathBuf> {
        let names: Vec<String> = match (self, split) {
            (Self::Ten, Split::Train) => (1..=5).map(|batch| format!("data_batch_{batch}")).collect(),
            (Self::Ten, Split::Test) => vec!["test_batch".to_owned()],
            (Self::Hundred, Split::Train) => vec!["train".to_owned()],
            (Self::Hundred, Split::Test) => vec!["test".to_owned()],
        };
        let binary = folder.join(format!("{}.bin", names[0]));
        let extension = if !binary.exists() && folder.join(&names[0]).is_file() { "" } else { ".bin" };
        let paths = names.into_iter().map(|name| folder.join(format!("{name}{extension}"))).enumerate();
        paths.filter(|(index, path)| *index == 0 || path.exists()).map(|(_, path)| path).collect()
    }

    /// Labels before the pixels of a row.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn append(self, path: &Path, labels: &mut Vec<u32>, bytes: &mut Vec<u8>) -> Result<(), LabelledError> {
        let content = read(path)?;
        let head = self.label_bytes();
        let row = head + 3 * PLANE;
        if content.is_empty() || content.len() % row != 0 {
            let reason = format!(
                "it has {} bytes, which are no rows of {row}; unpack the binary version of the data set again",
                content.len()
            );
            return Err(LabelledError::Format { path: path.to_owned(), reason });
        }
        for row in content.chunks_exact(row) {
            labels.push(row[head - 1].into());
            interleave(&row[head..], bytes);
        }
        Ok(())
    }

    /// Class names from the text file beside the images, else numbers.
    fn classes(self, folder: &Path) -> Result<Vec<String>, LabelledError> {
        let (file, count) = match self {
            Self::Ten => ("batches.meta.txt", 10),
            Self::Hundred => ("fine_label_names.txt", 100),
        };
        let path = folder.join(file);
        if !path.exists() {
            return Ok((0..count).map(|class| format!("class {class}")).collect());
        }
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let names: Vec<String> =
            text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.len() != count {
            let reason = format!("it names {} classes, not {count}", names.len());
            return Err(LabelledError::Format { path, reason });
        }
        Ok(names)
    }
}

/// Appends a picture of three planes with its channels side by side.
fn interleave(planes: &[u8], out: &mut Vec<u8>) {
    let plane = planes.len() / 3;
    out.extend((0..plane).flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * plane + pixel])));
}

fn read(path: &Path) -> Result<Vec<u8>, LabelledError> {
    fs::read(path).map_err(|source| LabelledError::Read { path: path.to_owned(), source })
}
