//! The outer tar: plain ustar headers for regular files, nothing else. It is not signed, so nothing
//! is believed but a member's name and size, and both must be what the manifest says.

use std::io::{self, Read};

/// Bytes of a tar block.
pub(super) const BLOCK: usize = 512;

/// The largest size that eleven octal digits can say; beyond it sizes are binary, as GNU tar does.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// A member's name and size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) size: u64,
}

/// Zero bytes that follow a member of `size` bytes.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Makes a member's header.
pub(super) fn header(name: &str, size: u64, mtime: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size > MAX_OCTAL {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    } else {
        put(124, format!("{size:011o}\0").as_bytes());
    }
    put(136, format!("{:011o}\0", mtime.min(MAX_OCTAL)).as_bytes());
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads a member's header. `None` stands for a block of zeros; an error says what is wrong.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Option<Member>, &'static str> {
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if octal(&block[148..156]) != Some(checksum(block)) {
        return Err("a member's header is damaged");
    }
    // POSIX and old GNU headers both; `ustar` followed by NUL or blank.
    if &block[257..262] != b"ustar" || !matches!(block[156], b'0' | 0) {
        return Err("a member is not a plain file");
    }
    if block[345] != 0 && &block[257..263] == b"ustar\0" {
        return Err("a member lies in a folder");
    }
    let name = &block[..100];
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    let name = std::str::from_utf8(&name[..end]).map_err(|_| "a member's name is not text")?;
    let size = &block[124..136];
    let size = match size {
        [0x80, 0, 0, 0, rest @ ..] => {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(rest);
            Some(u64::from_be_bytes(bytes))
        }
        _ => octal(size),
    };
    Ok(Some(Member {
        name: name.to_owned(),
        size: size.ok_or("a member's size is not a number")?,
    }))
}

fn checksum(block: &[u8; BLOCK]) -> u64 {
    let blank = 8 * u64::from(b' ');
    let sum = |part: &[u8]| part.iter().map(|b| u64::from(*b)).sum::<u64>();
    sum(&block[..148]) + blank + sum(&block[156..])
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_end_matches(['\0', ' ']).trim_start_matches(' ');
    if digits.is_empty() || !digits.bytes().all(|d| matches!(d, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// Fills `buf`, or says how: `Ok(false)` when the input ends before.
pub(super) fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_any_length_come_back() {
        for size in [
            0,
            1,
            2 << 30,
            (4 << 30) + 1,
            MAX_OCTAL,
            MAX_OCTAL + 1,
            u64::MAX,
        ] {
            let member = parse(&header("web.tar.zst", size, 1)).unwrap().unwrap();
            assert_eq!((member.name.as_str(), member.size), ("web.tar.zst", size));
        }
    }

    #[test]
    fn odd_headers_are_refused() {
        let spoil = |at: usize, byte: u8| {
            let mut block = header("web.tar.zst", 5, 1);
            block[at] = byte;
            let sum = format!("{:06o}\0 ", checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            parse(&block).is_err()
        };
        assert!(spoil(156, b'2'), "a link");
        assert!(spoil(156, b'x'), "extended headers");
        assert!(spoil(257, b'v'), "an old format");
        assert!(spoil(345, b'a'), "a prefix");
        assert!(spoil(0, 0xff), "a name that is not text");
        assert!(spoil(124, b'8'), "a size that is not octal");
        assert!(spoil(124, 0xff), "a negative size");
        let mut block = header("web.tar.zst", 5, 1);
        block[0] ^= 1;
        assert!(parse(&block).is_err(), "a wrong checksum");
    }
}
