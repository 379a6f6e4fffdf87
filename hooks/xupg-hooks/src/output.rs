//! A hook's output, in bounded memory: its lines on stdout, the end of its stderr.

/// A longer line on stdout is dropped whole.
const LINE_MAX: usize = 512;
/// So many bytes of stderr are kept.
const TAIL_MAX: usize = 2048;

/// Cuts a byte stream into lines of at most [`LINE_MAX`] bytes.
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    overlong: bool,
}

impl Lines {
    /// Takes the stream's next bytes and hands each whole line to `each`, without its line end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.line.len() + text.len() > LINE_MAX {
                self.overlong = true;
                self.line.clear();
            } else if !self.overlong {
                self.line.extend_from_slice(text);
            }
            if ended {
                self.finish(&mut each);
            }
        }
    }

    /// The stream has ended: what is left is a line too.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !std::mem::take(&mut self.overlong) && !self.line.is_empty() {
            each(&self.line);
        }
        self.line.clear();
    }
}

/// The last bytes of a stream.
#[derive(Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Takes the stream's next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(TAIL_MAX);
        self.0.drain(..excess);
    }

    /// The last line that is not empty, printable; empty when there is none.
    pub(crate) fn last_line(&self) -> String {
        self.0
            .rsplit(|&byte| byte == b'\n')
            .map(crate::text::printable)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, |line| found.push(line.to_vec()));
        }
        lines.finish(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn an_overlong_line_is_dropped_whole_and_the_next_is_read() {
        let long = vec![b'x'; 3 * LINE_MAX];
        assert_eq!(
            lines(&[b"a\n", &long, &long, b"tail\nb"]),
            [b"a".to_vec(), b"b".to_vec()]
        );
    }

    #[test]
    fn the_tail_is_the_end() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 100_000]);
        tail.push(b"\nfirst\nlast words\n\n");
        assert_eq!(tail.last_line(), "last words");
        assert!(tail.0.len() <= TAIL_MAX);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_where_reads_end(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..2000),
            cut in 0usize..2000,
        ) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(lines(&[left, right]), lines(&[&bytes]));
        }
    }
}
