//! Blocks and inodes, handed out in ascending order.

use std::collections::BTreeMap;

use super::content::Content;
use super::disk::Disk;
use super::geometry::{BLOCK_UNINIT, Geometry, INODE_UNINIT};
use super::inode::INODE;
use super::table::{PER_BLOCK, Table};
use super::{BLOCK, FillError};

/// Blocks for metadata that are taken at once, so that directories lie side by side and content is
/// not interrupted by each of them.
const CHUNK: u64 = 64;
/// The first inode that is nobody's: behind `lost+found`.
const FIRST_INODE: u32 = 12;

/// Blocks that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first one.
    pub(crate) start: u64,
    /// How many.
    pub(crate) blocks: u64,
}

/// Hands out what is free.
pub(super) struct Allocator {
    pub(super) geometry: Geometry,
    /// Block bitmaps of the groups that were looked at. 4 KiB for 128 MiB of content.
    bitmaps: BTreeMap<u32, Box<[u8; BLOCK]>>,
    /// All blocks before this one are taken, or in `chunk`.
    next: u64,
    /// Taken for metadata, and not used yet.
    chunk: Run,
    next_inode: u32,
    table: Table,
    /// New directories by group.
    directories: BTreeMap<u32, u32>,
}

impl Allocator {
    pub(super) fn new(geometry: Geometry, disk: &Disk) -> Result<Self, FillError> {
        let mut table = Table::default();
        table.take_over(&geometry, FIRST_INODE, disk)?;
        Ok(Self {
            geometry,
            bitmaps: BTreeMap::new(),
            next: 0,
            chunk: Run {
                start: 0,
                blocks: 0,
            },
            next_inode: FIRST_INODE,
            table,
            directories: BTreeMap::new(),
        })
    }

    /// Takes `blocks` for content, in as few runs as there are obstacles.
    pub(super) fn content(&mut self, disk: &Disk, mut blocks: u64) -> Result<Vec<Run>, FillError> {
        let mut runs: Vec<Run> = Vec::new();
        while blocks > 0 {
            let run = self.take(disk, blocks)?;
            blocks -= run.blocks;
            match runs.last_mut() {
                Some(last) if last.start + last.blocks == run.start => last.blocks += run.blocks,
                _ => runs.push(run),
            }
        }
        Ok(runs)
    }

    /// Takes a block for metadata.
    pub(super) fn metadata(&mut self, disk: &Disk) -> Result<u64, FillError> {
        if self.chunk.blocks == 0 {
            self.chunk = self.take(disk, CHUNK)?;
        }
        let block = self.chunk.start;
        self.chunk.start += 1;
        self.chunk.blocks -= 1;
        Ok(block)
    }

    /// Takes the next free blocks, at most `most` of them.
    fn take(&mut self, disk: &Disk, most: u64) -> Result<Run, FillError> {
        let per_group = u64::from(self.geometry.blocks_per_group);
        while self.next < self.geometry.blocks {
            let (group, first) = ((self.next / per_group) as u32, self.next % per_group);
            let end = self.geometry.blocks_in(group);
            let begin = u64::from(group) * per_group;
            let bits = self.bitmap(disk, group)?;
            let is_free = |bit: &u32| !is_set(bits, *bit);
            let Some(free) = (first as u32..end).find(is_free) else {
                self.next = begin + per_group;
                continue;
            };
            let limit = u64::from(end).min(u64::from(free) + most) as u32;
            let taken = (free..limit).find(|bit| !is_free(bit)).unwrap_or(limit);
            (free..taken).for_each(|bit| bits[bit as usize / 8] |= 1 << (bit % 8));
            self.next = begin + u64::from(taken);
            return Ok(Run {
                start: begin + u64::from(free),
                blocks: (taken - free).into(),
            });
        }
        Err(FillError::Full)
    }

    fn bitmap(&mut self, disk: &Disk, group: u32) -> Result<&mut [u8; BLOCK], FillError> {
        if !self.bitmaps.contains_key(&group) {
            let about = self.geometry.group(group);
            let bits = if about.flags() & BLOCK_UNINIT != 0 {
                initial(&self.geometry, group)
            } else {
                let mut bits = Box::new([0; BLOCK]);
                disk.read(about.block_bitmap() * BLOCK as u64, &mut bits[..])?;
                bits
            };
            // What mke2fs has counted is a check on all that is assumed here.
            if free_in(&bits, self.geometry.blocks_in(group)) != about.free_blocks() {
                return Err(FillError::Unexpected("a group's number of free blocks"));
            }
            self.bitmaps.insert(group, bits);
        }
        self.bitmaps
            .get_mut(&group)
            .map(|bits| &mut **bits)
            .ok_or(FillError::Unexpected("a bitmap"))
    }

