//! Golden values: truth made with PyTorch and torchvision, read for the tests of all crates.
//!
//! A *root* is a folder with `index.json` (every case: what it is, attributes, tolerances) and `.safetensors` files.
//! [`repository`] is the one that this crate stands in; a crate's own tests may have another, which [`Golden::open`] reads.
//!
//! ```ignore
//! golden::each_case("conv2d/", |case| {
//!     let (x, shape) = case.f32("x");
//!     case.check_close("out", &conv2d(&x, &shape, case.attr_usize("stride")));
//! });
//! ```
//!
//! The stored tensor is the truth: some inputs that name a generator stream carry planted values (hostile
//! logits, zero rows). An input that is absent from the file is computed from its stream; only inputs that
//! equal it were left out (`tools/golden/copy_models.py` checks that).
//! Everything here panics with the case, the key and the reason: it is a test's voice, not the program's.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The repository's golden values, read once.
pub fn repository() -> &'static Golden {
    static REPOSITORY: OnceLock<Golden> = OnceLock::new();
    REPOSITORY.get_or_init(|| Golden::open(env!("CARGO_MANIFEST_DIR")))
}

/// Runs `test` on every case of the repository whose name starts with `prefix`. No such case at all is a failure.
pub fn each_case(prefix: &str, test: impl FnMut(&Case<'_>)) {
    let cases = repository().cases_with_prefix(prefix);
    assert!(!cases.is_empty(), "no golden case starts with {prefix:?}");
    cases.iter().for_each(test);
}

/// One opened root.
pub struct Golden {
    root: PathBuf,
    index: Value,
    files: BTreeMap<String, BTreeMap<String, Stored>>,
}

impl Golden {
    /// Reads the index of `root` and every tensor file that it names and that exists.
    pub fn open(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref().to_path_buf();
        let index = read_json(&root.join("index.json"));
        let mut files = BTreeMap::new();
        for case in cases_of(&index) {
            let file = text(case, "file");
            let path = root.join(file);
            if !files.contains_key(file) && path.is_file() {
                files.insert(file.to_owned(), read_tensors(&path));
            }
        }
        Self { root, index, files }
    }

    /// The folder that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The whole `index.json`, for what isn't a case (`parameter_counts`, `generator_check`).
    pub fn index(&self) -> &Value {
        &self.index
    }

    /// The cases whose name starts with `prefix`, in the order of the index.
    pub fn cases_with_prefix<'a>(&'a self, prefix: &str) -> Vec<Case<'a>> {
        cases_of(&self.index)
            .iter()
            .filter(|entry| text(entry, "name").starts_with(prefix))
            .map(|entry| self.case_of(entry))
            .collect()
    }

    /// The case with exactly this name.
    pub fn case<'a>(&'a self, name: &str) -> Case<'a> {
        let entry = cases_of(&self.index).iter().find(|entry| text(entry, "name") == name);
        self.case_of(entry.unwrap_or_else(|| panic!("no case {name} in {}", self.root.display())))
    }

    /// The tensors of a golden model (`attrs.weights`), by ascending stream: name, shape, values. The factors
    /// of `attrs.multiply` are part of the rules in `weights.json`.
    pub fn weights(&self, case: &Case<'_>) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let table = read_json(&self.root.join("weights.json"));
        let model = text(case.attrs, "weights");
        let rows =
            table["models"][model].as_array().unwrap_or_else(|| panic!("no model {model} in weights.json"));
        let row = |row: &Value| {
            let name = row[1].as_str().expect("weights.json: name").to_owned();
            let shape = usizes(&row[2]);
            let stream = row[0].as_u64().expect("weights.json: stream");
            let fill = fill_rule(row[3].as_str().expect("weights.json: rule"));
            let count: usize = shape.iter().product();
            let values = (0..count).map(|i| fill(value(stream, i as u64)) as f32).collect();
            (name, shape, values)
        };
        rows.iter().map(row).collect()
    }

    fn case_of<'a>(&'a self, entry: &'a Value) -> Case<'a> {
        Case {
            name: text(entry, "name"),
            attrs: &entry["attrs"],
            entry,
            tensors: self.files.get(text(entry, "file")),
            golden: self,
        }
    }
}

/// One case: attributes, inputs, expected outputs.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Name in the index.
    pub name: &'a str,
    /// What the index says of the case, beside its tensors.
    pub attrs: &'a Value,
    entry: &'a Value,
    tensors: Option<&'a BTreeMap<String, Stored>>,
    golden: &'a Golden,
}

impl<'a> Case<'a> {
    /// The case called `name` of the same root.
    pub fn beside(&self, name: &str) -> Self {
        self.golden.case(name)
    }

