//! One line of the list, to and from text.

use thiserror::Error;

use super::{Entry, Kind, MAX_XATTR_BYTES, Mtime, is_normal_path};
use crate::manifest::Digest;

/// Why a line of a file list is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadLine(pub(super) &'static str);

impl Entry {
    /// Appends the entry's line, without a newline.
    pub(super) fn write_line(&self, out: &mut Vec<u8>) {
        let letter = match self.kind {
            Kind::File { .. } => 'f',
            Kind::Directory => 'd',
            Kind::Symlink(_) => 'l',
            Kind::HardLink(_) => 'h',
            Kind::CharDevice(..) => 'c',
            Kind::BlockDevice(..) => 'b',
            Kind::Fifo => 'p',
        };
        let Self { mode, uid, gid, .. } = self;
        let Mtime { seconds, nanos } = self.mtime;
        push(out, &format!("{letter} {mode:04o} {uid} {gid} {seconds}"));
        if nanos != 0 {
            push(out, &format!(".{nanos:09}"));
        }
        out.push(b' ');
        escape(&self.path, out);
        match &self.kind {
            Kind::File { size, sha256 } => push(out, &format!(" size={size} sha256={sha256}")),
            Kind::Symlink(target) | Kind::HardLink(target) => {
                push(out, " link=");
                escape(target, out);
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                push(out, &format!(" device={major}:{minor}"));
            }
            Kind::Directory | Kind::Fifo => {}
        }
        for (name, value) in &self.xattrs {
            push(out, " xattr=");
            escape(name, out);
            out.push(b':');
            escape(value, out);
        }
    }

    /// Reads a line without its newline. Exactly what [`Entry::write_line`] writes is accepted.
    pub(super) fn read_line(line: &[u8]) -> Result<Self, BadLine> {
        let entry = Self::parse(line)?;
        entry.check()?;
        let mut again = Vec::with_capacity(line.len());
        entry.write_line(&mut again);
        if again != line {
            return Err(BadLine("not in canonical form"));
        }
        Ok(entry)
    }

    fn parse(line: &[u8]) -> Result<Self, BadLine> {
        let mut fields = line.split(|b| *b == b' ');
        let mut field = || fields.next().ok_or(BadLine("a field is missing"));
        let letter = field()?;
        let mode = u32::from_str_radix(text(field()?)?, 8).map_err(|_| BadLine("bad mode"))?;
        let uid = number(field()?)?;
        let gid = number(field()?)?;
        let mtime = parse_time(text(field()?)?)?;
        let path = unescape(field()?)?;
        let kind = match letter {
            b"f" => Kind::File {
                size: number(after(field()?, b"size=")?)?,
                sha256: Digest::parse(text(after(field()?, b"sha256=")?)?)
                    .ok_or(BadLine("bad digest"))?,
            },
            b"d" => Kind::Directory,
            b"l" => Kind::Symlink(unescape(after(field()?, b"link=")?)?),
            b"h" => Kind::HardLink(unescape(after(field()?, b"link=")?)?),
            b"c" | b"b" => {
                let numbers = text(after(field()?, b"device=")?)?;
                let (major, minor) = numbers.split_once(':').ok_or(BadLine("bad device"))?;
                let (major, minor) = (number(major.as_bytes())?, number(minor.as_bytes())?);
                if letter == b"c" {
                    Kind::CharDevice(major, minor)
                } else {
                    Kind::BlockDevice(major, minor)
                }
            }
            b"p" => Kind::Fifo,
            _ => return Err(BadLine("unknown type")),
        };
        let xattrs = fields.map(parse_xattr).collect::<Result<_, _>>()?;
        Ok(Self {
            path,
            mode,
            uid,
            gid,
            mtime,
            kind,
            xattrs,
        })
    }

    /// Whether the entry makes sense by itself; what a list may hold and a bundle may be made of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadLine> {
        if !is_normal_path(&self.path) {
            return Err(BadLine("its path is not relative and in shortest form"));
        }
        if self.path == b"." && self.kind != Kind::Directory {
            return Err(BadLine("the root is not a directory"));
        }
        if self.mode > 0o7777 {
            return Err(BadLine("its mode has more than twelve bits"));
        }
        if self.mtime.nanos >= 1_000_000_000 {
            return Err(BadLine("its nanoseconds are more than a second"));
        }
        match &self.kind {
            Kind::Symlink(target)
                if target.is_empty() || target.len() > 4095 || target.contains(&0) =>
            {
                return Err(BadLine("its link target is empty, too long or has a NUL"));
            }
            Kind::HardLink(target)
                if !is_normal_path(target) || target == b"." || *target == self.path =>
            {
                return Err(BadLine("its hard link target is not another path inside"));
            }
            Kind::File { size, .. } if *size > i64::MAX as u64 => {
                return Err(BadLine("its size is more than a file can have"));
            }
            _ => {}
        }
        self.check_xattrs()
    }

    fn check_xattrs(&self) -> Result<(), BadLine> {
        let mut bytes = 0;
        for (name, value) in &self.xattrs {
            // A tar stream keeps names as PAX keywords, where `=` ends them.
            if name.is_empty() || name.len() > 255 || name.iter().any(|b| matches!(b, 0 | b'=')) {
                return Err(BadLine("an extended attribute's name cannot be stored"));
            }
            if value.len() > 65_536 {
                return Err(BadLine("an extended attribute is larger than 64 KiB"));
            }
            bytes += name.len() + value.len();
        }
        if bytes > MAX_XATTR_BYTES {
            return Err(BadLine("its extended attributes are larger than 256 KiB"));
        }
        if !self.xattrs.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err(BadLine("its extended attributes are not sorted"));
        }
        Ok(())
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        // `:` parts an attribute's name from its value; escaping it everywhere keeps one rule.
        if matches!(byte, b'!'..=b'~') && !matches!(byte, b'\\' | b':') {
            out.push(*byte);
        } else {
            out.extend_from_slice(b"\\x");
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, BadLine> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first == b'\\' {
            let [b'x', high, low, after @ ..] = after else {
                return Err(BadLine("bad escape"));
            };
            let digit = |d: &u8| char::from(*d).to_digit(16).ok_or(BadLine("bad escape"));
            out.push((digit(high)? * 16 + digit(low)?) as u8);
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    Ok(out)
}

fn text(field: &[u8]) -> Result<&str, BadLine> {
    std::str::from_utf8(field).map_err(|_| BadLine("not text"))
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Result<T, BadLine> {
    text(field)?.parse().map_err(|_| BadLine("bad number"))
}

fn after<'a>(field: &'a [u8], key: &[u8]) -> Result<&'a [u8], BadLine> {
    field.strip_prefix(key).ok_or(BadLine("a field is missing"))
}

fn parse_time(field: &str) -> Result<Mtime, BadLine> {
    let (seconds, nanos) = field.split_once('.').unwrap_or((field, "0"));
    Ok(Mtime {
        seconds: number(seconds.as_bytes())?,
        nanos: number(nanos.as_bytes())?,
    })
}

fn parse_xattr(field: &[u8]) -> Result<(Vec<u8>, Vec<u8>), BadLine> {
    let pair = after(field, b"xattr=")?;
    let colon = pair.iter().position(|b| *b == b':');
    let colon = colon.ok_or(BadLine("bad extended attribute"))?;
    Ok((unescape(&pair[..colon])?, unescape(&pair[colon + 1..])?))
}
