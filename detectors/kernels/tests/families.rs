//! Kernels of a GPU as their compiler sees them.

/// By NVIDIA's compiler, which needs no GPU, or by the stand-in's.
#[test]
fn every_family_compiles_for_every_architecture() {
    for architecture in ["compute_75", "compute_80", "compute_90", "compute_100", "compute_120"] {
        for (family, ptx) in ckd_kernels::cuda::compile_all(architecture).unwrap() {
            assert!(ptx.contains(".entry") || ptx.starts_with("//CPU_CUDA"), "{family} {architecture}");
        }
    }
}
