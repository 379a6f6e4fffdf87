//! A payload's way into a fresh file system: checked and decoded side by side, given its place one
//! frame after the other, written side by side again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::entry::{Entries, TarKind};
use super::error::{EntryError, Problem};
use super::progress::Stopped;
use super::sparse::{self, Extent as Stored};
use super::store::ListFile;
use super::target::Target;
use super::unpack::Halt;
use super::walk::Walk;
use crate::ext4::{Content, Disk, Extent};
use crate::manifest::{Frame, Part, Payload};

/// The file system of a `replace` payload while it is filled.
pub(super) struct Fresh {
    disk: Arc<Disk>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The frame whose turn it is.
    next: usize,
    /// The file that goes on in it.
    tail: Option<Tail>,
    /// `None` once it is over.
    walk: Option<Box<Walk>>,
    stopped: bool,
}

/// A file whose content comes in several frames, and how much of it has come.
struct Tail {
    file: Arc<File>,
    arrived: u64,
}

/// Where a file's content belongs.
struct File {
    path: Vec<u8>,
    stored: u64,
    /// Its holes, if it has some.
    map: Option<Vec<Stored>>,
    extents: Vec<Extent>,
}

/// Content of a frame that has its place.
struct Piece<'t> {
    file: Arc<File>,
    /// Which of the file's stored bytes it begins with.
    from: u64,
    data: &'t [u8],
}

impl Fresh {
    /// Begins to fill what `mke2fs` has just made on `disk`.
    pub(super) fn begin(payload: &Payload, list: &ListFile, disk: Disk) -> Result<Self, Problem> {
        let disk = Arc::new(disk);
        let walk = Walk::begin(payload, list, &disk)?;
        let lists = payload.frames.iter().take_while(|f| f.part == Part::List);
        Ok(Self {
            disk,
            state: Mutex::new(State {
                next: lists.count(),
                tail: None,
                walk: Some(Box::new(walk)),
                stopped: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// Makes everything in the frame `index`, whose decoded bytes are `tar`.
    pub(super) fn frame(
        &self,
        target: &Target<'_>,
        content: &mut Content,
        index: usize,
        frame: Frame,
        tar: &[u8],
    ) -> Result<(), Halt> {
        let mut state = self.turn(index)?;
        let pieces = state.place(target, index, frame, tar)?;
        state.next += 1;
        drop(state);
        self.changed.notify_all();
        content.clear();
        for piece in &pieces {
            self.write(content, piece)
                .map_err(|error| Problem::entry(target.domain(), &piece.file.path, error))?;
        }
        let flushed = content
            .metadata(&self.disk, false)
            .and_then(|()| content.flush(&self.disk));
        let doing = || format!("write content of {}", target.domain());
        Ok(flushed.map_err(Problem::io(doing()))?)
    }

    /// After the last frame: everything is on the disk then.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        let walk = self.lock().walk.take();
        walk.map_or(Ok(()), |walk| walk.finish())
    }

    /// Wakes everybody up to give up.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere ends the stage, and with it this file system.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all frames before `index` have their places. Frames are handed out in order, so
    /// others are busy with them already.
    fn turn(&self, index: usize) -> Result<MutexGuard<'_, State>, Stopped> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Err(Stopped);
            }
            if state.next == index {
                return Ok(state);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, content: &mut Content, piece: &Piece<'_>) -> Result<(), EntryError> {
        let (file, data) = (&piece.file, piece.data);
        let mut put = |offset, data: &[u8]| content.put(&self.disk, &file.extents, offset, data);
        match &file.map {
            Some(map) => sparse::place(map, piece.from, data, put),
            None => put(piece.from, data),
        }
        .map_err(|source| EntryError::Os {
            doing: "write",
            source,
        })
    }
}

impl State {
    /// Gives everything in the frame its place, and makes all but content.
    fn place<'t>(
        &mut self,
        target: &Target<'_>,
        index: usize,
        frame: Frame,
        tar: &'t [u8],
    ) -> Result<Vec<Piece<'t>>, Halt> {
        let walk = self.walk.as_mut().ok_or(Stopped)?;
        let mut pieces = Vec::new();
        let mut entries = Entries::new(tar);
        let mut tail = None;
        if let Some(at) = frame.continues {
            let Some(Tail { file, arrived }) = self.tail.take() else {
                return Err(target
                    .bad(b"", "a frame continues a file that has ended")
                    .into());
            };
            if at != arrived || at >= file.stored {
                let reason = "a frame continues it at the wrong place";
                return Err(target.bad(&file.path, reason).into());
            }
            let (data, rest) = Entries::after(tar, file.stored - at)
                .map_err(|reason| target.bad(&file.path, reason))?;
            entries = rest;
            let arrived = at + data.len() as u64;
            if arrived < file.stored {
                let file = Arc::clone(&file);
                tail = Some(Tail { file, arrived });
            }
            let from = at;
            pieces.push(Piece { file, from, data });
        }
        while let Some(entry) = entries.next().map_err(|bad| target.bad_tar(&bad))? {
            target.admit(&entry, frame.part)?;
            let extents = match frame.part {
                Part::Directories => walk.directory(&entry).map(|()| Vec::new()),
                Part::Links => walk.hard_link(&entry).map(|()| Vec::new()),
                Part::List | Part::Files => walk.file(&entry),
            }?;
            let TarKind::File(content) = entry.kind else {
                continue;
            };
            let file = Arc::new(File {
                path: entry.path.into_owned(),
                stored: content.stored,
                map: content.map,
                extents,
            });
            let (from, data) = (0, content.data);
            let arrived = data.len() as u64;
            if arrived < file.stored {
                let file = Arc::clone(&file);
                tail = Some(Tail { file, arrived });
            }
            if !data.is_empty() {
                pieces.push(Piece { file, from, data });
            }
        }
        target.check_end(index, entries.ended())?;
        let next = target.payload.frames.get(index + 1);
        if let Some(tail) = &tail
            && next.is_none_or(|next| next.continues.is_none())
        {
            return Err(target.bad(&tail.file.path, "it is cut off").into());
        }
        self.tail = tail;
        Ok(pieces)
    }
}
