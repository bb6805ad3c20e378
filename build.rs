//! Lists every file of `configs/` for `src/config/embedded.rs`, which compiles them into the program.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=configs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("configs");
    let mut files = Vec::new();
    collect(&root, "", &mut files)?;
    files.sort();
    let rows = files.iter().map(|(name, path)| format!("({name:?}, include_str!({path:?})),\n"));
    let table = format!("&[\n{}]\n", rows.collect::<String>());
    fs::write(Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("configs.rs"), table)
}

/// Adds the files below `folder`, each with its name: the path from `configs/`, with `/`.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        match path.is_dir() {
            true => collect(&path, &format!("{name}/"), files)?,
            false if name.ends_with(".toml") => files.push((name, path)),
            false => {}
        }
    }
    Ok(())
}
