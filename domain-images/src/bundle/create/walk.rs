//! Reads a directory as a source. Symbolic links are read, never followed.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use super::item::{Content, Item};
use super::{CreateError, CreateEvent};
use crate::filelist::{Entry, Kind, Mtime, path_order};
use crate::manifest::Digest;

/// Lists everything below `root`, and `root` itself, sorted. Sockets are left out and reported:
/// they belong to the process that made them.
pub(super) fn scan(
    root: &Path,
    report: &mut dyn FnMut(CreateEvent<'_>),
) -> Result<Vec<Item>, CreateError> {
    let mut found = Vec::new();
    let mut folders = vec![b".".to_vec()];
    let meta = fs::metadata(root).map_err(|e| CreateError::io("look at", root, e))?;
    found.push((
        read_entry(root, b".".to_vec(), &meta, Kind::Directory)?,
        None,
    ));
    while let Some(folder) = folders.pop() {
        let on_disk = place(root, &folder);
        let names = fs::read_dir(&on_disk).map_err(|e| CreateError::io("list", &on_disk, e))?;
        for name in names {
            let name = name.map_err(|e| CreateError::io("list", &on_disk, e))?;
            let name = name.file_name().into_vec();
            let path = if folder == b"." {
                name
            } else {
                [&folder[..], b"/", &name[..]].concat()
            };
            let on_disk = place(root, &path);
            let meta = fs::symlink_metadata(&on_disk)
                .map_err(|e| CreateError::io("look at", &on_disk, e))?;
            let Some(kind) = kind_of(&on_disk, &meta)? else {
                report(CreateEvent::Skipped {
                    path: &on_disk,
                    reason: "a socket",
                });
                continue;
            };
            let inode = (!meta.is_dir() && meta.nlink() > 1).then(|| (meta.dev(), meta.ino()));
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.push((read_entry(&on_disk, path, &meta, kind)?, inode));
        }
    }
    found.sort_unstable_by(|a, b| path_order(&a.0.path, &b.0.path));
    Ok(link_names(root, found))
}

type Inode = (u64, u64);
/// Name and value.
type Xattr = (Vec<u8>, Vec<u8>);

/// The first name of a file in order is the file; the others become hard links to it.
fn link_names(root: &Path, found: Vec<(Entry, Option<Inode>)>) -> Vec<Item> {
    let mut first: HashMap<Inode, Vec<u8>> = HashMap::new();
    let make = |(mut entry, inode): (Entry, Option<Inode>)| {
        if let Some(inode) = inode {
            match first.get(&inode) {
                Some(target) => entry.kind = Kind::HardLink(target.clone()),
                None => drop(first.insert(inode, entry.path.clone())),
            }
        }
        let content = match entry.kind {
            Kind::File { .. } => Content::Path(place(root, &entry.path)),
            _ => Content::None,
        };
        Item { entry, content }
    };
    found.into_iter().map(make).collect()
}

fn place(root: &Path, path: &[u8]) -> std::path::PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

fn kind_of(path: &Path, meta: &Metadata) -> Result<Option<Kind>, CreateError> {
    let kind = meta.file_type();
    let device = || (major(meta.rdev()), minor(meta.rdev()));
    Ok(Some(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File {
            size: meta.len(),
            sha256: Digest([0; 32]),
        }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|e| CreateError::io("read", path, e))?;
        Kind::Symlink(target.into_os_string().into_vec())
    } else if kind.is_char_device() {
        Kind::CharDevice(device().0, device().1)
    } else if kind.is_block_device() {
        Kind::BlockDevice(device().0, device().1)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        return Ok(None);
    }))
}

fn read_entry(
    on_disk: &Path,
    path: Vec<u8>,
    meta: &Metadata,
    kind: Kind,
) -> Result<Entry, CreateError> {
    Ok(Entry {
        path,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Mtime {
            seconds: meta.mtime(),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or_default(),
        },
        kind,
        xattrs: read_xattrs(on_disk)
            .map_err(|e| CreateError::io("read the attributes of", on_disk, e.into()))?,
    })
}

/// All extended attributes but the labels of a security module: those come from the policy of the
/// machine that runs, not of the one that builds.
fn read_xattrs(path: &Path) -> Result<Vec<Xattr>, Errno> {
    let mut names = vec![0_u8; 65_536];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    let names = names[..length].split(|b| *b == 0);
    for name in names.filter(|name| !name.is_empty() && *name != b"security.selinux") {
        let mut value = vec![0_u8; 65_536];
        let length = lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        value.shrink_to_fit();
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}
