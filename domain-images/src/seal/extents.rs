//! Where on its device a file's content lies.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use fiemap::{Fiemap, FiemapExtentFlags, FiemapFlags};

/// A run of content, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// In the file.
    pub(super) logical: u64,
    /// On the device.
    pub(super) physical: u64,
    /// How long.
    pub(super) bytes: u64,
}

impl Extent {
    /// Where it ends on the device.
    pub(super) fn end(&self) -> u64 {
        self.physical + self.bytes
    }
}

/// Extents of one file that are kept; a file in more pieces is read through the file system.
const MAX_EXTENTS: usize = 4096;

/// What is known about a file's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// All of its content, in the order of the file. What is not in an extent is zeros.
    Known(Vec<Extent>),
    /// Not simply on the device: it has to be read as a file. With the first place, for the order.
    Unknown(u64),
}

impl Place {
    /// Where it begins on the device.
    pub(super) fn start(&self) -> u64 {
        match self {
            Self::Known(extents) => extents.first().map_or(0, |extent| extent.physical),
            Self::Unknown(start) => *start,
        }
    }
}

/// Where on the device the content of `file` begins.
pub(super) fn first(file: impl AsFd) -> io::Result<Option<u64>> {
    let first = Fiemap::new(file).next().transpose()?;
    Ok(first.map(|extent| extent.fe_physical))
}

/// Asks the file system where the content of `file` lies.
pub(super) fn of(file: &File, size: u64) -> io::Result<Place> {
    if size == 0 {
        return Ok(Place::Known(Vec::new()));
    }
    let mut extents = Vec::new();
    for extent in Fiemap::with_flags(file, FiemapFlags::SYNC) {
        let extent = extent?;
        let first = extents
            .first()
            .map_or(extent.fe_physical, |e: &Extent| e.physical);
        let flags = extent.fe_flags;
        if flags.contains(FiemapExtentFlags::UNWRITTEN) {
            continue;
        }
        let plain = FiemapExtentFlags::LAST | FiemapExtentFlags::MERGED;
        if !plain.contains(flags) || extents.len() >= MAX_EXTENTS {
            return Ok(Place::Unknown(first));
        }
        extents.push(Extent {
            logical: extent.fe_logical,
            physical: extent.fe_physical,
            bytes: extent.fe_length,
        });
    }
    Ok(Place::Known(extents))
}
