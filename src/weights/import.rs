//! Weights from elsewhere made into a file that describes itself.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::card::{Category, ModelCard};
use super::classes;
use super::recognise::{Kind, Recognised};
use super::{WeightsError, WeightsFile};
use crate::config::{Config, Document};

/// A part of a file that is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The trunk alone.
    Backbone,
    /// A detector without the layers that name classes: its head is for others.
    Head,
    /// The box detector alone, without masks, key points and the like.
    Detector,
}

/// The layers that have outputs for each class.
const PREDICTORS: [&str; 2] = ["roi_heads.box_predictor.", "head.classification_head.cls_logits."];

impl WeightsFile {
    /// Leaves out what is not of `part`, and says which tensors those were. `known` are the names of the whole network.
    pub fn keep(&mut self, part: Part, known: impl Fn(&str) -> bool) -> Vec<String> {
        let is_classifier = |name: &str| name.starts_with("fc.") || name.starts_with("classifier.");
        let in_detector = self.tensors.keys().any(|name| name.starts_with("backbone.body."));
        let keeps = |name: &str| match part {
            Part::Backbone if in_detector => name.starts_with("backbone.body."),
            Part::Backbone => !is_classifier(name),
            Part::Head => known(name) && !PREDICTORS.iter().any(|layer| name.starts_with(layer)),
            Part::Detector => known(name),
        };
        let left_out = self.tensors.keys().filter(|name| !keeps(name)).cloned().collect();
        self.tensors.retain(|name, _| keeps(name));
        left_out
    }

    /// Provenance of the file, for weights made of it.
    pub fn provenance(&self, recognised: &Recognised) -> BTreeMap<String, String> {
        let file_name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut facts = BTreeMap::from([
            ("imported_from".to_owned(), file_name),
            ("imported_from_blake3".to_owned(), self.hash.clone()),
            ("imported_format".to_owned(), format!("{}, names of {}", self.format, self.names.scheme)),
            ("architecture".to_owned(), recognised.name.clone()),
        ]);
        if let Some(trained) = &self.trained_epsilon {
            facts.insert("batch_norm_epsilon".to_owned(), trained.to_string());
        }
        if !recognised.assumed.is_empty() {
            facts.insert("assumed".to_owned(), recognised.assumed.join("; "));
        }
        facts
    }
}

impl Recognised {
    /// The configuration whose student it is, with `sets` (`a.b=c`) for what the file cannot say.
    ///
    /// # Errors
    /// If a `set` is no key or fits nothing.
    pub fn config(&self, file: &WeightsFile, sets: &[String]) -> Result<Config, WeightsError> {
        let wrong = |reason: String| WeightsError::Card { path: file.path.clone(), reason };
        let mut root = Table::new();
        let name = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // What every configuration must say, though nothing trains here.
        for (key, value) in [
            ("name", Value::String(name)),
            ("data.kind", Value::String("coco".to_owned())),
            ("data.root", Value::String("data/coco".to_owned())),
            ("optim.lr", Value::Float(0.01)),
            ("schedule.kind", Value::String("constant".to_owned())),
            ("schedule.steps", Value::Integer(90_000)),
        ] {
            set(&mut root, key, value).map_err(wrong)?;
        }
        for (key, value) in &self.settings {
            set(&mut root, key, value.clone()).map_err(wrong)?;
        }
        for written in sets {
            let Some((key, value)) = written.split_once('=') else {
                return Err(wrong(format!("--set {written}: it takes KEY=VALUE")));
            };
            let (key, value) = (key.trim(), value.trim());
            let read =
                format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
            set(&mut root, key, read.unwrap_or_else(|| Value::String(value.to_owned()))).map_err(wrong)?;
        }
        Config::from_toml(&root.to_string(), &format!("the architecture of {}", file.path.display()))
            .map_err(|error| wrong(error.to_string()))
    }

    /// A card for `file`, whose classes are `categories`, or those that the file's maker is known for.
    ///
    /// # Errors
    /// If the file has another number of classes.
    pub fn card(
        &self,
        file: &WeightsFile,
        config: Config,
        categories: Option<Vec<Category>>,
    ) -> Result<(ModelCard, Option<String>), WeightsError> {
        let mut provenance = file.provenance(self);
        let Kind::Detector { classes } = self.kind else {
            return Ok((ModelCard { config, categories: Vec::new(), provenance }, None));
        };
        let earlier = ModelCard::of(file).ok();
        let (categories, remark) = match (categories, earlier) {
            (Some(categories), _) => (categories, None),
            (None, Some(card)) => (card.categories, None),
            (None, None) => classes::of_detector(file, classes),
        };
        if let Some(remark) = &remark {
            provenance.insert("classes".to_owned(), remark.clone());
        }
        Ok((ModelCard { config, categories, provenance }, remark))
    }
}

/// Puts a value at a dotted key.
fn set(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let below = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            match below {
                Value::Table(below) => set(below, rest, value),
                _ => Err(format!("\"{key}\": no such key; what stands before it is no table")),
            }
        }
    }
}

/// The categories of an annotation file, in the order of a network's outputs.
///
/// # Errors
/// If it is no annotation file.
pub fn categories_of_annotations(path: &Path) -> Result<Vec<Category>, crate::data::InstancesError> {
    let mut categories: Vec<Category> = crate::data::coco::read(path)?
        .categories
        .into_iter()
        .map(|category| Category { id: category.id, name: category.name })
        .collect();
    categories.sort_by_key(|category| category.id);
    Ok(categories)
}
