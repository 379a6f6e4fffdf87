//! Reading a list back.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{BadLine, Entry, HEADER, MAX_LINE, path_order};
use crate::manifest::FileList;

/// Why a list is not the one that was signed.
#[derive(Debug, Error)]
pub enum ListError {
    /// The input fails, or is not a zstd stream.
    #[error("cannot read the file list: {0}")]
    Input(#[from] io::Error),
    /// A line is not one of a list.
    #[error("file list, line {line}: {bad}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        bad: BadLine,
    },
    /// The text is not the signed one.
    #[error("the file list is not the signed one")]
    NotSigned,
}

/// Reads a list entry by entry, in [`path_order`]. An iterator that ends after the first error. The
/// digest is compared at the end: **only after `None` were the entries the signed ones**. Where the
/// list's frames were checked one by one against the manifest, they are signed anyway.
pub struct Reader<R> {
    input: io::Take<R>,
    signed: FileList,
    digest: Sha256,
    bytes: u64,
    line: Vec<u8>,
    number: u64,
    last: Vec<u8>,
    ended: bool,
    /// The types that are wanted; all if `None`.
    only: Option<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads a list in its canonical form.
    pub fn new(input: R, signed: FileList) -> Self {
        Self {
            // One byte more tells a longer list from the signed one.
            input: input.take(signed.bytes.saturating_add(1)),
            signed,
            digest: Sha256::new(),
            bytes: 0,
            line: Vec::new(),
            number: 0,
            last: Vec::new(),
            ended: false,
            only: None,
        }
    }

    /// Steps over all lines but those of one type, given by its letter, without looking into them.
    pub(crate) fn only(mut self, letter: u8) -> Self {
        self.only = Some(letter);
        self
    }

    fn read_line(&mut self) -> Result<bool, ListError> {
        self.line.clear();
        let cap = MAX_LINE as u64 + 1;
        let got = self
            .input
            .by_ref()
            .take(cap)
            .read_until(b'\n', &mut self.line)?;
        self.digest.update(&self.line);
        self.bytes += got as u64;
        if got == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.pop() != Some(b'\n') {
            return Err(self.bad("it is too long or cut off"));
        }
        Ok(true)
    }

    fn next_wanted(&mut self) -> Result<bool, ListError> {
        loop {
            let more = self.read_line()?;
            if !more
                || self
                    .only
                    .is_none_or(|letter| self.line.first() == Some(&letter))
            {
                return Ok(more);
            }
        }
    }

    fn bad(&self, what: &'static str) -> ListError {
        ListError::Line {
            line: self.number,
            bad: BadLine(what),
        }
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, ListError> {
        if self.number == 0 && (!self.read_line()? || self.line != HEADER.as_bytes()) {
            return Err(self.bad("not the beginning of a file list"));
        }
        if !self.next_wanted()? {
            let found: FileList = FileList {
                sha256: std::mem::take(&mut self.digest).into(),
                bytes: self.bytes,
            };
            return if found == self.signed {
                Ok(None)
            } else {
                Err(ListError::NotSigned)
            };
        }
        let entry = Entry::read_line(&self.line).map_err(|bad| ListError::Line {
            line: self.number,
            bad,
        })?;
        if self.number > 2 && path_order(&self.last, &entry.path).is_ge() {
            return Err(self.bad("it is out of order"));
        }
        self.last.clone_from(&entry.path);
        Ok(Some(entry))
    }
}

impl<R: Read> Reader<BufReader<zstd::stream::read::Decoder<'static, BufReader<R>>>> {
    /// Reads a list from the pieces that travel in a payload's list frames, one behind the other
    /// ([`crate::bundle::CheckedFrame::list_piece`]): the `<domain>.list.zst` that a slot keeps.
    ///
    /// # Errors
    /// [`ListError::Input`] when the decoder cannot be set up.
    pub fn open_packed(packed: R, signed: FileList) -> Result<Self, ListError> {
        let mut decoder = zstd::stream::read::Decoder::new(packed)?;
        decoder.window_log_max(crate::bundle::WINDOW_LOG_MAX)?;
        Ok(Self::new(BufReader::new(decoder), signed))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Entry, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read_entry().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
