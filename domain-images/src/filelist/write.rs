//! Writing a list.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::{Entry, HEADER, path_order};
use crate::manifest::FileList;

/// Writes entries as a list in canonical form.
pub struct Writer<W> {
    out: W,
    digest: Sha256,
    bytes: u64,
    line: Vec<u8>,
    last: Option<Vec<u8>>,
}

impl<W: Write> Writer<W> {
    /// Begins a list.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self {
            out,
            digest: Sha256::new(),
            bytes: 0,
            line: HEADER.as_bytes().to_vec(),
            last: None,
        };
        writer.flush_line()?;
        Ok(writer)
    }

    /// Adds the next entry in [`path_order`].
    ///
    /// # Errors
    /// What `out` reports; `InvalidInput` for an entry that is out of order, is there already or
    /// fails [`Entry::check`].
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        entry.check().map_err(|bad| invalid(bad.to_string()))?;
        if let Some(last) = &self.last
            && path_order(last, &entry.path).is_ge()
        {
            let path = entry.path.escape_ascii();
            return Err(invalid(format!("{path} is out of order")));
        }
        entry.write_line(&mut self.line);
        self.last = Some(entry.path.clone());
        self.flush_line()
    }

    fn flush_line(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        self.digest.update(&self.line);
        self.bytes += self.line.len() as u64;
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// Ends the list: what the manifest says about it, and the output.
    pub fn finish(self) -> (FileList, W) {
        let list = FileList {
            sha256: self.digest.into(),
            bytes: self.bytes,
        };
        (list, self.out)
    }
}
