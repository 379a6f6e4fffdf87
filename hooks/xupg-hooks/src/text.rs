//! Text that crosses the border between domains: made printable, and kept short.

use std::fmt;

/// Longest message, in bytes, that is passed on from a hook or a guest.
pub const MESSAGE_MAX: usize = 200;

/// Longest [`Token`], in bytes.
pub const TOKEN_MAX: usize = 128;

/// Makes `bytes` safe to log, to show on a terminal and to store in xenstore: printable ASCII
/// only (anything else becomes `?`, tabs and line ends become a space), without spaces at either
/// end, at most [`MESSAGE_MAX`] bytes.
///
/// Terminal escapes and look-alike letters from a guest end here. UTF-8 is given up on purpose:
/// xenstore values are meant to be 7-bit ASCII.
pub fn printable(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        // Leading space goes before the cut, so that it cannot push the message out of sight.
        .skip_while(|byte| byte.is_ascii_whitespace())
        .take(MESSAGE_MAX)
        .map(|&byte| match byte {
            0x20..=0x7e => char::from(byte),
            b'\t' | b'\n' | b'\r' => ' ',
            _ => '?',
        })
        .collect();
    text.trim().to_owned()
}

/// A transaction or release name: 1 to [`TOKEN_MAX`] bytes of `A-Z a-z 0-9 . + ~ : _ -`.
///
/// Such a word needs no quoting in a shell, a log line or a xenstore value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(String);

/// The text is not a [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a word of 1 to {TOKEN_MAX} characters out of A-Z a-z 0-9 . + ~ : _ -")]
pub struct TokenError;

impl Token {
    /// Checks `text` and takes it over.
    pub fn new(text: impl Into<String>) -> Result<Self, TokenError> {
        let text = text.into();
        let valid = (1..=TOKEN_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".+~:_-".contains(&byte));
        if valid {
            Ok(Self(text))
        } else {
            Err(TokenError)
        }
    }

    /// The word itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::new(text)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminal_escapes_do_not_survive() {
        assert_eq!(printable(b"\x1b[31mred\x07\xff\n"), "?[31mred??");
    }

    #[test]
    fn tokens_hold_nothing_a_shell_would_interpret() {
        for bad in [
            "",
            "a b",
            "a/b",
            "$(x)",
            "a\n",
            "\u{e9}",
            &"a".repeat(TOKEN_MAX + 1),
        ] {
            assert_eq!(Token::new(bad), Err(TokenError), "{bad:?}");
        }
        for good in ["4.3.1~rc1+deb12u1", "1:2.0-3", "018f_ab"] {
            assert_eq!(Token::new(good).unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn printable_is_printable_and_short(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let text = printable(&bytes);
            prop_assert!(text.len() <= MESSAGE_MAX);
            prop_assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        }
    }
}
