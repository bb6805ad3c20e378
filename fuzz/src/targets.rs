//! Readers of files from outside, and small good inputs of each.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ckd_det::config::{ClassifyConfig, CohortConfig, Config, Document, PretrainConfig};
use ckd_det::data::{coco, decode, voc, yolo};
use ckd_det::engine::checkpoint::{self as state, TrainState};
use ckd_det::engine::outcome::Outcome;
use ckd_det::export::student::Student;
use ckd_det::optim::Slot;
use ckd_det::report::run_folder::RunFolder;
use ckd_det::weights::file::write_safetensors;
use ckd_det::weights::recognise::Recognised;
use ckd_det::weights::{ModelCard, WeightsFile, labelled_rows};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// A reader of files from outside.
pub struct Target {
    /// Name on the command line, and folder in `corpus`.
    pub name: &'static str,
    /// Has the input read, in a folder for what must stand around it, and tells how that went.
    pub(crate) read: fn(&Path, &[u8]) -> String,
    /// Good inputs.
    seeds: fn() -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All readers.
pub fn targets() -> &'static [Target] {
    &[
        Target { name: "coco_json", read: coco_json, seeds: || texts(&[COCO]) },
        Target { name: "voc_xml", read: voc_xml, seeds: || texts(&[VOC]) },
        Target {
            name: "yolo_labels",
            read: yolo_labels,
            seeds: || texts(&["0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.3 0.4\n"]),
        },
        Target { name: "yolo_yaml", read: yolo_yaml, seeds: || texts(&[YOLO]) },
        Target {
            name: "configuration",
            read: configuration,
            seeds: || texts(&[CONFIG, CLASSIFY, COHORT, PRETRAIN]),
        },
        Target { name: "image", read: image, seeds: images },
        Target { name: "safetensors", read: weights, seeds: safetensors },
        Target {
            name: "torch_zip",
            read: weights,
            seeds: || {
                vec![checkpoint!("plain.pth"), checkpoint!("imagenet_example.pth"), checkpoint!("nested.pth")]
            },
        },
        Target {
            name: "torch_legacy",
            read: weights,
            seeds: || vec![checkpoint!("repdistiller_legacy.pth")],
        },
        Target { name: "detectron2_pickle", read: weights, seeds: || vec![checkpoint!("detectron2.pkl")] },
        Target { name: "cifar_pickle", read: cifar_pickle, seeds: || vec![cifar()] },
        Target { name: "checkpoint", read: run_state, seeds: run_states },
    ]
}

/// Good inputs of `target`, and those that it once failed on.
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let found = paths.into_iter().filter_map(|path| fs::read(path).ok());
    (target.seeds)().into_iter().chain(found).collect()
}

macro_rules! checkpoint {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/golden/checkpoints/", $name)).to_vec()
    };
}
use checkpoint;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "read".to_owned())
}

fn put(path: &Path, bytes: &[u8]) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).expect("a folder for trials");
    }
    fs::write(path, bytes).expect("a file for trials");
}

const COCO: &str = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
"annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 3], "area": 12.0, "iscrowd": 0,
"segmentation": [[1, 1, 5, 1, 5, 4]]}], "categories": [{"id": 3, "name": "bee"}]}"#;

fn coco_json(folder: &Path, input: &[u8]) -> String {
    let path = folder.join("instances.json");
    put(&path, input);
    told(coco::read(&path))
}

const VOC: &str = "<annotation><filename>a.png</filename><size><width>8</width><height>6</height><depth>3</depth></size>\
<object><name>bee</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>\
</object></annotation>";

fn voc_xml(folder: &Path, input: &[u8]) -> String {
    put(&folder.join("ImageSets/Main/train.txt"), b"a\n");
    put(&folder.join("JPEGImages/a.png"), &encoded(ImageFormat::Png));
    put(&folder.join("Annotations/a.xml"), input);
    told(voc::read(folder, "train", &voc::Classes::Found))
}

const YOLO: &str = "path: .\ntrain: images/train\nval: images/train\nnames:\n  0: ant\n  1: bee\n";

