//! A payload of any entries, unpacked into a small file system: see [`crate::fuzzing::unpack`].

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::entry::{Entries, TarEntry, TarKind};
use super::error::Problem;
use super::sparse;
use super::store::ListFile;
use super::walk::Walk;
use crate::ext4::{Content, Disk};
use crate::filelist::{Entry, Kind, Writer, path_order};
use crate::image::{self, Shape};
use crate::manifest::{Allow, Digest, FileList, Frame, Mode, Part, Payload};

/// Bytes of the file system: it runs full, too.
const BYTES: u64 = 2 << 20;
/// One in so many file systems is looked at by e2fsck, which takes longer than all the rest.
const LOOK_AT: u64 = 16;

/// A file system as `mke2fs` makes it, and a file without a name to fill it in: the engine ends
/// without cleaning up.
struct Place {
    fresh: Vec<u8>,
    image: PathBuf,
    file: File,
}

impl Place {
    fn make() -> Option<Self> {
        let memory = tempfile::tempfile_in("/dev/shm");
        let file = memory.or_else(|_| tempfile::tempfile()).ok()?;
        // As other programs open it, too.
        let image = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let image = PathBuf::from(image);
        file.write_all_at(&vec![0xA5; BYTES as usize], 0).ok()?;
        let shape = Shape {
            bytes: BYTES,
            entries: 100,
        };
        image::make(&image, None, shape).ok()?;
        let mut fresh = vec![0; BYTES as usize];
        file.read_exact_at(&mut fresh, 0).ok()?;
        Some(Self { fresh, image, file })
    }
}

/// Unpacks the entries of `tar`, with the list that is honest about them.
pub(crate) fn unpack(tar: &[u8]) {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    static FILLED: AtomicU64 = AtomicU64::new(0);
    let Some(place) = PLACE.get_or_init(Place::make) else {
        panic!("no place to unpack to: is there mke2fs?");
    };
    let entries = sorted(tar);
    if entries.is_empty() {
        return;
    }
    let begun = place.file.write_all_at(&place.fresh, 0);
    begun.expect("there is memory for the image");
    let done = fill(place, &entries).expect("a list of its own entries is a list");
    if done
        && FILLED
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LOOK_AT)
    {
        let looked = Command::new("e2fsck").arg("-fn").arg(&place.image).output();
        let looked = looked.expect("e2fsck runs");
        let said = String::from_utf8_lossy(&looked.stdout);
        assert!(looked.status.success(), "e2fsck: {said}");
    }
}

/// The entries of the stream as they could be listed: sorted, and the first one by every name.
fn sorted(tar: &[u8]) -> Vec<(TarEntry<'_>, Entry)> {
    let mut entries = Entries::new(tar);
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let listed = listed(&entry);
        if listed.check().is_ok() {
            found.push((entry, listed));
        }
    }
    found.sort_by(|(_, a), (_, b)| path_order(&a.path, &b.path));
    found.dedup_by(|(_, later), (_, first)| later.path == first.path);
    found
}

fn listed(entry: &TarEntry<'_>) -> Entry {
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    xattrs.sort_unstable();
    Entry {
        path: entry.path.to_vec(),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        kind: match &entry.kind {
            TarKind::File(file) => Kind::File {
                size: file.size,
                sha256: Digest::of(b""),
            },
            TarKind::Directory => Kind::Directory,
            TarKind::Symlink(target) => Kind::Symlink(target.to_vec()),
            TarKind::HardLink(target) => Kind::HardLink(target.to_vec()),
            TarKind::CharDevice(major, minor) => Kind::CharDevice(*major, *minor),
            TarKind::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
            TarKind::Fifo => Kind::Fifo,
        },
        xattrs,
    }
}

/// Whether all of it could be made; an error when the list could not be written or read.
fn fill(place: &Place, entries: &[(TarEntry<'_>, Entry)]) -> Result<bool, Problem> {
    let io = || Problem::io("write the list");
    let mut writer = Writer::new(Vec::new()).map_err(io())?;
    for (_, entry) in entries {
        writer.add(entry).map_err(io())?;
    }
    let (file_list, text) = writer.finish();
    let has_links = entries
        .iter()
        .any(|(entry, _)| matches!(entry.kind, TarKind::HardLink(_)));
    let payload = payload(file_list, has_links);
    let mut list = ListFile::nameless(&payload, &std::env::temp_dir())?;
    list.append(&zstd::bulk::compress(&text, 1).map_err(io())?)?;
    let disk = Arc::new(Disk::open(&place.image, None).map_err(io())?);
    let Ok(mut walk) = Walk::begin(&payload, &list, &disk) else {
        return Ok(false);
    };
    let mut content = Content::new();
    for part in [Part::Directories, Part::Files, Part::Links] {
        for (entry, _) in entries {
            let made = match (&entry.kind, part) {
                (TarKind::Directory, Part::Directories) => walk.directory(entry),
                (TarKind::HardLink(_), Part::Links) => walk.hard_link(entry),
                (TarKind::Directory | TarKind::HardLink(_), _) => continue,
                (_, Part::Files) => walk.file(entry).map(|extents| {
                    let TarKind::File(file) = &entry.kind else {
                        return;
                    };
                    let mut put = |at, data: &[u8]| content.put(&disk, &extents, at, data);
                    let put = match &file.map {
                        Some(map) => sparse::place(map, 0, file.data, put),
                        None => put(0, file.data),
                    };
                    put.expect("content has its place");
                }),
                _ => continue,
            };
            if made.is_err() {
                return Ok(false);
            }
        }
    }
    content.flush(&disk).map_err(io())?;
    Ok(walk.finish().is_ok())
}

fn payload(file_list: FileList, has_links: bool) -> Payload {
    let part = if has_links { Part::Links } else { Part::Files };
    Payload {
        domain: "web".to_owned(),
        mode: Mode::Replace,
        image: None,
        packed_bytes: 0,
        unpacked_bytes: 0,
        data_bytes: 0,
        entries: 0,
        allow: Allow::default(),
        frames: vec![Frame {
            packed: 0,
            unpacked: 0,
            sha256: Digest::of(b""),
            part,
            continues: None,
        }],
        file_list,
        preserve: Vec::new(),
        domu: None,
    }
}
