//! TensorBoard's event files: scalars, images and hyperparameters of a run.
//!
//! A file is a sequence of records: length, masked CRC of the length, an `Event`, masked CRC of that. Messages have the field
//! numbers of TensorFlow's `event.proto` and `summary.proto`, and of TensorBoard's `hparams/plugin_data.proto`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::fsx::{self, WriteError};

/// An open event file.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

/// A value under a tag.
#[derive(Debug, Clone, PartialEq)]
pub enum Point {
    /// A number.
    Scalar(f64),
    /// A PNG file, its width and its height.
    Png(Vec<u8>, u32, u32),
}

/// A hyperparameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Hyperparameter {
    /// A number.
    Number(f64),
    /// A switch.
    Switch(bool),
    /// Anything else, in words.
    Text(String),
}

impl EventFile {
    /// Begins a file in `folder`, which names the time (in seconds since 1970) and, as TensorBoard takes it, hides what older
    /// files of the folder have of `step` and later ones.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(folder: &Path, time: f64, step: u64) -> Result<Self, WriteError> {
        let name =
            |count: u64| folder.join(format!("events.out.tfevents.{:010}.ckd-det.{count}", time as u64));
        // Another one of the same second is kept.
        let path = (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
        let mut events = Self { file: fsx::open_log(&path)?, path };
        events.write(&Event {
            what: Some(What::FileVersion("brain.Event:2".to_owned())),
            ..Event::at(time, 0)
        })?;
        if step > 0 {
            let start = SessionLog { status: SessionLog::START };
            events.write(&Event { what: Some(What::SessionLog(start)), ..Event::at(time, step + 1) })?;
        }
        Ok(events)
    }

    /// Adds the values of a step.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn add(&mut self, time: f64, step: u64, points: Vec<(String, Point)>) -> Result<(), WriteError> {
        let value = |(tag, point)| SummaryValue {
            tag,
            what: Some(match point {
                Point::Scalar(number) => SummaryWhat::Simple(number as f32),
                Point::Png(encoded, width, height) => SummaryWhat::Image(Image {
                    height: height as i32,
                    width: width as i32,
                    colorspace: Image::RGB,
                    encoded,
                }),
            }),
            metadata: None,
        };
        self.summary(time, step, points.into_iter().map(value).collect())
    }

    /// Adds the hyperparameters of the run, called `group`, and the tags of the numbers that they lead to.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn add_hyperparameters(
        &mut self,
        time: f64,
        group: &str,
        parameters: &BTreeMap<String, Hyperparameter>,
        metrics: &[&str],
    ) -> Result<(), WriteError> {
        let infos = parameters.iter().map(|(name, value)| HyperparameterInfo {
            name: name.clone(),
            kind: match value {
                Hyperparameter::Text(_) => 1,
                Hyperparameter::Switch(_) => 2,
                Hyperparameter::Number(_) => 3,
            },
        });
        let metrics = metrics.iter().map(|tag| MetricInfo {
            name: Some(MetricName { group: String::new(), tag: (*tag).to_owned() }),
        });
        let experiment = Experiment { hyperparameters: infos.collect(), metrics: metrics.collect() };
        let value = |value: &Hyperparameter| AnyValue {
            what: Some(match value {
                Hyperparameter::Number(number) => AnyWhat::Number(*number),
                Hyperparameter::Text(text) => AnyWhat::Text(text.clone()),
                Hyperparameter::Switch(switch) => AnyWhat::Switch(*switch),
            }),
        };
        let start = SessionStart {
            values: parameters.iter().map(|(name, own)| (name.clone(), value(own))).collect(),
            group: group.to_owned(),
            time,
        };
        let values = vec![
            of_plugin("_hparams_/experiment", PluginWhat::Experiment(experiment)),
            of_plugin("_hparams_/session_start_info", PluginWhat::Start(start)),
        ];
        self.summary(time, 0, values)
    }

    /// Says how the run ended: TensorBoard shows it beside the hyperparameters.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_end(&mut self, time: f64, step: u64, is_success: bool) -> Result<(), WriteError> {
        let status = if is_success { SessionEnd::SUCCESS } else { SessionEnd::FAILURE };
        let end = PluginWhat::End(SessionEnd { status, time });
        self.summary(time, step, vec![of_plugin("_hparams_/session_end_info", end)])
    }

    fn summary(&mut self, time: f64, step: u64, value: Vec<SummaryValue>) -> Result<(), WriteError> {
        let what = Some(What::Summary(Summary { value }));
        self.write(&Event { what, ..Event::at(time, step) })
    }

    fn write(&mut self, event: &Event) -> Result<(), WriteError> {
        let record = record(&event.encode_to_vec());
        self.file
            .write_all(&record)
            .and_then(|()| self.file.flush())
            .map_err(|source| WriteError { path: self.path.clone(), source })
    }
}

