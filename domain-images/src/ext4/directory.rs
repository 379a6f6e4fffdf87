//! A directory while entries come into it.

use std::collections::VecDeque;

use super::allocate::{Allocator, Run};
use super::bytes::{put16, put32};
use super::checksum::Seed;
use super::disk::Disk;
use super::extents::Extent;
use super::inode::Type;
use super::{BLOCK, FillError};

/// Bytes at the end of a block that hold its checksum.
const TAIL: usize = 12;
/// Where entries have to end.
const END: usize = BLOCK - TAIL;
/// Bytes of an entry before its name.
const ENTRY: usize = 8;

/// A directory's blocks: those before are written, one is being filled.
pub(super) struct Blocks {
    seed: Seed,
    /// Where they lie; the last one is being filled.
    written: Vec<Run>,
    blocks: u64,
    /// Blocks that the directory has already, each with nothing in it.
    spare: VecDeque<u64>,
    block: Box<[u8; BLOCK]>,
    used: usize,
    /// Where the last entry begins: it reaches to the end of the block.
    last: usize,
}

impl Blocks {
    /// A directory with nothing but itself and its parent. `own` are blocks that it has.
    pub(super) fn new(
        inode: u32,
        parent: u32,
        seed: Seed,
        own: Vec<u64>,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<Self, FillError> {
        let mut blocks = Self {
            seed,
            written: Vec::new(),
            blocks: 0,
            spare: own.into(),
            block: Box::new([0; BLOCK]),
            used: 0,
            last: 0,
        };
        blocks.begin(disk, allocator)?;
        blocks.put(inode, b".", Type::Directory);
        blocks.put(parent, b"..", Type::Directory);
        Ok(blocks)
    }

    /// Adds an entry.
    pub(super) fn add(
        &mut self,
        inode: u32,
        name: &[u8],
        kind: Type,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<(), FillError> {
        if self.used + size(name) > END {
            self.write(disk)?;
            self.begin(disk, allocator)?;
        }
        self.put(inode, name, kind);
        Ok(())
    }

    /// Writes what is left; returns where everything lies, and how many blocks that are.
    pub(super) fn finish(mut self, disk: &Disk) -> Result<(Vec<Extent>, u64), FillError> {
        self.write(disk)?;
        while let Some(block) = self.spare.pop_front() {
            self.append(block);
        }
        let mut logical = 0;
        let extents = self.written.iter().map(|run| {
            let extent = Extent { logical, run: *run };
            logical += run.blocks;
            extent
        });
        Ok((extents.collect(), self.blocks))
    }

    fn begin(&mut self, disk: &Disk, allocator: &mut Allocator) -> Result<(), FillError> {
        let block = match self.spare.pop_front() {
            Some(block) => block,
            None => allocator.metadata(disk)?,
        };
        self.append(block);
        self.block.fill(0);
        (self.used, self.last) = (0, 0);
        Ok(())
    }

    fn append(&mut self, block: u64) {
        self.blocks += 1;
        match self.written.last_mut() {
            Some(run) if run.start + run.blocks == block => run.blocks += 1,
            _ => self.written.push(Run {
                start: block,
                blocks: 1,
            }),
        }
    }

    fn put(&mut self, inode: u32, name: &[u8], kind: Type) {
        let (at, block) = (self.used, &mut self.block[..]);
        put32(block, at, inode);
        put16(block, at + 4, size(name) as u16);
        block[at + 6] = name.len() as u8;
        block[at + 7] = kind.in_directory();
        block[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
        self.last = at;
        self.used += size(name);
    }

    fn write(&mut self, disk: &Disk) -> Result<(), FillError> {
        let block = &mut self.block[..];
        put16(block, self.last + 4, (END - self.last) as u16);
        // The checksum looks like an entry without an inode.
        put16(block, END + 4, TAIL as u16);
        block[END + 7] = 0xDE;
        let sum = self.seed.sum(&block[..END]);
        put32(block, END + 8, sum);
        if let Some(run) = self.written.last() {
            disk.write((run.start + run.blocks - 1) * BLOCK as u64, block)?;
        }
        Ok(())
    }
}

/// Bytes an entry takes.
fn size(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}
