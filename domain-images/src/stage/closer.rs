//! What comes after a payload's last frame: directories' metadata, flush, a fresh mount, the seal.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use super::domain_image::DomainImage;
use super::error::{EntryError, Problem};
use super::fault::Fault;
use super::store::ListFile;
use super::target::{Place, Target};
use super::{Event, StageObserver};
use crate::filelist::Entry;
use crate::manifest::Payload;
use crate::seal::{self, OwnFiles, Scope};
use crate::tree::{Metadata, Root};

/// A payload whose frames are all handed out.
pub(super) struct Closing<'a> {
    pub(super) payload: &'a Payload,
    pub(super) list: Arc<ListFile>,
    pub(super) tree: Tree<'a>,
}

/// Where its tree lies.
pub(super) enum Tree<'a> {
    /// dom0's, complete and mounted.
    Slot {
        root: PathBuf,
        device: PathBuf,
        own: OwnFiles,
    },
    /// A domU's, which may still be written to.
    Image {
        /// Before `image`, so that it is dropped first: its descriptors keep the image mounted.
        target: Arc<Target<'a>>,
        image: DomainImage,
    },
}

/// Closes payloads, one after the other, while the next one is unpacked.
pub(super) fn run<'a>(
    closings: Receiver<Closing<'a>>,
    fault: &Fault<'a>,
    seal: bool,
    observer: &dyn StageObserver,
) {
    for closing in closings {
        if let Err(problem) = close(closing, fault, seal, observer) {
            fault.raise(problem);
        }
    }
}

fn close<'a>(
    closing: Closing<'a>,
    fault: &Fault<'a>,
    seal: bool,
    observer: &dyn StageObserver,
) -> Result<(), Problem> {
    let Closing {
        payload,
        list,
        tree,
    } = closing;
    match tree {
        _ if fault.is_stopped() => Ok(()),
        Tree::Slot { .. } if !seal => Ok(()),
        Tree::Slot { root, device, own } => {
            read_back(payload, &root, &device, &own, &list, observer)
        }
        Tree::Image { target, mut image } => {
            if target.wait_until_done().is_err() {
                // The target's descriptors go first, then the image is unmounted.
                drop(target);
                return Ok(());
            }
            complete(target, &list, fault)?;
            if seal {
                image.remount_read_only()?;
                let own = OwnFiles::default();
                read_back(payload, image.root(), image.device(), &own, &list, observer)?;
            }
            image.finish()
        }
    }
}

/// Checks the signed numbers, sets what is set last and writes everything to the disk.
pub(super) fn complete<'a>(
    target: Arc<Target<'a>>,
    list: &ListFile,
    fault: &Fault<'a>,
) -> Result<(), Problem> {
    fault.forget(&target);
    target.check_counts()?;
    match &target.place {
        Place::Fresh(fresh) => fresh.finish()?,
        Place::Mounted(mounted) => {
            let payload = target.payload;
            list.each(payload, Some(b'd'), |entry| {
                set_directory(&mounted.root, payload, &entry)
            })?;
            rustix::fs::syncfs(mounted.root.fd())
                .map_err(Problem::io(format!("flush {}", target.domain())))?;
        }
    }
    release(target);
    Ok(())
}

/// Waits until no worker holds the target any more, and closes all it has open.
fn release(mut target: Arc<Target<'_>>) {
    // A worker lets go right after it has reported its frame as done.
    while let Err(still) = Arc::try_unwrap(target) {
        target = still;
        thread::sleep(Duration::from_micros(200));
    }
}

/// Gives a directory what the list says about it.
pub(super) fn set_directory(root: &Root, payload: &Payload, entry: &Entry) -> Result<(), Problem> {
    let metadata = Metadata {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: &entry.xattrs,
    };
    let fd = root.open_dir(&entry.path);
    fd.map_err(EntryError::os("open"))
        .and_then(|fd| Ok(metadata.set_fd(fd.as_fd())?))
        .map_err(|error| Problem::entry(&payload.domain, &entry.path, error))
}

fn read_back(
    payload: &Payload,
    root: &Path,
    device: &Path,
    own: &OwnFiles,
    list: &ListFile,
    observer: &dyn StageObserver,
) -> Result<(), Problem> {
    let domain = payload.domain.as_str();
    observer.event(Event::Sealing { domain });
    let scope = Scope {
        root,
        device: Some(device),
        mode: payload.mode,
        own,
        lenient_directories: false,
    };
    let sealed =
        seal::compare(&scope, || list.reader(payload)).map_err(|source| Problem::Seal {
            domain: domain.to_owned(),
            source,
        })?;
    observer.event(Event::Sealed { domain, sealed });
    Ok(())
}
