//! Proof of an ONNX export: the graph is run beside its network, and returned only if it is that network.

use std::fmt;
use std::path::PathBuf;

use super::error::{CalibrationGap, ExportError, Result};
use super::logits::LogitDifference;
use super::onnx::{OnnxModel, Outputs, Precision, Preprocessing, Ranges};
use super::verify::{Difference, RawDifference};

/// Storage of weights and activations in an ONNX graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Storage {
    /// Weights in f32.
    #[default]
    Full,
    /// Weights in f16: half the size.
    Half,
    /// Weights in int8: a quarter of the size.
    Int8Weights,
    /// Weights in int8, and 8 bits for what goes into each product; ranges come from a calibration set.
    Int8Activations,
}

impl Storage {
    fn precision(self) -> Precision {
        match self {
            Self::Full => Precision::Full,
            Self::Half => Precision::Half,
            Self::Int8Weights | Self::Int8Activations => Precision::Int8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Full => "onnx f32",
            Self::Half => "onnx f16",
            Self::Int8Weights => "onnx int8 weights",
            Self::Int8Activations => "onnx int8",
        }
    }
}

/// Settings of an ONNX export.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OnnxOptions {
    /// Storage of weights and activations.
    pub storage: Storage,
    /// Place of the preprocessing: in the graph or outside.
    pub preprocessing: Preprocessing,
    /// Outputs of a detector's graph.
    pub outputs: Outputs,
    /// Images that network and graph are compared on. `None` takes 20 for a detector and 200 for a
    /// classifier; 0 compares nothing.
    pub images: Option<usize>,
    /// The most AP (detector) or top-1 (classifier), in points, that smaller storage may lose on those
    /// images.
    pub max_loss: f64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            storage: Storage::Full,
            preprocessing: Preprocessing::Outside,
            outputs: Outputs::Detections,
            images: None,
            max_loss: 3.0,
        }
    }
}

/// A network whose ONNX graph can be compared with it: how it is written, and on which images it is run.
pub trait Proof {
    /// Images that network and graph are run on.
    type Images;

    /// The word for the network in findings.
    const NETWORK: &'static str;
    /// The quality measure that is compared, in points.
    const MEASURE: &'static str;
    /// Images to compare on if the options do not say.
    const COMPARED: usize;

    /// The graph with its weights in `precision`.
    ///
    /// # Errors
    /// If the network has a part that ONNX cannot express.
    fn graph(&self, precision: Precision) -> Result<OnnxModel>;

    /// `count` held-out images to compare on, and their description.
    ///
    /// # Errors
    /// If the data is damaged, or missing where it was named.
    fn held_out(&self, count: usize) -> Result<(Self::Images, ImagesFound)>;

    /// `count` images beside those that are `compared`, and their description.
    ///
    /// # Errors
    /// [`ExportError::Calibration`] if there are none.
    fn calibration(&self, compared: &Self::Images, count: usize) -> Result<(Self::Images, String)>;

    /// Runs network and graph on `images`.
    ///
    /// # Errors
    /// If either does not run.
    fn compare(&self, graph: &OnnxModel, images: &Self::Images) -> Result<Compared>;

    /// Ranges of the activations of `graph` on `images`.
    ///
    /// # Errors
    /// If the graph does not run.
    fn ranges(&self, graph: &OnnxModel, images: &Self::Images) -> Result<Ranges>;
}

/// Description of the images that network and graph are compared on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagesFound {
    /// Number and origin of the images.
    pub description: String,
    /// Reason why these are made up, if they are.
    pub made_up: Option<MadeUp>,
}

/// Reason why images are made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeUp {
    /// The word for the images that are missing.
    pub instead_of: &'static str,
    /// Why they are.
    pub reason: String,
}

/// Network and graph on the same images.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Distance of their outputs.
    pub apart: Apart,
    /// Quality of network and graph in points, where the images have a ground truth.
    pub points: Option<[f64; 2]>,
}

/// Distance between the outputs of a network and of its graph.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Apart {
    /// Detections.
    Boxes(Difference),
    /// Logits of a classifier.
    Logits {
        /// Their differences.
        difference: LogitDifference,
        /// Images that were compared.
        images: usize,
        /// Images for which both guess the same class.
        same_guess: usize,
    },
    /// Raw outputs of a detector's heads.
    Raw {
        /// The word for them.
        of: &'static str,
        /// Their differences.
        difference: RawDifference,
    },
}

impl Apart {
    /// Fails unless both are the same up to rounding.
    ///
    /// # Errors
    /// [`ExportError::Drift`] with the difference.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Boxes(difference) => difference.check(),
            Self::Logits { difference, .. } => difference.check(),
            // False for NaN.
            Self::Raw { difference: RawDifference { most, largest }, .. }
                if *most <= 1e-3 * largest.max(1.0) =>
            {
                Ok(())
            }
            Self::Raw { .. } => Err(ExportError::Drift { reason: self.to_string() }),
        }
    }

    /// Fails if the outputs of smaller storage are no numbers.
    fn check_finite(&self) -> Result<()> {
        match self {
            Self::Logits { difference, .. } => difference.check_finite(),
            Self::Boxes(_) | Self::Raw { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boxes(difference) => difference.fmt(f),
            Self::Logits { difference, .. } => difference.fmt(f),
            Self::Raw { of, difference: RawDifference { most, largest } } => {
                write!(f, "{of} differ by at most {most:.2e}, the largest value being {largest:.3}")
            }
        }
    }
}

