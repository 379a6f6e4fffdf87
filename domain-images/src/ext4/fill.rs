//! The file system as it grows, entry by entry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::allocate::{Allocator, Run};
use super::disk::Disk;
use super::existing::Existing;
use super::extents::Extent;
use super::geometry::Geometry;
use super::inode::{self, Inode, Type};
use super::{BLOCK, FillError, Meta, Node, checksum, directory, extents, xattr};
use crate::filelist::Mtime;

const ROOT: u32 = 2;
const LOST_FOUND: u32 = 11;
const LOST_FOUND_NAME: &[u8] = b"lost+found";
/// Names that a file can have, and directories a directory.
const MOST_LINKS: u32 = 65_000;
/// Bytes of names of all directories that the walk is in. To sort them takes as much again.
const HELD: usize = 4 << 20;
/// The last block of a file has a number of 32 bits.
const LARGEST: u64 = (u32::MAX as u64) * BLOCK as u64;

/// A file or node that was made, to give it more names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    inode: u32,
    kind: Type,
}

/// A file system while entries come into it.
pub(crate) struct Fill {
    disk: Arc<Disk>,
    allocator: Allocator,
    now: Mtime,
    /// The directories that the walk is in, the root first.
    open: Vec<Directory>,
    /// Bytes of names that `open` holds.
    held: usize,
    /// `lost+found`, until the walk has met it or is over.
    lost_found: Option<Existing>,
}

/// A directory that the walk is in.
struct Directory {
    inode: u32,
    generation: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    attributes: xattr::Placed,
    subdirectories: u32,
    entries: directory::Entries,
}

