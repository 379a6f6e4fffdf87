//! A directory while entries come into it.

use std::collections::VecDeque;

use super::allocate::{Allocator, Run};
use super::bytes::{put16, put32};
use super::checksum::Seed;
use super::disk::Disk;
use super::extents::Extent;
use super::inode::Type;
use super::{BLOCK, FillError, index};

/// Bytes at the end of a block that hold its checksum.
const TAIL: usize = 12;
/// Where entries have to end.
const END: usize = BLOCK - TAIL;
/// Bytes of an entry before its name.
const ENTRY: usize = 8;

/// Bytes in memory before a name: inode, type, and the name's length.
const HEAD: usize = 6;

/// Its entries, as far as they are known.
pub(super) struct Entries {
    inode: u32,
    parent: u32,
    seed: Seed,
    /// Blocks that the directory has already, each with nothing in it.
    own: Vec<u64>,
    state: State,
}

enum State {
    /// All of them: they are sorted when the last one has come.
    Held(Held),
    /// They were too many to be held: they lie as they have come.
    Written(Blocks),
}

/// Entries in memory.
#[derive(Default)]
pub(super) struct Held {
    /// Inode, type, length of the name, and the name.
    bytes: Vec<u8>,
    /// Bytes that they take on the disk.
    size: usize,
    count: usize,
}

/// A finished directory.
pub(super) struct Finished {
    pub(super) extents: Vec<Extent>,
    pub(super) blocks: u64,
    /// Whether it has an index.
    pub(super) indexed: bool,
}

impl Entries {
    /// A directory with nothing but itself and its parent. `own` are blocks that it has.
    pub(super) fn new(inode: u32, parent: u32, seed: Seed, own: Vec<u64>) -> Self {
        Self {
            inode,
            parent,
            seed,
            own,
            state: State::Held(Held::default()),
        }
    }

    /// Adds an entry; returns how many bytes of memory it takes.
    pub(super) fn add(
        &mut self,
        inode: u32,
        name: &[u8],
        kind: Type,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<usize, FillError> {
        match &mut self.state {
            State::Held(held) => {
                let before = held.bytes.len();
                held.bytes.extend_from_slice(&inode.to_le_bytes());
                held.bytes.push(kind.in_directory());
                held.bytes.push(name.len() as u8);
                held.bytes.extend_from_slice(name);
                held.size += size(name);
                held.count += 1;
                Ok(held.bytes.len() - before)
            }
            State::Written(blocks) => {
                blocks.add(Entry::of(inode, kind.in_directory(), name), disk, allocator)?;
                Ok(0)
            }
        }
    }

    /// Bytes of memory that the entries take.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Held(held) => held.bytes.len(),
            State::Written(_) => 0,
        }
    }

    /// Gives up an index, for less memory: entries go to the disk as they come.
    pub(super) fn let_go(
        &mut self,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<(), FillError> {
        if let State::Held(held) = &mut self.state {
            let held = std::mem::take(held);
            let mut blocks = Blocks::new(self.seed, std::mem::take(&mut self.own));
            for entry in self
                .own_entries()
                .into_iter()
                .chain(held.iter().map(|(_, entry)| entry))
            {
                blocks.add(entry, disk, allocator)?;
            }
            self.state = State::Written(blocks);
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(
        mut self,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<Finished, FillError> {
        if let State::Held(held) = &self.state {
            let both = 2 * size(b"..");
            // Blocks that it has must stay its own, and an index would have no use for them.
            if both + held.size > END && self.own.len() <= 1 {
                let mut blocks = Blocks::new(self.seed, std::mem::take(&mut self.own));
                let above = (self.inode, self.parent);
                index::write(held, above, &mut blocks, disk, allocator)?;
                return Ok(blocks.finished(true));
            }
        }
        self.let_go(disk, allocator)?;
        match self.state {
            State::Written(mut blocks) => {
                blocks.end(disk)?;
                Ok(blocks.finished(false))
            }
            State::Held(_) => Err(FillError::Unexpected("a directory")),
        }
    }

    fn own_entries(&self) -> [Entry<'static>; 2] {
        let directory = Type::Directory.in_directory();
        [
            Entry::of(self.inode, directory, b"."),
            Entry::of(self.parent, directory, b".."),
        ]
    }
}

impl Held {
    /// All of them, in the order in which they have come, and where they are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Entry<'_>)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let at = next;
            let entry = self.entry_at(at)?;
            next += HEAD + entry.name.len();
            Some((at, entry))
        })
    }

    /// The one that begins at the byte `at`.
    pub(super) fn entry_at(&self, at: usize) -> Option<Entry<'_>> {
        let (head, rest) = self.bytes.get(at..)?.split_first_chunk::<HEAD>()?;
        let inode = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        Some(Entry::of(inode, head[4], rest.get(..head[5].into())?))
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) inode: u32,
    kind: u8,
    pub(super) name: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(super) fn of(inode: u32, kind: u8, name: &'a [u8]) -> Self {
        Self { inode, kind, name }
    }
}

