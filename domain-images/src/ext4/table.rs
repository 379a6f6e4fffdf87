//! The inode tables, block by block. Inodes are handed out in ascending order, and those of a
//! directory are known when the walk leaves it: so few blocks wait at any time, and each is written
//! once.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::geometry::Geometry;
use super::inode::INODE;
use super::{BLOCK, FillError};

/// Inodes in a block.
pub(super) const PER_BLOCK: u32 = (BLOCK / INODE) as u32;

/// Blocks of which some inodes are known.
#[derive(Default)]
pub(super) struct Table(BTreeMap<u64, Waiting>);

struct Waiting {
    bytes: Box<[u8; BLOCK]>,
    /// Inodes that are still to come; `None` when it has to wait for the end.
    missing: Option<u32>,
}

impl Table {
    /// Begins the block that the first of its inodes is taken from. What was in it is from another
    /// time.
    pub(super) fn begin(&mut self, geometry: &Geometry, inode: u32) {
        let (block, _) = place(geometry, inode);
        let bytes = Box::new([0; BLOCK]);
        let missing = Some(PER_BLOCK);
        self.0.insert(block, Waiting { bytes, missing });
    }

    /// Takes over the block that has the inodes of `mke2fs`: the root is the last one to be known.
    pub(super) fn take_over(
        &mut self,
        geometry: &Geometry,
        inode: u32,
        disk: &Disk,
    ) -> Result<(), FillError> {
        let (block, _) = place(geometry, inode);
        let mut bytes = Box::new([0; BLOCK]);
        disk.read(block * BLOCK as u64, &mut bytes[..])?;
        let missing = None;
        self.0.insert(block, Waiting { bytes, missing });
        Ok(())
    }

    /// Puts an inode into its place.
    pub(super) fn put(
        &mut self,
        geometry: &Geometry,
        inode: u32,
        raw: &[u8; INODE],
        disk: &Disk,
    ) -> Result<(), FillError> {
        let (block, at) = place(geometry, inode);
        let unknown = FillError::Unexpected("an inode's place");
        let waiting = self.0.get_mut(&block).ok_or(unknown)?;
        waiting.bytes[at..at + INODE].copy_from_slice(raw);
        if let Some(missing) = &mut waiting.missing {
            *missing -= 1;
            if *missing == 0
                && let Some(Waiting { bytes, .. }) = self.0.remove(&block)
            {
                disk.later(block, bytes)?;
            }
        }
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn finish(self, disk: &Disk) -> Result<(), FillError> {
        for (block, Waiting { bytes, .. }) in self.0 {
            disk.later(block, bytes)?;
        }
        Ok(())
    }
}

/// The block that an inode lies in, and where.
fn place(geometry: &Geometry, inode: u32) -> (u64, usize) {
    let at = geometry.inode_at(inode);
    (at / BLOCK as u64, (at % BLOCK as u64) as usize)
}
