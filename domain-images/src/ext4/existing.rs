//! What `mke2fs` has put into a file system: the root and `lost+found`.

use super::FillError;
use super::bytes::{le16, le32};
use super::disk::Disk;
use super::geometry::Geometry;
use super::inode::INODE;

/// A directory that is there already; by default, one that is not.
#[derive(Default)]
pub(super) struct Existing {
    pub(super) generation: u32,
    /// Where its content lies.
    pub(super) blocks: Vec<u64>,
}

impl Existing {
    /// Reads the inode's content, which is in one level.
    pub(super) fn read(geometry: &Geometry, disk: &Disk, inode: u32) -> Result<Self, FillError> {
        let mut raw = [0; INODE];
        disk.read(geometry.inode_at(inode), &mut raw)?;
        let tree = &raw[0x28..0x64];
        let entries = usize::from(le16(tree, 2));
        let plain = le16(tree, 0) == 0xF30A && le16(tree, 6) == 0 && entries <= 4;
        if !plain {
            return Err(FillError::Unexpected("one of its directories"));
        }
        let runs = tree[12..].chunks_exact(12).take(entries).map(|record| {
            let start = u64::from(le32(record, 8)) | u64::from(le16(record, 6)) << 32;
            start..start + u64::from(le16(record, 4))
        });
        Ok(Self {
            generation: le32(&raw, 0x64),
            blocks: runs.flatten().collect(),
        })
    }
}
