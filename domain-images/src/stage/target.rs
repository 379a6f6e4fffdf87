//! Where a payload is unpacked to, and the signed numbers that bound it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::entry::{BadTar, TarEntry, TarKind};
use super::error::{EntryError, Problem};
use super::fresh::Fresh;
use super::progress::{Progress, Stopped};
use crate::filelist::has_capability;
use crate::manifest::{Part, Payload};
use crate::tree::{Parents, Root};

/// One payload's target, shared by all workers.
pub(super) struct Target<'a> {
    pub(super) payload: &'a Payload,
    pub(super) place: Place,
    pub(super) progress: Progress,
    /// First frame of every part: directories, files, links.
    starts: [usize; 3],
    entries: AtomicU64,
    data: AtomicU64,
    /// Decoded bytes so far, for whoever watches.
    pub(super) unpacked: AtomicU64,
}

/// What entries are made in.
pub(super) enum Place {
    /// A file system that holds nothing yet.
    Fresh(Fresh),
    /// A mounted copy of what a domU has.
    Mounted(Mounted),
}

/// A mounted file system.
pub(super) struct Mounted {
    pub(super) root: Root,
    /// One for each worker. They are the target's, and end with it: an open directory would keep its
    /// file system from being unmounted.
    parents: Vec<Mutex<Parents>>,
}

impl Mounted {
    pub(super) fn new(root: Root, workers: usize) -> Self {
        Self {
            root,
            parents: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// The open directories of one worker.
    pub(super) fn parents(&self, worker: usize) -> MutexGuard<'_, Parents> {
        self.parents[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Target<'a> {
    /// The payload's list was read already: its frames are done.
    pub(super) fn new(payload: &'a Payload, place: Place) -> Self {
        let start = |part| payload.frames.iter().take_while(|f| f.part < part).count();
        let starts = [Part::Directories, Part::Files, Part::Links].map(start);
        Self {
            payload,
            place,
            progress: Progress::after(starts[0]),
            starts,
            entries: AtomicU64::new(0),
            data: AtomicU64::new(0),
            unpacked: AtomicU64::new(0),
        }
    }

    pub(super) fn domain(&self) -> &str {
        &self.payload.domain
    }

    /// Waits until every frame is done.
    pub(super) fn wait_until_done(&self) -> Result<(), Stopped> {
        self.progress.wait_before(self.payload.frames.len())
    }

    /// Wakes everybody up to give up.
    pub(super) fn stop(&self) {
        self.progress.stop();
        if let Place::Fresh(fresh) = &self.place {
            fresh.stop();
        }
    }

    /// The first frame of `part`; all frames before it must be done before one of `part` begins.
    pub(super) fn start_of(&self, part: Part) -> usize {
        match part {
            Part::List => 0,
            Part::Directories => self.starts[0],
            Part::Files => self.starts[1],
            Part::Links => self.starts[2],
        }
    }

    /// Counts an entry and the data it stores before they are written, and sees that the manifest
    /// allows it in this part of the payload.
    pub(super) fn admit(&self, entry: &TarEntry<'_>, part: Part) -> Result<(), Problem> {
        let data = match &entry.kind {
            TarKind::File(file) => file.stored,
            _ => 0,
        };
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        self.within("entries", self.payload.entries, entries)?;
        // Saturating: what an entry claims may be anything.
        let before = self
            .data
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
                Some(sum.saturating_add(data))
            })
            .unwrap_or_else(|sum| sum);
        let sum = before.saturating_add(data);
        self.within("bytes of data", self.payload.data_bytes, sum)?;
        match self.not_allowed(entry, part) {
            Some(reason) => Err(self.bad(&entry.path, reason)),
            None => Ok(()),
        }
    }

    fn not_allowed(&self, entry: &TarEntry<'_>, part: Part) -> Option<&'static str> {
        let allow = self.payload.allow;
        let home = match entry.kind {
            TarKind::Directory => Part::Directories,
            TarKind::HardLink(_) => Part::Links,
            _ => Part::Files,
        };
        if part != home {
            return Some("it is in the wrong part of the payload");
        }
        match entry.kind {
            TarKind::CharDevice(..) | TarKind::BlockDevice(..) if !allow.devices => {
                Some("the manifest allows no devices")
            }
            TarKind::Fifo if !allow.fifos => Some("the manifest allows no fifos"),
            TarKind::File(_) if entry.mode & 0o6000 != 0 && !allow.setuid => {
                Some("the manifest allows no set-user-id or set-group-id files")
            }
            TarKind::File(_) if has_capability(&entry.xattrs) && !allow.setuid => {
                Some("the manifest allows no file capabilities")
            }
            _ => None,
        }
    }

    /// At the end of the frame `index`: the stream ends with its last frame and not before.
    pub(super) fn check_end(&self, index: usize, ended: bool) -> Result<(), Problem> {
        if ended == (index + 1 == self.payload.frames.len()) {
            return Ok(());
        }
        Err(self.bad(b"", "the tar stream does not end with its last frame"))
    }

    /// After the last frame: everything that was signed is there.
    pub(super) fn check_counts(&self) -> Result<(), Problem> {
        let entries = self.entries.load(Ordering::Relaxed);
        let data = self.data.load(Ordering::Relaxed);
        self.exactly("entries", self.payload.entries, entries)?;
        self.exactly("bytes of data", self.payload.data_bytes, data)
    }

    fn within(&self, what: &'static str, signed: u64, found: u64) -> Result<(), Problem> {
        if found > signed {
            return Err(self.wrong(what, signed, found));
        }
        Ok(())
    }

    fn exactly(&self, what: &'static str, signed: u64, found: u64) -> Result<(), Problem> {
        if found != signed {
            return Err(self.wrong(what, signed, found));
        }
        Ok(())
    }

    fn wrong(&self, what: &'static str, signed: u64, found: u64) -> Problem {
        Problem::Count {
            domain: self.domain().to_owned(),
            what,
            signed,
            found,
        }
    }

    /// The entry `path` is refused.
    pub(super) fn bad(&self, path: &[u8], reason: &'static str) -> Problem {
        Problem::entry(self.domain(), path, EntryError::Refused(reason))
    }

    pub(super) fn bad_tar(&self, bad: &BadTar) -> Problem {
        self.bad(&bad.path, bad.reason)
    }
}
