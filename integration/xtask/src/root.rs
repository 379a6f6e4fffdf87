//! Root's rights: the lab mounts file systems and owns trees with devices in them.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, paths};

/// What a build and the lab go by, and sudo would drop.
const KEPT: [&str; 4] = ["PATH", "CARGO", "TERM", "RUST_BACKTRACE"];

/// Goes on only as root: else this program starts again under sudo, in the place of itself.
///
/// # Errors
/// When this is not root and there is no sudo, with what it would install.
pub fn ensure() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe().context("where is this program?")?;
    let kept = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        KEPT.contains(&&*name) || name.starts_with("RUSTUP_") || name.starts_with("XUPG_")
    });
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    for (name, value) in kept {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        sudo.arg(pair);
    }
    // What root builds stays apart, so that the user's own next build is not refused.
    let mut target = std::ffi::OsString::from("CARGO_TARGET_DIR=");
    target.push(paths::lab().join("target"));
    sudo.arg(target);
    sudo.arg(program).args(std::env::args_os().skip(1));
    let error = sudo.exec();
    let missing = packages::missing()?;
    let install = match missing.as_slice() {
        [] => String::new(),
        names => format!(
            ". It would install what is missing:\n\n  apt-get install --no-install-recommends {}",
            names.join(" ")
        ),
    };
    bail!("this needs root, and sudo does not start ({error}); run it as root{install}")
}
