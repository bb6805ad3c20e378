//! Real images and published weights. They are not in the repository: tests that need them are ignored unless asked for
//! (`cargo test --release --test tests -- --ignored`), and fail where the data is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Path of a file of real data: below the folder named by `CKD_DET_DATA`, else `../shared/data` beside the repository.
#[track_caller]
pub(crate) fn file(name: &str) -> PathBuf {
    let folder = match std::env::var_os("CKD_DET_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there: set CKD_DET_DATA to the folder that has it", path.display());
    path
}

/// Unpacks `NAME.tar` below `into`. Returns the folder `NAME` in it.
#[track_caller]
pub(crate) fn unpacked(name: &str, into: &Path) -> PathBuf {
    let archive = file(&format!("{name}.tar"));
    let status = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(into).status();
    assert!(status.is_ok_and(|status| status.success()), "`tar` cannot unpack {}", archive.display());
    into.join(name)
}

/// The 10,000 test rows of CIFAR-10: a label and 3,072 pixels each.
#[track_caller]
pub(crate) fn cifar10_test_rows() -> Vec<u8> {
    let packed = file("cifar10/test_batch.bin.xz");
    let output = Command::new("xz").arg("-dc").arg(&packed).output();
    match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => panic!("`xz` cannot unpack {}", packed.display()),
    }
}
