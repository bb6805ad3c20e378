//! From a name to a file or an embedded configuration.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use ckd_settings::{Diagnostic, Place, did_you_mean};

use super::embedded;
use super::error::ConfigError;

/// Origin of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// A file.
    File(PathBuf),
    /// A configuration compiled into the program, by its name below `configs/`.
    Embedded(&'static str),
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Embedded(name) => write!(formatter, "embedded:{name}"),
        }
    }
}

impl ConfigSource {
    /// Path of the configuration; an embedded one's below `configs/`.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Embedded(name) => Path::new(name),
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let canonical = |source: &Self| match source {
            Self::File(path) => fs::canonicalize(path).ok(),
            Self::Embedded(_) => None,
        };
        self == other || canonical(self).is_some_and(|path| canonical(other) == Some(path))
    }
}

/// A configuration that can be loaded by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name on the command line.
    pub name: String,
    /// Origin of the configuration.
    pub source: ConfigSource,
    /// First comment line of the configuration.
    pub summary: String,
}

/// The configurations of `configs/` and the embedded ones that they don't hide, by name. Bases, which
/// only serve to be extended, are not among them.
pub fn list() -> Vec<Listed> {
    let listed = |name: &str, source, text: &str| Listed {
        name: name.trim_end_matches(".toml").to_owned(),
        source,
        summary: text.lines().next().and_then(|line| line.strip_prefix('#')).unwrap_or("").trim().to_owned(),
    };
    let mut all: Vec<Listed> = Vec::new();
    for (name, path) in in_folder(Path::new("configs")) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        all.push(listed(&name, ConfigSource::File(path), &text));
    }
    for (name, text) in embedded::EMBEDDED.iter().filter(|(name, _)| !name.starts_with(BASES)) {
        let embedded = listed(name, ConfigSource::Embedded(name), text);
        if all.iter().all(|other| other.name != embedded.name) {
            all.push(embedded);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The folder of configurations that only serve to be extended.
const BASES: &str = "base/";

/// The configurations in `folder` and in the folders in it, by their names below it; no bases.
fn in_folder(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = |folder: &Path| {
        let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path))).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (name, path) in entries(folder) {
        if path.is_dir() && format!("{name}/") != BASES {
            let within = entries(&path).into_iter().filter(|(_, path)| is_toml(path));
            found.extend(within.map(|(file, path)| (format!("{name}/{file}"), path)));
        } else if is_toml(&path) {
            found.push((name, path));
        }
    }
    found
}

fn is_toml(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "toml")
}

/// A key of one configuration that names another.
pub(super) struct Reference<'a> {
    /// The key.
    pub(super) key: &'static str,
    /// Value of the key.
    pub(super) name: &'a str,
    /// The value's place.
    pub(super) place: &'a Place,
}

impl Reference<'_> {
    /// The configuration that it refers to. `trail` holds the configurations that led here, the referring one
    /// last.
    pub(super) fn follow(&self, trail: &[ConfigSource]) -> Result<ConfigSource, ConfigError> {
        let found = find(Path::new(self.name), trail.last()).map_err(|error| self.blame(error))?;
        if !trail.iter().any(|earlier| earlier.is_same_as(&found)) {
            return Ok(found);
        }
        let names: Vec<_> = trail.iter().chain([&found]).map(ToString::to_string).collect();
        let circle = Diagnostic::at(self.place.clone(), format!("`{}` runs in a circle", self.key));
        Err(circle.label("this leads back to where it came from").help(names.join(" -> ")).into())
    }

    fn blame(&self, error: ConfigError) -> ConfigError {
        let ConfigError::NotFound { name, looked_in, similar } = error else {
            return error;
        };
        let help = match similar {
            Some(similar) => format!("did you mean \"{similar}\"?"),
            None => format!("looked for {}", looked_in.join(", ")),
        };
        Diagnostic::at(self.place.clone(), format!("there is no configuration \"{name}\""))
            .label(format!("`{}` names it", self.key))
            .help(help)
            .into()
    }
}

/// Finds `name`, first beside `from` where another configuration refers to it.
pub(super) fn find(name: &Path, from: Option<&ConfigSource>) -> Result<ConfigSource, ConfigError> {
    let spellings = spellings(name);
    let embedded_at = |folder: &Path| {
        let names = spellings.iter().filter_map(|name| below(folder, name));
        names.filter_map(|name| embedded::find(&name)).map(|(name, _)| ConfigSource::Embedded(name)).next()
    };
    let mut folders = Vec::new();
    match from {
        Some(ConfigSource::File(file)) => folders.extend(file.parent().map(Path::to_owned)),
        Some(ConfigSource::Embedded(file)) => {
            if let Some(found) = Path::new(file).parent().and_then(embedded_at) {
                return Ok(found);
            }
        }
        None => {}
    }
    folders.push(PathBuf::new());
    if name.is_relative() && !name.starts_with("configs") {
        folders.push(PathBuf::from("configs"));
    }
    let mut looked_in = Vec::new();
    for path in folders.iter().flat_map(|folder| spellings.iter().map(|name| folder.join(name))) {
        if path.is_file() {
            return Ok(ConfigSource::File(path));
        }
        let place = path.display().to_string();
        if !looked_in.contains(&place) {
            looked_in.push(place);
        }
    }
    // `configs/x.toml` means the embedded x.toml where there is no folder `configs`.
    if let Some(found) = embedded_at(Path::new("")).or_else(|| embedded_at(Path::new("configs"))) {
        return Ok(found);
    }
    looked_in.push("the embedded configurations".to_owned());
    Err(ConfigError::NotFound { similar: similar(name), name: name.display().to_string(), looked_in })
}

/// The name as given, and with `.toml` if that was left out.
fn spellings(name: &Path) -> Vec<PathBuf> {
    let mut spellings = vec![name.to_owned()];
    if name.extension().is_none_or(|extension| extension != "toml") {
        let mut with_extension = name.as_os_str().to_owned();
        with_extension.push(".toml");
        spellings.push(with_extension.into());
    }
    spellings
}

/// `name` seen from `folder`, as an embedded name: without `.` and `..`, below `configs/`.
fn below(folder: &Path, name: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let path = folder.join(name);
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// The name of the configuration that `name` was probably meant to be.
fn similar(name: &Path) -> Option<String> {
    let stem = name.file_stem()?.to_str()?;
    let all = list();
    did_you_mean(stem, all.iter().map(|listed| listed.name.as_str())).map(str::to_owned)
}
