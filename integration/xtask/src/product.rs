//! The built programs: what the lab puts into its images, and runs on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{paths, progress};

/// The programs of one build.
#[derive(Debug, Clone)]
pub struct Product {
    /// The command of dom0; also makes bundles and disks on this machine.
    pub xupg: PathBuf,
    /// The agent of a domU, static.
    pub agent: PathBuf,
}

/// The target that the agent is built for. Naming it keeps its static linking away from build
/// scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

impl Product {
    /// Builds both, or finds that nothing has changed.
    ///
    /// # Errors
    /// When cargo fails.
    pub fn build() -> Result<Self> {
        progress::step("building xupg and its agent", || {
            cargo(
                &["build", "--quiet", "--profile", "lab", "-p", "xupg"],
                None,
            )?;
            cargo(
                &[
                    "build",
                    "--quiet",
                    "--profile",
                    "agent",
                    "-p",
                    "xupg-agent",
                    "--target",
                    TARGET,
                ],
                Some("-C target-feature=+crt-static"),
            )?;
            let target = target_dir();
            let product = Self {
                xupg: target.join("lab/xupg"),
                agent: target.join(TARGET).join("agent/xupg-agent"),
            };
            for program in [&product.xupg, &product.agent] {
                ensure!(program.exists(), "cargo built no {}", program.display());
            }
            Ok(product)
        })
    }

    /// The `xupg` command, to run on this machine.
    pub fn command(&self) -> Command {
        crate::command::command(&self.xupg.to_string_lossy(), [] as [&str; 0])
    }
}

/// Runs cargo on this workspace; what it says goes to the terminal.
///
/// # Errors
/// When it fails.
pub fn cargo(arguments: &[&str], rustflags: Option<&str>) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.args(arguments).current_dir(paths::repo());
    if let Some(flags) = rustflags {
        cargo.env("RUSTFLAGS", flags);
    }
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(
        status.success(),
        "cargo {} ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => paths::repo().join(dir),
        _ => paths::repo().join("target"),
    }
}
