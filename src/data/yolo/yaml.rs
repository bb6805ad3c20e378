//! `data.yaml`: names of classes, and where the images of each split are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::YoloError;

/// A larger `data.yaml` is none: 80 names take 2 KiB.
const LARGEST: u64 = 1 << 20;

/// Names of the classes by number.
pub(super) type Names = BTreeMap<u32, String>;

/// The parts of a `data.yaml` that count.
#[derive(Debug, Default)]
pub(super) struct DataYaml {
    pub(super) path: Option<String>,
    pub(super) names: Names,
    /// Labels have keypoints behind their box.
    pub(super) has_keypoints: bool,
    /// The folders or lists of each split.
    pub(super) splits: BTreeMap<String, Vec<String>>,
}

/// The file as it is written; other keys (`download`, `roboflow`, ...) are skipped.
#[derive(Deserialize)]
struct File {
    path: Option<String>,
    #[serde(default)]
    names: Option<NamesAsWritten>,
    nc: Option<u32>,
    kpt_shape: Option<IgnoredAny>,
    #[serde(flatten)]
    others: BTreeMap<String, Sources>,
}

/// `[a, b]` or `{0: a, 1: b}`.
struct NamesAsWritten(Names);

/// A split's value: one folder or list, or several; any other value of another key.
struct Sources(Vec<String>);

impl DataYaml {
    /// Reads and checks the file.
    pub(super) fn read(path: &Path) -> Result<Self, YoloError> {
        let at = |source| YoloError::Read { path: path.to_owned(), source };
        let content = |problem| YoloError::Content { path: path.to_owned(), problem };
        if std::fs::metadata(path).map_err(at)?.len() > LARGEST {
            return Err(content(
                "is larger than 1 MiB; a data.yaml has names of classes and of folders".to_owned(),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(at)?;
        Self::parse(&text).map_err(content)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| format!("is not a YOLO data.yaml: {error}"))?;
        let names = match (file.names, file.nc) {
            (Some(NamesAsWritten(names)), _) => names,
            (None, Some(count)) if count <= 10_000 => {
                (0..count).map(|class| (class, format!("class_{class}"))).collect()
            }
            (None, _) => return Err("has no `names`; add the names of the classes, as a list".to_owned()),
        };
        if names.is_empty() {
            return Err("`names` is empty; a detector needs at least one class".to_owned());
        }
        if let Some(count) = file.nc.filter(|count| *count as usize != names.len()) {
            return Err(format!(
                "`nc` is {count}, but `names` has {}; correct the one or the other",
                names.len()
            ));
        }
        let splits = file.others.into_iter().filter(|(_, Sources(sources))| !sources.is_empty());
        Ok(Self {
            path: file.path,
            names,
            has_keypoints: file.kpt_shape.is_some(),
            splits: splits.map(|(key, Sources(sources))| (key, sources)).collect(),
        })
    }

    /// The folder that splits are relative to, for the file at `yaml`.
    pub(super) fn base(&self, yaml: &Path) -> PathBuf {
        let beside = yaml.parent().unwrap_or(Path::new(""));
        let named = self.path.as_ref().map(|path| beside.join(path)).filter(|path| path.is_dir());
        named.unwrap_or_else(|| beside.to_owned()).components().collect()
    }

    /// The folders and lists of a split.
    pub(super) fn split(&self, split: &str, yaml: &Path) -> Result<Vec<String>, YoloError> {
        self.splits.get(split).cloned().ok_or_else(|| YoloError::Content {
            path: yaml.to_owned(),
            problem: format!(
                "has no `{split}`; add it, a folder of images or a list of them, or name another of its keys ({})",
                self.splits.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            ),
        })
    }
}

impl<'de> Deserialize<'de> for NamesAsWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = NamesAsWritten;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names, or a map from numbers to names")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = Names::new();
                while let Some(name) = list.next_element::<String>()? {
                    names.insert(names.len() as u32, name);
                }
                Ok(NamesAsWritten(names))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = Names::new();
                while let Some((class, name)) = map.next_entry::<u32, String>()? {
                    names.insert(class, name);
                }
                Ok(NamesAsWritten(names))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Sources;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, a list, or several")
            }
            fn visit_str<E>(self, source: &str) -> Result<Self::Value, E> {
                Ok(Sources(vec![source.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut sources = Vec::new();
                while let Some(Sources(more)) = list.next_element()? {
                    sources.extend(more);
                }
                Ok(Sources(sources))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Sources(Vec::new()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Sources(Vec::new()))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Sources(Vec::new()))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Sources(Vec::new()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Sources(Vec::new()))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Sources(Vec::new()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<(u32, String)> {
        DataYaml::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).names.into_iter().collect()
    }

    #[test]
    fn names_are_a_list_or_a_map() {
        let wanted = vec![(0, "person".to_owned()), (1, "traffic light".to_owned())];
        for text in [
            "names: [person, traffic light]\nnc: 2\n",
            "names:\n  0: person\n  1: traffic light\n",
            "names:\n- person\n- 'traffic light'\ntrain: x\n",
            "\u{feff}# a set\nnames: {0: person, 1: traffic light} # two\nroboflow: {version: 3, url: x}\nflag: true\n",
        ] {
            assert_eq!(names(text), wanted, "{text}");
        }
        assert_eq!(names("nc: 2\ntrain: x"), [(0, "class_0".to_owned()), (1, "class_1".to_owned())]);
        assert_eq!(
            names("names: [1, yes, 2.50]").iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
            ["1", "yes", "2.50"]
        );
    }

    #[test]
    fn splits_are_a_folder_a_list_or_several() {
        let yaml =
            DataYaml::parse("path: ../sets/x\ntrain: [images/a, b.txt]\nval: images/val\ntest:\nnames: [a]")
                .unwrap();
        assert_eq!(yaml.path.as_deref(), Some("../sets/x"));
        assert_eq!(yaml.splits["train"], ["images/a", "b.txt"]);
        let error = yaml.split("test", Path::new("data.yaml")).unwrap_err().to_string();
        assert!(error.contains("has no `test`") && error.contains("train, val"), "{error}");
    }

    #[test]
    fn a_file_that_says_too_little_or_contradicts_itself_is_refused() {
        for (text, expected) in [
            ("train: x", "has no `names`"),
            ("names: []", "`names` is empty"),
            ("names: [a, b]\nnc: 3", "`nc` is 3, but `names` has 2"),
            ("names: {a: b}", "is not a YOLO data.yaml"),
            ("[1, 2]", "is not a YOLO data.yaml"),
            ("names: [a\n", "is not a YOLO data.yaml"),
        ] {
            let error = DataYaml::parse(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(DataYaml::parse("").is_err(), "an empty file");
    }

    #[test]
    fn aliases_of_aliases_do_not_fill_the_memory() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let above = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{above}]\n"));
        }
        text.push_str("names: [a]\n");
        assert!(DataYaml::parse(&text).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_text_makes_the_reader_panic(
            words in proptest::collection::vec(proptest::sample::select(vec![
                "names", "train", "val", "path", "nc", ":", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "a", "0", "1",
                "&x", "*x", "\"", "'", "|", ">", "#", "?", "!!", "~", "---\n", "%", "\t",
            ]), 0..40),
            any in ".{0,60}",
        ) {
            let _ = DataYaml::parse(&words.concat());
            let _ = DataYaml::parse(&any);
        }
    }
}
