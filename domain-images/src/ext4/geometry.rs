//! What superblock and group descriptors say.

use super::bytes::{le16, le32, put16, put32};
use super::checksum::{Seed, crc32c};
use super::disk::Disk;
use super::hash::Hashing;
use super::inode::INODE;
use super::table::PER_BLOCK;
use super::{BLOCK, FillError};

/// Where the superblock lies.
const SUPERBLOCK: u64 = 1024;
/// Bytes of a group descriptor with the feature `64bit`.
const DESCRIPTOR: usize = 64;
const MAGIC: u16 = 0xEF53;

/// `bg_flags`: the group's inode bitmap and table were not written yet.
pub(super) const INODE_UNINIT: u16 = 1;
/// `bg_flags`: the group's block bitmap was not written yet.
pub(super) const BLOCK_UNINIT: u16 = 2;

/// A file system of less than 8 MiB has none.
const HAS_JOURNAL: u32 = 0x4;
/// The features that the file system must have, and no others: those of [`crate::image::make`].
const COMPAT: u32 = HAS_JOURNAL | 0x8 | 0x10 | 0x20;
const INCOMPAT: u32 = 0x2 | 0x40 | 0x80 | 0x200;
const RO_COMPAT: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// Superblock and descriptors, as they are on the disk.
pub(super) struct Geometry {
    superblock: [u8; 1024],
    descriptors: Vec<u8>,
    /// All checksums begin with it.
    pub(super) seed: Seed,
    /// How directories find names.
    pub(super) hashing: Hashing,
    /// Blocks of the file system.
    pub(super) blocks: u64,
    /// Blocks of every group but the last.
    pub(super) blocks_per_group: u32,
    /// Inodes of every group.
    pub(super) inodes_per_group: u32,
}

impl Geometry {
    /// Reads them, and makes sure that they are what this module understands.
    pub(super) fn read(disk: &Disk) -> Result<Self, FillError> {
        let mut superblock = [0; 1024];
        disk.read(SUPERBLOCK, &mut superblock)?;
        let field = |at| le32(&superblock, at);
        let known = le16(&superblock, 0x38) == MAGIC
            && (field(0x5C) | HAS_JOURNAL, field(0x60), field(0x64))
                == (COMPAT, INCOMPAT, RO_COMPAT)
            && field(0x18) == 2
            && usize::from(le16(&superblock, 0x58)) == INODE
            && usize::from(le16(&superblock, 0xFE)) == DESCRIPTOR
            && (1..=32_768).contains(&field(0x20))
            && (PER_BLOCK..=32_768).contains(&field(0x28))
            && field(0x28).is_multiple_of(PER_BLOCK)
            && field(0x3FC) == crc32c(!0, &superblock[..0x3FC]);
        let hashing = Hashing::of(&superblock).filter(|_| known);
        let hashing = hashing.ok_or(FillError::Unexpected("its superblock"))?;
        let blocks = u64::from(field(0x4)) | u64::from(field(0x150)) << 32;
        let (blocks_per_group, inodes_per_group) = (field(0x20), field(0x28));
        let groups = blocks.div_ceil(blocks_per_group.into());
        let bytes = usize::try_from(groups)
            .ok()
            .and_then(|groups| groups.checked_mul(DESCRIPTOR))
            .filter(|_| blocks < 1 << 32)
            .ok_or(FillError::Unexpected("its size"))?;
        let mut descriptors = vec![0; bytes];
        disk.read(BLOCK as u64, &mut descriptors)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&superblock[0x68..0x78]);
        Ok(Self {
            superblock,
            descriptors,
            seed: Seed::of(uuid),
            hashing,
            blocks,
            blocks_per_group,
            inodes_per_group,
        })
    }

    /// Writes them; whoever mounts the file system from then on sees what was filled in.
    pub(super) fn write(&mut self, disk: &Disk) -> Result<(), FillError> {
        let (mut blocks, mut inodes) = (0, 0);
        for group in 0..self.groups() {
            let about = self.group(group);
            blocks += u64::from(about.free_blocks());
            inodes += about.free_inodes();
            self.sign(group);
        }
        disk.write(BLOCK as u64, &self.descriptors)?;
        let sb = &mut self.superblock;
        put32(sb, 0x0C, blocks as u32);
        put32(sb, 0x158, (blocks >> 32) as u32);
        put32(sb, 0x10, inodes);
        let sum = crc32c(!0, &sb[..0x3FC]);
        put32(sb, 0x3FC, sum);
        disk.write(SUPERBLOCK, sb)?;
        Ok(())
    }

    pub(super) fn groups(&self) -> u32 {
        (self.descriptors.len() / DESCRIPTOR) as u32
    }

    pub(super) fn group(&self, group: u32) -> Group<&[u8]> {
        let at = group as usize * DESCRIPTOR;
        Group(&self.descriptors[at..at + DESCRIPTOR])
    }

    pub(super) fn group_mut(&mut self, group: u32) -> Group<&mut [u8]> {
        let at = group as usize * DESCRIPTOR;
        Group(&mut self.descriptors[at..at + DESCRIPTOR])
    }

    /// Blocks of `group`; the last one may have fewer than the others.
    pub(super) fn blocks_in(&self, group: u32) -> u32 {
        let begin = u64::from(group) * u64::from(self.blocks_per_group);
        (self.blocks - begin).min(self.blocks_per_group.into()) as u32
    }

    /// Blocks at the beginning of `group` that copies of superblock and descriptors take, and those
    /// that are kept for more descriptors (`sparse_super`, `resize_inode`).
    pub(super) fn copies_in(&self, group: u32) -> u32 {
        if !has_copy(group) {
            return 0;
        }
        let descriptors = self.descriptors.len().div_ceil(BLOCK) as u32;
        1 + descriptors + u32::from(le16(&self.superblock, 0xCE))
    }

    /// Byte at which the inode lies.
    pub(super) fn inode_at(&self, inode: u32) -> u64 {
        let (group, index) = self.place_of(inode);
        self.group(group).inode_table() * BLOCK as u64 + u64::from(index) * INODE as u64
    }

    /// The inode's group, and which of its inodes it is.
    pub(super) fn place_of(&self, inode: u32) -> (u32, u32) {
        let number = inode - 1;
        (
            number / self.inodes_per_group,
            number % self.inodes_per_group,
        )
    }

    fn sign(&mut self, group: u32) {
        let seed = self.seed.and(&group.to_le_bytes());
        let Group(descriptor) = self.group_mut(group);
        put16(descriptor, 0x1E, 0);
        let sum = seed.sum(descriptor);
        put16(descriptor, 0x1E, sum as u16);
    }
}

