//! The records of a pax header. Values may hold any byte, newlines included, so the records' own
//! lengths are followed, which the tar library does not do.

use std::borrow::Cow;

use crate::filelist::{MAX_XATTR_BYTES, Mtime};

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
    pub(super) fn read(mut records: &'a [u8]) -> Found<Self> {
        let mut pax = Self::default();
        while !records.is_empty() {
            let (key, value, rest) = record(records)?;
            pax.set(key, value)?;
            records = rest;
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
            b"mtime" => once(&mut self.mtime, time(value).ok_or("its time is no number")?),
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

/// `length key=value\n`: key, value and what follows.
fn record(records: &[u8]) -> Found<(&[u8], &[u8], &[u8])> {
    const BAD: &str = "its pax header is malformed";
    let blank = records
        .iter()
        .take(12)
        .position(|b| *b == b' ')
        .ok_or(BAD)?;
    let length = std::str::from_utf8(&records[..blank])
        .ok()
        .filter(|digits| digits.bytes().all(|d| d.is_ascii_digit()))
        .and_then(|digits| digits.parse::<usize>().ok())
        .ok_or(BAD)?;
    let (record, rest) = records.split_at_checked(length).ok_or(BAD)?;
    let record = record.get(blank + 1..).ok_or(BAD)?;
    let record = record.strip_suffix(b"\n").ok_or(BAD)?;
    let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
    Ok((&record[..equals], &record[equals + 1..], rest))
}

/// A header's text field ends at a NUL or at its end.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Decimal seconds, maybe negative, maybe with up to nine digits of a fraction.
fn time(value: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    if whole.starts_with('-') && nanos != 0 {
        return Some(Mtime {
            seconds: seconds.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Mtime { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_every_byte() {
        let pax = Pax::read(b"30 SCHILY.xattr.user.x=a\nb\0=c\n").unwrap();
        assert_eq!(pax.xattrs, [(&b"user.x"[..], &b"a\nb\0=c"[..])]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            &b"12 comment=x\n"[..],
            b"9 size=1\n9 size=2\n",
            b"9 size=1",
            b"99 size=1\n",
            b"9 size=x\n",
            b"0 size=1\n",
            b"-9 size=1\n",
            b"size=1\n",
            b"10 mtime=.\n",
            b"6 uid\n",
        ] {
            assert!(Pax::read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