fn yolo_labels(folder: &Path, input: &[u8]) -> String {
    put(&folder.join("data.yaml"), YOLO.as_bytes());
    put(&folder.join("images/train/a.png"), &encoded(ImageFormat::Png));
    put(&folder.join("labels/train/a.txt"), input);
    told(yolo::read(folder, "train"))
}

fn yolo_yaml(folder: &Path, input: &[u8]) -> String {
    put(&folder.join("images/train/a.png"), &encoded(ImageFormat::Png));
    put(&folder.join("labels/train/a.txt"), b"0 0.5 0.5 0.25 0.5\n");
    put(&folder.join("data.yaml"), input);
    told(yolo::read(folder, "train"))
}

const CONFIG: &str = "name = \"a\"\n[detector]\narchitecture = \"faster_rcnn\"\n[data]\nkind = \"coco\"\nroot = \"data\"\n\
[student]\nbackbone = \"resnet18\"\n[optim]\nlr = 0.01\n[schedule]\nsteps = 10\nmilestones = [5]\n\
[teacher]\nbackbone = \"resnet50\"\nweights = \"t.pth\"\n[[distill]]\nmethod = \"ckd\"\nat = \"roi_logits\"\nweight = 2\n";
const CLASSIFY: &str = "name = \"a\"\ntask = \"classify\"\n[data]\nkind = \"cifar10\"\nroot = \"data\"\n[optim]\nlr = 0.1\n\
[schedule]\nepochs = 2\nkind = \"cosine\"\n[student]\nnetwork = \"resnet20\"\n";
const COHORT: &str = "name = \"a\"\ntask = \"cohort\"\n[data]\nkind = \"cifar10\"\nroot = \"data\"\n[optim]\nlr = 0.1\n\
[schedule]\nepochs = 2\n[[peer]]\nnetwork = \"resnet8\"\n[[peer]]\nnetwork = \"resnet14\"\n[cohort]\nmethod = \"mcl\"\n";

const PRETRAIN: &str = "name = \"a\"\ntask = \"pretrain\"\n[data]\nroot = \"data\"\n[optim]\nlr = 0.1\n[schedule]\nepochs = 2\n\
[teacher]\nnetwork = \"resnet20\"\nweights = \"t.th\"\n[student]\nnetwork = \"resnet8\"\n[[distill]]\nmethod = \"dense\"\nat = \"stages\"\n\
levels = [\"stage3\"]\n";

