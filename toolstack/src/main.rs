//! The `xupg` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    xupg::cli::run(std::env::args_os())
}
