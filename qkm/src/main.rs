//! The `qkm` program: parses the command line; the library runs.

use std::process::ExitCode;

use clap::Parser;
use qkm::{cli::Cli, wipe_alloc::WipeAlloc};

#[global_allocator]
static MEMORY: WipeAlloc = WipeAlloc;

fn main() -> ExitCode {
    match qkm::cli::run(Cli::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.code().exit().into()
        }
    }
}
