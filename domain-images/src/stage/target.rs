//! Where a payload is unpacked to, and the signed numbers that bound it.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Problem;
use super::progress::{Progress, Stopped};
use crate::manifest::{Mode, Part, Payload};
use crate::tree::{Parents, Root};

/// Written files that wait until their pages are clean and can be dropped from the page cache.
const WRITTEN_KEPT: usize = 256;
/// Files below this many bytes are not worth two more system calls.
const WORTH_DROPPING: u64 = 64 << 10;

/// One payload's target, shared by all workers.
pub(super) struct Target<'a> {
    pub(super) payload: &'a Payload,
    pub(super) root: Root,
    pub(super) progress: Progress,
    /// First frame of every part: directories, files, links.
    starts: [usize; 3],
    entries: AtomicU64,
    data: AtomicU64,
    /// Decoded bytes so far, for whoever watches.
    pub(super) unpacked: AtomicU64,
    written: Mutex<Vec<File>>,
    /// One for each worker. They are the target's, and end with it: an open directory would keep its
    /// file system from being unmounted.
    parents: Vec<Mutex<Parents>>,
}

impl<'a> Target<'a> {
    pub(super) fn new(payload: &'a Payload, root: Root, workers: usize) -> Self {
        let start = |part| payload.frames.iter().take_while(|f| f.part < part).count();
        Self {
            payload,
            root,
            progress: Progress::default(),
            starts: [Part::Directories, Part::Files, Part::Links].map(start),
            entries: AtomicU64::new(0),
            data: AtomicU64::new(0),
            unpacked: AtomicU64::new(0),
            written: Mutex::new(Vec::new()),
            parents: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn domain(&self) -> &str {
        &self.payload.domain
    }

    pub(super) fn is_overlay(&self) -> bool {
        self.payload.mode == Mode::Overlay
    }

    /// The open directories of one worker.
    pub(super) fn parents(&self, worker: usize) -> MutexGuard<'_, Parents> {
        self.parents[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every frame is done.
    pub(super) fn wait_until_done(&self) -> Result<(), Stopped> {
        self.progress.wait_before(self.payload.frames.len())
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

    /// Counts an entry and the data it stores, before they are written.
    pub(super) fn count(&self, data: u64) -> Result<(), Problem> {
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
        self.within("bytes of data", self.payload.data_bytes, sum)
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

    /// Hands over a finished file of `bytes` to be dropped from the page cache once it is clean.
    pub(super) fn wrote(&self, file: File, bytes: u64) {
        if bytes >= WORTH_DROPPING {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.len() < WRITTEN_KEPT {
                written.push(file);
            }
        }
    }

    /// Starts writing what is dirty and drops what is clean: the disk works while the CPU decodes,
    /// and the page cache stays small.
    pub(super) fn write_back(&self) -> Result<(), rustix::io::Errno> {
        let written = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *written)
        };
        rustix::fs::syncfs(self.root.fd())?;
        for file in written {
            // Advice; where it does not help, memory is what it costs.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }
}
