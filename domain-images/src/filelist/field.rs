//! The parts of a line, to and from text. Each has exactly one form, and no other is read.

use super::{BadLine, Mtime};
use crate::manifest::Digest;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends `number` in decimal digits.
pub(super) fn push_number(number: impl Into<u64>, out: &mut Vec<u8>) {
    let mut rest: u64 = number.into();
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = DIGITS[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reads decimal digits without a sign or zeros in front.
pub(super) fn number<T: TryFrom<u64>>(field: &[u8]) -> Result<T, BadLine> {
    let has_one_form = matches!(field, [b'0'] | [b'1'..=b'9', ..]);
    let digits = if has_one_form { field } else { &[] };
    decimal(digits)
        .and_then(|value| T::try_from(value).ok())
        .ok_or(BadLine("bad number"))
}

/// The value of digits that are at least one, and are all that is there.
fn decimal(digits: &[u8]) -> Option<u64> {
    let digit = |value: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    };
    digits
        .iter()
        .try_fold(0, digit)
        .filter(|_| !digits.is_empty())
}

/// Appends a mode: four octal digits, more only where [`super::Entry::check`] fails.
pub(super) fn push_mode(mode: u32, out: &mut Vec<u8>) {
    if mode > 0o7777 {
        out.extend_from_slice(format!("{mode:o}").as_bytes());
        return;
    }
    out.extend([9, 6, 3, 0].map(|shift| DIGITS[(mode >> shift & 7) as usize]));
}

/// Reads four octal digits.
pub(super) fn mode(field: &[u8]) -> Result<u32, BadLine> {
    let is_mode = field.len() == 4 && field.iter().all(|digit| matches!(digit, b'0'..=b'7'));
    let digit = |mode, digit: &u8| mode << 3 | u32::from(digit - b'0');
    is_mode
        .then(|| field.iter().fold(0, digit))
        .ok_or(BadLine("bad mode"))
}

/// Appends seconds, and nine digits of nanoseconds unless they are zero.
pub(super) fn push_time(time: Mtime, out: &mut Vec<u8>) {
    if time.seconds < 0 {
        out.push(b'-');
    }
    push_number(time.seconds.unsigned_abs(), out);
    if time.nanos != 0 {
        out.extend_from_slice(format!(".{:09}", time.nanos).as_bytes());
    }
}

/// Reads a time.
pub(super) fn time(field: &[u8]) -> Result<Mtime, BadLine> {
    let bad = || BadLine("bad time");
    let (seconds, nanos) = match field.iter().position(|byte| *byte == b'.') {
        None => (field, 0),
        Some(dot) => {
            let nanos = &field[dot + 1..];
            let value = decimal(nanos).filter(|value| nanos.len() == 9 && *value != 0);
            let value = value.and_then(|value| u32::try_from(value).ok());
            (&field[..dot], value.ok_or_else(bad)?)
        }
    };
    let seconds = match seconds {
        [b'-', rest @ ..] => match number::<u64>(rest)? {
            0 => return Err(bad()),
            value => 0_i64.checked_sub_unsigned(value).ok_or_else(bad)?,
        },
        rest => number(rest)?,
    };
    Ok(Mtime { seconds, nanos })
}

/// Appends a digest: lower-case hexadecimal digits.
pub(super) fn push_digest(digest: &Digest, out: &mut Vec<u8>) {
    for byte in digest.0 {
        out.extend_from_slice(&hex(byte));
    }
}

/// Reads a digest.
pub(super) fn digest(field: &[u8]) -> Result<Digest, BadLine> {
    let bad = BadLine("bad digest");
    let mut digest = [0; 32];
    if field.len() != 2 * digest.len() {
        return Err(bad);
    }
    // One look at the end is quicker than one at each of the many digits.
    let mut all = 0;
    for (byte, pair) in digest.iter_mut().zip(field.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| VALUES[usize::from(digit)]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    if all > 15 {
        return Err(bad);
    }
    Ok(Digest(digest))
}

/// Appends bytes, with `\xHH` for all that do not stand for themselves.
pub(super) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\\x");
        out.extend_from_slice(&hex(rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Reads bytes; what need not be escaped must not be.
pub(super) fn unescape(text: &[u8]) -> Result<Vec<u8>, BadLine> {
    let bad = || BadLine("bad escape");
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        let [b'\\', b'x', high, low, after @ ..] = &rest[at..] else {
            return Err(bad());
        };
        let byte = from_hex(*high, *low).filter(|byte| !is_plain(*byte));
        out.push(byte.ok_or_else(bad)?);
        rest = after;
    }
    out.extend_from_slice(rest);
    Ok(out)
}

/// Whether a byte stands for itself. `:` parts an attribute's name from its value; escaping it
/// everywhere keeps one rule.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'\\' | b':')
}

fn hex(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])
}

/// The value of a lower-case hexadecimal digit; more than 15 for all that is none.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

fn from_hex(high: u8, low: u8) -> Option<u8> {
    let (high, low) = (VALUES[usize::from(high)], VALUES[usize::from(low)]);
    ((high | low) < 16).then_some(high << 4 | low)
}
