//! The node's disk: its GUID partition table.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The device node of partition `number` of a disk whose table has just been written; `None` for an
/// image file, which has none.
///
/// # Errors
/// Where the kernel does not take the new table, because something on the disk is in use.
pub fn partition_node(disk: &Path, number: u32) -> Result<Option<PathBuf>> {
    let doing = || format!("looking for partition {number} of {}", disk.display());
    let disk = fs::canonicalize(disk).or_failed(doing)?;
    if !fs::metadata(&disk)
        .or_failed(doing)?
        .file_type()
        .is_block_device()
    {
        return Ok(None);
    }
    let status = Command::new("blockdev")
        .arg("--rereadpt")
        .arg(&disk)
        .status()
        .or_failed(doing)?;
    if !status.success() {
        return Err(
            Error::failed("the kernel does not read the new partition table")
                .doing(doing())
                .hint("is something on this disk mounted?"),
        );
    }
    let name = disk.file_name().unwrap_or_default();
    let folder = Path::new("/sys/class/block").join(name);
    for entry in fs::read_dir(&folder).or_failed(doing)? {
        let entry = entry.or_failed(doing)?;
        let found = fs::read_to_string(entry.path().join("partition"));
        if found.is_ok_and(|text| text.trim() == number.to_string()) {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Err(Error::failed("the kernel shows no such partition").doing(doing()))
}
