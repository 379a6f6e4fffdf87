//! The entries of a foreign tarball, in ustar, pax or GNU format, whatever tool made it.
//!
//! A reader of our own, because the tar library's takes pax records apart at newlines, which values
//! may hold, and ends without a word where a tarball is cut off.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::pax::{Pax, says_nothing};
use super::tarball::Why;
use crate::pax::records;
use crate::tar_header::checksum_holds;

const BLOCK: u64 = 512;
/// Of a pax header or a long name: much more than a file's name and attributes can be.
const MAX_EXTRA: u64 = 4 << 20;
/// Extents of a file in the old GNU sparse format.
const MAX_OLD_EXTENTS: usize = 1 << 20;

/// An entry's headers. Its data are read from the [`TarStream`].
pub(super) struct Head {
    pub(super) header: Header,
    pub(super) name: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) pax: Pax,
    /// The map of a file in the old GNU sparse format, and its real size.
    pub(super) old_map: Option<(Vec<(u64, u64)>, u64)>,
}

/// A tarball that is read once. Reading from it gives the data of the entry that was met last.
pub(super) struct TarStream<R> {
    input: R,
    /// Of the present entry's data.
    left: u64,
    /// Zeros behind them.
    padding: u64,
    /// What the present header calls its entry, for errors.
    name: Vec<u8>,
    /// Whether a global header was left out that is only about the tarball.
    skipped_global: bool,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            name: Vec::new(),
            skipped_global: false,
        }
    }

    /// The name in the header that was read last.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether a global pax header was met since this was last asked.
    pub(super) fn take_skipped_global(&mut self) -> bool {
        std::mem::take(&mut self.skipped_global)
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end, behind which
    /// nothing may follow.
    pub(super) fn next(&mut self) -> Result<Option<Head>, Why> {
        let mut pax = None;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return match (&pax, &long_name, &long_link) {
                    (None, None, None) => Ok(None),
                    _ => Err("is a header that no entry follows".into()),
                };
            };
            self.name = header.path_bytes().into_owned();
            let fresh = match header.entry_type().as_byte() {
                b'x' => pax.replace(Pax::read(&self.extra(&header)?)?).is_none(),
                b'L' => long_name.replace(self.long(&header)?).is_none(),
                b'K' => long_link.replace(self.long(&header)?).is_none(),
                b'g' => {
                    self.global(&header)?;
                    true
                }
                _ => {
                    let pax = pax.unwrap_or_default();
                    return self.entry(header, pax, long_name, long_link).map(Some);
                }
            };
            if !fresh {
                return Err("has two headers of the same kind".into());
            }
        }
    }

    fn entry(
        &mut self,
        header: Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Head, Why> {
        let name = pax.sparse_name.clone().or_else(|| pax.path.clone());
        let name = name.or(long_name).unwrap_or_else(|| self.name.clone());
        let field = || header.link_name_bytes().map(|link| link.into_owned());
        let link = pax.link.clone().or(long_link).or_else(field);
        self.name.clone_from(&name);
        let kind = header.entry_type();
        if !matches!(kind.as_byte(), 0 | b'0'..=b'7' | b'S') {
            return Err(unknown(kind));
        }
        let size = match pax.size {
            Some(size) => size,
            None => header.entry_size()?,
        };
        let has_content = matches!(
            kind,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
        );
        if size != 0 && !has_content {
            return Err("is not a file and has data".into());
        }
        let old_map = match kind {
            EntryType::GNUSparse => Some(self.old_map(&header, size)?),
            _ => None,
        };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        Ok(Head {
            header,
            name,
            link,
            pax,
            old_map,
        })
    }

    /// The map in a GNU header, and in the blocks between it and the data.
    fn old_map(&mut self, header: &Header, stored: u64) -> Result<(Vec<(u64, u64)>, u64), Why> {
        let gnu = header.as_gnu().ok_or("has a header that is not GNU's")?;
        let real = gnu.real_size()?;
        let mut map = Vec::new();
        let mut add = |parts: &[tar::GnuSparseHeader]| -> Result<(), Why> {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                map.push((part.offset()?, part.length()?));
            }
            match map.len() {
                0..=MAX_OLD_EXTENTS => Ok(()),
                _ => Err("has too many holes".into()),
            }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes())?;
            add(block.sparse())?;
            more = block.is_extended();
        }
        let total = map
            .iter()
            .try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length));
        if total != Some(stored) {
            return Err("has a sparse map that does not fit its data".into());
        }
        Ok((map, real))
    }

    /// Skips to the next header and reads it; `None` for the zeros at the end.
    fn header(&mut self) -> Result<Option<Header>, Why> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        if io::copy(&mut self.input.by_ref().take(rest), &mut io::sink())? != rest {
            return Err("is cut off".into());
        }
        let mut header = Header::new_old();
        self.input.read_exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            return self.only_zeros().map(|()| None);
        }
        if !checksum_holds(&header) {
            return Err("is followed by a header with a wrong checksum".into());
        }
        Ok(Some(header))
    }

    fn only_zeros(&mut self) -> Result<(), Why> {
        let mut buffer = [0; 65_536];
        loop {
            match self.input.read(&mut buffer)? {
                0 => return Ok(()),
                got if buffer[..got].iter().any(|b| *b != 0) => {
                    return Err("is followed by the end, and by something behind it".into());
                }
                _ => {}
            }
        }
    }

    /// The data of a header that is about the next one.
    fn extra(&mut self, header: &Header) -> Result<Vec<u8>, Why> {
        let size = header.entry_size()?;
        if size > MAX_EXTRA {
            return Err("has headers of more than 4 MiB".into());
        }
        let mut data = vec![0; size.next_multiple_of(BLOCK) as usize];
        self.input.read_exact(&mut data)?;
        data.truncate(size as usize);
        Ok(data)
    }

    /// A GNU long name, up to its NUL.
    fn long(&mut self, header: &Header) -> Result<Vec<u8>, Why> {
        let mut name = self.extra(header)?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn global(&mut self, header: &Header) -> Result<(), Why> {
        let text = self.extra(header)?;
        for record in records(&text) {
            let (key, _) = record?;
            if !says_nothing(key) {
                let key = key.escape_ascii();
                let reason = format!("is a global pax header with {key}, which would be lost");
                return Err(Why::Bad(reason));
            }
        }
        self.skipped_global = true;
        Ok(())
    }
}

/// The error about an entry that is none of those a file system has.
pub(super) fn unknown(kind: EntryType) -> Why {
    Why::Bad(format!("has the unknown type {:?}", kind.as_byte() as char))
}

impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}
