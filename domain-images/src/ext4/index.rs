//! The index of a directory that does not fit into one block: its entries sorted by the hash of their
//! names, and above them a root, and nodes where the root does not hold all.

use super::allocate::Allocator;
use super::bytes::{put16, put32};
use super::checksum::Seed;
use super::directory::{Blocks, Entry, Held, put, size};
use super::disk::Disk;
use super::hash::{HALF_MD4, Hashing};
use super::inode::Type;
use super::{BLOCK, FillError};

/// Bytes of entries in a leaf: a fifth is left free, as `e2fsck -D` does, so that a new entry does
/// not at once cost another block.
const FILLED: usize = BLOCK * 4 / 5;
/// Where the root's and a node's records begin.
const IN_ROOT: usize = 32;
const IN_NODE: usize = 8;
/// Records they hold: 8 bytes each, and 8 at the end for the checksum.
const ROOT_HOLDS: usize = (BLOCK - IN_ROOT - 8) / 8;
const NODE_HOLDS: usize = (BLOCK - IN_NODE - 8) / 8;

/// `info_length`: bytes that say what kind of index it is.
const ABOUT: u8 = 8;

/// An entry's place in memory, by its hash: 12 bytes, of which there may be many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hashed {
    hash: u32,
    minor: u32,
    at: u32,
}

/// Writes the root, the leaves and the nodes. `above` are the directory's inode and its parent's.
pub(super) fn write(
    held: &Held,
    above: (u32, u32),
    blocks: &mut Blocks,
    disk: &Disk,
    allocator: &mut Allocator,
) -> Result<(), FillError> {
    // The directory's first block is the root, which comes last, when all others have their numbers.
    let root_at = blocks.next(disk, allocator)?;
    let mut records = leaves(held, blocks, disk, allocator)?;
    let mut number = records.len() as u32 + 1;
    let mut levels = 0;
    if records.len() > ROOT_HOLDS {
        levels = 1;
        let mut nodes = Vec::new();
        for below in records.chunks(NODE_HOLDS) {
            let at = blocks.next(disk, allocator)?;
            let mut node = Box::new([0; BLOCK]);
            // To whoever knows of no index it is a block with nothing in it.
            put16(&mut node[..], 4, BLOCK as u16);
            fill(&mut node[..], IN_NODE, NODE_HOLDS, below, blocks.seed);
            disk.later(at, node)?;
            nodes.push((below[0].0, number));
            number += 1;
        }
        records = nodes;
    }
    if records.len() > ROOT_HOLDS {
        return Err(FillError::Refused("it has more in it than an index holds"));
    }
    let mut root = Box::new([0; BLOCK]);
    let directory = |inode, name| Entry::directory(inode, name);
    let used = put(&mut root[..], 0, directory(above.0, b"."));
    put(&mut root[..], used, directory(above.1, b".."));
    // The second entry reaches to the end: the rest is hidden behind it.
    put16(&mut root[..], used + 4, (BLOCK - used) as u16);
    root[28] = HALF_MD4;
    root[29] = ABOUT;
    root[30] = levels;
    fill(&mut root[..], IN_ROOT, ROOT_HOLDS, &records, blocks.seed);
    Ok(disk.later(root_at, root)?)
}

/// Writes all entries, sorted by hash; returns the least hash of every block, and its number in the
/// directory. The hash is odd where the block before has the same one.
fn leaves(
    held: &Held,
    blocks: &mut Blocks,
    disk: &Disk,
    allocator: &mut Allocator,
) -> Result<Vec<(u32, u32)>, FillError> {
    let mut records = Vec::new();
    let (mut used, mut before) = (0, 0);
    for Hashed { hash, at, .. } in sorted(held, allocator.geometry.hashing) {
        let entry = held.entry_at(at as usize);
        let entry = entry.ok_or(FillError::Unexpected("a directory"))?;
        if records.is_empty() || used + size(entry.name) > FILLED {
            blocks.end(disk)?;
            let goes_on = !records.is_empty() && hash == before;
            records.push((hash | u32::from(goes_on), records.len() as u32 + 1));
            used = 0;
        }
        blocks.add(entry, disk, allocator)?;
        used += size(entry.name);
        before = hash;
    }
    blocks.end(disk)?;
    Ok(records)
}

fn sorted(held: &Held, hashing: Hashing) -> Vec<Hashed> {
    let hashed = held.iter().map(|(at, entry)| {
        let (hash, minor) = hashing.of_name(entry.name);
        let at = at as u32;
        Hashed { hash, minor, at }
    });
    let mut sorted: Vec<Hashed> = Vec::with_capacity(held.count());
    sorted.extend(hashed);
    sorted.sort_unstable();
    sorted
}

/// Puts records of hashes and block numbers at `at`, and the checksum behind the last possible one.
fn fill(node: &mut [u8], at: usize, holds: usize, records: &[(u32, u32)], seed: Seed) {
    for (index, (hash, number)) in records.iter().enumerate() {
        put32(node, at + index * 8, *hash);
        put32(node, at + index * 8 + 4, *number);
    }
    // In place of the first hash, which nothing is less than.
    put16(node, at, holds as u16);
    put16(node, at + 2, records.len() as u16);
    let covered = seed.and(&node[..at + records.len() * 8]);
    // Behind it the tail with its checksum taken for zero.
    put32(node, at + holds * 8 + 4, covered.sum(&[0; 8]));
}

impl Entry<'static> {
    fn directory(inode: u32, name: &'static [u8]) -> Self {
        Self::of(inode, Type::Directory.in_directory(), name)
    }
}
