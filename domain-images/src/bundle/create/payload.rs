//! Builds one payload from sorted items.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::frames::{Cutter, ListPacker, pack};
use super::header::{Stored, encode};
use super::item::{Content, Item, Opened};
use super::spec::{Owners, PayloadSpec};
use super::{CreateError, CreateEvent, Options, table, tarball, walk};
use crate::filelist::{self, Entry, Kind, Mtime, has_capability, path_order};
use crate::manifest::{Allow, Mode, Part, Payload};

/// A payload in two temporary files, list and stream.
pub(super) struct Packed {
    pub(super) payload: Payload,
    pub(super) files: [File; 2],
}

pub(super) fn build(
    spec: &PayloadSpec,
    options: &Options,
    epoch: Option<u64>,
    folder: &Path,
    report: &mut dyn FnMut(CreateEvent<'_>),
) -> Result<Packed, CreateError> {
    let is_folder = std::fs::metadata(&spec.source)
        .map_err(|error| CreateError::io("look at", &spec.source, error))?
        .is_dir();
    let mut items = if is_folder {
        walk::scan(&spec.source, report)?
    } else {
        tarball::scan(&spec.source, folder, report)?
    };
    adjust(&mut items, spec, epoch)?;
    let total = items.iter().map(size_of).sum();
    report(CreateEvent::Scanned {
        domain: &spec.domain,
        entries: items.len() as u64,
        bytes: total,
    });
    let temporary = || {
        tempfile::tempfile_in(folder)
            .map_err(|error| CreateError::io("make a temporary file in", folder, error))
    };
    let mut stream = temporary()?;
    let mut done = 0;
    let (frames, data_bytes) = pack(&mut stream, options.threads, options.level, |cutter| {
        add_all(cutter, &mut items, &mut |bytes| {
            done += bytes;
            report(CreateEvent::Packing {
                domain: &spec.domain,
                bytes: done,
                total,
            });
        })
    })?;
    let mut list = filelist::Writer::new(ListPacker::new(temporary()?, options.level))?;
    for item in &items {
        list.add(&item.entry)?;
    }
    let (file_list, packer) = list.finish();
    let (mut all_frames, list) = packer.finish()?;
    all_frames.extend(frames);
    Ok(Packed {
        payload: Payload {
            domain: spec.domain.clone(),
            mode: spec.mode,
            image: spec.image(),
            packed_bytes: all_frames.iter().map(|f| u64::from(f.packed)).sum(),
            unpacked_bytes: all_frames.iter().map(|f| u64::from(f.unpacked)).sum(),
            data_bytes,
            entries: items.len() as u64,
            allow: spec.allow,
            frames: all_frames,
            file_list,
            preserve: spec.preserve.clone(),
            domu: spec.domu(),
        },
        files: [list, stream],
    })
}

fn size_of(item: &Item) -> u64 {
    match item.entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    }
}

/// Owners, table, clamped times; then everything that a node would refuse is refused here.
fn adjust(
    items: &mut Vec<Item>,
    spec: &PayloadSpec,
    epoch: Option<u64>,
) -> Result<(), CreateError> {
    if spec.owners == Owners::Root {
        for item in items.iter_mut() {
            (item.entry.uid, item.entry.gid) = (0, 0);
        }
    }
    let latest = epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
    if let Some(path) = &spec.table {
        let text =
            std::fs::read_to_string(path).map_err(|error| CreateError::io("read", path, error))?;
        table::apply(items, &text, latest.unwrap_or(0))
            .map_err(|reason| CreateError::Spec(format!("table {}: {reason}", path.display())))?;
    }
    for item in items.iter_mut() {
        if let Some(latest) = latest
            && item.entry.mtime.seconds >= latest
        {
            item.entry.mtime = Mtime {
                seconds: latest,
                nanos: 0,
            };
        }
    }
    settle_links(items)?;
    for at in 0..items.len() {
        let entry = &items[at].entry;
        check_allowed(entry, spec.allow)
            .and_then(|()| entry.check().map_err(|bad| bad.to_string()))
            .and_then(|()| check_parent(items, at, spec.mode))
            .map_err(|reason| CreateError::Entry {
                path: items[at].shown().display().to_string(),
                reason,
            })?;
    }
    Ok(())
}

fn find(items: &[Item], path: &[u8]) -> Option<usize> {
    items
        .binary_search_by(|item| path_order(&item.entry.path, path))
        .ok()
}

