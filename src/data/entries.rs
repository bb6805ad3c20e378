//! Entries of folders that are images: hidden ones are none.

use std::path::Path;

/// The extensions of image files in lower case, the most likely first.
pub(super) const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif"];

/// Place of an extension among [`EXTENSIONS`], in any case.
pub(super) fn rank(extension: &str) -> Option<usize> {
    EXTENSIONS.iter().position(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a path's extension is an image's.
pub(super) fn is_image(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).and_then(rank).is_some()
}

/// Whether a path's name is one that systems leave behind: `.ipynb_checkpoints`, AppleDouble's `._a.jpg`,
/// `__MACOSX`, `Thumbs.db`, `desktop.ini`.
pub(super) fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let left_behind = ["__MACOSX", "Thumbs.db", "desktop.ini"];
    name.starts_with('.') || left_behind.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systems_leave_behind_is_hidden() {
        for name in ["a/.ipynb_checkpoints", "._a.jpg", ".DS_Store", "x/__MACOSX", "Thumbs.db", "Desktop.ini"]
        {
            assert!(is_hidden(Path::new(name)), "{name}");
        }
        assert!(!is_hidden(Path::new(".hidden/a.jpg")) && !is_hidden(Path::new("a")));
        assert!(
            is_image(Path::new("a.JPEG")) && !is_image(Path::new("a.xml")) && !is_image(Path::new("jpg"))
        );
    }
}
