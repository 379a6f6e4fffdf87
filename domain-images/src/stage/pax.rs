//! What a pax header of a payload's tar stream says: only what the format has, and each thing once.

use std::borrow::Cow;

use crate::filelist::{MAX_XATTR_BYTES, Mtime};
use crate::pax::{records, time};

type Found<T> = Result<T, &'static str>;

/// What an entry's pax header says.
#[derive(Debug, Default)]
pub(super) struct Pax<'a> {
    path: Option<&'a [u8]>,
    link: Option<&'a [u8]>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(&'a [u8], &'a [u8])>,
    sparse_name: Option<&'a [u8]>,
    sparse_size: Option<u64>,
    sparse_version: [Option<u64>; 2],
}

impl<'a> Pax<'a> {
    /// Reads all records; one that is not understood is an error, and so is one that comes twice.
    pub(super) fn read(header: &'a [u8]) -> Found<Self> {
        let mut pax = Self::default();
        for record in records(header) {
            let (key, value) = record?;
            pax.set(key, value)?;
        }
        let bytes: usize = pax.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_XATTR_BYTES {
            return Err("its extended attributes are larger than 256 KiB");
        }
        Ok(pax)
    }

    fn set(&mut self, key: &'a [u8], value: &'a [u8]) -> Found<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err("an extended attribute's name cannot be stored");
            }
            if value.len() > 65_536 {
                return Err("an extended attribute is larger than 64 KiB");
            }
            if self.xattrs.iter().any(|(known, _)| *known == name) {
                return Err("an extended attribute comes twice");
            }
            self.xattrs.push((name, value));
            return Ok(());
        }
        let number = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or("a pax record is no number")
        };
        match key {
            b"path" => once(&mut self.path, value),
            b"linkpath" => once(&mut self.link, value),
            b"size" => once(&mut self.size, number()?),
            b"uid" => once(&mut self.uid, number()?),
            b"gid" => once(&mut self.gid, number()?),
            b"mtime" => once(&mut self.mtime, exact_time(value)?),
            b"GNU.sparse.major" => once(&mut self.sparse_version[0], number()?),
            b"GNU.sparse.minor" => once(&mut self.sparse_version[1], number()?),
            b"GNU.sparse.name" => once(&mut self.sparse_name, value),
            b"GNU.sparse.realsize" => once(&mut self.sparse_size, number()?),
            _ => Err("a pax record is not one of the format"),
        }
    }

    /// The entry's name: the records' where there is one, else the header's `field`.
    pub(super) fn path_over(&self, field: &'a [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(
            self.sparse_name
                .or(self.path)
                .unwrap_or_else(|| text(field)),
        )
    }

    /// The link target, likewise.
    pub(super) fn link_over(&self, field: &'a [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.link.unwrap_or_else(|| text(field)))
    }

    /// A header that was cut to its field's width still has to begin like the record: two readers
    /// must not see two different names.
    pub(super) fn agrees_with_name(&self, field: &[u8]) -> Found<()> {
        let agrees = self.path.is_none_or(|path| path.starts_with(text(field)));
        agrees.then_some(()).ok_or("its two names disagree")
    }

    /// The same for a link's target.
    pub(super) fn agrees_with_link(&self, field: &[u8]) -> Found<()> {
        let agrees = self.link.is_none_or(|link| link.starts_with(text(field)));
        agrees.then_some(()).ok_or("its two link targets disagree")
    }

    /// A number that record and header both can say.
    pub(super) fn number(
        &self,
        record: Option<u64>,
        header: Option<u64>,
        disagree: &'static str,
    ) -> Found<u64> {
        match (record, header) {
            (Some(record), Some(header)) if record == header => Ok(record),
            (Some(_), _) => Err(disagree),
            (None, header) => header.ok_or("a number in its header is none"),
        }
    }

    /// Whether the entry is a file with holes.
    pub(super) fn is_sparse(&self) -> bool {
        self.sparse_name.is_some()
            || self.sparse_size.is_some()
            || self.sparse_version != [None, None]
    }

    /// The size of a file with holes.
    pub(super) fn sparse_size(&self) -> Found<u64> {
        match (self.sparse_version, self.sparse_name, self.sparse_size) {
            ([Some(1), Some(0)], Some(_), Some(size)) => Ok(size),
            _ => Err("its sparse records are not of GNU format 1.0"),
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Found<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err("a pax record comes twice"),
    }
}

/// A time of at most nanoseconds: nothing of it would be dropped.
fn exact_time(value: &[u8]) -> Found<Mtime> {
    let digits = value.split(|b| *b == b'.').nth(1).map_or(0, <[u8]>::len);
    time(value)
        .filter(|_| digits <= 9)
        .ok_or("its time is no number")
}

/// A header's text field ends at a NUL or at its end.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"12 comment=x\n"[..],
            b"9 size=1\n9 size=2\n",
            b"9 size=1",
            b"9 size=x\n",
            b"10 mtime=.\n",
            b"22 mtime=1.1234567891\n",
        ] {
            assert!(Pax::read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
