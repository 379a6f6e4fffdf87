//! Release versions and their order.
//!
//! A version is 1 to 128 bytes of ASCII letters, digits and `. - + ~ _`, beginning with a letter or
//! digit. It is compared piece by piece: runs of digits as numbers of any length, everything else
//! as text. At equal beginnings
//!
//! * `~` sorts before everything, even the end: `1.0~rc1` < `1.0`;
//! * the end sorts before anything else: `1.0` < `1.0.1`, `1.0` < `1.0a`, `1.0` < `1.0-2`;
//! * letters sort before separators, both before digits, like `sort -V` and dpkg do at large;
//! * so `1.9` < `1.10`, and `2026.11` < `2026.11.1`.
//!
//! Versions that differ only in leading zeros (`1.01`, `1.1`) are told apart by their bytes, so that
//! the order is total: two different strings never compare equal.

use std::cmp::Ordering;

use crate::manifest::limits;

/// Whether `version` may stand in a manifest.
#[must_use]
pub fn is_valid(version: &str) -> bool {
    version.len() <= limits::WORD
        && version
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-+~_".contains(&b))
}

/// Orders two versions, oldest first. Total over all strings, valid or not.
#[must_use]
pub fn compare(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left.as_bytes(), right.as_bytes());
    loop {
        let starts_number = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
        let order = if starts_number(a) && starts_number(b) {
            take_number(&mut a).cmp(&take_number(&mut b))
        } else {
            let order = rank(a.first()).cmp(&rank(b.first()));
            if a.is_empty() && b.is_empty() {
                // `1.01` and `1.1` come to here.
                return left.cmp(right);
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
            order
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the leading digits and returns them such that comparing the results compares the numbers.
fn take_number<'a>(rest: &mut &'a [u8]) -> (usize, &'a [u8]) {
    let end = rest
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    let significant = digits.iter().position(|b| *b != b'0').unwrap_or(end);
    let digits = &digits[significant..];
    (digits.len(), digits)
}

fn rank(byte: Option<&u8>) -> (u8, u8) {
    match byte {
        Some(b'~') => (0, 0),
        None => (1, 0),
        Some(letter) if letter.is_ascii_alphabetic() => (2, *letter),
        Some(digit) if digit.is_ascii_digit() => (4, *digit),
        Some(other) => (3, *other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_what_vendors_write() {
        let ascending = [
            "0.9",
            "1.0~alpha",
            "1.0~rc1",
            "1.0~rc2",
            "1.0",
            "1.0a",
            "1.0-1",
            "1.0-2",
            "1.0.1",
            "1.9",
            "1.10",
            "2.0",
            "10.0",
            "2026.11",
            "2026.11.1",
        ];
        for pair in ascending.windows(2) {
            assert!(
                compare(pair[0], pair[1]).is_lt(),
                "{} < {}",
                pair[0],
                pair[1]
            );
        }
        assert!(compare("1.99999999999999999999998", "1.99999999999999999999999").is_lt());
        assert!(compare("4.3.1", "4.3.1").is_eq());
    }

    #[test]
    fn tells_versions_from_other_text() {
        for good in ["1", "4.3.1", "2.0-rc.1+git_5~x", "trixie"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", ".1", "-1", "1 0", "1/2", "1\n", "é1", &"1".repeat(129)] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    fn version() -> impl Strategy<Value = String> {
        "[0-2a.~+-]{0,6}"
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in version(), b in version(), c in version()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b).is_eq(), a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
