//! [`Instances`] as a VOC folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use quick_xml::escape::escape;

use super::without_extension;
use crate::data::convert::{ConvertError, checked_names, place_image};
use crate::data::instances::{AnnotationEntry, ImageEntry, Instances};
use crate::fsx;

/// Writes `instances`, whose images are in `folder`, as the split `split` of the VOC folder `out`:
/// `Annotations`, `JPEGImages`, the list `ImageSets/Main/SPLIT.txt` in the order of the images, and
/// `labelmap.txt` with the classes.
///
/// Crowd regions become `difficult`. Areas have no place in VOC.
///
/// # Errors
/// If two images share a stem, a file cannot be written, or `labelmap.txt` names other classes.
pub fn write(instances: &Instances, folder: &Path, out: &Path, split: &str) -> Result<(), ConvertError> {
    let names = checked_names(instances)?;
    let map = out.join("labelmap.txt");
    let known = super::label_map(out).map_err(|error| ConvertError::Target(error.to_string()))?;
    if let Some(known) = known
        && known != names
    {
        return Err(ConvertError::Target(format!(
            "{} names other classes ({}) than this split has ({}); write it to another folder",
            map.display(),
            known.join(", "),
            names.join(", ")
        )));
    }
    if let Some(name) = names.iter().find(|name| name.as_str() == "background") {
        return Err(ConvertError::Target(format!(
            "a VOC set cannot have a class named \"{name}\"; rename it"
        )));
    }
    let mut boxes: BTreeMap<u64, Vec<&AnnotationEntry>> = BTreeMap::new();
    instances.annotations.iter().for_each(|row| boxes.entry(row.image_id).or_default().push(row));
    let classes: BTreeMap<u64, &str> =
        instances.categories.iter().map(|category| (category.id, category.name.as_str())).collect();
    let (mut list, mut stems) = (String::new(), BTreeMap::new());
    for image in &instances.images {
        let name = own_name(folder, &image.file_name, out, split);
        let stem = without_extension(&name).to_owned();
        if let Some(other) = stems.insert(stem.clone(), &image.file_name) {
            return Err(ConvertError::Target(format!(
                "the images {other} and {} would have one annotation file; rename one of them",
                image.file_name
            )));
        }
        place_image(folder, &image.file_name, &out.join("JPEGImages").join(&name))?;
        let text = annotation(image, boxes.get(&image.id).map_or(&[], Vec::as_slice), &classes);
        fsx::write_atomic(&out.join("Annotations").join(format!("{stem}.xml")), text.as_bytes())?;
        list.push_str(&stem);
        list.push('\n');
    }
    let mut text = "# label:color_rgb:parts:actions\n".to_owned();
    names.iter().for_each(|name| text.push_str(&format!("{name}:::\n")));
    fsx::write_atomic(&map, text.as_bytes())?;
    fsx::write_atomic(&out.join("ImageSets/Main").join(format!("{split}.txt")), list.as_bytes())?;
    Ok(())
}

/// The image's name in `out`, which holds all splits together: with the split before it where another image has the name.
fn own_name(folder: &Path, name: &str, out: &Path, split: &str) -> String {
    let there = std::fs::read(out.join("JPEGImages").join(name)).ok();
    if there.is_none() || there == std::fs::read(folder.join(name)).ok() {
        return name.to_owned();
    }
    match name.rsplit_once('/') {
        Some((folder, file)) => format!("{folder}/{split}_{file}"),
        None => format!("{split}_{name}"),
    }
}

fn annotation(image: &ImageEntry, boxes: &[&AnnotationEntry], classes: &BTreeMap<u64, &str>) -> String {
    let ImageEntry { file_name, width, height, .. } = image;
    let mut text = String::from("<annotation>\n");
    let _ = writeln!(text, "  <filename>{}</filename>", escape(file_name));
    let _ = writeln!(
        text,
        "  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n  <segmented>0</segmented>"
    );
    for row in boxes {
        let [x, y, w, h] = row.bbox;
        let name = classes.get(&row.category_id).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "  <object>\n    <name>{}</name>\n    <difficult>{}</difficult>\n    <bndbox><xmin>{x}</xmin><ymin>{y}</ymin>\
             <xmax>{}</xmax><ymax>{}</ymax></bndbox>\n  </object>",
            escape(name),
            u8::from(row.ignore || row.iscrowd),
            x + w,
            y + h
        );
    }
    text.push_str("</annotation>\n");
    text
}
