//! What a source holds: entries, and where their content is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::CreateError;
use crate::filelist::{Entry, Kind};

/// The most extents a sparse file's map has; holes are filled, smallest first, to get there.
const MAX_EXTENTS: usize = 16_384;
const ALIGN: u64 = 4096;

/// An entry of a source. A regular file's digest is filled in when it is packed.
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) content: Content,
}

/// Where a regular file's content is.
#[derive(Clone)]
pub(super) enum Content {
    /// Nowhere: it has none.
    None,
    /// In the file itself.
    Path(PathBuf),
    /// In a temporary file, from this byte on.
    Spool {
        file: Arc<File>,
        offset: u64,
        sparse: bool,
    },
}

/// A regular file, opened to be packed.
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    /// Where the content begins in `file`.
    pub(super) base: u64,
    /// Offsets and lengths of the data; all of it for a file without holes.
    pub(super) extents: Vec<(u64, u64)>,
    pub(super) is_sparse: bool,
}

impl Item {
    /// Opens a regular file's content; `None` for other entries.
    pub(super) fn open(&self) -> Result<Option<Opened>, CreateError> {
        let Kind::File { size, .. } = self.entry.kind else {
            return Ok(None);
        };
        let (file, base, may_be_sparse) = match &self.content {
            Content::None => return Ok(None),
            Content::Path(path) => {
                let file = open_file(path)?;
                let meta = file
                    .metadata()
                    .map_err(|e| CreateError::io("look at", path, e))?;
                if meta.len() != size {
                    return Err(CreateError::Changed(path.clone()));
                }
                use std::os::unix::fs::MetadataExt;
                let has_holes = meta.blocks().saturating_mul(512) < size;
                (Arc::new(file), 0, has_holes)
            }
            Content::Spool {
                file,
                offset,
                sparse,
            } => (Arc::clone(file), *offset, *sparse),
        };
        let mut extents = vec![(0, size)];
        if may_be_sparse {
            extents = find_data(&file, base, size).map_err(|error| {
                CreateError::io("look for holes in", &self.shown(), error.into())
            })?;
        }
        extents.retain(|extent| extent.1 != 0);
        let stored: u64 = extents.iter().map(|extent| extent.1).sum();
        Ok(Some(Opened {
            file,
            base,
            extents,
            is_sparse: stored < size,
        }))
    }

    pub(super) fn shown(&self) -> PathBuf {
        PathBuf::from(self.entry.path.escape_ascii().to_string())
    }
}

fn open_file(path: &Path) -> Result<File, CreateError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map(File::from)
        .map_err(|error| CreateError::io("open", path, error.into()))
}

/// Finds the data between `base` and `base + size`, relative to `base`, rounded outwards to 4096.
fn find_data(file: &File, base: u64, size: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let end = base + size;
    let mut at = base;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = seek(file, SeekFrom::Hole(data))?.min(end);
        let from = (data - base) / ALIGN * ALIGN;
        let to = (hole - base).next_multiple_of(ALIGN).min(size);
        match extents.last_mut() {
            Some(last) if last.0 + last.1 >= from => last.1 = to - last.0,
            _ => extents.push((from, to - from)),
        }
        at = hole;
    }
    let mut gap = ALIGN;
    while extents.len() > MAX_EXTENTS {
        gap *= 2;
        extents = extents.into_iter().fold(Vec::new(), |mut kept, next| {
            match kept.last_mut() {
                Some((offset, length)) if next.0 - (*offset + *length) < gap => {
                    *length = next.0 + next.1 - *offset;
                }
                _ => kept.push(next),
            }
            kept
        });
    }
    Ok(extents)
}
