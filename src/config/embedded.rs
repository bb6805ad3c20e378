//! The configurations that are compiled into the program, so that it works from any folder.

/// Name below `configs/` and content, in alphabetical order. `build.rs` lists the files.
pub(super) const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/configs.rs"));

/// The embedded configuration of that name, with the name as it is stored.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    let place = EMBEDDED.binary_search_by_key(&name, |(embedded, _)| embedded).ok()?;
    Some(EMBEDDED[place])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_configuration_of_any_folder_is_embedded_under_its_path() {
        for name in ["quickstart.toml", "base/quickstart.toml", "cifar100/kd_w40_2_w16_2.toml"] {
            let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name));
            assert_eq!(find(name), Some((name, text.expect("a file").as_str())));
        }
        assert_eq!(find("quickstart"), None);
    }
}
