//! What a foreign tarball's pax records add to its headers.

use super::tarball::Why;
use crate::filelist::Mtime;
use crate::pax::{records, time};

/// The records of one entry.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    /// Sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The real name of a sparse file of GNU format 1.0.
    pub(super) sparse_name: Option<Vec<u8>>,
    /// The real size of a sparse file of GNU format 1.0.
    pub(super) sparse_size: Option<u64>,
}

impl Pax {
    /// Sorts the records out. What would be lost silently is refused.
    pub(super) fn read(header: &[u8]) -> Result<Self, Why> {
        let mut pax = Self::default();
        for record in records(header) {
            let (key, value) = record?;
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name != b"security.selinux" {
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
                continue;
            }
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => pax.size = Some(number(value)?),
                b"uid" => pax.uid = Some(number(value)?),
                b"gid" => pax.gid = Some(number(value)?),
                b"mtime" => pax.mtime = Some(time(value).ok_or("has a bad time")?),
                b"GNU.sparse.name" => pax.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => pax.sparse_size = Some(number(value)?),
                b"GNU.sparse.major" if value == b"1" => {}
                b"GNU.sparse.minor" if value == b"0" => {}
                // They say nothing that a file system keeps.
                b"uname" | b"gname" | b"atime" | b"ctime" => {}
                key if says_nothing(key) => {}
                key if key.starts_with(b"SCHILY.") && !key.starts_with(b"SCHILY.acl") => {}
                b"LIBARCHIVE.creationtime" => {}
                key => {
                    let key = key.escape_ascii();
                    return Err(Why::Bad(format!(
                        "has a pax record {key} that would be lost (make the tarball with GNU tar's \
                         --format=pax --xattrs --xattrs-include='*', without --acls)"
                    )));
                }
            }
        }
        pax.xattrs.sort_unstable();
        if pax.xattrs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("has an extended attribute twice".into());
        }
        Ok(pax)
    }
}

/// Whether a record is about the tarball and not about an entry.
pub(super) fn says_nothing(key: &[u8]) -> bool {
    matches!(key, b"comment" | b"hdrcharset" | b"charset")
}

fn number(value: &[u8]) -> Result<u64, Why> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Why::from("has a pax record that is no number"))
}
