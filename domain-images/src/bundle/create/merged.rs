//! Names that go through a symbolic link of the same tarball, as in a root with merged `/usr`.
//!
//! Unpacking `bin/sh` over `bin -> usr/bin` makes `usr/bin/sh`, and so that is its name in the
//! payload: a node refuses to write through a link.

use std::collections::HashMap;

use super::item::Item;
use crate::filelist::{Kind, is_normal_path, path_order};

/// More than any root has one behind the other.
const MAX_LINKS: u32 = 40;

/// Gives every entry, and every hard link's target, the name that it has when links to directories
/// are followed inside of the root. `items` are sorted, and stay so. An error has the entry's name.
pub(super) fn settle(items: &mut [Item]) -> Result<(), (Vec<u8>, &'static str)> {
    let links: HashMap<Vec<u8>, Vec<u8>> = items
        .iter()
        .filter_map(|item| match &item.entry.kind {
            Kind::Symlink(target) => Some((item.entry.path.clone(), target.clone())),
            _ => None,
        })
        .collect();
    if links.is_empty() {
        return Ok(());
    }
    for item in items.iter_mut() {
        let entry = &mut item.entry;
        let fail = |reason| (entry.path.clone(), reason);
        let path = through(&links, &entry.path).map_err(fail)?;
        if let Kind::HardLink(target) = &mut entry.kind {
            let real = through(&links, target);
            *target = real.map_err(|reason| (entry.path.clone(), reason))?;
        }
        entry.path = path;
    }
    items.sort_by(|a, b| path_order(&a.entry.path, &b.entry.path));
    Ok(())
}

/// Where `path` is when the links among its directories are followed; its last part is not.
fn through(links: &HashMap<Vec<u8>, Vec<u8>>, path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path == b"." {
        return Ok(path.to_vec());
    }
    let mut followed = 0;
    let mut real: Vec<u8> = Vec::new();
    // What is still to come, the next part last.
    let mut parts: Vec<Vec<u8>> = split(path);
    while let Some(part) = parts.pop() {
        if part == b".." {
            if real.is_empty() {
                return Err("goes through a symbolic link that leads out of the root");
            }
            let parent = real.iter().rposition(|b| *b == b'/').unwrap_or(0);
            real.truncate(parent);
            continue;
        }
        let parent = real.len();
        if parent != 0 {
            real.push(b'/');
        }
        real.extend(&part);
        let Some(target) = links.get(&real).filter(|_| !parts.is_empty()) else {
            continue;
        };
        followed += 1;
        if followed > MAX_LINKS {
            return Err("goes through symbolic links that never end");
        }
        let from = if target.starts_with(b"/") { 0 } else { parent };
        real.truncate(from);
        parts.extend(split(target));
    }
    if is_normal_path(&real) {
        Ok(real)
    } else {
        Err("has too long a name when symbolic links are followed")
    }
}

/// The parts of a path, last one first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let links: HashMap<Vec<u8>, Vec<u8>> = [
            ("bin", "usr/bin"),
            ("lib", "/usr/lib"),
            ("usr/lib64", "./lib/../lib"),
            ("lib64", "usr/lib64"),
            ("usr/up", "../etc"),
            ("out", "../etc"),
            ("usr/out", "/../etc"),
            ("loop", "pool"),
            ("pool", "loop"),
            ("own", "own/x"),
            ("here", "."),
        ]
        .map(|(from, to)| (from.into(), to.into()))
        .into();
        for (path, wanted) in [
            ("bin", Ok("usr/bin/sh")),
            ("lib", Ok("usr/lib/sh")),
            ("lib64", Ok("usr/lib/sh")),
            ("usr/up", Ok("etc/sh")),
            ("here/here/bin", Ok("usr/bin/sh")),
            ("opt/bin", Ok("opt/bin/sh")),
            ("out", Err("leads out")),
            ("usr/out", Err("leads out")),
            ("loop", Err("never end")),
            ("own", Err("never end")),
        ] {
            let got = through(&links, format!("{path}/sh").as_bytes());
            match (got, wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted.as_bytes(), "{path}"),
                (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{path}: {got}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        // The last part is the entry itself.
        assert_eq!(through(&links, b"bin").unwrap(), b"bin");
        assert_eq!(through(&links, b".").unwrap(), b".");
    }
}
