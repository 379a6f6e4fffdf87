//! Writes a release into the standby slot: file systems made, payloads verified and unpacked by
//! several workers at once, everything flushed, read back and compared.
//!
//! ```text
//!  bundle --> conductor: reads lists and frames in order, prepares each payload's file system
//!                |  a short queue of frames, not yet believed
//!                v
//!             workers (one per core and one more): check against the signed digest, decode;
//!                |    frame after frame, entries get their places in step with the signed list;
//!                |    content is written where it belongs
//!                v
//!             closer: waits for a payload's last frame, writes what is left, flushes, mounts the
//!             image read-only, seals; the next payload is unpacked meanwhile
//! ```
//!
//! A fresh file system is filled without being mounted (see the head of `ext4.rs`); a copied one, for
//! an overlay, through the kernel. dom0's own tree is filled first, then its slot is mounted, all names
//! that others need are made in it, and it is sealed while the domUs' images are filled.
//!
//! Nothing is read twice and nothing is kept but some frames, so memory does not grow with the
//! bundle. The first failure stops everybody; guards unmount and detach what is there. A slot that
//! was not staged to the end holds no release and its content is nobody's concern.

mod closer;
mod conductor;
mod domain_image;
mod entry;
mod error;
mod fault;
mod fresh;
#[cfg(feature = "fuzzing")]
mod fuzzed;
mod partial;
mod pax;
mod plan;
mod progress;
mod slot;
mod sparse;
mod store;
mod target;
mod unpack;
mod walk;
pub(crate) mod whiteout;
mod worker;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::{EntryError, Error, Problem};
pub use slot::StagedRoot;
pub(crate) use store::{LIST_SUFFIX, RELEASE_DIR, open_list};
pub(crate) use unpack::links_of;

use crate::bundle::Bundle;
use crate::image::Region;
use crate::seal::Sealed;

/// Where a release is staged to.
#[derive(Debug, Clone)]
pub struct StageTarget {
    /// The standby slot: a block device, such as `/dev/disk/by-partlabel/xupg-b`, or a file.
    pub slot: PathBuf,
    /// The part of the file that is the slot, for a disk image; `None` for all of it.
    pub region: Option<Region>,
    /// An empty directory on which the slot is mounted. domUs' images are mounted at
    /// `<mountpoint>.<domain>`, which is made and removed.
    pub mountpoint: PathBuf,
    /// The active dom0's root, from which overlay payloads copy their images.
    pub active_root: PathBuf,
    /// Whether the written trees are read back and compared. Turned off to measure, never to stage.
    pub seal: bool,
}

/// Something that happened in a stage, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A payload's file system is being made or copied.
    Preparing {
        /// Whose.
        domain: &'a str,
    },
    /// More of a payload is unpacked. Comes from several threads, maybe out of order.
    Unpacked {
        /// Whose.
        domain: &'a str,
        /// Decoded bytes so far.
        done: u64,
        /// Decoded bytes of the whole payload.
        total: u64,
    },
    /// A payload is written and its read-back begins.
    Sealing {
        /// Whose.
        domain: &'a str,
    },
    /// A payload was read back and is what was signed.
    Sealed {
        /// Whose.
        domain: &'a str,
        /// What was read and how long it took.
        sealed: Sealed,
    },
}

/// Who watches a stage. Called from several threads.
pub trait StageObserver: Sync {
    /// Something happened. Must be quick.
    fn event(&self, event: Event<'_>);

    /// All replace payloads are unpacked, and overlay payloads follow: now the domUs whose images are
    /// copied must be at rest. Called once, and not at all for a release without overlay payloads.
    ///
    /// # Errors
    /// They are not; the stage ends with [`Problem::NotAtRest`].
    fn before_overlay(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Writes the whole release into the slot and reads it back. On success dom0's new root is still
/// mounted, for its hook; see [`StagedRoot::finish`].
///
/// # Errors
/// [`Error::Refused`] when nothing was written, else [`Error::Failed`]: the slot must not be booted.
pub fn write_release<R: Read + Send>(
    bundle: Bundle<R>,
    target: &StageTarget,
    observer: &dyn StageObserver,
) -> Result<StagedRoot, Error> {
    let plan = plan::check(bundle.manifest(), target).map_err(Error::Refused)?;
    conductor::run(bundle, target, &plan, observer).map_err(Error::Failed)
}

#[cfg(feature = "fuzzing")]
pub(crate) use entry::fuzz_tar;
#[cfg(feature = "fuzzing")]
pub(crate) use fuzzed::unpack as fuzz_unpack;

/// Where the image `path` (absolute in its root) lies under `root`.
fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
