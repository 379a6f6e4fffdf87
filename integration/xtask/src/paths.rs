//! Where things are: the repository and the lab's own directory.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn repo() -> PathBuf {
    // integration/xtask -> the root is two up.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// cargo's target directory: the one it is told to use, or the one that this program was built in.
///
/// # Errors
/// When the program does not know where it is.
pub fn target() -> Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return std::path::absolute(target).context("where is CARGO_TARGET_DIR?");
    }
    let program = std::env::current_exe().context("where is this program?")?;
    // <target>/<profile>/xtask; a test has one directory more, but no test builds the product.
    let target = program.ancestors().nth(2).context("no target directory")?;
    Ok(target.to_path_buf())
}

/// Everything that the lab makes: `$XUPG_LAB_DIR`, or `.lab` in the source tree. May be deleted at any time.
pub fn lab() -> PathBuf {
    match std::env::var_os("XUPG_LAB_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => repo().join(".lab"),
    }
}

/// Things that are made once and kept: keys, roots, images, snapshots.
pub fn cache() -> PathBuf {
    lab().join("cache")
}

/// The files that the images are made of (`integration/images`).
pub fn recipes() -> PathBuf {
    repo().join("integration/images")
}