    /// Whether this root has the tensor, stored or following from the generator.
    pub fn has(&self, key: &str) -> bool {
        self.stored(key).is_some() || self.generated(key).is_some()
    }

    /// The keys of the inputs, sorted as in the index.
    pub fn inputs(&self) -> Vec<&'a str> {
        keys(&self.entry["inputs"])
    }

    /// The keys of the expected outputs, sorted as in the index.
    pub fn outputs(&self) -> Vec<&'a str> {
        keys(&self.entry["outputs"])
    }

    /// Values and shape of a float tensor.
    pub fn f32(&self, key: &str) -> (Vec<f32>, Vec<usize>) {
        if let Some(generated) = self.generated(key).filter(|_| self.stored(key).is_none()) {
            return generated;
        }
        let stored = self.expect(key, Dtype::F32);
        let values = stored.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
        (values.collect(), stored.shape.clone())
    }

    /// Values and shape of an integer tensor.
    pub fn i64(&self, key: &str) -> (Vec<i64>, Vec<usize>) {
        let stored = self.expect(key, Dtype::I64);
        let values = stored.bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        (values.collect(), stored.shape.clone())
    }

    /// Values and shape of a mask.
    pub fn u8(&self, key: &str) -> (Vec<u8>, Vec<usize>) {
        let stored = self.expect(key, Dtype::U8);
        (stored.bytes.clone(), stored.shape.clone())
    }

    /// The rows of an (n, 4) float tensor.
    pub fn boxes(&self, key: &str) -> Vec<[f32; 4]> {
        let (values, shape) = self.f32(key);
        assert_eq!(shape.last(), Some(&4), "{}: {key} isn't a table of boxes: {shape:?}", self.place());
        values.chunks_exact(4).map(|row| row.try_into().expect("4 values")).collect()
    }

    /// A number of the attributes.
    pub fn attr_f64(&self, key: &str) -> f64 {
        self.attrs[key].as_f64().unwrap_or_else(|| panic!("{}: no number {key:?} in attrs", self.place()))
    }

    /// A count of the attributes.
    pub fn attr_usize(&self, key: &str) -> usize {
        let number =
            self.attrs[key].as_u64().unwrap_or_else(|| panic!("{}: no count {key:?} in attrs", self.place()));
        usize::try_from(number).expect("64-bit")
    }

    /// A list of counts of the attributes; a single count is a list of one.
    pub fn attr_usizes(&self, key: &str) -> Vec<usize> {
        let value = &self.attrs[key];
        if value.is_u64() { vec![self.attr_usize(key)] } else { usizes(value) }
    }

    /// The allowed absolute difference of an output.
    pub fn atol(&self, key: &str) -> f64 {
        let atol = self.entry["outputs"][key]["atol"].as_f64();
        atol.unwrap_or_else(|| panic!("{}: output {key:?} has no atol", self.place()))
    }

    /// Panics unless `got` has as many values as the golden output and each is within its atol.
    #[track_caller]
    pub fn check_close(&self, key: &str, got: &[f32]) {
        self.check_close_within(key, got, self.atol(key));
    }

    /// As `check_close` with a tolerance of the caller's: say at the call why it isn't the golden one.
    #[track_caller]
    pub fn check_close_within(&self, key: &str, got: &[f32], atol: f64) {
        let (want, shape) = self.f32(key);
        assert_eq!(got.len(), want.len(), "{}: {key}: values, golden shape {shape:?}", self.place());
        let far = |i: &usize| {
            let difference = (f64::from(got[*i]) - f64::from(want[*i])).abs();
            got[*i] != want[*i] && (difference.is_nan() || difference > atol)
        };
        let wrong: Vec<usize> = (0..want.len()).filter(far).collect();
        if let Some(&first) = wrong.first() {
            let distance = |i: usize| (f64::from(got[i]) - f64::from(want[i])).abs();
            let worst =
                wrong.iter().copied().max_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(first);
            let show =
                |i: usize| format!("[{i}] = {:?}, golden {:?}, off by {:.3e}", got[i], want[i], distance(i));
            panic!(
                "{}: {key}: {} of {} values (shape {shape:?}) differ by more than {atol:.3e}\n  first {}\n  worst {}",
                self.place(),
                wrong.len(),
                want.len(),
                show(first),
                show(worst)
            );
        }
    }

    /// Panics unless `got` are exactly the golden integers (i64 or u8 in the file).
    #[track_caller]
    pub fn check_exact(&self, key: &str, got: &[i64]) {
        let want: Vec<i64> = match self.stored(key) {
            Some(stored) if stored.dtype == Dtype::U8 => stored.bytes.iter().map(|&b| i64::from(b)).collect(),
            _ => self.i64(key).0,
        };
        assert_eq!(got.len(), want.len(), "{}: {key}: count of values", self.place());
        if let Some(i) = (0..want.len()).find(|&i| got[i] != want[i]) {
            panic!("{}: {key}[{i}] = {}, golden {}", self.place(), got[i], want[i]);
        }
    }

    fn stored(&self, key: &str) -> Option<&'a Stored> {
        self.tensors?.get(&format!("{}/{key}", self.name))
    }

    fn generated(&self, key: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        let spec = &self.entry["inputs"][key];
        let stream = spec["stream"].as_u64()?;
        let shape = usizes(&spec["shape"]);
        let (scale, offset) = (spec["scale"].as_f64()?, spec["offset"].as_f64()?);
        Some((tensor(stream, shape.iter().product(), scale, offset), shape))
    }

    fn expect(&self, key: &str, dtype: Dtype) -> &'a Stored {
        let stored = self.stored(key).unwrap_or_else(|| {
            panic!(
                "{}: tensor {key:?} isn't in this root (ask `has` first where it may be absent)",
                self.place()
            )
        });
        assert_eq!(stored.dtype, dtype, "{}: {key}: type", self.place());
        stored
    }

    fn place(&self) -> String {
        format!("golden {} of {}", self.name, self.golden.root.display())
    }
}

