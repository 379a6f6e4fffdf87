//! Where a file's content lies, as the tree of extents that its inode holds.

use super::allocate::{Allocator, Run};
use super::bytes::{put16, put32};
use super::checksum::Seed;
use super::disk::Disk;
use super::{BLOCK, FillError};

const MAGIC: u16 = 0xF30A;
/// Bytes of a header, an extent or an index.
const RECORD: usize = 12;
/// Records in an inode, behind the header.
const IN_INODE: usize = 4;
/// Records in a block, behind the header and before the checksum.
const IN_BLOCK: usize = (BLOCK - RECORD - 4) / RECORD;
/// Blocks of an initialised extent.
const LONGEST: u64 = 32_768;

/// Content that lies in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its first block in the file.
    pub(crate) logical: u64,
    /// Where it lies.
    pub(crate) run: Run,
}

/// What an inode says about its content.
pub(super) struct Root {
    /// For `i_block`.
    pub(super) bytes: [u8; 60],
    /// Blocks of the tree outside the inode.
    pub(super) tree_blocks: u64,
}

/// Builds the tree over `extents`, which ascend; writes what does not fit into the inode.
pub(super) fn tree(
    extents: &[Extent],
    seed: Seed,
    disk: &Disk,
    allocator: &mut Allocator,
) -> Result<Root, FillError> {
    let mut records: Vec<[u8; RECORD]> = extents.iter().flat_map(leaf).collect();
    let mut tree_blocks = 0;
    let mut depth = 0;
    while records.len() > IN_INODE {
        let mut above = Vec::with_capacity(records.len().div_ceil(IN_BLOCK));
        for records in records.chunks(IN_BLOCK) {
            let at = allocator.metadata(disk)?;
            let mut block = Box::new([0; BLOCK]);
            fill(&mut block[..], records, IN_BLOCK, depth);
            let sum = seed.sum(&block[..BLOCK - 4]);
            put32(&mut block[..], BLOCK - 4, sum);
            disk.later(at, block)?;
            tree_blocks += 1;
            above.push(index(&records[0], at));
        }
        records = above;
        depth += 1;
    }
    let mut bytes = [0; 60];
    fill(&mut bytes, &records, IN_INODE, depth);
    Ok(Root { bytes, tree_blocks })
}

fn fill(node: &mut [u8], records: &[[u8; RECORD]], most: usize, depth: u16) {
    put16(node, 0, MAGIC);
    put16(node, 2, records.len() as u16);
    put16(node, 4, most as u16);
    put16(node, 6, depth);
    for (place, record) in node[RECORD..].chunks_mut(RECORD).zip(records) {
        place.copy_from_slice(record);
    }
}

/// One extent as the records it takes.
fn leaf(extent: &Extent) -> impl Iterator<Item = [u8; RECORD]> + use<> {
    let Extent { logical, run } = *extent;
    let pieces = run.blocks.div_ceil(LONGEST);
    (0..pieces).map(move |piece| {
        let skip = piece * LONGEST;
        let (at, blocks) = (run.start + skip, (run.blocks - skip).min(LONGEST));
        let mut record = [0; RECORD];
        put32(&mut record, 0, (logical + skip) as u32);
        put16(&mut record, 4, blocks as u16);
        put16(&mut record, 6, (at >> 32) as u16);
        put32(&mut record, 8, at as u32);
        record
    })
}

/// Points to the node at the block `at`, whose first record is `first`.
fn index(first: &[u8; RECORD], at: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&first[..4]);
    put32(&mut record, 4, at as u32);
    put16(&mut record, 8, (at >> 32) as u16);
    record
}
