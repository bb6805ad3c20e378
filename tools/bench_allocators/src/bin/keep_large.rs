//! The program over its own allocator, `KeepLarge<MiMalloc>`.

use std::process::ExitCode;

use ckd_kernels::allocator::KeepLarge;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: KeepLarge<MiMalloc> = KeepLarge::new(MiMalloc);

fn main() -> ExitCode {
    ckd_det::cli::main()
}