/// A value of the plugin for hyperparameters.
fn of_plugin(tag: &str, what: PluginWhat) -> SummaryValue {
    let content = PluginData { version: 0, what: Some(what) }.encode_to_vec();
    SummaryValue {
        tag: tag.to_owned(),
        what: Some(SummaryWhat::Tensor(Tensor::nothing())),
        metadata: Some(Metadata { plugin: Some(Plugin { name: "hparams".to_owned(), content }) }),
    }
}

/// A record of TensorFlow's record files.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let masked = |data: &[u8]| crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    [length.as_slice(), &masked(&length), data, &masked(data)].concat()
}

/// CRC-32 of Castagnoli, bit by bit: an event has few bytes.
fn crc32c(data: &[u8]) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { REVERSED } else { 0 })
    };
    !data.iter().fold(!0, byte)
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

impl Event {
    fn at(wall_time: f64, step: u64) -> Self {
        Self { wall_time, step: step as i64, what: None }
    }
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl SessionLog {
    const START: i32 = 1;
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
    #[prost(oneof = "SummaryWhat", tags = "2, 4, 8")]
    what: Option<SummaryWhat>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SummaryWhat {
    #[prost(float, tag = "2")]
    Simple(f32),
    #[prost(message, tag = "4")]
    Image(Image),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

impl Image {
    const RGB: i32 = 3;
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(float, repeated, tag = "5")]
    values: Vec<f32>,
}

impl Tensor {
    /// The number 0: a value must have a tensor, whatever its plugin makes of it.
    fn nothing() -> Self {
        Self { dtype: 1, shape: Some(Shape { dimensions: vec![Dimension { size: 1 }] }), values: vec![0.0] }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(oneof = "PluginWhat", tags = "2, 3, 4")]
    what: Option<PluginWhat>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PluginWhat {
    #[prost(message, tag = "2")]
    Experiment(Experiment),
    #[prost(message, tag = "3")]
    Start(SessionStart),
    #[prost(message, tag = "4")]
    End(SessionEnd),
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    time: f64,
}

impl SessionEnd {
    const SUCCESS: i32 = 1;
    const FAILURE: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
struct Experiment {
    #[prost(message, repeated, tag = "4")]
    hyperparameters: Vec<HyperparameterInfo>,
    #[prost(message, repeated, tag = "5")]
    metrics: Vec<MetricInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct HyperparameterInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct MetricInfo {
    #[prost(message, optional, tag = "1")]
    name: Option<MetricName>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricName {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    tag: String,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    values: BTreeMap<String, AnyValue>,
    #[prost(string, tag = "4")]
    group: String,
    #[prost(double, tag = "5")]
    time: f64,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AnyWhat", tags = "2, 3, 4")]
    what: Option<AnyWhat>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyWhat {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Switch(bool),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_record_is_framed_by_its_length_and_two_sums() {
        // By `RecordWriter` of TensorBoard 2.
        let theirs = [3, 0, 0, 0, 0, 0, 0, 0, 176, 153, 73, 14, 97, 98, 99, 110, 87, 241, 33];
        assert_eq!(record(b"abc"), theirs);
    }

    #[test]
    fn a_file_of_the_same_second_takes_another_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(EventFile::begin(folder.path(), 1e9, 0).unwrap());
        drop(EventFile::begin(folder.path(), 1e9, 7).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
