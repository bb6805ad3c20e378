//! [`Instances`] as a YOLO data set.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::label::Row;
use super::yaml::DataYaml;
use crate::data::convert::{ConvertError, checked_names, place_image};
use crate::data::instances::Instances;
use crate::fsx;

/// Writes `instances`, whose images are in `folder`, as the split `split` of the YOLO data set `out`:
/// `images/SPLIT`, `labels/SPLIT`, the list `SPLIT.txt` in the order of the images, and `data.yaml`.
///
/// Crowd regions and ignored boxes have no form in YOLO and are left out; their number is returned. Numbers
/// are written with all digits, so that boxes of up to three decimals are read back as they are.
///
/// # Errors
/// If an image's size is not known, two images share a stem, a file cannot be written, or `data.yaml` names
/// other classes.
pub fn write(instances: &Instances, folder: &Path, out: &Path, split: &str) -> Result<usize, ConvertError> {
    let names = checked_names(instances)?;
    let yaml = out.join("data.yaml");
    let mut splits = BTreeMap::new();
    if yaml.exists() {
        let known = DataYaml::read(&yaml).map_err(|error| ConvertError::Target(error.to_string()))?;
        if !known.names.values().eq(names.iter()) {
            return Err(ConvertError::Target(format!(
                "{} names other classes than this split has ({}); write it to another folder",
                yaml.display(),
                names.join(", ")
            )));
        }
        splits = known.splits;
    }
    let mut ids: Vec<u64> = instances.categories.iter().map(|category| category.id).collect();
    ids.sort_unstable();
    let classes: BTreeMap<u64, u32> = ids.into_iter().zip(0..).collect();
    let sizes: BTreeMap<u64, (u32, u32)> =
        instances.images.iter().map(|image| (image.id, (image.width, image.height))).collect();
    let (mut lines, mut left_out) = (BTreeMap::<u64, String>::new(), 0);
    for row in &instances.annotations {
        let (Some(&class), Some(&size)) = (classes.get(&row.category_id), sizes.get(&row.image_id)) else {
            left_out += 1;
            continue;
        };
        if row.iscrowd || row.ignore {
            left_out += 1;
        } else {
            lines.entry(row.image_id).or_default().push_str(&Row::of(class, row.bbox, size).line());
        }
    }
    let (mut list, mut stems) = (String::new(), BTreeMap::new());
    for image in &instances.images {
        let name = below_images(&image.file_name);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        if let Some(other) = stems.insert(stem, name) {
            return Err(ConvertError::Target(format!(
                "the images {other} and {name} would have one label file; rename one of them"
            )));
        }
        place_image(folder, &image.file_name, &out.join("images").join(split).join(name))?;
        let text = lines.get(&image.id).map_or("", String::as_str);
        let labels = out.join("labels").join(split).join(format!("{stem}.txt"));
        fsx::write_atomic(&labels, text.as_bytes())?;
        let _ = writeln!(list, "./images/{split}/{name}");
    }
    fsx::write_atomic(&out.join(format!("{split}.txt")), list.as_bytes())?;
    splits.insert(split.to_owned(), vec![format!("{split}.txt")]);
    fsx::write_atomic(&yaml, text_of(&splits, &names).as_bytes())?;
    Ok(left_out)
}

/// An image's name below its last folder `images`: a second one in a path would hide the first from the rule that finds
/// the labels.
fn below_images(name: &str) -> &str {
    match name.rfind("/images/") {
        Some(place) => &name[place + "/images/".len()..],
        None => name.strip_prefix("images/").unwrap_or(name),
    }
}

/// The text of `data.yaml`. JSON's quoted strings are YAML's too.
fn text_of(splits: &BTreeMap<String, Vec<String>>, names: &[String]) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = String::new();
    for (split, sources) in splits {
        let sources: Vec<String> = sources.iter().map(|source| quoted(source)).collect();
        let _ = match sources.as_slice() {
            [one] => writeln!(text, "{split}: {one}"),
            several => writeln!(text, "{split}: [{}]", several.join(", ")),
        };
    }
    let _ = writeln!(text, "nc: {}\nnames:", names.len());
    for (class, name) in names.iter().enumerate() {
        let _ = writeln!(text, "  {class}: {}", quoted(name));
    }
    text
}
