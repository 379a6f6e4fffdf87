//! The list that is honest about a forged stream, as far as anything in it can be listed.

use xupg_images::filelist::{Entry, Kind, Mtime, path_order};
use xupg_images::manifest::{Digest, Part};

use super::forge::Piece;

/// Content up to this size is hashed; larger files get a digest that is not theirs.
const HASHED: usize = 1 << 20;

/// Lists what the pieces hold: the first entry by every name, sorted.
pub fn list(pieces: &[Piece]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = pieces
        .iter()
        .filter(|piece| piece.continues.is_none() && piece.part != Part::List)
        .flat_map(|piece| of_stream(&piece.tar))
        .collect();
    entries.retain(|entry| entry.check().is_ok());
    // Stable: the first one stays.
    entries.sort_by(|a, b| path_order(&a.path, &b.path));
    entries.dedup_by(|later, first| later.path == first.path);
    entries
}

#[derive(Default)]
struct Records<'a> {
    path: Option<&'a [u8]>,
    link: Option<&'a [u8]>,
    real: Option<u64>,
    seconds: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn of_stream(mut tar: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut records = Records::default();
    while let Some((header, rest)) = tar.split_at_checked(512) {
        let size = octal(&header[124..136]).unwrap_or(0) as usize;
        let data = &rest[..size.min(rest.len())];
        tar = &rest[size.next_multiple_of(512).min(rest.len())..];
        if header[156] == b'x' {
            records = read(data);
            continue;
        }
        entries.extend(entry(header, data, size, std::mem::take(&mut records)));
    }
    entries
}

fn entry(header: &[u8], data: &[u8], size: usize, records: Records<'_>) -> Option<Entry> {
    let path = records.path.unwrap_or_else(|| text(&header[..100]));
    let link = records.link.unwrap_or_else(|| text(&header[157..257]));
    let number = |at: usize| octal(&header[at..at + 8]).map(|n| n as u32);
    let device = || Some((number(329)?, number(337)?));
    let kind = match header[156] {
        b'0' => match records.real {
            None => file(data, size as u64),
            Some(real) => file(&expanded(data, real), real),
        },
        b'1' => Kind::HardLink(link.to_vec()),
        b'2' => Kind::Symlink(link.to_vec()),
        b'3' => device().map(|(a, b)| Kind::CharDevice(a, b))?,
        b'4' => device().map(|(a, b)| Kind::BlockDevice(a, b))?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return None,
    };
    let mut xattrs = records.xattrs;
    xattrs.sort();
    Some(Entry {
        path: path.strip_suffix(b"/").unwrap_or(path).to_vec(),
        mode: number(100)?,
        uid: 0,
        gid: 0,
        mtime: Mtime {
            seconds: match records.seconds {
                Some(seconds) => seconds,
                None => octal(&header[136..148])? as i64,
            },
            nanos: 0,
        },
        kind,
        xattrs,
    })
}

fn file(content: &[u8], size: u64) -> Kind {
    Kind::File {
        size,
        sha256: Digest::of(content),
    }
}

/// Behind its map, content comes piece by piece.
fn expanded(data: &[u8], real: u64) -> Vec<u8> {
    let mut file = vec![0; (real as usize).min(HASHED)];
    let lines: Vec<usize> = data
        .split(|b| *b == b'\n')
        .map_while(|line| std::str::from_utf8(line).ok()?.parse().ok())
        .collect();
    let map: usize = lines.iter().map(|n| n.to_string().len() + 1).sum();
    let mut from = map.next_multiple_of(512);
    for pair in lines.get(1..).unwrap_or_default().chunks_exact(2) {
        let (at, bytes) = (pair[0], pair[1]);
        let (Some(place), Some(piece)) = (
            file.get_mut(at..at.saturating_add(bytes)),
            data.get(from..from.saturating_add(bytes)),
        ) else {
            break;
        };
        place.copy_from_slice(piece);
        from += bytes;
    }
    file
}

fn read(mut data: &[u8]) -> Records<'_> {
    let mut found = Records::default();
    while let Some(space) = data.iter().position(|b| *b == b' ') {
        let length = std::str::from_utf8(&data[..space]).ok();
        let Some(length) = length.and_then(|text| text.parse::<usize>().ok()) else {
            break;
        };
        let Some(record) = data.get(space + 1..length.saturating_sub(1)) else {
            break;
        };
        let equals = record.iter().position(|b| *b == b'=').unwrap_or(0);
        let (key, value) = (&record[..equals], &record[(equals + 1).min(record.len())..]);
        match key {
            b"path" | b"GNU.sparse.name" => found.path = Some(value),
            b"linkpath" => found.link = Some(value),
            b"GNU.sparse.realsize" => found.real = number(value),
            b"mtime" => found.seconds = number(value),
            _ => found.xattrs.extend(
                key.strip_prefix(b"SCHILY.xattr.")
                    .map(|name| (name.to_vec(), value.to_vec())),
            ),
        }
        data = &data[length..];
    }
    found
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn octal(field: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text(field)).ok()?, 8).ok()
}