fn configuration(_: &Path, input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let all = [
        told(Config::from_toml(&text, "a.toml")),
        told(ClassifyConfig::from_toml(&text, "a.toml")),
        told(CohortConfig::from_toml(&text, "a.toml")),
        told(PretrainConfig::from_toml(&text, "a.toml")),
    ];
    all.join(" ")
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(8, 6, |x, y| Rgb([(x * 30) as u8, (y * 40) as u8, 90]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, format).expect("an image in memory");
    bytes.into_inner()
}

fn images() -> Vec<Vec<u8>> {
    [ImageFormat::Png, ImageFormat::Jpeg].map(encoded).to_vec()
}

fn image(folder: &Path, input: &[u8]) -> String {
    let path = folder.join("image");
    put(&path, input);
    format!("{} {}", told(decode::size(&path)), told(decode::read(&path)))
}

/// A file that describes itself, without the tensors of its network.
fn safetensors() -> Vec<Vec<u8>> {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("a small tensor");
    let tensors = [
        ("backbone.body.conv1.weight".to_owned(), tensor(&[4, 3, 7, 7])),
        ("backbone.fpn.inner_blocks.0.0.weight".to_owned(), tensor(&[8, 16, 1, 1])),
    ];
    let card = ModelCard {
        config: Config::from_toml(CONFIG, "a.toml").expect("a good configuration"),
        categories: Vec::new(),
        provenance: [("steps".to_owned(), "10".to_owned())].into(),
    };
    let folder = tempfile::tempdir().expect("a folder for trials");
    let path = folder.path().join("a.safetensors");
    write_safetensors(&path, &tensors.into(), &card.to_metadata()).expect("a file for trials");
    vec![fs::read(path).expect("a file for trials")]
}

fn weights(folder: &Path, input: &[u8]) -> String {
    let path = folder.join("weights");
    put(&path, input);
    match WeightsFile::read(&path) {
        Err(error) => error.to_string(),
        Ok(file) => format!(
            "{} {} {}",
            told(Recognised::of(&file)),
            told(ModelCard::of(&file)),
            told(Student::open(&path))
        ),
    }
}

/// `pickle.dumps({"data": numpy.zeros((2, 3), "u1"), "labels": [0, 1]}, protocol=2)`, its array as numpy writes it.
fn cifar() -> Vec<u8> {
    b"\x80\x02}q\x00(X\x04\x00\x00\x00dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04\
c_codecs\nencode\nq\x05X\x01\x00\x00\x00bq\x06X\x06\x00\x00\x00latin1q\x07\x86q\x08Rq\x09\x87q\x0aRq\x0b(K\x01K\x02K\x03\x86q\x0c\
cnumpy\ndtype\nq\x0dX\x02\x00\x00\x00u1q\x0e\x89\x88\x87q\x0fRq\x10(K\x03X\x01\x00\x00\x00|q\x11NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff\
K\x00tq\x12b\x89h\x05X\x06\x00\x00\x00\x00\x01\x02\x03\x04\x05q\x13h\x07\x86q\x14Rq\x15tq\x16bX\x06\x00\x00\x00labelsq\x17]q\x18\
(K\x00K\x01eu."
        .to_vec()
}

fn cifar_pickle(_: &Path, input: &[u8]) -> String {
    told(labelled_rows(input, "labels"))
}

/// The tensors of a small checkpoint, by names of an optimiser's.
fn small_state() -> [(Arc<str>, Tensor); 2] {
    let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).expect("a small tensor");
    [("a.weight".into(), tensor(&[2, 3])), ("a.bias".into(), tensor(&[3]))]
}

fn slots(tensors: &[(Arc<str>, Tensor)]) -> Vec<Slot<'_>> {
    tensors.iter().map(|(name, tensor)| Slot { slot: "velocity", name, tensor }).collect()
}

/// A checkpoint with its hash, the same of a version without hashes, and the outcome of a run.
fn run_states() -> Vec<Vec<u8>> {
    const STATE: &str = r#"{"step": 2, "threads": 1, "best": {"step": 1, "score": 0.5}, "teacher": null}"#;
    let folder = tempfile::tempdir().expect("a folder for trials");
    let tensors = small_state();
    let plain: TrainState = serde_json::from_str(STATE).expect("a good state");
    let path = state::save(folder.path(), &[], &slots(&tensors), &plain, 1).expect("a file for trials");
    let header = format!(
        r#"{{"__metadata__":{{"ckd_det.train_state":{}}},"velocity/a.bias":{{"dtype":"F32","shape":[3],"data_offsets":[0,12]}},"velocity/a.weight":{{"dtype":"F32","shape":[2,3],"data_offsets":[12,36]}}}}"#,
        serde_json::Value::from(STATE)
    );
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let values = [1_f32; 9].map(f32::to_le_bytes).concat();
    let old = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &values].concat();
    let outcome = r#"{"row": {"ap": 0.5}, "best": {"step": 1, "score": 0.5}, "steps": 2, "teacher": null,
"networks": [{"folder": "peer0", "step": 1, "score": 0.5, "eval": {}}]}"#;
    vec![fs::read(path).expect("a file for trials"), old, outcome.as_bytes().to_vec()]
}

/// Resumes from the input as a checkpoint, and has it read as the outcome of a run.
fn run_state(folder: &Path, input: &[u8]) -> String {
    let run = RunFolder::at(folder.join("run"));
    put(&run.outcome(), input);
    let folder = folder.join("checkpoints");
    put(&folder.join("step-00000002.safetensors"), input);
    let tensors = small_state();
    let outcome = Outcome::<serde_json::Value>::read(&run);
    format!("{} {}", told(state::restore(&folder, &[], &slots(&tensors))), told(outcome))
}
