//! The seal: the written tree is read back from the disk and compared with the signed list.
//!
//! Nobody waits for a stage of the work to end. The list comes in the order of a depth-first walk and
//! is cut into pieces of bounded size:
//!
//! ```text
//!  list --> looker, several: what the kernel says about the entries, how many a directory has
//!             |  files, with their place on the disk
//!             v
//!           sorter: brings what has come in into the disk's order, neighbours into one span
//!             |
//!             v
//!           reader, several: one reads from the device while another hashes
//! ```
//!
//! Content is read in large pieces from the device itself, so that neither the page cache nor the
//! seek time between small files has a say. That there is nothing else costs no memory either: all
//! listed entries of a directory exist, so it is enough that it has as many entries as are listed.

mod ahead;
mod content;
mod error;
mod extents;
mod extra;
mod metadata;
mod own;
mod verdict;

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use error::SealError;
pub(crate) use own::OwnFiles;

use ahead::Ahead;
use verdict::{Found, Verdict};

use crate::filelist::{Entry, Kind, ListError};
use crate::manifest::Mode;
use crate::stage::links_of;
use crate::stage::whiteout;
use crate::tree::Root;

/// Entries in a piece of the list, which one thread compares.
const PIECE_ENTRIES: usize = 256;
/// Bytes of paths, targets and attributes in a piece.
const PIECE_BYTES: usize = 128 << 10;
/// Messages that wait in each queue between threads.
const QUEUED: usize = 4;
/// Threads of a kind, however many cores there are: each has memory to read into.
const MAX_THREADS: usize = 4;

/// A tree that was read back and is what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Entries compared.
    pub entries: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What is compared.
pub(crate) struct Scope<'a> {
    /// Where the tree is mounted.
    pub(crate) root: &'a Path,
    /// The block device its file system is on, to be read past the page cache; `None` reads files.
    pub(crate) device: Option<&'a Path>,
    /// In an overlay only what is listed is compared, and that deletions hold.
    pub(crate) mode: Mode,
    /// What lies in the tree and is not the payload's.
    pub(crate) own: &'a OwnFiles,
    /// Whether times of directories are left out, since files of the node's own came into them.
    pub(crate) lenient_directories: bool,
}

/// Compares the tree with the list, which `lists` opens anew each time it is called.
pub(crate) fn compare<L: Iterator<Item = Result<Entry, ListError>>>(
    scope: &Scope<'_>,
    mut lists: impl FnMut() -> Result<L, ListError>,
) -> Result<Sealed, SealError> {
    let started = Instant::now();
    let links = links_of(scope.mode == Mode::Overlay);
    let root = Root::open(scope.root, links).map_err(SealError::read(b"."))?;
    let device = scope.device.map(content::Device::open).transpose()?;
    let ahead = device.as_ref().map(Ahead::new);
    let verdict = Verdict::default();
    let (to_look, pieces) = queue();
    let (to_sort, files) = sync_channel(QUEUED);
    let (to_read, spans) = queue();
    // Each end of a queue belongs to the threads that use it, so that it goes with the last of them:
    // whoever panics lets nobody wait, and the panic goes on from here.
    let (looked, bytes) = std::thread::scope(|threads| {
        let (root, verdict, device) = (&root, &verdict, device.as_ref());
        let ahead = ahead.as_ref();
        let count = count_of_threads();
        for pieces in vec![pieces; count] {
            let to_sort = to_sort.clone();
            threads.spawn(move || {
                metadata::compare_all(root, scope, ahead, &pieces, &to_sort, verdict)
            });
        }
        drop(to_sort);
        threads.spawn(move || content::sort(&files, &to_read));
        let readers: Vec<_> = vec![spans; count]
            .into_iter()
            .map(|spans| threads.spawn(move || content::compare_all(root, device, &spans, verdict)))
            .collect();
        let looked = hand_out(scope, lists(), &to_look, verdict);
        drop(to_look);
        let bytes: u64 = readers
            .into_iter()
            .map(|thread| joined(thread.join()))
            .sum();
        (looked, bytes)
    });
    match verdict.found() {
        None => {}
        Some(Found::Error(error)) => return Err(error),
        Some(Found::Odd(dir)) => {
            return Err(extra::name_it(&root, scope.own, &dir, lists()?)?);
        }
    }
    let (entries, deleted) = looked;
    if scope.mode == Mode::Overlay {
        deleted.check(&root, &mut lists)?;
    }
    Ok(Sealed {
        entries,
        bytes,
        duration: started.elapsed(),
    })
}

