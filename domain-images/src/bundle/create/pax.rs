//! What a tarball's pax records add to its headers.

use super::tarball::Why;
use crate::filelist::Mtime;

/// The records of one entry that the tar library leaves to its caller.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) mtime: Option<Mtime>,
    /// Sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The real name of a sparse file of GNU format 1.0.
    pub(super) sparse_name: Option<Vec<u8>>,
    /// The real size of a sparse file of GNU format 1.0.
    pub(super) sparse_size: Option<u64>,
}

impl Pax {
    /// Sorts the records out. What would be lost silently is refused.
    pub(super) fn read(records: tar::PaxExtensions<'_>) -> Result<Self, Why> {
        let mut pax = Self::default();
        for record in records {
            let record = record?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name != b"security.selinux" {
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
                continue;
            }
            let text = || std::str::from_utf8(value).map_err(|_| Why::from("has a bad pax record"));
            match key {
                b"mtime" => pax.mtime = Some(parse_time(text()?).ok_or("has a bad time")?),
                b"GNU.sparse.name" => pax.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => {
                    pax.sparse_size = Some(text()?.parse().map_err(|_| "has a bad size")?);
                }
                b"GNU.sparse.major" if value == b"1" => {}
                b"GNU.sparse.minor" if value == b"0" => {}
                // The library applies these, or they say nothing that a file system keeps.
                b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"uname" | b"gname"
                | b"atime" | b"ctime" | b"comment" | b"hdrcharset" | b"charset" => {}
                key if key.starts_with(b"SCHILY.") && !key.starts_with(b"SCHILY.acl") => {}
                key if key == b"LIBARCHIVE.creationtime" => {}
                key => {
                    let key = key.escape_ascii();
                    return Err(Why::Bad(format!(
                        "has a pax record {key} that would be lost (make the tarball with GNU tar's \
                         --format=pax --xattrs --xattrs-include='*', without --acls)"
                    )));
                }
            }
        }
        pax.xattrs.sort_unstable();
        Ok(pax)
    }
}

/// Decimal seconds, maybe negative, maybe with a fraction; digits below nanoseconds are dropped.
fn parse_time(text: &str) -> Option<Mtime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
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
    fn times_are_read_downwards() {
        let time = |seconds, nanos| Some(Mtime { seconds, nanos });
        assert_eq!(parse_time("5"), time(5, 0));
        assert_eq!(parse_time("5.25"), time(5, 250_000_000));
        assert_eq!(parse_time("-4.75"), time(-5, 250_000_000));
        assert_eq!(parse_time("-0.5"), time(-1, 500_000_000));
        assert_eq!(parse_time("1.0000000019"), time(1, 1));
        assert_eq!(parse_time("x"), None);
        assert_eq!(parse_time("1.-5"), None);
    }
}
