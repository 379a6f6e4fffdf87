//! The signed list, walked in step with the payload's stream, and the file system that grows with it.
//!
//! A stream has its directories first and its hard links last; the list has all entries in the order
//! of a depth-first walk, in which the file system is made. So the list is read three times side by
//! side: for directories and for hard links only to see that the stream has the same ones, and once
//! with the stream's files and links, which is when everything is made. The order does not depend on
//! which worker is first, so a payload is always laid out in the same way, and memory does not grow
//! with the list.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::entry::{TarEntry, TarKind};
use super::error::{EntryError, Problem};
use super::store::{ListFile, ListReader};
use crate::ext4::{Disk, Extent, Fill, FillError, Made, Meta, Node};
use crate::filelist::{Entry, Kind};
use crate::manifest::{Part, Payload};
use crate::tree::split;

/// Files of a payload that may have more than one name: 16 bytes each are kept.
const MOST_LINKED: usize = 500_000;

/// Where the walk is.
pub(super) struct Walk {
    domain: String,
    fill: Fill,
    list: ListReader,
    /// Until the stream's directories are over.
    directories: Option<ListReader>,
    /// If the stream has hard links.
    links: Option<ListReader>,
    /// The first entry, if it is not the root's.
    first: Option<Entry>,
    /// Paths of the directories that the walk is in, the root first.
    open: Vec<Vec<u8>>,
    /// The last entry that is no directory, and whether it is a link.
    leaf: (Vec<u8>, bool),
    linked: Linked,
}

impl Walk {
    /// Begins to fill the file system on `disk`, which `mke2fs` has just made.
    pub(super) fn begin(
        payload: &Payload,
        list: &ListFile,
        disk: &Arc<Disk>,
    ) -> Result<Self, Problem> {
        let reader = || list.reader(payload).map_err(|source| list.bad(source));
        let mut linked = Linked::default();
        let has_links = payload.frames.last().is_some_and(|f| f.part == Part::Links);
        if has_links {
            for entry in reader()?.only(b'h') {
                linked.expect(&entry.map_err(|source| list.bad(source))?, &payload.domain)?;
            }
        }
        let mut entries = reader()?;
        let first = entries.next().transpose();
        let first = first.map_err(|source| list.bad(source))?;
        let (root, first) = match first {
            Some(entry) if entry.path == b"." => (Some(entry), None),
            other => (None, other),
        };
        let xattrs = root.as_ref().map(xattrs).unwrap_or_default();
        let root = root.as_ref().map(|entry| meta(entry, &xattrs));
        let fill = Fill::begin(disk, root.as_ref());
        let fill = fill.map_err(|error| at_all(&payload.domain, error))?;
        Ok(Self {
            domain: payload.domain.clone(),
            fill,
            list: entries,
            directories: Some(reader()?.only(b'd')),
            links: match has_links {
                true => Some(reader()?.only(b'h')),
                false => None,
            },
            first,
            open: vec![b".".to_vec()],
            leaf: (Vec::new(), false),
            linked,
        })
    }

    /// Sees that the stream's next directory is the list's.
    pub(super) fn directory(&mut self, tar: &TarEntry<'_>) -> Result<(), Problem> {
        let next = self.directories.as_mut().and_then(Iterator::next);
        self.same(next.transpose(), tar)
    }

    /// Sees that the stream's next hard link is the list's.
    pub(super) fn hard_link(&mut self, tar: &TarEntry<'_>) -> Result<(), Problem> {
        let next = self.links.as_mut().and_then(Iterator::next);
        self.same(next.transpose(), tar)
    }

    /// Makes everything up to the stream's next entry, and that; returns where its content belongs.
    pub(super) fn file(&mut self, tar: &TarEntry<'_>) -> Result<Vec<Extent>, Problem> {
        let directories = self.directories.take();
        self.is_over(directories)?;
        let Some(entry) = self.next_file()? else {
            return self.same(Ok(None), tar).map(|()| Vec::new());
        };
        compare(&entry, tar).map_err(|error| self.problem(&tar.path, error))?;
        let xattrs = xattrs(&entry);
        let meta = meta(&entry, &xattrs);
        let (_, name) = split(&entry.path);
        let more = self.linked.count(&entry.path);
        let node = match &tar.kind {
            TarKind::File(content) => {
                let plain = [(0, content.stored)];
                let holes = content.map.as_deref().unwrap_or_default();
                let holes = holes.iter().map(|extent| (extent.offset, extent.bytes));
                let plain = plain.into_iter().filter(|_| content.map.is_none());
                let stored = holes.chain(plain);
                let file = self.fill.file(name, &meta, content.size, more, stored);
                let (made, extents) = file.map_err(|error| self.made(&entry.path, error))?;
                self.linked.made(&entry.path, made);
                return Ok(extents);
            }
            TarKind::Symlink(target) => Node::Symlink(target),
            TarKind::CharDevice(major, minor) => Node::CharDevice(*major, *minor),
            TarKind::BlockDevice(major, minor) => Node::BlockDevice(*major, *minor),
            TarKind::Fifo => Node::Fifo,
            TarKind::Directory | TarKind::HardLink(_) => {
                let reason = "it is in the wrong part of the payload";
                return Err(self.problem(&tar.path, EntryError::Refused(reason)));
            }
        };
        let made = self.fill.node(name, &meta, more, node);
        let made = made.map_err(|error| self.made(&entry.path, error))?;
        self.linked.made(&entry.path, made);
        Ok(Vec::new())
    }

