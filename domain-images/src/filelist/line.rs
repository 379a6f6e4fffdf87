//! One line of the list, to and from text.

use thiserror::Error;

use super::field::{
    digest, escape, mode, number, push_digest, push_mode, push_number, push_time, time, unescape,
};
use super::{Entry, Kind, MAX_XATTR_BYTES, is_normal_path};

/// Why a line of a file list is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadLine(pub(super) &'static str);

impl Entry {
    /// Appends the entry's line, without a newline.
    pub(super) fn write_line(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::File { .. } => b'f',
            Kind::Directory => b'd',
            Kind::Symlink(_) => b'l',
            Kind::HardLink(_) => b'h',
            Kind::CharDevice(..) => b'c',
            Kind::BlockDevice(..) => b'b',
            Kind::Fifo => b'p',
        });
        out.push(b' ');
        push_mode(self.mode, out);
        out.push(b' ');
        push_number(self.uid, out);
        out.push(b' ');
        push_number(self.gid, out);
        out.push(b' ');
        push_time(self.mtime, out);
        out.push(b' ');
        escape(&self.path, out);
        match &self.kind {
            Kind::File { size, sha256 } => {
                out.extend_from_slice(b" size=");
                push_number(*size, out);
                out.extend_from_slice(b" sha256=");
                push_digest(sha256, out);
            }
            Kind::Symlink(target) | Kind::HardLink(target) => {
                out.extend_from_slice(b" link=");
                escape(target, out);
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                out.extend_from_slice(b" device=");
                push_number(*major, out);
                out.push(b':');
                push_number(*minor, out);
            }
            Kind::Directory | Kind::Fifo => {}
        }
        for (name, value) in &self.xattrs {
            out.extend_from_slice(b" xattr=");
            escape(name, out);
            out.push(b':');
            escape(value, out);
        }
    }

    /// Reads a line without its newline. Exactly what [`Entry::write_line`] writes is accepted.
    pub(super) fn read_line(line: &[u8]) -> Result<Self, BadLine> {
        let entry = Self::parse(line)?;
        entry.check()?;
        // Every field is read in its one form only, so there is nothing to compare in a release.
        debug_assert!(
            {
                let mut again = Vec::new();
                entry.write_line(&mut again);
                again == line
            },
            "a second form of a line is read"
        );
        Ok(entry)
    }

    fn parse(line: &[u8]) -> Result<Self, BadLine> {
        let mut fields = line.split(|b| *b == b' ');
        let mut field = || fields.next().ok_or(BadLine("a field is missing"));
        let letter = field()?;
        let mode = mode(field()?)?;
        let uid = number(field()?)?;
        let gid = number(field()?)?;
        let mtime = time(field()?)?;
        let path = unescape(field()?)?;
        let kind = match letter {
            b"f" => Kind::File {
                size: number(after(field()?, b"size=")?)?,
                sha256: digest(after(field()?, b"sha256=")?)?,
            },
            b"d" => Kind::Directory,
            b"l" => Kind::Symlink(unescape(after(field()?, b"link=")?)?),
            b"h" => Kind::HardLink(unescape(after(field()?, b"link=")?)?),
            b"c" | b"b" => {
                let (major, minor) = at_colon(after(field()?, b"device=")?)?;
                let (major, minor) = (number(major)?, number(minor)?);
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

fn after<'a>(field: &'a [u8], key: &[u8]) -> Result<&'a [u8], BadLine> {
    field.strip_prefix(key).ok_or(BadLine("a field is missing"))
}

fn at_colon(field: &[u8]) -> Result<(&[u8], &[u8]), BadLine> {
    let colon = field.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(BadLine("a colon is missing"))?;
    Ok((&field[..colon], &field[colon + 1..]))
}

fn parse_xattr(field: &[u8]) -> Result<(Vec<u8>, Vec<u8>), BadLine> {
    let (name, value) = at_colon(after(field, b"xattr=")?)?;
    Ok((unescape(name)?, unescape(value)?))
}
