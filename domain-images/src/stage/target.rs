//! Where a payload is unpacked to, and the signed numbers that bound it.

use std::fs::File;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::Advice;

use super::error::Problem;
use super::progress::{Progress, Stopped};
use crate::manifest::{Mode, Part, Payload};
use crate::tree::{Before, Maker, Parents, Root};

/// Written files that are kept open at most, until they are on the disk and out of the page cache.
const WRITTEN_KEPT: usize = 256;
/// Files of fewer bytes are not sent one by one: they are many, they are neighbours on the disk, and
/// all of them together are a tenth of a root.
const WORTH_SENDING: u64 = 32 << 10;
/// When so many of a payload's entries are made, in percent, everything is sent. Not earlier:
/// directories come first, and are written again when they have been filled.
const SEND_ALL_AT: [u64; 2] = [75, 90];

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
    written: Mutex<Written>,
    /// How many of [`SEND_ALL_AT`] are behind us.
    sent_all: AtomicUsize,
    /// `None` in an overlay, whose directories may pass on a group or an ACL.
    maker: Option<Maker>,
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
            written: Mutex::default(),
            sent_all: AtomicUsize::new(0),
            maker: Maker::root().filter(|_| payload.mode == Mode::Replace),
            parents: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn domain(&self) -> &str {
        &self.payload.domain
    }

    pub(super) fn is_overlay(&self) -> bool {
        self.payload.mode == Mode::Overlay
    }

    /// The mode to make a file with that is to have `wanted`, and what it has then.
    pub(super) fn new_file(&self, wanted: u32) -> (rustix::fs::Mode, Before) {
        match self.maker {
            Some(maker) => maker.file(wanted),
            None => (
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                Before::Unknown,
            ),
        }
    }

    /// What any other entry has after it was made.
    pub(super) fn made(&self) -> Before {
        match self.maker {
            Some(_) => Before::MadeByRoot { mode: None },
            None => Before::Unknown,
        }
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

    /// Hands over a finished file of `bytes`, to be sent to the disk and then dropped from the page
    /// cache.
    pub(super) fn wrote(&self, file: File, bytes: u64) {
        if bytes < WORTH_SENDING {
            return;
        }
        let mut written = self.written();
        // What is too much goes with the last flush.
        if written.new.len() + written.sent.len() + written.busy < WRITTEN_KEPT {
            written.new.push(file);
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what was written since the last call to the disk, without waiting, and drops what was
    /// sent then: the disk works while the CPU decodes, and the page cache stays small. Mostly
    /// content: directories and inodes change until the end, and are to be written once.
    pub(super) fn write_back(&self) {
        let (new, sent) = {
            let mut written = self.written();
            let (new, sent) = (
                std::mem::take(&mut written.new),
                std::mem::take(&mut written.sent),
            );
            written.busy = new.len() + sent.len();
            (new, sent)
        };
        if self.is_time_for_all()
            && let Err(error) = rustix::fs::syncfs(self.root.fd())
        {
            // The kernel says this once, and the last flush would succeed.
            self.written().failed = Some(error);
        }
        // Advice: it begins to write what is dirty, and drops what is clean.
        for file in new.iter().chain(&sent) {
            if let Err(error) = rustix::fs::fadvise(file, 0, None, Advice::DontNeed) {
                tracing::debug!(%error, domain = self.domain(), "the page cache keeps a file");
            }
        }
        drop(sent);
        let mut written = self.written();
        written.sent.extend(new);
        written.busy = 0;
    }

    /// Whether the next share of [`SEND_ALL_AT`] was reached since the last call.
    fn is_time_for_all(&self) -> bool {
        let made = self.entries.load(Ordering::Relaxed).saturating_mul(100);
        let percent = made / self.payload.entries.max(1);
        let reached = SEND_ALL_AT.partition_point(|share| *share <= percent);
        self.sent_all.fetch_max(reached, Ordering::Relaxed) < reached
    }

    /// Writes everything to the disk and waits for it.
    pub(super) fn flush(&self) -> Result<(), rustix::io::Errno> {
        rustix::fs::syncfs(self.root.fd())?;
        let mut written = self.written();
        written.new.clear();
        written.sent.clear();
        written.failed.map_or(Ok(()), Err)
    }
}

/// Finished files on their way to the disk.
#[derive(Default)]
struct Written {
    /// Not sent yet.
    new: Vec<File>,
    /// Sent, and maybe there.
    sent: Vec<File>,
    /// How many are being sent or dropped right now.
    busy: usize,
    /// What an early flush said.
    failed: Option<rustix::io::Errno>,
}
