//! Files with holes: the map of GNU format 1.0, and where stored bytes belong.

use super::entry::BLOCK;
use crate::aligned;

/// Extents of one file at most, as [`crate::format`] says.
const MAX_EXTENTS: usize = 16_384;

/// A run of stored bytes and where in the file it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where in the file.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) bytes: u64,
    /// Where in the stored data.
    stored: u64,
}

/// Reads the map at the beginning of `data`; returns it and the bytes it takes, padding included.
/// Extents ascend, do not overlap, lie within `size` and are whole blocks, but for the file's end.
pub(super) fn read_map(data: &[u8], size: u64) -> Result<(Vec<Extent>, usize), &'static str> {
    let mut at = 0;
    let mut number = || -> Result<u64, &'static str> {
        let line = data.get(at..).unwrap_or_default();
        let end = line.iter().take(21).position(|b| *b == b'\n');
        let digits = &line[..end.ok_or("its sparse map is malformed or cut off")?];
        at += digits.len() + 1;
        std::str::from_utf8(digits)
            .ok()
            .filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or("its sparse map is malformed or cut off")
    };
    let count = usize::try_from(number()?).unwrap_or(usize::MAX);
    if count > MAX_EXTENTS {
        return Err("its sparse map has too many extents");
    }
    let mut map = Vec::with_capacity(count);
    let (mut end, mut stored) = (0, 0);
    for _ in 0..count {
        let (offset, bytes) = (number()?, number()?);
        if offset < end {
            return Err("its sparse map is out of order");
        }
        end = offset
            .checked_add(bytes)
            .filter(|end| *end <= size)
            .ok_or("its sparse map reaches beyond its end")?;
        map.push(Extent {
            offset,
            bytes,
            stored,
        });
        stored += bytes;
    }
    let whole = |number: u64| number.is_multiple_of(aligned::BLOCK as u64);
    let is_whole = |e: &Extent| whole(e.offset) && (whole(e.bytes) || e.offset + e.bytes == size);
    if !map
        .iter()
        .all(|extent| extent.bytes == 0 || is_whole(extent))
    {
        return Err("its sparse map is not made of whole blocks");
    }
    let padded = at.next_multiple_of(BLOCK);
    match data.get(at..padded) {
        Some(padding) if padding.iter().all(|b| *b == 0) => Ok((map, padded)),
        _ => Err("its sparse map is malformed or cut off"),
    }
}

/// Calls `write(offset in the file, bytes)` for the pieces of `data`, which are the stored bytes
/// from `stored` on.
pub(super) fn place<E>(
    map: &[Extent],
    stored: u64,
    mut data: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = stored;
    let first = map.partition_point(|extent| extent.stored + extent.bytes <= stored);
    for extent in &map[first..] {
        if data.is_empty() {
            break;
        }
        let skip = at - extent.stored;
        let left = extent.bytes - skip;
        let have = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
        let (piece, rest) = data.split_at(have);
        if !piece.is_empty() {
            write(extent.offset + skip, piece)?;
        }
        at += have as u64;
        data = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str, size: u64) -> Result<(Vec<Extent>, usize), &'static str> {
        let mut data = text.as_bytes().to_vec();
        data.resize(1024, 0);
        read_map(&data, size)
    }

    #[test]
    fn stored_bytes_go_to_their_places() {
        let (map, bytes) = map("3\n0\n4096\n8000\n0\n8192\n4\n", 8196).unwrap();
        assert_eq!(bytes, 512);
        let stored: Vec<u8> = (0..4100_u16).map(|n| (n % 251) as u8 + 1).collect();
        for cut in [0, 1, 4095, 4096, 4097, 4100] {
            let mut file = vec![0; 8196];
            for (stored, data) in [(0, &stored[..cut]), (cut, &stored[cut..])] {
                place(&map, stored as u64, data, |offset, piece| {
                    let at = offset as usize;
                    file[at..at + piece.len()].copy_from_slice(piece);
                    Ok::<(), ()>(())
                })
                .unwrap();
            }
            assert_eq!(file[..4096], stored[..4096], "cut at {cut}");
            assert_eq!(file[4096..8192], [0; 4096], "cut at {cut}");
            assert_eq!(file[8192..], stored[4096..], "cut at {cut}");
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(map("1\n0\n5001\n", 5000).is_err(), "beyond the end");
        assert!(map("2\n0\n9\n8\n9\n", 5000).is_err(), "overlap");
        assert!(map("99999999\n", 5000).is_err(), "too many");
        assert!(
            map("1\n18446744073709551615\n9\n", 5000).is_err(),
            "overflow"
        );
        assert!(map("2\n0\n1\n", 5000).is_err(), "cut off");
        assert!(map("x\n", 5000).is_err(), "not a number");
        assert!(map("1\n512\n4488\n", 5000).is_err(), "begins in a block");
        assert!(map("1\n0\n4999\n", 5000).is_err(), "ends in a block");
    }
}
