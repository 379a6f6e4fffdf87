//! The table of entries: owners, modes and devices for builders that are not root.
//!
//! ```text
//! # path        type mode uid  gid  [major minor]
//! /             d    0755 0    0
//! /dev/console  c    0600 0    0    5 1
//! /run/initctl  p    0600 0    0
//! /bin/ping     f    4755 0    0
//! /home/web     -    -    1000 1000
//! ```
//!
//! A line about an entry that the source has changes it; `-` keeps what is there, and the type must
//! be the same. A line about one that it has not makes a device, a fifo or a directory. Empty lines
//! and what follows `#` at the beginning of a line are for people. A space in a path is `\040`.

use super::item::{Content, Item};
use crate::filelist::{Entry, Kind, Mtime, is_normal_path, path_order};

/// Applies a table to sorted items, which stay sorted. An error names the line.
pub(super) fn apply(items: &mut Vec<Item>, text: &str, made_at: i64) -> Result<(), String> {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        apply_line(items, line, made_at).map_err(|bad| format!("line {}: {bad}", index + 1))?;
    }
    Ok(())
}

fn apply_line(items: &mut Vec<Item>, line: &str, made_at: i64) -> Result<(), String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [path, kind, mode, uid, gid, device @ ..] = &fields[..] else {
        return Err("fewer than five fields".into());
    };
    let path = path.strip_prefix('/').ok_or("a path begins with /")?;
    let path = path.replace("\\040", " ").into_bytes();
    let path = if path.is_empty() { b".".to_vec() } else { path };
    if !is_normal_path(&path) {
        return Err("the path is not in its shortest form".into());
    }
    let mode = field(mode, |text| u32::from_str_radix(text, 8).ok())?;
    let uid = field(uid, |text| text.parse().ok())?;
    let gid = field(gid, |text| text.parse().ok())?;
    let device = match device {
        [] => None,
        [major, minor] => {
            let number = |text: &str| text.parse().map_err(|_| "bad device number");
            Some((number(major)?, number(minor)?))
        }
        _ => return Err("a device has a major and a minor number".into()),
    };
    let found = items.binary_search_by(|item| path_order(&item.entry.path, &path));
    match found {
        Ok(at) => {
            let entry = &mut items[at].entry;
            let same = match &entry.kind {
                Kind::HardLink(_) => return Err("a hard link; say it of its first name".into()),
                Kind::File { .. } => "f",
                Kind::Directory => "d",
                Kind::Symlink(_) => "l",
                Kind::CharDevice(..) => "c",
                Kind::BlockDevice(..) => "b",
                Kind::Fifo => "p",
            };
            if ![same, "-"].contains(kind) {
                return Err(format!("the source's entry is of type {same}"));
            }
            entry.mode = mode.unwrap_or(entry.mode);
            entry.uid = uid.unwrap_or(entry.uid);
            entry.gid = gid.unwrap_or(entry.gid);
            if let (
                Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor),
                Some(device),
            ) = (&mut entry.kind, device)
            {
                (*major, *minor) = device;
            }
            Ok(())
        }
        Err(at) => {
            let kind = match (*kind, device) {
                ("d", None) => Kind::Directory,
                ("p", None) => Kind::Fifo,
                ("c", Some((major, minor))) => Kind::CharDevice(major, minor),
                ("b", Some((major, minor))) => Kind::BlockDevice(major, minor),
                _ => return Err("the source has no such entry".into()),
            };
            let (Some(mode), Some(uid), Some(gid)) = (mode, uid, gid) else {
                return Err("a new entry needs mode, uid and gid".into());
            };
            let entry = Entry {
                path,
                mode,
                uid,
                gid,
                mtime: Mtime {
                    seconds: made_at,
                    nanos: 0,
                },
                kind,
                xattrs: Vec::new(),
            };
            let content = Content::None;
            items.insert(at, Item { entry, content });
            Ok(())
        }
    }
}

fn field(text: &str, parse: impl Fn(&str) -> Option<u32>) -> Result<Option<u32>, String> {
    if text == "-" {
        return Ok(None);
    }
    parse(text)
        .map(Some)
        .ok_or_else(|| format!("bad number {text}"))
}
