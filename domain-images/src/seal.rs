//! The seal: the written tree is read back from the disk and compared with the signed list.
//!
//! The list comes in the order of a depth-first walk and is taken in windows of bounded size. For
//! each window, several threads compare what the kernel says about the entries; then, while the next
//! window has its turn, the files' content is read in the order in which it lies on the disk, in
//! large pieces from the device itself, so that neither the page cache nor the seek time between
//! small files has a say.
//!
//! That there is nothing else costs no memory either: all listed entries of a directory exist, so it
//! is enough that it has as many entries as are listed.

mod content;
mod error;
mod extents;
mod extra;
mod metadata;
mod own;

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

pub use error::SealError;
pub(crate) use own::OwnFiles;

use content::Content;

use crate::filelist::{Entry, Kind, ListError};
use crate::manifest::Mode;
use crate::stage::links_of;
use crate::stage::whiteout;
use crate::tree::Root;

/// Entries compared at once; three windows are under way at a time.
const WINDOW_ENTRIES: usize = 4096;
/// Bytes of paths, targets and attributes in a window.
const WINDOW_BYTES: usize = 1 << 20;

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
    // The disk gives one window's content while the next one's metadata keep the CPU busy.
    let (ready, windows) = sync_channel(1);
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| content::compare_all(&root, device.as_ref(), windows));
        let looked = look(scope, &root, &mut lists, &ready);
        drop(ready);
        // An error in content is about an earlier window than what stopped the look.
        let bytes = metadata::joined(reading.join())?;
        Ok(Sealed {
            entries: looked?,
            bytes,
            duration: started.elapsed(),
        })
    })
}

/// Compares all but content, and hands the files on whose content is to be compared; returns how
/// many entries that were.
fn look<L: Iterator<Item = Result<Entry, ListError>>>(
    scope: &Scope<'_>,
    root: &Root,
    lists: &mut impl FnMut() -> Result<L, ListError>,
    ready: &SyncSender<Vec<Content>>,
) -> Result<u64, SealError> {
    let overlay = scope.mode == Mode::Overlay;
    let mut list = lists()?;
    let mut counter = extra::Counter::new();
    let mut deleted = extra::Deleted::default();
    let mut entries = 0;
    loop {
        let mut window = Window::default();
        let more = window.fill(&mut list, scope, &mut counter, &mut deleted)?;
        entries += window.entries.len() as u64;
        let files = metadata::compare(root, scope, &window.entries)?;
        if !overlay {
            let odd = extra::count_all(root, scope.own, &counter.take_closed(!more))?;
            if let Some(dir) = odd {
                return Err(extra::name_it(root, scope.own, &dir, lists()?)?);
            }
        }
        // It fails only when the reader has found a difference, which ends the seal.
        if ready.send(files).is_err() || !more {
            break;
        }
    }
    if overlay {
        deleted.check(root, lists)?;
    }
    Ok(entries)
}

/// A part of the list.
#[derive(Default)]
struct Window {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Window {
    /// Takes entries from the list; returns whether there may be more.
    fn fill(
        &mut self,
        list: &mut impl Iterator<Item = Result<Entry, ListError>>,
        scope: &Scope<'_>,
        counter: &mut extra::Counter,
        deleted: &mut extra::Deleted,
    ) -> Result<bool, SealError> {
        while self.entries.len() < WINDOW_ENTRIES && self.bytes < WINDOW_BYTES {
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

/// Threads for work that mostly waits for the disk.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) * 2
}
