//! Makes the entries of one decoded frame in a mounted copy of what a domU has.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::entry::{Entries, TarEntry, TarFile, TarKind};
use super::error::{EntryError, Problem};
use super::partial::{Output, PartialFile};
use super::progress::Stopped;
use super::target::Target;
use super::whiteout::is_whiteout;
use crate::manifest::{Frame, Part};
use crate::tree::{Links, Metadata, Parents, Root, name};

/// How a worker's step ends early.
pub(super) enum Halt {
    /// It found something wrong.
    Problem(Problem),
    /// Somebody else did.
    Stopped,
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Opens a root as a payload's entries must see it. In a tree of our own making no listed path goes
/// through a link; in a copied image links are followed inside it.
pub(crate) fn links_of(overlay: bool) -> Links {
    if overlay {
        Links::FollowInside
    } else {
        Links::Refuse
    }
}

/// One worker's view of one payload.
pub(super) struct Unpacker<'a> {
    pub(super) target: &'a Target<'a>,
    pub(super) root: &'a Root,
    pub(super) parents: &'a mut Parents,
}

impl Unpacker<'_> {
    /// Makes everything in the frame `index`, whose decoded bytes are `tar`.
    pub(super) fn frame(&mut self, index: usize, frame: Frame, tar: &[u8]) -> Result<(), Halt> {
        let target = self.target;
        target.progress.wait_before(target.start_of(frame.part))?;
        let mut entries = Entries::new(tar);
        let mut unfinished = None;
        let mut said = false;
        if let Some((file, at)) = self.continued(index, frame)? {
            let (data, rest) = Entries::after(tar, file.stored - at)
                .map_err(|reason| target.bad(&file.path, reason))?;
            entries = rest;
            let end = at + data.len() as u64;
            if end < file.stored {
                // Whoever has the next frame can go on before this one is written.
                file.arrived.store(end, Ordering::Release);
                self.pass_on(index, Some(&file))?;
                said = true;
            }
            self.write_more(&file, at, data)?;
        }
        while let Some(entry) = entries.next().map_err(|bad| target.bad_tar(&bad))? {
            if let Some(file) = self.make(&entry, index, frame.part)? {
                unfinished = Some(file);
            }
        }
        target.check_end(index, entries.ended())?;
        if said {
            return Ok(());
        }
        self.pass_on(index, unfinished.as_ref())
    }

    /// The file that the frame continues, and from which stored byte on.
    fn continued(
        &self,
        index: usize,
        frame: Frame,
    ) -> Result<Option<(Arc<PartialFile>, u64)>, Halt> {
        let Some(at) = frame.continues else {
            return Ok(None);
        };
        let tail = self.target.progress.take(index - 1)?;
        let Some(file) = tail else {
            let reason = "a frame continues a file that has ended";
            return Err(self.target.bad(b"", reason).into());
        };
        let arrived = file.arrived.load(Ordering::Acquire);
        if at != arrived || at >= file.stored {
            let reason = "a frame continues it at the wrong place";
            return Err(self.target.bad(&file.path, reason).into());
        }
        Ok(Some((file, at)))
    }

    /// Tells the next frame what it may continue.
    fn pass_on(&self, index: usize, file: Option<&Arc<PartialFile>>) -> Result<(), Halt> {
        let next = self.target.payload.frames.get(index + 1);
        let expected = next.is_some_and(|frame| frame.continues.is_some());
        match (file, expected) {
            (Some(file), false) => Err(self.target.bad(&file.path, "it is cut off").into()),
            (file, true) => {
                self.target.progress.leave(index, file.cloned());
                Ok(())
            }
            (None, false) => Ok(()),
        }
    }

    fn write_more(&self, file: &PartialFile, at: u64, data: &[u8]) -> Result<(), Halt> {
        file.write(at, data)
            .map_err(|error| self.entry_problem(&file.path, error).into())
    }

    /// Makes one entry; returns the file if more of its data are to come.
    fn make(
        &mut self,
        entry: &TarEntry<'_>,
        index: usize,
        part: Part,
    ) -> Result<Option<Arc<PartialFile>>, Halt> {
        self.target.admit(entry, part)?;
        if is_whiteout(&entry.path) {
            // Applied before anything was unpacked.
            return match &entry.kind {
                TarKind::File(file) if file.stored == 0 && file.size == 0 => Ok(None),
                _ => Err(self
                    .target
                    .bad(&entry.path, "a whiteout is not an empty file")
                    .into()),
            };
        }
        if matches!(entry.kind, TarKind::Directory) && entry.path.as_ref() == b"." {
            return Ok(None);
        }
        match self.try_make(entry) {
            // The parent may come from a frame that another worker has just begun.
            Err(EntryError::Os { source, .. }) if is_missing(&source) => {
                self.target.progress.wait_before(index)?;
                self.try_make(entry)
            }
            done => done,
        }
        .map_err(|error| self.entry_problem(&entry.path, explain(error)).into())
    }

    fn try_make(&mut self, entry: &TarEntry<'_>) -> Result<Option<Arc<PartialFile>>, EntryError> {
        let (dir, last) = self
            .parents
            .of(self.root, &entry.path)
            .map_err(EntryError::os("reach the directory of"))?;
        match &entry.kind {
            TarKind::Directory => self.directory(&dir, last, &entry.path).map(|()| None),
            TarKind::File(file) => self.file(&dir, last, entry, file),
            TarKind::HardLink(target) => self.hard_link(&dir, last, target).map(|()| None),
            TarKind::Symlink(target) => {
                self.clear_way(&dir, last, || {
                    rustix::fs::symlinkat(name(target), &*dir, name(last))
                })?;
                metadata(entry).set_name(dir.as_fd(), last, true)?;
                Ok(None)
            }
            TarKind::CharDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&dir, last, entry, FileType::CharacterDevice, device)
            }
            TarKind::BlockDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&dir, last, entry, FileType::BlockDevice, device)
            }
            TarKind::Fifo => self.node(&dir, last, entry, FileType::Fifo, 0),
        }
    }

    /// Metadata of directories follow when everything is in them.
    fn directory(&self, dir: &OwnedFd, last: &[u8], path: &[u8]) -> Result<(), EntryError> {
        match rustix::fs::mkdirat(dir, name(last), Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let about = rustix::fs::statat(dir, name(last), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(EntryError::os("look at"))?;
                match FileType::from_raw_mode(about.st_mode) {
                    FileType::Directory => Ok(()),
                    // A merged-usr root: the link stays, and the entry means what it leads to.
                    FileType::Symlink => self.root.open_dir(path).map(drop).map_err(|_| {
                        EntryError::Refused("a link that leads to no directory is in its way")
                    }),
                    _ => Err(EntryError::Refused("something else is in its way")),
                }
            }
            Err(error) => Err(EntryError::os("make")(error)),
        }
    }

    fn file(
        &self,
        dir: &OwnedFd,
        last: &[u8],
        entry: &TarEntry<'_>,
        content: &TarFile<'_>,
    ) -> Result<Option<Arc<PartialFile>>, EntryError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(self.clear_way(dir, last, || {
            rustix::fs::openat(dir, name(last), flags, mode)
        })?);
        if content.map.is_some() {
            rustix::fs::ftruncate(&file, content.size).map_err(EntryError::os("size"))?;
        }
        let output = Output::new(file, content.stored, |more| {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name(last), flags | more, Mode::empty())
        });
        output.write(content.map.as_deref(), 0, content.data)?;
        let have = content.data.len() as u64;
        if have == content.stored {
            metadata(entry).set_fd(output.file.as_fd())?;
            return Ok(None);
        }
        let own = |pair: &(&[u8], &[u8])| (pair.0.to_vec(), pair.1.to_vec());
        Ok(Some(Arc::new(PartialFile {
            path: entry.path.to_vec(),
            output,
            stored: content.stored,
            map: content.map.clone(),
            arrived: AtomicU64::new(have),
            missing: AtomicU64::new(content.stored - have),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.iter().map(own).collect(),
        })))
    }

    fn hard_link(&mut self, dir: &OwnedFd, last: &[u8], target: &[u8]) -> Result<(), EntryError> {
        let (from, from_name) = self
            .parents
            .of(self.root, target)
            .map_err(EntryError::os("reach the target of"))?;
        let about = rustix::fs::statat(&*from, name(from_name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(EntryError::os("look at the target of"))?;
        if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
            return Err(EntryError::Refused("it links to a directory"));
        }
        self.clear_way(dir, last, || {
            rustix::fs::linkat(&*from, name(from_name), dir, name(last), AtFlags::empty())
        })
    }

    fn node(
        &self,
        dir: &OwnedFd,
        last: &[u8],
        entry: &TarEntry<'_>,
        kind: FileType,
        device: u64,
    ) -> Result<Option<Arc<PartialFile>>, EntryError> {
        self.clear_way(dir, last, || {
            rustix::fs::mknodat(dir, name(last), kind, Mode::RUSR | Mode::WUSR, device)
        })?;
        metadata(entry).set_name(dir.as_fd(), last, false)?;
        Ok(None)
    }

    /// Runs `make`, which never replaces anything. The name may be taken by what the image had: that
    /// is unlinked, so that other names of the same file keep what they have.
    fn clear_way<T>(
        &self,
        dir: &OwnedFd,
        last: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, EntryError> {
        match make() {
            Err(Errno::EXIST) => {
                match rustix::fs::unlinkat(dir, name(last), AtFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::ISDIR) => {
                        return Err(EntryError::Refused("a directory is in its way"));
                    }
                    Err(error) => return Err(EntryError::os("replace")(error)),
                }
                make().map_err(EntryError::os("make"))
            }
            done => done.map_err(EntryError::os("make")),
        }
    }

    fn entry_problem(&self, path: &[u8], error: EntryError) -> Problem {
        Problem::entry(self.target.domain(), path, error)
    }
}

fn metadata<'e, 't>(entry: &'e TarEntry<'t>) -> Metadata<'e, &'t [u8]> {
    Metadata {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: &entry.xattrs,
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOENT)
}

/// What the kernel's reasons mean here.
fn explain(error: EntryError) -> EntryError {
    let EntryError::Os { doing, source } = &error else {
        return error;
    };
    match (*doing, Errno::from_io_error(source)) {
        ("reach the directory of", Some(Errno::NOENT)) => {
            EntryError::Refused("the directory it lies in is in neither payload nor image")
        }
        ("reach the target of" | "look at the target of", Some(Errno::NOENT)) => {
            EntryError::Refused("it links to something that is not there")
        }
        (_, Some(Errno::LOOP)) => EntryError::Refused("its path goes through a symbolic link"),
        (_, Some(Errno::NOTDIR)) => EntryError::Refused("its path goes through a file"),
        (_, Some(Errno::XDEV)) => EntryError::Refused("its path leads out of the image"),
        _ => error,
    }
}
