//! The program over the system's allocator.

use std::process::ExitCode;

use std::alloc::System;

#[global_allocator]
static ALLOCATOR: System = System;

fn main() -> ExitCode {
    ckd_det::cli::main()
}
