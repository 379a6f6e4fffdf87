//! The records of a pax header. Values may hold any byte, newlines included, so the records' own
//! lengths are followed.

use crate::filelist::Mtime;

/// A record's key and value.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// Reads `length key=value\n` after `length key=value\n`; after an error there is nothing more.
pub(crate) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, &'static str>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let found = split_record(bytes);
        bytes = found.map_or(&[], |(_, rest)| rest);
        Some(found.map(|(record, _)| record))
    })
}

/// A record and what follows.
fn split_record(records: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
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
    Ok(((&record[..equals], &record[equals + 1..]), rest))
}

/// Decimal seconds, maybe negative, maybe with a fraction; digits below nanoseconds are dropped.
pub(crate) fn time(value: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
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
    fn values_keep_every_byte() {
        let all: Vec<_> = records(b"30 SCHILY.xattr.user.x=a\nb\0=c\n9 size=1\n").collect();
        let wanted = [
            Ok((&b"SCHILY.xattr.user.x"[..], &b"a\nb\0=c"[..])),
            Ok((&b"size"[..], &b"1"[..])),
        ];
        assert_eq!(all, wanted);
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for bad in [
            &b"9 size=1"[..],
            b"99 size=1\n",
            b"0 size=1\n",
            b"1 size=1\n",
            b"2 size=1\n",
            b"8 size=1\n",
            b"10 size=1\n\n",
            b"-9 size=1\n",
            b"+9 size=1\n",
            b"size=1\n",
            b"6 uid\n",
            b" 9 size=1\n",
            b"99999999999999999999 size=1\n",
        ] {
            let all: Vec<_> = records(bad).collect();
            assert!(
                all.len() <= 2 && all.last().unwrap().is_err(),
                "{}",
                bad.escape_ascii()
            );
        }
    }

    #[test]
    fn times_are_read_downwards() {
        let time_of = |seconds, nanos| Some(Mtime { seconds, nanos });
        assert_eq!(time(b"5"), time_of(5, 0));
        assert_eq!(time(b"5.25"), time_of(5, 250_000_000));
        assert_eq!(time(b"-4.75"), time_of(-5, 250_000_000));
        assert_eq!(time(b"-0.5"), time_of(-1, 500_000_000));
        assert_eq!(time(b"1.0000000019"), time_of(1, 1));
        for bad in [&b"x"[..], b"1.-5", b"", b".", b".5", b"1.5.5", b"\xff"] {
            assert_eq!(time(bad), None, "{}", bad.escape_ascii());
        }
    }
}