impl Fill {
    /// Begins in the root, which has `root`'s metadata; `None` keeps what `mke2fs` gives it.
    pub(crate) fn begin(disk: &Arc<Disk>, root: Option<&Meta<'_>>) -> Result<Self, FillError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let now = Mtime {
            seconds: now.map_or(0, |now| now.as_secs().cast_signed()),
            nanos: now.map_or(0, |now| now.subsec_nanos()),
        };
        let geometry = Geometry::read(disk)?;
        let existing = Existing::read(&geometry, disk, ROOT)?;
        let lost_found = Existing::read(&geometry, disk, LOST_FOUND)?;
        let mut fill = Self {
            disk: Arc::clone(disk),
            allocator: Allocator::new(geometry, disk)?,
            now,
            open: Vec::new(),
            held: 0,
            lost_found: Some(lost_found),
        };
        let usual = Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: now,
            xattrs: &[],
        };
        fill.open(ROOT, ROOT, existing, root.unwrap_or(&usual))?;
        Ok(fill)
    }

    /// Makes a directory and goes into it.
    pub(crate) fn enter(&mut self, name: &[u8], meta: &Meta<'_>) -> Result<(), FillError> {
        let is_top = self.open.len() == 1;
        let existing = self
            .lost_found
            .take_if(|_| is_top && name == LOST_FOUND_NAME);
        let (inode, existing) = match existing {
            Some(existing) => (LOST_FOUND, existing),
            None => {
                let inode = self.allocator.inode()?;
                self.allocator.count_directory(inode);
                (inode, Existing::default())
            }
        };
        self.name(name, inode, Type::Directory)?;
        let parent = self.top()?;
        parent.subdirectories += 1;
        let parent = parent.inode;
        self.open(inode, parent, existing, meta)
    }

    /// Leaves the directory; nothing more comes into it.
    pub(crate) fn leave(&mut self) -> Result<(), FillError> {
        let Some(directory) = self.open.pop() else {
            return Ok(());
        };
        self.held -= directory.entries.held();
        let seed = self.seed(directory.inode, directory.generation);
        let finished = directory.entries.finish(&self.disk, &mut self.allocator)?;
        let tree = extents::tree(&finished.extents, seed, &self.disk, &mut self.allocator)?;
        let links = match directory.subdirectories.saturating_add(2) {
            links if links <= MOST_LINKS => links as u16,
            // With `dir_nlink` it says: more than can be counted. The kernel knows that of indexed ones.
            _ if finished.indexed => 1,
            _ => {
                let many = "it has more directories in it than ext4 counts without an index";
                return Err(FillError::Refused(many));
            }
        };
        let attributes = u64::from(directory.attributes.block.is_some());
        let inode = Inode {
            number: directory.inode,
            generation: directory.generation,
            kind: Type::Directory,
            meta: &Meta {
                mode: directory.mode,
                uid: directory.uid,
                gid: directory.gid,
                mtime: directory.mtime,
                xattrs: &[],
            },
            links,
            size: finished.blocks * BLOCK as u64,
            blocks: finished.blocks + tree.tree_blocks + attributes,
            content: tree.bytes,
            has_extents: true,
            indexed: finished.indexed,
            attributes: &directory.attributes,
            now: self.now,
        };
        self.write(&inode)
    }

    /// Makes a file of `size` bytes with `more` further names to come. `stored` are the offsets and
    /// lengths of its content in bytes: ascending, whole blocks but for the last one. Returns where
    /// the content belongs.
    pub(crate) fn file(
        &mut self,
        name: &[u8],
        meta: &Meta<'_>,
        size: u64,
        more: u32,
        stored: impl Iterator<Item = (u64, u64)>,
    ) -> Result<(Made, Vec<Extent>), FillError> {
        if size > LARGEST {
            return Err(FillError::Refused("it is larger than ext4 takes"));
        }
        let extents = self.extents(stored)?;
        let blocks: u64 = extents.iter().map(|extent| extent.run.blocks).sum();
        let made = self.make(name, Type::File, meta, more, |fill, number| {
            let seed = fill.seed(number, 0);
            let tree = extents::tree(&extents, seed, &fill.disk, &mut fill.allocator)?;
            Ok(Body {
                size,
                blocks: blocks + tree.tree_blocks,
                content: tree.bytes,
                has_extents: true,
            })
        })?;
        Ok((made, extents))
    }

    /// Makes a link, device or fifo with `more` further names to come.
    pub(crate) fn node(
        &mut self,
        name: &[u8],
        meta: &Meta<'_>,
        more: u32,
        node: Node<'_>,
    ) -> Result<Made, FillError> {
        let plain = |content| Body {
            size: 0,
            blocks: 0,
            content,
            has_extents: false,
        };
        let (kind, body) = match node {
            Node::Fifo => (Type::Fifo, plain([0; 60])),
            Node::CharDevice(major, minor) => {
                (Type::CharDevice, plain(inode::device(major, minor)?))
            }
            Node::BlockDevice(major, minor) => {
                (Type::BlockDevice, plain(inode::device(major, minor)?))
            }
            Node::Symlink(target) => {
                // A link's own mode means nothing; the kernel shows this one.
                let meta = Meta {
                    mode: 0o777,
                    ..*meta
                };
                return self.make(name, Type::Symlink, &meta, more, |fill, number| {
                    fill.target(number, target)
                });
            }
        };
        self.make(name, kind, meta, more, |_, _| Ok(body))
    }

    /// Gives what was made another name.
    pub(crate) fn link(&mut self, name: &[u8], made: Made) -> Result<(), FillError> {
        self.name(name, made.inode, made.kind)
    }

    /// Leaves all directories and writes what is left; then everything is on the disk.
    pub(crate) fn finish(mut self) -> Result<(), FillError> {
        while self.open.len() > 1 {
            self.leave()?;
        }
        if self.lost_found.take().is_some() {
            self.name(LOST_FOUND_NAME, LOST_FOUND, Type::Directory)?;
            self.top()?.subdirectories += 1;
        }
        self.leave()?;
        self.allocator.finish(&self.disk)?;
        Ok(self.disk.flush()?)
    }

    fn open(
        &mut self,
        inode: u32,
        parent: u32,
        existing: Existing,
        meta: &Meta<'_>,
    ) -> Result<(), FillError> {
        let (disk, allocator) = (&self.disk, &mut self.allocator);
        let generation = existing.generation;
        let attributes = xattr::place(meta.xattrs, Type::Directory, disk, allocator)?;
        let seed = allocator.geometry.seed.inode(inode, generation);
        let own = existing.blocks;
        let entries = directory::Entries::new(inode, parent, seed, own);
        self.open.push(Directory {
            inode,
            generation,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            attributes,
            subdirectories: 0,
            entries,
        });
        Ok(())
    }

    /// Makes an inode by this name; `body` gives its content.
    fn make(
        &mut self,
        name: &[u8],
        kind: Type,
        meta: &Meta<'_>,
        more: u32,
        body: impl FnOnce(&mut Self, u32) -> Result<Body, FillError>,
    ) -> Result<Made, FillError> {
        if self.lost_found.is_some() && self.open.len() == 1 && name == LOST_FOUND_NAME {
            return Err(FillError::Refused("its name is taken already"));
        }
        let links = more
            .checked_add(1)
            .filter(|links| *links <= MOST_LINKS)
            .ok_or(FillError::Refused("it has more names than ext4 takes"))?;
        let number = self.allocator.inode()?;
        let attributes = xattr::place(meta.xattrs, kind, &self.disk, &mut self.allocator)?;
        let body = body(self, number)?;
        self.write(&Inode {
            number,
            generation: 0,
            kind,
            meta,
            links: links as u16,
            size: body.size,
            blocks: body.blocks + u64::from(attributes.block.is_some()),
            content: body.content,
            has_extents: body.has_extents,
            indexed: false,
            attributes: &attributes,
            now: self.now,
        })?;
        self.name(name, number, kind)?;
        Ok(Made {
            inode: number,
            kind,
        })
    }

    /// A link's target: in the inode if it is short, else in a block.
    fn target(&mut self, number: u32, target: &[u8]) -> Result<Body, FillError> {
        let mut body = Body {
            size: target.len() as u64,
            blocks: 0,
            content: [0; 60],
            has_extents: false,
        };
        if target.len() < body.content.len() {
            body.content[..target.len()].copy_from_slice(target);
            return Ok(body);
        }
        let mut block = Box::new([0; BLOCK]);
        block
            .get_mut(..target.len())
            .ok_or(FillError::Refused("its target is too long"))?
            .copy_from_slice(target);
        let start = self.allocator.metadata(&self.disk)?;
        self.disk.later(start, block)?;
        let extent = Extent {
            logical: 0,
            run: Run { start, blocks: 1 },
        };
        let seed = self.seed(number, 0);
        let tree = extents::tree(&[extent], seed, &self.disk, &mut self.allocator)?;
        body.blocks = 1;
        body.content = tree.bytes;
        body.has_extents = true;
        Ok(body)
    }

    /// Takes blocks for content at these offsets.
    fn extents(
        &mut self,
        stored: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Vec<Extent>, FillError> {
        let whole = BLOCK as u64;
        let pieces: Vec<(u64, u64)> = stored
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(offset, bytes)| (offset / whole, bytes.div_ceil(whole)))
            .collect();
        let blocks = pieces.iter().map(|(_, blocks)| blocks).sum();
        let mut runs: VecDeque<Run> = self.allocator.content(&self.disk, blocks)?.into();
        let mut extents = Vec::with_capacity(pieces.len());
        for (mut logical, mut left) in pieces {
            while left > 0 {
                let run = runs.front_mut().ok_or(FillError::Full)?;
                let now = run.blocks.min(left);
                extents.push(Extent {
                    logical,
                    run: Run {
                        start: run.start,
                        blocks: now,
                    },
                });
                (run.start, run.blocks) = (run.start + now, run.blocks - now);
                (logical, left) = (logical + now, left - now);
                if run.blocks == 0 {
                    runs.pop_front();
                }
            }
        }
        Ok(extents)
    }

    fn name(&mut self, name: &[u8], inode: u32, kind: Type) -> Result<(), FillError> {
        let Some(top) = self.open.last_mut() else {
            return Err(FillError::Unexpected("the walk"));
        };
        let (disk, allocator) = (&self.disk, &mut self.allocator);
        self.held += top.entries.add(inode, name, kind, disk, allocator)?;
        if self.held > HELD {
            self.held -= top.entries.held();
            top.entries.let_go(disk, allocator)?;
        }
        Ok(())
    }

    fn top(&mut self) -> Result<&mut Directory, FillError> {
        self.open
            .last_mut()
            .ok_or(FillError::Unexpected("the walk"))
    }

    fn seed(&self, inode: u32, generation: u32) -> checksum::Seed {
        self.allocator.geometry.seed.inode(inode, generation)
    }

    fn write(&mut self, inode: &Inode<'_>) -> Result<(), FillError> {
        let raw = inode.encode(self.allocator.geometry.seed)?;
        self.allocator.put_inode(inode.number, &raw, &self.disk)
    }
}

/// What an inode holds beside what every entry has.
struct Body {
    size: u64,
    /// Attributes' block not counted.
    blocks: u64,
    content: [u8; 60],
    has_extents: bool,
}
