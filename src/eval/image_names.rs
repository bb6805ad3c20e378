//! Ids of a COCO file's images by the names of their files.

use std::collections::HashMap;

use crate::data::Instances;

/// Ids by name. A name in the annotations fits a path that ends in it, and a path that it ends in.
#[derive(Debug)]
pub struct ImageNames {
    /// The id of each whole name; `None` where two images have it.
    whole: HashMap<String, Option<u64>>,
    /// The id of each end of a name.
    ends: HashMap<String, Option<u64>>,
}

impl ImageNames {
    /// The names of the images of `instances`.
    pub fn of(instances: &Instances) -> Self {
        let (mut whole, mut ends) = (HashMap::new(), HashMap::new());
        for image in &instances.images {
            let name = plain(&image.file_name);
            let add = |map: &mut HashMap<String, Option<u64>>, name: &str| {
                map.entry(name.to_owned())
                    .and_modify(|known| *known = known.filter(|id| *id == image.id))
                    .or_insert(Some(image.id));
            };
            add(&mut whole, &name);
            suffixes(&name).for_each(|end| add(&mut ends, end));
        }
        Self { whole, ends }
    }

    /// The id of the one image that the path of a file stands for.
    pub fn id(&self, path: &str) -> Option<u64> {
        let path = plain(path);
        match suffixes(&path).find_map(|end| self.whole.get(end)) {
            Some(found) => *found,
            None => *self.ends.get(path.as_str())?,
        }
    }
}

/// A name with forward slashes, without `./` in front.
fn plain(name: &str) -> String {
    let name = name.replace('\\', "/");
    name.trim_start_matches("./").to_owned()
}

/// The name, and what is left of it behind each slash.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |rest| rest.split_once('/').map(|(_, behind)| behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_the_image_whose_name_it_ends_in_or_that_ends_in_it() {
        let mut set = Instances::of_classes(["cat"]);
        for name in ["a.png", "cam1/b.png", "cam2/b.png", "./c.png", "deep/er/d.png"] {
            set.push_image(name, (8, 8), []);
        }
        let names = ImageNames::of(&set);
        for (path, id) in [
            ("a.png", Some(1)),
            ("/data/images/a.png", Some(1)),
            ("images/cam2/b.png", Some(3)),
            ("cam1\\b.png", Some(2)),
            ("./x/c.png", Some(4)),
            ("d.png", Some(5)),
            ("er/d.png", Some(5)),
            ("b.png", None),
            ("else/d.png", None),
            ("aa.png", None),
        ] {
            assert_eq!(names.id(path), id, "{path}");
        }
    }
}