/// Cuts the list into pieces for the lookers; returns how many entries that were and what of the
/// list is about deletions.
fn hand_out<L: Iterator<Item = Result<Entry, ListError>>>(
    scope: &Scope<'_>,
    list: Result<L, ListError>,
    to_look: &SyncSender<Piece>,
    verdict: &Verdict,
) -> (u64, extra::Deleted) {
    let mut deleted = extra::Deleted::default();
    let mut entries = 0;
    let mut number = 0;
    let cut = || -> Result<(), SealError> {
        let mut list = list?;
        let mut counter = extra::Counter::new();
        loop {
            number += 1;
            let mut piece = Piece::new(number);
            let more = piece.fill(&mut list, scope, &mut counter, &mut deleted)?;
            entries += piece.entries.len() as u64;
            if scope.mode == Mode::Replace {
                piece.dirs = counter.take_closed(!more);
            }
            if verdict.is_moot(number) || to_look.send(piece).is_err() || !more {
                return Ok(());
            }
        }
    };
    if let Err(error) = cut() {
        verdict.fail(number, Found::Error(error));
    }
    (entries, deleted)
}

/// A piece of the list.
struct Piece {
    /// Counted from 1: a difference in an earlier one comes first.
    number: u64,
    entries: Vec<Entry>,
    /// Directories whose last listed entry is in this piece.
    dirs: Vec<extra::Counted>,
    bytes: usize,
}

impl Piece {
    fn new(number: u64) -> Self {
        Self {
            number,
            entries: Vec::with_capacity(PIECE_ENTRIES),
            dirs: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes entries from the list; returns whether there may be more.
    fn fill(
        &mut self,
        list: &mut impl Iterator<Item = Result<Entry, ListError>>,
        scope: &Scope<'_>,
        counter: &mut extra::Counter,
        deleted: &mut extra::Deleted,
    ) -> Result<bool, SealError> {
        while self.entries.len() < PIECE_ENTRIES && self.bytes < PIECE_BYTES {
            let Some(entry) = list.next().transpose()? else {
                return Ok(false);
            };
            if scope.mode == Mode::Overlay
                && let Ok(Some(whiteout)) = whiteout::parse(&entry.path)
            {
                deleted.add(&whiteout)?;
                continue;
            }
            if scope.own.ignores(&entry.path) {
                continue;
            }
            if scope.mode == Mode::Replace {
                counter.count(&entry.path, scope.own, entry.kind == Kind::Directory)?;
            }
            self.bytes += weight(&entry);
            self.entries.push(entry);
        }
        Ok(true)
    }
}

fn weight(entry: &Entry) -> usize {
    let attributes: usize = entry.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
    let target = match &entry.kind {
        Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
        _ => 0,
    };
    entry.path.len() + target + attributes
}

/// The receiving end of a queue from which several threads take.
struct Queue<T>(Arc<Mutex<Receiver<T>>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn queue<T>() -> (SyncSender<T>, Queue<T>) {
    let (sender, receiver) = sync_channel(QUEUED);
    (sender, Queue(Arc::new(Mutex::new(receiver))))
}

impl<T> Queue<T> {
    /// The next one; `None` after the last.
    fn take(&self) -> Option<T> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.recv().ok()
    }
}

/// Threads for work of which half waits for the disk.
fn count_of_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| (cores.get() * 2).min(MAX_THREADS))
}

/// A thread's result; a panic in it is a bug and goes on here.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
