//! `cargo run --release -p ckd-recipes`: writes the recipes that differ from their tables, and names them.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for (name, text) in ckd_recipes::recipes() {
        let path = configs.join(&name);
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::create_dir_all(path.parent().expect("a folder"))?;
            fs::write(&path, text)?;
            println!("configs/{name}");
        }
    }
    Ok(())
}