/// A step of an export, reported as soon as it is known. `Display` gives a line of text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// Nothing is compared, as the options ask.
    NotCompared {
        /// The word for the network.
        network: &'static str,
    },
    /// The images that network and graph are compared on.
    ComparedOn(ImagesFound),
    /// The images that give the ranges of activations.
    CalibratedOn(String),
    /// The graph in f32 beside its network.
    Graph {
        /// The word for the network.
        network: &'static str,
        /// Their distance.
        apart: Apart,
    },
    /// The graph in smaller storage beside its network.
    Smaller {
        /// Its storage.
        name: &'static str,
        /// The word for the network.
        network: &'static str,
        /// Their distance.
        apart: Apart,
    },
    /// A row of the table of sizes and qualities.
    Size {
        /// The network's or the storage's name.
        name: &'static str,
        /// Bytes of the file, for a graph.
        bytes: Option<usize>,
        /// The quality measure.
        measure: &'static str,
        /// The quality in points, where it is known.
        points: Option<f64>,
    },
    /// The file is written.
    Written {
        /// Path of the file.
        path: PathBuf,
        /// The network, where its name is known.
        network: Option<String>,
        /// Number of weights.
        parameters: usize,
        /// Number of classes.
        classes: usize,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCompared { network } => write!(f, "not compared with the {network}"),
            Self::ComparedOn(images) => write!(f, "compared on {}", images.description),
            Self::CalibratedOn(images) => write!(f, "ranges of activations from {images}"),
            Self::Graph { apart: apart @ Apart::Raw { .. }, .. } => apart.fmt(f),
            Self::Graph { network, apart } => write!(f, "the graph beside the {network}: {apart}"),
            Self::Smaller { name, network, apart } => {
                write!(f, "{name} beside the {network}: {apart}")?;
                match apart {
                    Apart::Logits { images, same_guess, .. } => {
                        write!(f, "; the same guess for {same_guess} of {images}")
                    }
                    Apart::Boxes(_) | Apart::Raw { .. } => Ok(()),
                }
            }
            Self::Size { name, bytes, measure, points } => {
                let mebibytes = |bytes: usize| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
                let size = bytes.map_or("-".to_owned(), mebibytes);
                let points = points.map_or("-".to_owned(), |points| format!("{points:.2}"));
                write!(f, "  {name:<20} {size:>12}   {measure} {points:>6}")
            }
            Self::Written { path, network, parameters, classes } => {
                write!(f, "{}: ", path.display())?;
                if let Some(network) = network {
                    write!(f, "{network}, ")?;
                }
                write!(f, "{:.2} M parameters, {classes} classes", *parameters as f64 / 1e6)
            }
        }
    }
}

/// The content of the ONNX file that `options` ask for, once it is shown to be `network`.
///
/// The graph in f32 must agree with the network within rounding. Smaller storage may cost `options.max_loss`
/// points. `report` hears of each finding.
///
/// # Errors
/// [`ExportError::Drift`] or [`ExportError::Loss`] if the graph is not the network; data that cannot be read;
/// a network that cannot be written.
pub fn proved<P: Proof>(
    network: &P,
    options: &OnnxOptions,
    report: &mut dyn FnMut(&Finding),
) -> Result<Vec<u8>> {
    let storage = options.storage;
    if storage != Storage::Full && options.outputs != Outputs::Detections {
        let reason = format!("raw outputs are written in f32, not in {}", storage.name());
        return Err(ExportError::Unsupported { reason });
    }
    let count = options.images.unwrap_or(P::COMPARED);
    if count == 0 {
        if storage == Storage::Int8Activations {
            return Err(ExportError::Calibration(CalibrationGap::NothingCompared));
        }
        report(&Finding::NotCompared { network: P::NETWORK });
        return Ok(network.graph(storage.precision())?.to_bytes());
    }
    let full = network.graph(Precision::Full)?;
    let (images, found) = network.held_out(count)?;
    report(&Finding::ComparedOn(found));
    let Compared { apart, points } = network.compare(&full, &images)?;
    report(&Finding::Graph { network: P::NETWORK, apart });
    apart.check()?;
    let bytes = full.to_bytes();
    if let Apart::Raw { .. } = apart {
        return Ok(bytes);
    }
    let size = |name, bytes, points| Finding::Size { name, bytes, measure: P::MEASURE, points };
    report(&size(P::NETWORK, None, points.map(|[own, _]| own)));
    report(&size(Storage::Full.name(), Some(bytes.len()), points.map(|[_, graph]| graph)));
    if storage == Storage::Full {
        return Ok(bytes);
    }
    let mut smaller = network.graph(storage.precision())?;
    if storage == Storage::Int8Activations {
        let (seen, description) = network.calibration(&images, count)?;
        report(&Finding::CalibratedOn(description));
        smaller = smaller.with_activations_in_8_bits(&network.ranges(&smaller, &seen)?);
    }
    let bytes = smaller.to_bytes();
    let Compared { apart, points } = network.compare(&smaller, &images)?;
    let name = storage.name();
    report(&size(name, Some(bytes.len()), points.map(|[_, graph]| graph)));
    report(&Finding::Smaller { name, network: P::NETWORK, apart });
    apart.check_finite()?;
    match points {
        Some([own, graph]) if own - graph > options.max_loss => {
            Err(ExportError::Loss { name, measure: P::MEASURE, points: own - graph, limit: options.max_loss })
        }
        _ => Ok(bytes),
    }
}
