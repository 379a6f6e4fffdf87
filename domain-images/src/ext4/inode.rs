//! Inodes of 256 bytes.

use super::bytes::{put16, put32};
use super::checksum::Seed;
use super::xattr;
use super::{FillError, Meta};
use crate::filelist::Mtime;

/// Bytes of an inode.
pub(super) const INODE: usize = 256;
/// `i_extra_isize`: what follows the first 128 bytes and is no attribute.
const EXTRA: u16 = 32;
/// Where attributes begin.
pub(super) const ATTRIBUTES: usize = 128 + EXTRA as usize;
/// `i_flags`: `i_block` is a tree of extents.
const EXTENTS: u32 = 0x8_0000;
/// `i_flags`: a directory with an index.
const INDEX: u32 = 0x1000;

/// What an inode is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

impl Type {
    /// The bits of `i_mode` above the permissions.
    fn mode(self) -> u16 {
        match self {
            Self::Fifo => 0x1000,
            Self::CharDevice => 0x2000,
            Self::Directory => 0x4000,
            Self::BlockDevice => 0x6000,
            Self::File => 0x8000,
            Self::Symlink => 0xA000,
        }
    }

    /// The type in a directory's entry.
    pub(super) fn in_directory(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// All that is written about an inode.
pub(super) struct Inode<'a> {
    pub(super) number: u32,
    pub(super) generation: u32,
    pub(super) kind: Type,
    pub(super) meta: &'a Meta<'a>,
    pub(super) links: u16,
    pub(super) size: u64,
    /// Blocks of content, of the tree over it, and of attributes.
    pub(super) blocks: u64,
    /// `i_block`: a tree of extents, a short link's target, or a device's numbers.
    pub(super) content: [u8; 60],
    /// Whether it is a tree of extents.
    pub(super) has_extents: bool,
    /// Whether it is a directory with an index.
    pub(super) indexed: bool,
    pub(super) attributes: &'a xattr::Placed,
    /// When it was made: what no list says.
    pub(super) now: Mtime,
}

impl Inode<'_> {
    /// As it lies on the disk.
    pub(super) fn encode(&self, seed: Seed) -> Result<[u8; INODE], FillError> {
        let mut raw = [0; INODE];
        let meta = self.meta;
        put16(&mut raw, 0x0, self.kind.mode() | meta.mode as u16 & 0o7777);
        put16(&mut raw, 0x2, meta.uid as u16);
        put16(&mut raw, 0x78, (meta.uid >> 16) as u16);
        put16(&mut raw, 0x18, meta.gid as u16);
        put16(&mut raw, 0x7A, (meta.gid >> 16) as u16);
        put32(&mut raw, 0x4, self.size as u32);
        put32(&mut raw, 0x6C, (self.size >> 32) as u32);
        put16(&mut raw, 0x1A, self.links);
        // In sectors of 512 bytes.
        let sectors = self.blocks * 8;
        put32(&mut raw, 0x1C, sectors as u32);
        put16(&mut raw, 0x74, (sectors >> 32) as u16);
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(self.has_extents, EXTENTS) | flag(self.indexed, INDEX);
        put32(&mut raw, 0x20, flags);
        raw[0x28..0x64].copy_from_slice(&self.content);
        put32(&mut raw, 0x64, self.generation);
        put16(&mut raw, 0x80, EXTRA);
        let now = self.now;
        for (at, extra, time) in [
            (0x8, 0x8C, now),
            (0xC, 0x84, now),
            (0x10, 0x88, meta.mtime),
            (0x90, 0x94, now),
        ] {
            let (low, high) = time_fields(time)?;
            put32(&mut raw, at, low);
            put32(&mut raw, extra, high);
        }
        raw[ATTRIBUTES..].copy_from_slice(&self.attributes.in_inode);
        if let Some(block) = self.attributes.block {
            put32(&mut raw, 0x68, block as u32);
            put16(&mut raw, 0x76, (block >> 32) as u16);
        }
        let sum = seed.inode(self.number, self.generation).sum(&raw);
        put16(&mut raw, 0x7C, sum as u16);
        put16(&mut raw, 0x82, (sum >> 16) as u16);
        Ok(raw)
    }
}

/// A time as 32 bits of seconds, and two more of them below the nanoseconds.
fn time_fields(time: Mtime) -> Result<(u32, u32), FillError> {
    // Signed at first, then beyond 2038 by the two bits.
    let epoch = time
        .seconds
        .checked_add(1 << 31)
        .map(|seconds| seconds >> 32);
    let epoch = epoch
        .filter(|epoch| (0..4).contains(epoch))
        .ok_or(FillError::Refused("its time is none that ext4 can keep"))?;
    Ok((time.seconds as u32, epoch as u32 | time.nanos << 2))
}

/// A device's numbers as `i_block`: the old form where it holds them.
pub(super) fn device(major: u32, minor: u32) -> Result<[u8; 60], FillError> {
    if major > 0xFFF || minor > 0xF_FFFF {
        return Err(FillError::Refused("its device number is out of range"));
    }
    let mut content = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut content, 0, major << 8 | minor);
    } else {
        put32(
            &mut content,
            4,
            minor & 0xFF | major << 8 | (minor & !0xFF) << 12,
        );
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_2038_take_the_two_bits() {
        let fields = |seconds, nanos| time_fields(Mtime { seconds, nanos }).ok();
        assert_eq!(fields(-1, 999_999_999), Some((u32::MAX, 999_999_999 << 2)));
        assert_eq!(fields(i64::from(i32::MAX), 0), Some((0x7FFF_FFFF, 0)));
        assert_eq!(fields(1 << 31, 1), Some((1 << 31, 1 | 1 << 2)));
        assert_eq!(fields(-(1 << 31), 0), Some((1 << 31, 0)));
        assert_eq!(fields((1 << 34) - (1 << 31), 0), None);
        assert_eq!(fields(-(1 << 31) - 1, 0), None);
        assert_eq!(fields(i64::MAX, 0), None);
        assert_eq!(fields(i64::MIN, 0), None);
    }
}
