//! Making, checking and growing ext4 file systems.

use std::ffi::OsString;
use std::path::Path;

use super::command::{output, run, said};
use super::{ImageError, Region};

/// Features by name and nothing else, whatever this machine's `mke2fs.conf` thinks: an e2fsck as
/// old as 1.43 (Debian 9) knows all of them, so a node that falls back can still check what a newer
/// dom0 has made.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// What a fresh file system has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the device; a multiple of 4096.
    pub bytes: u64,
    /// Entries that will be written.
    pub entries: u64,
}

impl Shape {
    /// Inodes to make: what is needed and a quarter more, or one for every 16 KiB.
    fn inodes(self) -> u64 {
        let needed = self
            .entries
            .saturating_add(self.entries / 4)
            .saturating_add(1024);
        // ext4 cannot have more than 2^32 inodes, nor more than one for each block.
        needed
            .max(self.bytes / 16384)
            .min(self.bytes / 4096)
            .min(u64::from(u32::MAX) - 1)
    }
}

/// Makes a fresh file system on a device, an image file or a region of one. Inode tables and journal
/// are initialised lazily, and nothing is discarded: the file keeps its blocks.
///
/// # Errors
/// `mke2fs` fails.
pub fn make(disk: &Path, region: Option<Region>, shape: Shape) -> Result<(), ImageError> {
    let mut arguments: Vec<OsString> = ["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"]
        .map(OsString::from)
        .to_vec();
    arguments.extend(["-m", "0", "-O", FEATURES, "-E"].map(OsString::from));
    let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0";
    arguments.push(match region {
        Some(Region { offset, .. }) => format!("{extended},offset={offset}").into(),
        None => extended.into(),
    });
    arguments.push("-N".into());
    arguments.push(shape.inodes().to_string().into());
    arguments.push(disk.into());
    arguments.push((shape.bytes / 4096).to_string().into());
    run("mke2fs", arguments).map(drop)
}

/// How thorough [`check`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Only looks.
    Look,
    /// Replays the journal and repairs what is safe to repair without asking.
    Repair,
}

/// Checks the file system on `device`, all of it, even when it is marked clean.
///
/// # Errors
/// [`ImageError::Damaged`] when errors are left (e2fsck's exit code 4 and above).
pub fn check(device: &Path, check: Check) -> Result<(), ImageError> {
    let how = match check {
        Check::Look => "-n",
        Check::Repair => "-p",
    };
    let out = output("e2fsck", [OsString::from("-f"), how.into(), device.into()])?;
    // 1: errors were corrected. 2: and the machine should reboot, which is about mounted ones.
    match out.status.code() {
        Some(0..=3) => Ok(()),
        code => Err(ImageError::Damaged {
            path: device.to_owned(),
            code: code.unwrap_or(-1),
            output: said(&out),
        }),
    }
}

/// Grows the checked file system on `device` to the device's size.
///
/// # Errors
/// `resize2fs` fails.
pub fn grow(device: &Path) -> Result<(), ImageError> {
    run("resize2fs", [device]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_follow_what_is_needed_and_what_fits() {
        let inodes = |bytes, entries| Shape { bytes, entries }.inodes();
        assert_eq!(inodes(1 << 30, 10), 65536);
        assert_eq!(inodes(1 << 30, 100_000), 126_024);
        assert_eq!(inodes(1 << 30, u64::MAX), 262_144);
    }
}
