//! Where things are: the repository and the lab's own directory.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn repo() -> PathBuf {
    // integration/xtask -> the root is two up.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
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
