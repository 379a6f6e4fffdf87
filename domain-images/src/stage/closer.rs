//! What comes after a payload's last frame: directories' metadata, flush, a fresh mount, the seal.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::conductor::store_release;
use super::domain_image::DomainImage;
use super::error::{EntryError, Problem};
use super::fault::Fault;
use super::slot::Slot;
use super::store::ListFile;
use super::target::Target;
use super::{Event, StageObserver};
use crate::bundle::Bundle;
use crate::filelist::Kind;
use crate::manifest::Payload;
use crate::seal::{self, OwnFiles, Scope};
use crate::tree::Metadata;

/// How often written files are sent to the disk while the CPU is busy.
const WRITE_BACK: Duration = Duration::from_millis(10);

/// A payload whose frames are all handed out.
pub(super) struct Closing<'a> {
    /// Before `image`, so that it is dropped first: its descriptors keep the image mounted.
    pub(super) target: Arc<Target<'a>>,
    /// `None` for dom0.
    pub(super) image: Option<DomainImage>,
    pub(super) list: ListFile,
}

/// Closes domUs' images, one after the other, while the next payload is unpacked.
pub(super) fn run<'a>(
    closings: Receiver<Closing<'a>>,
    fault: &Fault<'a>,
    seal: bool,
    observer: &dyn StageObserver,
) {
    for closing in closings {
        if let Err(problem) = close_domain(closing, fault, seal, observer) {
            fault.raise(problem);
        }
    }
}

fn close_domain<'a>(
    closing: Closing<'a>,
    fault: &Fault<'a>,
    seal: bool,
    observer: &dyn StageObserver,
) -> Result<(), Problem> {
    let Closing {
        target,
        image: Some(mut image),
        list,
    } = closing
    else {
        return Ok(());
    };
    let payload = target.payload;
    if target.wait_until_done().is_err() {
        // The target's descriptors go first, then the image is unmounted.
        drop(target);
        drop(image);
        return Ok(());
    }
    fault.forget(&target);
    complete(target, &list)?;
    if seal {
        image.remount_read_only()?;
        let own = OwnFiles::default();
        read_back(payload, image.root(), image.device(), &own, &list, observer)?;
    }
    image.finish()
}

/// The last steps of a stage: dom0's own tree, in which everything else lies.
pub(super) fn close_dom0<R: Read>(
    closing: Closing<'_>,
    bundle: &Bundle<R>,
    slot: &mut Slot,
    seal: bool,
    observer: &dyn StageObserver,
) -> Result<(), Problem> {
    let Closing { target, list, .. } = closing;
    let payload = target.payload;
    store_release(bundle, &target.root)?;
    complete(target, &list)?;
    // The list is in the slot itself and must not keep it mounted.
    let list = list.close();
    slot.remount()?;
    if seal {
        let own = OwnFiles::of(bundle.manifest());
        let list = list.reopen(slot.root())?;
        read_back(payload, slot.root(), slot.device(), &own, &list, observer)?;
    }
    Ok(())
}

/// Sets directories' metadata, checks the signed numbers and writes everything to the disk.
fn complete(target: Arc<Target<'_>>, list: &ListFile) -> Result<(), Problem> {
    target.check_counts()?;
    let before = target.made();
    list.each(target.payload, |entry| {
        if entry.kind != Kind::Directory {
            return Ok(());
        }
        let metadata = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        let fd = target.root.open_dir(&entry.path);
        fd.map_err(EntryError::os("open"))
            .and_then(|fd| Ok(metadata.set_fd(std::os::fd::AsFd::as_fd(&fd), before)?))
            .map_err(|error| Problem::entry(target.domain(), &entry.path, error))
    })?;
    target
        .flush()
        .map_err(Problem::io(format!("flush {}", target.domain())))?;
    release(target);
    Ok(())
}

/// Waits until no worker holds the target any more, and closes all it has open.
fn release(mut target: Arc<Target<'_>>) {
    // A worker lets go right after it has reported its frame as done, write-back after its flush.
    while let Err(still) = Arc::try_unwrap(target) {
        target = still;
        thread::sleep(Duration::from_micros(200));
    }
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

/// Flushes now and then while payloads are unpacked.
#[derive(Default)]
pub(super) struct WriteBack {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl WriteBack {
    pub(super) fn run(&self, fault: &Fault<'_>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self
                .changed
                .wait_timeout(ended, WRITE_BACK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if *ended {
                return;
            }
            for target in fault.targets() {
                target.write_back();
            }
        }
    }

    pub(super) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}
