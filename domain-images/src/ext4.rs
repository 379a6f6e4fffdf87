//! Fills an ext4 file system that `mke2fs` has just made, without mounting it.
//!
//! The kernel's way to twenty thousand files is twenty thousand times: find the directory, take
//! locks, find a free inode, dirty five blocks of metadata, copy the content into the page cache,
//! find room for it later. Here everything is known in advance, because entries come in the order of
//! a depth-first walk: inodes and blocks are handed out in ascending order, a directory is written
//! once when the walk leaves it, a block of inodes when all of them are known, and content goes from
//! the decoder to its place in large pieces.
//! Nothing that an entry says is a path here, so nothing leads out of the image.
//!
//! ```text
//! mke2fs     superblock, descriptors, journal, root and lost+found
//! Fill       entry by entry: inodes, directories, attributes; says where content belongs
//! Content    any number of workers: content, and metadata that are complete, past the page cache
//! finish     directories that are open, bitmaps, descriptors, superblock; flush
//! ```
//!
//! Until [`Fill::finish`] has returned, the file system is as empty as `mke2fs` has left it, or
//! broken: it is nobody's yet. Afterwards the kernel mounts it, and the seal reads it back through
//! the kernel, which is the check on all that is done here; tests have e2fsck look at it, too.
//!
//! The structures are those of the kernel's `Documentation/filesystems/ext4`. A directory of more than
//! one block gets its index when the walk leaves it; until then its names are in memory. Where those
//! were too many, it stays without: the kernel searches it block by block, `e2fsck -D` indexes it.

mod allocate;
mod bytes;
mod checksum;
mod content;
mod directory;
mod disk;
mod existing;
mod extents;
mod fill;
mod geometry;
mod hash;
mod index;
mod inode;
mod table;
mod xattr;

use std::io;

use thiserror::Error;

pub(crate) use content::Content;
pub(crate) use disk::Disk;
pub(crate) use extents::Extent;
pub(crate) use fill::{Fill, Made};

use crate::filelist::Mtime;

/// Bytes of a block.
pub(crate) const BLOCK: usize = crate::aligned::BLOCK;

/// Why an entry cannot be made.
#[derive(Debug, Error)]
pub(crate) enum FillError {
    /// ext4 cannot have it, or not there.
    #[error("{0}")]
    Refused(&'static str),
    /// All blocks are taken.
    #[error("no block is free")]
    Full,
    /// All inodes are taken.
    #[error("no inode is free")]
    NoInodes,
    /// The file system is not the one that `mke2fs` was asked for.
    #[error("{0} is not what mke2fs was asked for")]
    Unexpected(&'static str),
    /// The disk, or the file that stands for it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What every entry has.
#[derive(Debug)]
pub(crate) struct Meta<'a> {
    /// The lower twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// By full names, as the kernel tells them.
    pub(crate) xattrs: &'a [(&'a [u8], &'a [u8])],
}

/// An entry that is not a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node<'a> {
    Symlink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

#[cfg(test)]
mod tests;
