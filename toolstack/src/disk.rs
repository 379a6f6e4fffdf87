//! The node's disk: its GUID partition table.

use std::path::Path;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use crate::error::{Error, OrFailed, Result};

/// A partition of a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its unique id, as in a UEFI device path.
    pub guid: uuid::Uuid,
}

/// Bytes of a logical block, the unit of a UEFI hard-drive path.
pub const BLOCK: u64 = 512;

/// Finds the partition labelled `label` on `disk`.
///
/// # Errors
/// Where the disk has no readable GPT or no such partition.
pub fn find(disk: &Path, label: &str) -> Result<Partition> {
    let doing = || format!("looking for partition `{label}` on {}", disk.display());
    let table = GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open(disk)
        .or_failed(doing)?;
    table
        .partitions()
        .iter()
        .find(|(_, entry)| entry.name == label)
        .map(|(number, entry)| Partition {
            number: *number,
            offset: entry.first_lba * BLOCK,
            bytes: (entry.last_lba + 1 - entry.first_lba) * BLOCK,
            guid: entry.part_guid,
        })
        .ok_or_else(|| Error::refused("it has none of that name").doing(doing()))
}