/// Copies lie in the groups 0 and 1 and in those whose number is a power of 3, 5 or 7.
fn has_copy(group: u32) -> bool {
    let is_power = |base: u32| {
        let mut left = group;
        while left > 1 && left.is_multiple_of(base) {
            left /= base;
        }
        left == 1
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power)
}

/// One group descriptor.
pub(super) struct Group<D>(D);

impl<D: AsRef<[u8]>> Group<D> {
    fn split32(&self, low: usize, high: usize) -> u64 {
        let d = self.0.as_ref();
        u64::from(le32(d, low)) | u64::from(le32(d, high)) << 32
    }

    fn split16(&self, low: usize, high: usize) -> u32 {
        let d = self.0.as_ref();
        u32::from(le16(d, low)) | u32::from(le16(d, high)) << 16
    }

    pub(super) fn block_bitmap(&self) -> u64 {
        self.split32(0x0, 0x20)
    }

    pub(super) fn inode_bitmap(&self) -> u64 {
        self.split32(0x4, 0x24)
    }

    pub(super) fn inode_table(&self) -> u64 {
        self.split32(0x8, 0x28)
    }

    pub(super) fn free_blocks(&self) -> u32 {
        self.split16(0xC, 0x2C)
    }

    pub(super) fn free_inodes(&self) -> u32 {
        self.split16(0xE, 0x2E)
    }

    pub(super) fn directories(&self) -> u32 {
        self.split16(0x10, 0x30)
    }

    pub(super) fn flags(&self) -> u16 {
        le16(self.0.as_ref(), 0x12)
    }
}

impl Group<&mut [u8]> {
    fn put(&mut self, low: usize, high: usize, value: u32) {
        put16(self.0, low, value as u16);
        put16(self.0, high, (value >> 16) as u16);
    }

    pub(super) fn set_free_blocks(&mut self, blocks: u32) {
        self.put(0xC, 0x2C, blocks);
    }

    pub(super) fn set_free_inodes(&mut self, inodes: u32) {
        self.put(0xE, 0x2E, inodes);
    }

    pub(super) fn set_directories(&mut self, directories: u32) {
        self.put(0x10, 0x30, directories);
    }

    /// Inodes at the end of the table that were never written.
    pub(super) fn set_unused_inodes(&mut self, inodes: u32) {
        self.put(0x1C, 0x32, inodes);
    }

    pub(super) fn set_block_bitmap_sum(&mut self, sum: u32) {
        self.put(0x18, 0x38, sum);
    }

    pub(super) fn set_inode_bitmap_sum(&mut self, sum: u32) {
        self.put(0x1A, 0x3A, sum);
    }

    pub(super) fn clear(&mut self, flag: u16) {
        let flags = le16(self.0, 0x12) & !flag;
        put16(self.0, 0x12, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_where_sparse_super_puts_them() {
        let groups: Vec<u32> = (0..130).filter(|group| has_copy(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