    /// Makes the rest of the list, which the stream must have had too, and writes what is left.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        if let Some(entry) = self.next_file()? {
            return Err(self.missing(&entry));
        }
        let (directories, links) = (self.directories.take(), self.links.take());
        self.is_over(directories)?;
        self.is_over(links)?;
        self.fill
            .finish()
            .map_err(|error| at_all(&self.domain, error))
    }

    /// Sees that the list has no more of what the stream has no more of.
    fn is_over(&self, rest: Option<ListReader>) -> Result<(), Problem> {
        match rest.and_then(|mut rest| rest.next()).transpose() {
            Ok(None) => Ok(()),
            Ok(Some(entry)) => Err(self.missing(&entry)),
            Err(source) => Err(self.list_problem(source)),
        }
    }

    fn missing(&self, entry: &Entry) -> Problem {
        let missing = "it is in the signed list and not in the payload";
        self.problem(&entry.path, EntryError::Refused(missing))
    }

    /// Makes what the list has up to its next entry that is neither directory nor hard link, and
    /// returns that.
    fn next_file(&mut self) -> Result<Option<Entry>, Problem> {
        loop {
            let next = match self.first.take() {
                Some(entry) => Some(entry),
                None => self
                    .list
                    .next()
                    .transpose()
                    .map_err(|source| self.list_problem(source))?,
            };
            let Some(entry) = next else {
                return Ok(None);
            };
            self.climb(&entry.path)?;
            match &entry.kind {
                Kind::Directory => self.enter(entry)?,
                Kind::HardLink(target) => self.link(&entry.path, target)?,
                kind => {
                    let is_link = matches!(kind, Kind::Symlink(_));
                    self.leaf = (entry.path.clone(), is_link);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Leaves directories until the walk is in the one that `path` lies in.
    fn climb(&mut self, path: &[u8]) -> Result<(), Problem> {
        let (parent, _) = split(path);
        while self.open.last().is_some_and(|open| open != parent) {
            if self.open.len() == 1 {
                return Err(self.problem(path, EntryError::Refused(self.astray(path))));
            }
            self.open.pop();
            let left = self.fill.leave();
            left.map_err(|error| self.made(path, error))?;
        }
        Ok(())
    }

    /// Why there is no directory for `path`.
    fn astray(&self, path: &[u8]) -> &'static str {
        let (leaf, is_link) = &self.leaf;
        let through = path
            .strip_prefix(&leaf[..])
            .is_some_and(|rest| rest.first() == Some(&b'/'));
        match (through, is_link) {
            (true, true) => "its path goes through a symbolic link",
            (true, false) => "its path goes through a file",
            (false, _) => "the directory it lies in is in neither payload nor image",
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<(), Problem> {
        let xattrs = xattrs(&entry);
        let (_, name) = split(&entry.path);
        let entered = self.fill.enter(name, &meta(&entry, &xattrs));
        entered.map_err(|error| self.made(&entry.path, error))?;
        self.linked.met_directory(&entry.path);
        self.open.push(entry.path);
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Problem> {
        let (_, name) = split(path);
        self.leaf = (path.to_vec(), false);
        let target = self.linked.find(target);
        let made = target.map_err(|reason| self.problem(path, EntryError::Refused(reason)))?;
        let linked = self.fill.link(name, made);
        linked.map_err(|error| self.made(path, error))
    }

    fn same(
        &self,
        listed: Result<Option<Entry>, crate::filelist::ListError>,
        tar: &TarEntry<'_>,
    ) -> Result<(), Problem> {
        match listed.map_err(|source| self.list_problem(source))? {
            Some(entry) => compare(&entry, tar),
            None => Err(EntryError::Refused("it is not in the signed list")),
        }
        .map_err(|error| self.problem(&tar.path, error))
    }

    fn list_problem(&self, source: crate::filelist::ListError) -> Problem {
        Problem::List {
            domain: self.domain.clone(),
            source,
        }
    }

    fn problem(&self, path: &[u8], error: EntryError) -> Problem {
        Problem::entry(&self.domain, path, error)
    }

    fn made(&self, path: &[u8], error: FillError) -> Problem {
        made(&self.domain, path, error)
    }
}

/// What is about no entry.
fn at_all(domain: &str, error: FillError) -> Problem {
    let doing = format!("fill the file system of {domain}");
    match error.into() {
        EntryError::Os { source, .. } => Problem::io(doing)(source),
        refused @ EntryError::Refused(_) => Problem::entry(domain, b".", refused),
    }
}

fn made(domain: &str, path: &[u8], error: FillError) -> Problem {
    Problem::entry(domain, path, error.into())
}

fn xattrs(entry: &Entry) -> Vec<(&[u8], &[u8])> {
    entry
        .xattrs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect()
}

fn meta<'a>(entry: &Entry, xattrs: &'a [(&'a [u8], &'a [u8])]) -> Meta<'a> {
    Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    }
}

/// Sees that the stream says of an entry what the list says. Of content, the seal sees it.
fn compare(listed: &Entry, tar: &TarEntry<'_>) -> Result<(), EntryError> {
    let attributes = || {
        // A stream has a file's attributes once, with its first name.
        if matches!(listed.kind, Kind::HardLink(_)) && tar.xattrs.is_empty() {
            return true;
        }
        let mut of_tar = tar.xattrs.clone();
        of_tar.sort_unstable();
        let of_list = listed.xattrs.iter().map(|(k, v)| (&k[..], &v[..]));
        of_tar.into_iter().eq(of_list)
    };
    let kind = match (&listed.kind, &tar.kind) {
        (Kind::File { size, .. }, TarKind::File(file)) => {
            Some(("its size is not the signed one", *size == file.size))
        }
        (Kind::Symlink(a), TarKind::Symlink(b)) | (Kind::HardLink(a), TarKind::HardLink(b)) => {
            Some(("its target is not the signed one", a[..] == b[..]))
        }
        (Kind::CharDevice(a, b), TarKind::CharDevice(c, d))
        | (Kind::BlockDevice(a, b), TarKind::BlockDevice(c, d)) => {
            Some(("its device is not the signed one", (a, b) == (c, d)))
        }
        (Kind::Directory, TarKind::Directory) | (Kind::Fifo, TarKind::Fifo) => Some(("", true)),
        _ => None,
    };
    let wrong = if listed.path[..] != tar.path[..] {
        "it is not what comes next in the signed list"
    } else if kind.is_none() {
        "its type is not the signed one"
    } else if let Some((wrong, false)) = kind {
        wrong
    } else if listed.mode != tar.mode {
        "its mode is not the signed one"
    } else if listed.uid != tar.uid {
        "its owner is not the signed one"
    } else if listed.gid != tar.gid {
        "its group is not the signed one"
    } else if listed.mtime != tar.mtime {
        "its time is not the signed one"
    } else if !attributes() {
        "its extended attributes are not the signed ones"
    } else {
        return Ok(());
    };
    Err(EntryError::Refused(wrong))
}

/// Files that have more than one name, by a hash of the first. Should two paths ever share it, the
/// seal sees that a link leads to the wrong file; the next stage hashes in another way.
#[derive(Default)]
struct Linked {
    hasher: RandomState,
    files: HashMap<u64, Target>,
}

struct Target {
    /// Names to come.
    more: u32,
    made: Option<Made>,
    is_directory: bool,
}

impl Linked {
    fn expect(&mut self, entry: &Entry, domain: &str) -> Result<(), Problem> {
        let Kind::HardLink(target) = &entry.kind else {
            return Ok(());
        };
        let hash = self.hasher.hash_one(&target[..]);
        if self.files.len() >= MOST_LINKED && !self.files.contains_key(&hash) {
            let many = EntryError::Refused("more than 500,000 files have a second name");
            return Err(Problem::entry(domain, &entry.path, many));
        }
        let target = self.files.entry(hash).or_insert(Target {
            more: 0,
            made: None,
            is_directory: false,
        });
        target.more = target.more.saturating_add(1);
        Ok(())
    }

    fn get(&mut self, path: &[u8]) -> Option<&mut Target> {
        if self.files.is_empty() {
            return None;
        }
        self.files.get_mut(&self.hasher.hash_one(path))
    }

    fn count(&mut self, path: &[u8]) -> u32 {
        self.get(path).map_or(0, |target| target.more)
    }

    fn made(&mut self, path: &[u8], made: Made) {
        if let Some(target) = self.get(path) {
            target.made = Some(made);
        }
    }

    fn met_directory(&mut self, path: &[u8]) {
        if let Some(target) = self.get(path) {
            target.is_directory = true;
        }
    }

    fn find(&mut self, path: &[u8]) -> Result<Made, &'static str> {
        let target = self.get(path);
        match target {
            Some(target) if target.is_directory => Err("it links to a directory"),
            Some(Target {
                made: Some(made), ..
            }) => Ok(*made),
            _ => Err("it links to something that is not there"),
        }
    }
}