/// Hard links point at a file that is no hard link itself, and repeat its metadata.
fn settle_links(items: &mut [Item]) -> Result<(), CreateError> {
    let mut links = Vec::new();
    for at in 0..items.len() {
        let Kind::HardLink(first) = items[at].entry.kind.clone() else {
            continue;
        };
        let mut target = find(items, &first);
        // A tarball may chain them. Each step leads to another link, at most as many as there are.
        for _ in 0..64 {
            match target.map(|t| items[t].entry.kind.clone()) {
                Some(Kind::HardLink(next)) => target = find(items, &next),
                _ => break,
            }
        }
        let target =
            target.filter(|t| !matches!(items[*t].entry.kind, Kind::HardLink(_) | Kind::Directory));
        let Some(target) = target else {
            return Err(CreateError::Entry {
                path: items[at].shown().display().to_string(),
                reason: "is a hard link to nothing in this source".into(),
            });
        };
        links.push((at, target));
    }
    // Whichever name its maker met first, the first in order is the file.
    let mut first: HashMap<usize, usize> = HashMap::new();
    for (at, target) in &links {
        let least = first.entry(*target).or_insert(*target);
        *least = (*least).min(*at);
    }
    for (target, least) in first.iter().filter(|(target, least)| target != least) {
        let path = items[*least].entry.path.clone();
        let mut entry = items[*target].entry.clone();
        entry.path.clone_from(&path);
        items[*least].entry = entry;
        items[*least].content = std::mem::replace(&mut items[*target].content, Content::None);
        items[*target].entry.kind = Kind::HardLink(path);
    }
    for (at, target) in links {
        let least = first[&target];
        if at != least {
            let mut entry = items[least].entry.clone();
            entry.kind = Kind::HardLink(std::mem::take(&mut entry.path));
            entry.path = std::mem::take(&mut items[at].entry.path);
            items[at].entry = entry;
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum Sort {
    Plain,
    File,
    Device,
    Fifo,
}

fn item_kind(kind: &Kind) -> Sort {
    match kind {
        Kind::CharDevice(..) | Kind::BlockDevice(..) => Sort::Device,
        Kind::Fifo => Sort::Fifo,
        Kind::File { .. } | Kind::HardLink(_) => Sort::File,
        Kind::Directory | Kind::Symlink(_) => Sort::Plain,
    }
}

fn check_allowed(entry: &Entry, allow: Allow) -> Result<(), String> {
    let what = match item_kind(&entry.kind) {
        Sort::Device if !allow.devices => "is a device; allow.devices",
        Sort::Fifo if !allow.fifos => "is a fifo; allow.fifos",
        Sort::File if entry.mode & 0o6000 != 0 && !allow.setuid => {
            "is set-user-id or set-group-id; allow.setuid"
        }
        Sort::File if has_capability(&entry.xattrs) && !allow.setuid => {
            "has file capabilities; allow.setuid"
        }
        _ => return Ok(()),
    };
    Err(format!("{what} is not set for this payload"))
}

/// In a replace payload every entry lies in a directory of the same payload. On top of an overlay's
/// image the directory may be there already, but must not be something else in the payload.
fn check_parent(items: &[Item], at: usize, mode: Mode) -> Result<(), String> {
    let path = &items[at].entry.path;
    if path == b"." {
        return Ok(());
    }
    let parent = match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => &path[..slash],
        None => b".",
    };
    match find(items, parent).map(|at| &items[at].entry.kind) {
        Some(Kind::Directory) => Ok(()),
        None if mode == Mode::Overlay => Ok(()),
        None => Err("lies in a directory that the source does not list".into()),
        Some(_) => Err("lies in something that is not a directory".into()),
    }
}

fn add_all(
    cutter: &mut Cutter,
    items: &mut [Item],
    progress: &mut dyn FnMut(u64),
) -> Result<(), CreateError> {
    for part in [Part::Directories, Part::Files, Part::Links] {
        let mut begun = false;
        for item in items.iter_mut().filter(|item| part_of(item) == part) {
            if !begun {
                cutter.begin_part(part)?;
                begun = true;
            }
            add(cutter, item, progress)?;
        }
    }
    Ok(())
}

fn part_of(item: &Item) -> Part {
    match item.entry.kind {
        Kind::Directory => Part::Directories,
        Kind::HardLink(_) => Part::Links,
        _ => Part::Files,
    }
}

fn add(
    cutter: &mut Cutter,
    item: &mut Item,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CreateError> {
    let Some(opened) = item.open()? else {
        cutter.begin_entry(&encode(&item.entry, None), 0)?;
        return Ok(());
    };
    let size = size_of(item);
    let stored = Stored {
        size,
        sparse: opened.is_sparse.then_some(&opened.extents[..]),
    };
    let data = opened.extents.iter().map(|extent| extent.1).sum();
    cutter.begin_entry(&encode(&item.entry, Some(&stored)), data)?;
    let sha256 = add_content(cutter, &opened, size, progress).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            CreateError::Changed(item.shown())
        } else {
            CreateError::io("read", &item.shown(), error)
        }
    })?;
    cutter.end_data(data);
    item.entry.kind = Kind::File { size, sha256 };
    Ok(())
}

fn add_content(
    cutter: &mut Cutter,
    opened: &Opened,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<crate::manifest::Digest> {
    let mut digest = Sha256::new();
    let mut done = 0;
    let mut position = 0;
    for (offset, length) in &opened.extents {
        hash_zeros(&mut digest, offset - position);
        let mut at = *offset;
        let end = offset + length;
        while at < end {
            let (raw, room) = cutter.room(done)?;
            let piece = (end - at).min(room as u64);
            let from = raw.len();
            raw.resize(from + piece as usize, 0);
            opened
                .file
                .read_exact_at(&mut raw[from..], opened.base + at)?;
            digest.update(&raw[from..]);
            progress(piece);
            at += piece;
            done += piece;
        }
        position = end;
    }
    hash_zeros(&mut digest, size - position);
    Ok(digest.into())
}

fn hash_zeros(digest: &mut Sha256, mut bytes: u64) {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    while bytes > 0 {
        let piece = bytes.min(ZEROS.len() as u64);
        digest.update(&ZEROS[..piece as usize]);
        bytes -= piece;
    }
}

/// Copies a whole temporary file.
pub(super) fn copy_all(file: &mut File, out: &mut impl Write) -> io::Result<u64> {
    file.rewind()?;
    io::copy(file, out)
}