    /// Takes the next inode.
    pub(super) fn inode(&mut self) -> Result<u32, FillError> {
        let inode = self.next_inode;
        let (group, index) = self.geometry.place_of(inode);
        if group >= self.geometry.groups() {
            return Err(FillError::NoInodes);
        }
        if index.is_multiple_of(PER_BLOCK) {
            self.table.begin(&self.geometry, inode);
        }
        self.next_inode += 1;
        Ok(inode)
    }

    /// Puts what was taken into its place.
    pub(super) fn put_inode(
        &mut self,
        inode: u32,
        raw: &[u8; INODE],
        disk: &Disk,
    ) -> Result<(), FillError> {
        self.table.put(&self.geometry, inode, raw, disk)
    }

    /// Counts a new directory.
    pub(super) fn count_directory(&mut self, inode: u32) {
        let (group, _) = self.geometry.place_of(inode);
        *self.directories.entry(group).or_default() += 1;
    }

    /// Writes bitmaps, descriptors and superblock.
    pub(super) fn finish(mut self, disk: &Disk) -> Result<(), FillError> {
        std::mem::take(&mut self.table).finish(disk)?;
        let mut content = Content::new();
        content.metadata(disk, true)?;
        content.flush(disk)?;
        self.give_back_chunk();
        for (group, bits) in &self.bitmaps {
            let (at, end) = (
                self.geometry.group(*group).block_bitmap(),
                self.geometry.blocks_in(*group),
            );
            let sum = self
                .geometry
                .seed
                .sum(&bits[..self.geometry.blocks_per_group as usize / 8]);
            let mut about = self.geometry.group_mut(*group);
            about.set_free_blocks(free_in(bits, end));
            about.set_block_bitmap_sum(sum);
            about.clear(BLOCK_UNINIT);
            disk.write(at * BLOCK as u64, &bits[..])?;
        }
        self.finish_inodes(disk)?;
        self.geometry.write(disk)
    }

    fn give_back_chunk(&mut self) {
        let per_group = u64::from(self.geometry.blocks_per_group);
        for block in self.chunk.start..self.chunk.start + self.chunk.blocks {
            let bit = (block % per_group) as usize;
            if let Some(bits) = self.bitmaps.get_mut(&((block / per_group) as u32)) {
                bits[bit / 8] &= !(1 << (bit % 8));
            }
        }
    }

    fn finish_inodes(&mut self, disk: &Disk) -> Result<(), FillError> {
        let per_group = self.geometry.inodes_per_group;
        let (last, index) = self.geometry.place_of(self.next_inode - 1);
        for group in 0..=last {
            let used = if group == last { index + 1 } else { per_group };
            let mut bits = Box::new([0xFF; BLOCK]);
            for bit in used..per_group {
                bits[bit as usize / 8] &= !(1 << (bit % 8));
            }
            let sum = self.geometry.seed.sum(&bits[..per_group as usize / 8]);
            let new = self.directories.get(&group).copied().unwrap_or_default();
            let directories = self.geometry.group(group).directories() + new;
            let mut about = self.geometry.group_mut(group);
            about.set_free_inodes(per_group - used);
            about.set_unused_inodes(per_group - used);
            about.set_directories(directories);
            about.set_inode_bitmap_sum(sum);
            about.clear(INODE_UNINIT);
            let at = self.geometry.group(group).inode_bitmap() * BLOCK as u64;
            disk.write(at, &bits[..])?;
        }
        Ok(())
    }
}

/// The bitmap of a group that mke2fs has not written: what lies in it by design.
fn initial(geometry: &Geometry, group: u32) -> Box<[u8; BLOCK]> {
    let mut bits = Box::new([0; BLOCK]);
    let begin = u64::from(group) * u64::from(geometry.blocks_per_group);
    let end = begin + u64::from(geometry.blocks_in(group));
    let mut set = |from: u64, blocks: u64| {
        for block in from.max(begin)..(from + blocks).min(end) {
            let bit = (block - begin) as usize;
            bits[bit / 8] |= 1 << (bit % 8);
        }
    };
    set(begin, geometry.copies_in(group).into());
    let table = u64::from(geometry.inodes_per_group / PER_BLOCK);
    // With `flex_bg` other groups' bitmaps and tables may lie here.
    for other in 0..geometry.groups() {
        let about = geometry.group(other);
        set(about.block_bitmap(), 1);
        set(about.inode_bitmap(), 1);
        set(about.inode_table(), table);
    }
    for bit in geometry.blocks_in(group) as usize..BLOCK * 8 {
        bits[bit / 8] |= 1 << (bit % 8);
    }
    bits
}

fn is_set(bits: &[u8; BLOCK], bit: u32) -> bool {
    bits[bit as usize / 8] & (1 << (bit % 8)) != 0
}

/// Clear bits among the first `end`.
fn free_in(bits: &[u8; BLOCK], end: u32) -> u32 {
    let whole: u32 = bits[..end as usize / 8]
        .iter()
        .map(|b| b.count_zeros())
        .sum();
    let rest = (end / 8 * 8..end).filter(|bit| !is_set(bits, *bit)).count();
    whole + rest as u32
}
