//! The entries in a decoded frame: a strict reader of exactly the tar dialect of
//! [`crate::format`]. Nothing is copied that need not be, and nothing is skipped: what is not
//! understood is refused.

use std::borrow::Cow;

use super::pax::Pax;
use super::sparse::{self, Extent};
use crate::filelist::{Mtime, is_normal_path};
use crate::manifest::limits;
use crate::tar_header::checksum_holds;

pub(super) const BLOCK: usize = 512;

/// One entry, with as much of its data as its frame holds.
#[derive(Debug)]
pub(super) struct TarEntry<'a> {
    pub(super) path: Cow<'a, [u8]>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Vec<(&'a [u8], &'a [u8])>,
    pub(super) kind: TarKind<'a>,
}

#[derive(Debug)]
pub(super) enum TarKind<'a> {
    File(TarFile<'a>),
    Directory,
    Symlink(Cow<'a, [u8]>),
    HardLink(Cow<'a, [u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A regular file's content.
#[derive(Debug)]
pub(super) struct TarFile<'a> {
    /// Apparent size.
    pub(super) size: u64,
    /// Bytes stored in the stream, after the map.
    pub(super) stored: u64,
    /// The first of them: all, or those up to the end of the frame.
    pub(super) data: &'a [u8],
    /// Where they belong; `None` for a file without holes.
    pub(super) map: Option<Vec<Extent>>,
}

/// Why a frame's tar is not acceptable, and which entry it is about, when that is known.
#[derive(Debug)]
pub(super) struct BadTar {
    pub(super) path: Vec<u8>,
    pub(super) reason: &'static str,
}

/// Walks over the headers of one frame.
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    /// The stream's two zero blocks were met.
    ended: bool,
}

type Found<T> = Result<T, &'static str>;

impl<'a> Entries<'a> {
    /// `tar` begins at a header.
    pub(super) fn new(tar: &'a [u8]) -> Self {
        Self {
            rest: tar,
            ended: false,
        }
    }

    /// Splits off what a frame that continues a file holds of it, its padding included. `left`:
    /// stored bytes the file still lacks.
    pub(super) fn after(tar: &'a [u8], left: u64) -> Found<(&'a [u8], Self)> {
        let have = usize::try_from(left).map_or(tar.len(), |left| left.min(tar.len()));
        let (data, rest) = tar.split_at(have);
        let mut entries = Self::new(rest);
        if have as u64 == left {
            entries.skip_padding(have)?;
        }
        Ok((data, entries))
    }

    /// Whether the end of the tar stream was met.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The next entry. Only the last one of a frame can lack a part of its data.
    pub(super) fn next(&mut self) -> Result<Option<TarEntry<'a>>, BadTar> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let nameless = |reason| BadTar {
            path: Vec::new(),
            reason,
        };
        if self.rest[..BLOCK.min(self.rest.len())]
            .iter()
            .all(|b| *b == 0)
        {
            if self.ended || self.rest.len() != 2 * BLOCK || self.rest.iter().any(|b| *b != 0) {
                return Err(nameless("the tar stream does not end as it should"));
            }
            self.ended = true;
            self.rest = &[];
            return Ok(None);
        }
        let mut pax = Pax::default();
        let mut header = self.header().map_err(nameless)?;
        if header.entry_type().as_byte() == b'x' {
            let size = header.size().map_err(|_| nameless("a size is no number"))?;
            let records = self.take(size).map_err(nameless)?;
            pax = Pax::read(records).map_err(nameless)?;
            header = self.header().map_err(nameless)?;
        }
        let path = pax.path_over(&header.as_old().name);
        let fail = |reason| BadTar {
            // A record may be as long as its frame; an error is for people.
            path: path[..path.len().min(limits::PATH)].to_vec(),
            reason,
        };
        self.entry(header, &pax, path.clone())
            .map(Some)
            .map_err(fail)
    }

    fn entry(
        &mut self,
        header: &'a tar::Header,
        pax: &Pax<'a>,
        path: Cow<'a, [u8]>,
    ) -> Found<TarEntry<'a>> {
        let letter = header.entry_type().as_byte();
        if !(b'0'..=b'6').contains(&letter) {
            return Err("its type is not one of the format");
        }
        if header.as_ustar().is_none_or(|ustar| ustar.prefix[0] != 0) {
            return Err("its header is not of the format");
        }
        let path = normal(path, letter == b'5')?;
        pax.agrees_with_name(&header.as_old().name)?;
        let size = pax.number(pax.size, header.size().ok(), "its two sizes disagree")?;
        let uid = pax.number(pax.uid, header.uid().ok(), "its two owners disagree")?;
        let gid = pax.number(pax.gid, header.gid().ok(), "its two groups disagree")?;
        let mode = header.mode().map_err(|_| "its mode is no number")?;
        if mode > 0o7777 {
            return Err("its mode has more than twelve bits");
        }
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime {
                seconds: header
                    .mtime()
                    .ok()
                    .and_then(|seconds| i64::try_from(seconds).ok())
                    .ok_or("its time is no number")?,
                nanos: 0,
            },
        };
        if letter != b'0' && (size != 0 || pax.is_sparse()) {
            return Err("it has data and is not a file");
        }
        let kind = match letter {
            b'0' => TarKind::File(self.file(size, pax)?),
            b'1' => TarKind::HardLink(normal(link(header, pax)?, false)?),
            b'2' => TarKind::Symlink(link(header, pax)?),
            b'3' | b'4' => {
                let number = |n: std::io::Result<Option<u32>>| {
                    n.ok().flatten().ok_or("its device number is none")
                };
                let (major, minor) = (
                    number(header.device_major())?,
                    number(header.device_minor())?,
                );
                if letter == b'3' {
                    TarKind::CharDevice(major, minor)
                } else {
                    TarKind::BlockDevice(major, minor)
                }
            }
            b'5' => TarKind::Directory,
            b'6' => TarKind::Fifo,
            _ => return Err("its type is not one of the format"),
        };
        Ok(TarEntry {
            path,
            mode,
            uid: u32::try_from(uid).map_err(|_| "its owner is out of range")?,
            gid: u32::try_from(gid).map_err(|_| "its group is out of range")?,
            mtime,
            xattrs: pax.xattrs.clone(),
            kind,
        })
    }

    /// The file's data as far as the frame has them.
    fn file(&mut self, size: u64, pax: &Pax<'a>) -> Found<TarFile<'a>> {
        let (map, apparent, stored) = if pax.is_sparse() {
            let apparent = pax.sparse_size()?;
            let (map, map_bytes) = sparse::read_map(self.rest, apparent)?;
            let stored = map.iter().map(|extent| extent.bytes).sum::<u64>();
            if size.checked_sub(map_bytes as u64) != Some(stored) {
                return Err("its sparse map does not fit its size");
            }
            self.rest = &self.rest[map_bytes..];
            (Some(map), apparent, stored)
        } else {
            (None, size, size)
        };
        if apparent > i64::MAX as u64 {
            return Err("its size is more than a file can have");
        }
        let have = usize::try_from(stored).map_or(self.rest.len(), |n| n.min(self.rest.len()));
        let (data, rest) = self.rest.split_at(have);
        self.rest = rest;
        if have as u64 == stored {
            self.skip_padding(have)?;
        }
        Ok(TarFile {
            size: apparent,
            stored,
            data,
            map,
        })
    }

    fn header(&mut self) -> Found<&'a tar::Header> {
        let (block, rest) = self
            .rest
            .split_at_checked(BLOCK)
            .ok_or("a header is cut off")?;
        self.rest = rest;
        let header = tar::Header::from_byte_slice(block);
        if !checksum_holds(header) {
            return Err("a header's checksum is wrong");
        }
        Ok(header)
    }

    fn take(&mut self, bytes: u64) -> Found<&'a [u8]> {
        let bytes = usize::try_from(bytes).map_err(|_| "its pax header is cut off")?;
        let (data, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or("its pax header is cut off")?;
        self.rest = rest;
        self.skip_padding(bytes)?;
        Ok(data)
    }

    fn skip_padding(&mut self, bytes: usize) -> Found<()> {
        let (padding, rest) = self
            .rest
            .split_at_checked(bytes.wrapping_neg() % BLOCK)
            .ok_or("it is cut off")?;
        if padding.iter().any(|b| *b != 0) {
            return Err("padding is not zero");
        }
        self.rest = rest;
        Ok(())
    }
}

