//! Compares a slot that was staged earlier with what was signed about it.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::OFlags;
use thiserror::Error;

use crate::filelist::ListError;
use crate::image::{FileKind, ImageError, LoopDevice, LoopOptions, MountOptions, open_regular};
use crate::manifest::{Invalid, Manifest, Payload};
use crate::preserve::{Patterns, PreserveError};
use crate::seal::{self, OwnFiles, Scope, SealError};
use crate::signature::{SignatureError, TrustStore};
use crate::stage::{Event, LIST_SUFFIX, RELEASE_DIR, StageObserver, open_list};
use crate::tree::{Links, Root};

/// Why a slot is not what was signed.
#[derive(Debug, Error)]
pub enum SlotError {
    /// The slot does not hold a whole release.
    #[error("the slot's own {file} cannot be read: {source}")]
    Record {
        /// Which of the files about the release.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The stored manifest is not signed by anybody who is trusted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The stored manifest is not one.
    #[error(transparent)]
    Manifest(#[from] Invalid),
    /// The stored manifest's patterns are malformed.
    #[error(transparent)]
    Preserve(#[from] PreserveError),
    /// A domU's image cannot be looked into.
    #[error("payload `{domain}`: {source}")]
    Image {
        /// Whose.
        domain: String,
        /// Why not.
        source: ImageError,
    },
    /// A tree is not what was signed.
    #[error("payload `{domain}`: {source}")]
    Differs {
        /// Whose.
        domain: String,
        /// The first difference.
        source: SealError,
    },
}

/// Reads the slot whose root is mounted at `root`, and all images in it, back and compares them with
/// the manifest and lists that were stored in it, once their signature holds. Returns the manifest.
///
/// Left out are the node's own files (`preserve`) and directories' times in dom0's root, since those
/// files came into them. Only for a slot that is not running: a system changes its own files. Images
/// are mounted read-only below the directory `scratch`, without replaying a journal.
///
/// # Errors
/// The first difference, or what keeps the slot from being read.
pub fn slot(
    root: &Path,
    scratch: &Path,
    trust: &TrustStore,
    observer: &dyn StageObserver,
) -> Result<Manifest, SlotError> {
    let manifest_bytes = record(root, "manifest.json")?;
    trust.verify(&manifest_bytes, &record(root, "manifest.sig")?)?;
    let manifest = Manifest::parse(&manifest_bytes)?;
    for payload in &manifest.payloads {
        match &payload.image {
            None => {
                let own = OwnFiles::of(&manifest);
                let own = own.and_preserved(Patterns::parse(&payload.preserve)?);
                compare(root, payload, root, None, &own, observer)?;
            }
            Some(image) => {
                let path = root.join(image.path.trim_start_matches('/'));
                in_image(root, payload, &path, scratch, observer)?;
            }
        }
    }
    Ok(manifest)
}

fn in_image(
    slot: &Path,
    payload: &Payload,
    image: &Path,
    scratch: &Path,
    observer: &dyn StageObserver,
) -> Result<(), SlotError> {
    let fail = || {
        |source| SlotError::Image {
            domain: payload.domain.clone(),
            source,
        }
    };
    drop(open_regular(image, FileKind::Read).map_err(fail())?);
    let at = scratch.join(&payload.domain);
    fs::create_dir_all(&at)
        .map_err(ImageError::io("make the mount point", &at))
        .map_err(fail())?;
    let options = LoopOptions {
        read_only: true,
        small_blocks: true,
        ..LoopOptions::default()
    };
    let device = LoopDevice::attach(image, options).map_err(fail())?;
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let mount = device.mount(&at, options).map_err(fail())?;
    let own = OwnFiles::default();
    let compared = compare(slot, payload, &at, Some(device.path()), &own, observer);
    let ended = mount.unmount().and_then(|()| device.detach());
    compared?;
    ended.map_err(fail())?;
    fs::remove_dir(&at)
        .map_err(ImageError::io("remove the mount point", &at))
        .map_err(fail())
}

fn compare(
    slot: &Path,
    payload: &Payload,
    tree: &Path,
    device: Option<&Path>,
    own: &OwnFiles,
    observer: &dyn StageObserver,
) -> Result<(), SlotError> {
    let domain = payload.domain.as_str();
    observer.event(Event::Sealing { domain });
    let scope = Scope {
        root: tree,
        device,
        mode: payload.mode,
        own,
        lenient_directories: payload.image.is_none(),
    };
    let name = format!("{domain}{LIST_SUFFIX}");
    let list = || -> Result<_, ListError> { open_list(open(slot, &name)?, payload) };
    let sealed = seal::compare(&scope, list).map_err(|source| SlotError::Differs {
        domain: domain.to_owned(),
        source,
    })?;
    observer.event(Event::Sealed { domain, sealed });
    Ok(())
}

/// Opens one of the files that a stage has left in the slot.
fn open(slot: &Path, file: &str) -> std::io::Result<File> {
    let path = format!("{RELEASE_DIR}/{file}");
    let root = Root::open(slot, Links::Refuse)?;
    let fd = root.open_at(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(fd.into())
}

fn record(slot: &Path, file: &str) -> Result<Vec<u8>, SlotError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    open(slot, file)
        .and_then(|opened| {
            // Nobody has vouched for its size yet.
            let limit = crate::bundle::MAX_MANIFEST + 1;
            opened.take(limit).read_to_end(&mut bytes)
        })
        .map_err(|source| SlotError::Record {
            file: file.to_owned(),
            source,
        })?;
    Ok(bytes)
}
