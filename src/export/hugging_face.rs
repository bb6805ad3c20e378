//! A network as a folder in the layout of a Hugging Face model repository: `config.json`, `model.safetensors`,
//! `preprocessor_config.json` and a model card (<https://huggingface.co/docs/hub/model-cards>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::error::Result;
use crate::engine::EngineError;
use crate::fsx;
use crate::weights::file::{HUB_WEIGHTS, write_safetensors};

/// Entries of a weights file's header.
type Metadata = BTreeMap<String, String>;

/// Facts about a network that its repository tells.
#[derive(Debug)]
pub(super) struct Repository<'a> {
    /// The Hub's name of the task.
    pub(super) task: &'static str,
    /// Name of the model.
    pub(super) name: &'a str,
    /// The network: its family, and what it is built on.
    pub(super) architecture: Vec<(&'static str, String)>,
    /// Names of the classes, in the order of the logits.
    pub(super) labels: Vec<&'a str>,
    /// COCO's ids of the classes, of a detector.
    pub(super) category_ids: Option<Vec<u64>>,
    /// How the network's input is prepared, as the Hub's libraries name it.
    pub(super) preprocessor: Value,
    /// Format and name of the data.
    pub(super) data: (String, String),
    /// The data's name on the Hub, of public sets.
    pub(super) hub_data: Option<&'static str>,
    /// The provenance's entry of the quality, the Hub's name of the measure, and its full name.
    pub(super) quality: (&'static str, &'static str, &'static str),
}

impl Repository<'_> {
    /// Writes the folder; `metadata` is the header of the weights.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(
        &self,
        folder: &Path,
        tensors: &BTreeMap<String, Tensor>,
        metadata: &Metadata,
    ) -> Result<()> {
        write_safetensors(&folder.join(HUB_WEIGHTS), tensors, metadata).map_err(EngineError::from)?;
        let json = |name: &str, content: &Value| {
            fsx::write_atomic(&folder.join(name), format!("{content:#}\n").as_bytes())
        };
        json("config.json", &self.config(metadata))?;
        json("preprocessor_config.json", &self.preprocessor)?;
        Ok(fsx::write_atomic(&folder.join("README.md"), self.card(metadata).as_bytes())?)
    }

    fn config(&self, metadata: &Metadata) -> Value {
        let labels = || self.labels.iter().enumerate();
        let id2label: Map<String, Value> =
            labels().map(|(id, label)| (id.to_string(), (*label).into())).collect();
        let label2id: Map<String, Value> =
            labels().map(|(id, label)| ((*label).to_owned(), id.into())).collect();
        let mut config = json!({ "model_type": "ckd-det", "num_labels": self.labels.len() });
        for (key, value) in &self.architecture {
            config[key] = value.as_str().into();
        }
        config["id2label"] = id2label.into();
        config["label2id"] = label2id.into();
        if let Some(ids) = &self.category_ids {
            config["category_ids"] = ids.as_slice().into();
        }
        // All that the weights' header says, for programs that read JSON alone; configurations are TOML.
        for (key, text) in metadata.iter().filter(|(key, _)| key.starts_with("ckd_det.")) {
            config[key] = serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
        }
        config
    }

    fn card(&self, metadata: &Metadata) -> String {
        let provenance: BTreeMap<String, String> = metadata
            .get("ckd_det.provenance")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let (entry, measure, measured) = self.quality;
        let quality: Option<f64> = provenance.get(entry).and_then(|value| value.parse().ok());
        let (kind, data) = &self.data;
        let mut card = format!("---\nlibrary_name: ckd-det\npipeline_tag: {}\ntags:\n", self.task);
        for (_, value) in self.architecture.iter().filter(|(key, _)| *key != "width") {
            let _ = writeln!(card, "- {}", quoted(value));
        }
        if let Some(name) = self.hub_data {
            let _ = writeln!(card, "datasets:\n- {name}");
        }
        let _ = writeln!(card, "metrics:\n- {measure}");
        if let Some(quality) = quality {
            let _ = write!(
                card,
                "model-index:\n- name: {}\n  results:\n  - task:\n      type: {}\n    dataset:\n      type: {}\n      \
                 name: {}\n      split: validation\n    metrics:\n    - type: {measure}\n      name: {measured}\n      \
                 value: {quality}\n",
                quoted(self.name),
                self.task,
                quoted(self.hub_data.unwrap_or(kind)),
                quoted(data),
            );
        }
        let architecture: Vec<String> =
            self.architecture.iter().map(|(key, value)| format!("{key} `{value}`")).collect();
        let _ = write!(
            card,
            "---\n\n# {}\n\nA network for {} ({}), trained by ckd-det on the data set `{}` ({kind}).\n",
            self.name.replace(['\n', '\r'], " "),
            self.task.replace('-', " "),
            architecture.join(", "),
            data.replace(['`', '\n', '\r'], " "),
        );
        if let Some(quality) = quality {
            let _ = writeln!(card, "On its validation part: {measured} {quality}.");
        }
        card += USE;
        let _ = write!(card, "\n## Classes\n\n```text\n");
        for (id, label) in self.labels.iter().enumerate() {
            let _ = writeln!(card, "{id} {}", quoted(label));
        }
        let _ = write!(card, "```\n\n## Origin\n\n| | |\n|---|---|\n");
        for (key, value) in &provenance {
            let _ = writeln!(card, "| {key} | {} |", value.replace('|', "\\|").replace(['\n', '\r'], " "));
        }
        card
    }
}

/// The shortest decimals: 0.485, not the f64 that is the f32 nearest to it.
pub(super) fn decimals(values: [f32; 3]) -> [f64; 3] {
    values.map(|value| value.to_string().parse().unwrap_or(value.into()))
}

/// Sections of every card.
const USE: &str = "
## Use

    ckd-det predict --weights FOLDER photo.jpg
    ckd-det eval --weights FOLDER --data-root DATA

`FOLDER` is this repository on your disk. From Rust, `ckd_det::export::student::Student::open(FOLDER)` opens a detector and
`ckd_det::export::labeller::Labeller::open(FOLDER)` a classifier. `model.safetensors` has torchvision's names of tensors;
`preprocessor_config.json` says how images are prepared, `config.json` everything else.

No licence is stated here: add `license:` to the head of this file.
";

/// Text in double quotes for YAML, of which JSON's strings are a part; control characters that YAML does not have in its
/// text are escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted
}
