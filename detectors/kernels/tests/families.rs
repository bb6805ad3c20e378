//! Kernels of a GPU as their compiler sees them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the compiler is the stand-in's, whose kernels are no code of a GPU.
fn is_of_stand_in(ptx: &str) -> bool {
    ptx.starts_with("//CPU_CUDA")
}

/// By NVIDIA's compiler, which needs no GPU, or by the stand-in's. Registers that do not suffice are spilled to the GPU's memory,
/// which costs more than most kernels compute.
#[test]
fn every_family_compiles_for_every_architecture_and_spills_no_registers() {
    let assembler = assembler();
    for architecture in ["75", "80", "90", "100", "120"] {
        for (family, ptx) in ckd_kernels::cuda::compile_all(&format!("compute_{architecture}")).unwrap() {
            assert!(ptx.contains(".entry") || is_of_stand_in(&ptx), "{family} {architecture}");
            match &assembler {
                Some(assembler) if ["80", "90"].contains(&architecture) && !is_of_stand_in(&ptx) => {
                    assert_spills_nothing(assembler, &family, architecture, &ptx);
                }
                _ => {}
            }
        }
    }
}

/// NVIDIA's assembler, if the toolkit is there.
fn assembler() -> Option<PathBuf> {
    let toolkit = std::env::var("CUDA_HOME").unwrap_or_else(|_| "/usr/local/cuda".into());
    let assembler = Path::new(&toolkit).join("bin/ptxas");
    if !assembler.exists() {
        eprintln!(
            "spilled registers NOT LOOKED FOR: there is no {}; CUDA_HOME names a toolkit",
            assembler.display()
        );
        return None;
    }
    Some(assembler)
}

fn assert_spills_nothing(assembler: &Path, family: &str, architecture: &str, ptx: &str) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels.ptx");
    std::fs::write(&file, ptx).unwrap();
    let mut command = Command::new(assembler);
    command.args(["-v", &format!("-arch=sm_{architecture}"), "-o", "/dev/null"]).arg(&file);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{family} for {architecture}: {told}");
    let spills: Vec<&str> = told.lines().filter(|line| line.contains("bytes spill stores")).collect();
    assert!(spills.len() >= ptx.matches(".entry").count(), "{family}: {told}");
    let is_none = |line: &&str| line.contains(" 0 bytes spill stores, 0 bytes spill loads");
    assert!(spills.iter().all(is_none), "{family} for {architecture}: {told}");
}
