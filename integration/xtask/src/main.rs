//! The lab: builds, demonstrates and tests xupg on a real, nested Xen.

use clap::{Parser, Subcommand};
use xtask::{images, keys, packages, progress};
use std::process::ExitCode;

/// The lab: builds, demonstrates and tests xupg on a real, nested Xen.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Installs packages, makes keys, kernels, roots and the releases' trees, as far as they are not there.
    Setup,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn setup() -> anyhow::Result<()> {
    packages::ensure()?;
    let keys = keys::Keys::ensure()?;
    let parts = images::release::Parts::ensure(&keys)?;
    for version in ["1.0", "2.0"] {
        let trees = images::release::Release::new(version, version).trees(&parts)?;
        progress::say(format_args!("release {version}: {}", trees.display()));
    }
    Ok(())
}