/// Element `i` of stream `s` of the generator: 24 bits, in [-1, 1), exact in f32.
pub fn value(s: u64, i: u64) -> f64 {
    const G: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut z = s.wrapping_mul(G).wrapping_add(i).wrapping_add(G);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

/// `count` elements of stream `s`: `value * scale + offset`, rounded to f32 once.
pub fn tensor(s: u64, count: usize, scale: f64, offset: f64) -> Vec<f32> {
    (0..count as u64).map(|i| (value(s, i) * scale + offset) as f32).collect()
}

/// Compares the generator with the check values of the index and with the stored inputs of the golden trunks.
pub fn check_generator() {
    let golden = repository();
    let check = golden.index()["generator_check"].as_object().expect("generator_check");
    for (stream, values) in check {
        let stream: u64 = stream.trim_start_matches('s').parse().expect("generator_check: stream");
        for (i, want) in values.as_array().expect("generator_check: values").iter().enumerate() {
            let want = want.as_f64().expect("generator_check: number");
            // serde_json reads a decimal to within an ulp of f64; the values are exact in f32.
            assert_eq!(value(stream, i as u64) as f32, want as f32, "stream {stream}, element {i}");
        }
    }
    for case in golden.cases_with_prefix("trunk/") {
        for key in case.inputs().into_iter().filter(|key| case.stored(key).is_some()) {
            if let Some((generated, shape)) = case.generated(key) {
                assert_eq!((generated, shape), case.f32(key), "{}: {key}", case.place());
            }
        }
    }
}

struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The fill rules of `weights.json`: `0.1*v`, `1+0.1*v`, `1+0.5*|v|`, `v/sqrt(FAN_IN)`, `v/sqrt(FAN_IN)*FACTOR`.
fn fill_rule(rule: &str) -> Box<dyn Fn(f64) -> f64> {
    match rule {
        "0.1*v" => Box::new(|v| 0.1 * v),
        "1+0.1*v" => Box::new(|v| 1.0 + 0.1 * v),
        "1+0.5*|v|" => Box::new(|v| 1.0 + 0.5 * v.abs()),
        _ => {
            let parse = || -> Option<(f64, f64)> {
                let (fan_in, factor) = rule.strip_prefix("v/sqrt(")?.split_once(')')?;
                let factor = if factor.is_empty() { "1" } else { factor.strip_prefix('*')? };
                Some((fan_in.parse().ok()?, factor.parse().ok()?))
            };
            let (fan_in, factor) = parse().unwrap_or_else(|| panic!("weights.json: unknown rule {rule:?}"));
            let scale = factor / fan_in.sqrt();
            Box::new(move |v| v * scale)
        }
    }
}

fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_tensors(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.iter()
        .map(|(name, view)| {
            let stored =
                Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            (name.to_owned(), stored)
        })
        .collect()
}

fn cases_of(index: &Value) -> &[Value] {
    index["cases"].as_array().expect("index.json: cases")
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key].as_str().unwrap_or_else(|| panic!("golden index: no text {key:?} in {entry}"))
}

fn keys(table: &Value) -> Vec<&str> {
    table.as_object().map(|table| table.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn usizes(list: &Value) -> Vec<usize> {
    let list = list.as_array().unwrap_or_else(|| panic!("not a list of counts: {list}"));
    list.iter().map(|n| n.as_u64().unwrap_or_else(|| panic!("not a count: {n}")) as usize).collect()
}