/// A directory's blocks: those before are written, one is being filled.
pub(super) struct Blocks {
    pub(super) seed: Seed,
    /// Where they lie, in the order of the directory.
    places: Vec<Run>,
    count: u64,
    spare: VecDeque<u64>,
    block: Box<[u8; BLOCK]>,
    /// Where in the block the next entry comes; 0 when there is no block.
    used: usize,
    /// Where the last entry begins: it reaches to the end of the block.
    last: usize,
    /// Where on the disk the block lies.
    at: u64,
}

impl Blocks {
    fn new(seed: Seed, own: Vec<u64>) -> Self {
        Self {
            seed,
            places: Vec::new(),
            count: 0,
            spare: own.into(),
            block: Box::new([0; BLOCK]),
            used: 0,
            last: 0,
            at: 0,
        }
    }

    /// Adds an entry to the block, or to the next one.
    pub(super) fn add(
        &mut self,
        entry: Entry<'_>,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<(), FillError> {
        if self.used + size(entry.name) > END {
            self.end(disk)?;
        }
        if self.used == 0 {
            self.at = self.next(disk, allocator)?;
        }
        self.last = self.used;
        self.used += put(&mut self.block[..], self.used, entry);
        Ok(())
    }

    /// Writes the block that is being filled.
    pub(super) fn end(&mut self, disk: &Disk) -> Result<(), FillError> {
        if std::mem::take(&mut self.used) == 0 {
            return Ok(());
        }
        let mut bytes = std::mem::replace(&mut self.block, Box::new([0; BLOCK]));
        let block = &mut bytes[..];
        put16(block, self.last + 4, (END - self.last) as u16);
        // The checksum looks like an entry without an inode.
        put16(block, END + 4, TAIL as u16);
        block[END + 7] = 0xDE;
        let sum = self.seed.sum(&block[..END]);
        put32(block, END + 8, sum);
        Ok(disk.later(self.at, bytes)?)
    }

    /// Takes the directory's next block; returns where it lies.
    pub(super) fn next(
        &mut self,
        disk: &Disk,
        allocator: &mut Allocator,
    ) -> Result<u64, FillError> {
        let block = match self.spare.pop_front() {
            Some(block) => block,
            None => allocator.metadata(disk)?,
        };
        self.append(block);
        Ok(block)
    }

    fn append(&mut self, block: u64) {
        self.count += 1;
        match self.places.last_mut() {
            Some(run) if run.start + run.blocks == block => run.blocks += 1,
            _ => self.places.push(Run {
                start: block,
                blocks: 1,
            }),
        }
    }

    fn finished(mut self, indexed: bool) -> Finished {
        while let Some(block) = self.spare.pop_front() {
            self.append(block);
        }
        let mut logical = 0;
        let extents = self.places.iter().map(|run| {
            let extent = Extent { logical, run: *run };
            logical += run.blocks;
            extent
        });
        Finished {
            extents: extents.collect(),
            blocks: self.count,
            indexed,
        }
    }
}

/// Puts an entry at `at`; returns how many bytes it takes.
pub(super) fn put(block: &mut [u8], at: usize, entry: Entry<'_>) -> usize {
    let Entry { inode, kind, name } = entry;
    put32(block, at, inode);
    put16(block, at + 4, size(name) as u16);
    block[at + 6] = name.len() as u8;
    block[at + 7] = kind;
    block[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
    size(name)
}

/// Bytes an entry takes.
pub(super) fn size(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}