/// The name without the directory's slash, when it is one that stays inside the root.
fn normal(path: Cow<'_, [u8]>, directory: bool) -> Found<Cow<'_, [u8]>> {
    if path.first() == Some(&b'/') {
        return Err("its name is absolute");
    }
    if path.split(|b| *b == b'/').any(|part| part == b"..") {
        return Err("its name has `..` in it");
    }
    if directory && path.as_ref() == b"./" {
        return Ok(Cow::Borrowed(b"."));
    }
    let path = match path {
        Cow::Borrowed(path) if directory => Cow::Borrowed(path.strip_suffix(b"/").unwrap_or(path)),
        Cow::Owned(mut path) if directory && path.last() == Some(&b'/') => {
            path.pop();
            Cow::Owned(path)
        }
        path => path,
    };
    if path.len() > limits::PATH || path.split(|b| *b == b'/').any(|part| part.len() > 255) {
        return Err("its name is too long");
    }
    if !is_normal_path(&path) || (path.as_ref() == b"." && !directory) {
        return Err("its name is not in shortest form");
    }
    Ok(path)
}

fn link<'a>(header: &'a tar::Header, pax: &Pax<'a>) -> Found<Cow<'a, [u8]>> {
    let field = &header.as_old().linkname;
    pax.agrees_with_link(field)?;
    let target = pax.link_over(field);
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        return Err("its link target is empty, too long or has a NUL");
    }
    Ok(target)
}

/// See [`crate::fuzzing::tar`].
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_tar(tar: &[u8]) {
    // As a frame that begins with an entry, and as one that begins inside a file.
    for left in [None, Some(BLOCK as u64)] {
        let mut entries = match left.map(|left| Entries::after(tar, left)) {
            None => Entries::new(tar),
            Some(Ok((_, entries))) => entries,
            Some(Err(_)) => continue,
        };
        while let Ok(Some(entry)) = entries.next() {
            assert!(is_normal_path(&entry.path), "a path that may lead out");
            assert!(entry.mode <= 0o7777, "a mode of more than twelve bits");
            match entry.kind {
                TarKind::HardLink(target) => {
                    assert!(is_normal_path(&target), "a hard link that may lead out");
                }
                TarKind::File(file) => fuzz_file(&file),
                _ => {}
            }
        }
    }
}

#[cfg(feature = "fuzzing")]
fn fuzz_file(file: &TarFile<'_>) {
    assert!(file.data.len() as u64 <= file.stored, "data of the next");
    let Some(map) = &file.map else {
        assert!(file.size == file.stored, "a file without holes has holes");
        return;
    };
    let mut placed = 0;
    let done = sparse::place(map, 0, file.data, |at, piece| {
        placed += piece.len();
        let end = at.checked_add(piece.len() as u64);
        assert!(
            end.is_some_and(|end| end <= file.size),
            "data behind its end"
        );
        Ok::<(), ()>(())
    });
    assert!(done.is_ok() && placed == file.data.len(), "data are lost");
}
