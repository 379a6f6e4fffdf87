//! Writes tar entries: a ustar header, and a pax header before it where ustar is too narrow.

use crate::bundle::outer::BLOCK;
use crate::filelist::{Entry, Kind, Mtime};

/// What an entry's file content is in the tar stream.
pub(super) struct Stored<'a> {
    /// Apparent size.
    pub(super) size: u64,
    /// Offset and length of every extent with data; `None` when the file has no holes.
    pub(super) sparse: Option<&'a [(u64, u64)]>,
}

/// Everything of an entry that comes before its data: pax header, ustar header, sparse map.
pub(super) fn encode(entry: &Entry, stored: Option<&Stored<'_>>) -> Vec<u8> {
    let mut name = entry.path.clone();
    if name == b"." {
        name = b"./".to_vec();
    } else if entry.kind == Kind::Directory {
        name.push(b'/');
    }
    let mut pax = Pax::default();
    let mut map = Vec::new();
    let mut size = stored.map_or(0, |stored| stored.size);
    if let Some((extents, real)) = stored.and_then(|s| s.sparse.map(|extents| (extents, s.size))) {
        map = sparse_map(extents, real);
        size = map.len() as u64 + extents.iter().map(|extent| extent.1).sum::<u64>();
        pax.record(b"GNU.sparse.major", b"1");
        pax.record(b"GNU.sparse.minor", b"0");
        pax.record(b"GNU.sparse.name", &name);
        pax.record(b"GNU.sparse.realsize", real.to_string().as_bytes());
        name = [b"GNUSparseFile.0/", &name[..]].concat();
    }
    let (kind, link, device): (u8, &[u8], _) = match &entry.kind {
        Kind::File { .. } => (b'0', b"", None),
        Kind::HardLink(target) => (b'1', target, None),
        Kind::Symlink(target) => (b'2', target, None),
        Kind::CharDevice(major, minor) => (b'3', b"", Some((*major, *minor))),
        Kind::BlockDevice(major, minor) => (b'4', b"", Some((*major, *minor))),
        Kind::Directory => (b'5', b"", None),
        Kind::Fifo => (b'6', b"", None),
    };
    if name.len() > 100 {
        pax.record(b"path", &name);
    }
    if link.len() > 100 {
        pax.record(b"linkpath", link);
    }
    pax.wide(b"size", size, 0o77_777_777_777);
    pax.wide(b"uid", entry.uid.into(), 0o7_777_777);
    pax.wide(b"gid", entry.gid.into(), 0o7_777_777);
    let Mtime { seconds, nanos } = entry.mtime;
    if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
        pax.record(b"mtime", decimal(entry.mtime).as_bytes());
    }
    // A hard link shares its target's attributes; saying them twice could only disagree.
    if !matches!(entry.kind, Kind::HardLink(_)) {
        for (key, value) in &entry.xattrs {
            pax.record(&[b"SCHILY.xattr.", &key[..]].concat(), value);
        }
    }
    let mut out = Vec::with_capacity(BLOCK + map.len());
    if !pax.0.is_empty() {
        let mut header = Header::new(b"PaxHeaders/x", b'x');
        header.number(100, 8, 0o644);
        header.number(124, 12, pax.0.len() as u64);
        header.finish(&mut out);
        append_padded(&mut out, &pax.0);
    }
    let mut header = Header::new(&name, kind);
    header.number(100, 8, entry.mode.into());
    header.number(108, 8, entry.uid.into());
    header.number(116, 8, entry.gid.into());
    header.number(124, 12, size);
    // Two's complement, as GNU tar has it, for times before 1970.
    header.signed(136, 12, seconds);
    header.text(157, 100, link);
    if let Some((major, minor)) = device {
        header.number(329, 8, major.into());
        header.number(337, 8, minor.into());
    }
    header.finish(&mut out);
    out.extend_from_slice(&map);
    out
}

/// The map of GNU format 1.0, padded to a block. Where the file ends in a hole, an extent of length
/// 0 at its end says so: GNU tar needs that to give the file its size.
fn sparse_map(extents: &[(u64, u64)], real: u64) -> Vec<u8> {
    let ends_in_data = extents.last().is_some_and(|last| last.0 + last.1 == real);
    let end = (!ends_in_data).then_some((real, 0));
    let mut text = format!("{}\n", extents.len() + usize::from(end.is_some()));
    for (offset, length) in extents.iter().chain(&end) {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = Vec::new();
    append_padded(&mut map, text.as_bytes());
    map
}

fn append_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn decimal(time: Mtime) -> String {
    let Mtime { seconds, nanos } = time;
    if nanos == 0 {
        return seconds.to_string();
    }
    // -5 s and 250 ms more is -4.75.
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
    } else {
        ("", seconds.unsigned_abs(), nanos)
    };
    let fraction = format!("{fraction:09}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    /// `length key=value\n`, where the length counts its own digits.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn wide(&mut self, key: &[u8], value: u64, max: u64) {
        if value > max {
            self.record(key, value.to_string().as_bytes());
        }
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0, 100, name);
        for at in [108, 116, 329, 337] {
            header.number(at, 8, 0);
        }
        header.number(136, 12, 0);
        header.0[156] = kind;
        header.text(257, 8, b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, width: usize, text: &[u8]) {
        let length = text.len().min(width);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    /// Octal where it fits, else binary with the top bit set; GNU tar reads both.
    fn number(&mut self, at: usize, width: usize, value: u64) {
        let digits = width - 1;
        if value >> (3 * digits) == 0 {
            self.text(at, width, format!("{value:0digits$o}\0").as_bytes());
        } else {
            self.binary(at, width, i128::from(value));
        }
    }

    fn signed(&mut self, at: usize, width: usize, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.number(at, width, value),
            Err(_) => self.binary(at, width, i128::from(value)),
        }
    }

    fn binary(&mut self, at: usize, width: usize, value: i128) {
        let bytes = value.to_be_bytes();
        self.0[at..at + width].copy_from_slice(&bytes[bytes.len() - width..]);
        self.0[at] |= 0x80;
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&self.0);
    }
}
