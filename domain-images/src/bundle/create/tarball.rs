//! Reads a tarball as a source, in one pass. File contents go to a temporary file, holes stay holes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tar::EntryType;

use super::item::{Content, Item};
use super::tar_stream::{Head, TarStream, unknown};
use super::{CreateError, CreateEvent, merged};
use crate::filelist::{Entry, Kind, Mtime, is_normal_path, path_order};
use crate::manifest::Digest;

const ALIGN: u64 = 4096;

/// Lists a tarball's entries, sorted. `spool` is a folder with room for the unpacked contents.
pub(super) fn scan(
    path: &Path,
    spool: &Path,
    report: &mut dyn FnMut(CreateEvent<'_>),
) -> Result<Vec<Item>, CreateError> {
    let failed = |error| CreateError::io("read", path, error);
    let input = BufReader::new(File::open(path).map_err(failed)?);
    let spool = tempfile::tempfile_in(spool)
        .map_err(|error| CreateError::io("make a temporary file in", spool, error))?;
    let mut scan = Scan {
        spool: Arc::new(spool),
        end: 0,
        items: Vec::new(),
    };
    if path.extension().is_some_and(|ending| ending == "zst") {
        let input = zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
        scan.run(input, path, report)?;
    } else {
        scan.run(input, path, report)?;
    }
    let mut items = scan.items;
    items.sort_by(|a, b| path_order(&a.entry.path, &b.entry.path));
    merged::settle(&mut items).map_err(|(name, reason)| bad(path, &name, reason))?;
    if let Some(pair) = items
        .windows(2)
        .find(|p| p[0].entry.path == p[1].entry.path)
    {
        return Err(bad(
            path,
            &pair[0].entry.path,
            "is there twice, symbolic links followed",
        ));
    }
    Ok(items)
}

struct Scan {
    spool: Arc<File>,
    end: u64,
    items: Vec<Item>,
}

impl Scan {
    fn run(
        &mut self,
        input: impl Read,
        path: &Path,
        report: &mut dyn FnMut(CreateEvent<'_>),
    ) -> Result<(), CreateError> {
        let mut stream = TarStream::new(input);
        loop {
            let item = match stream.next() {
                Ok(None) => return Ok(()),
                Ok(Some(head)) => self.item(head, &mut stream),
                Err(why) => Err(why),
            };
            self.items.push(item.map_err(|why| match why {
                Why::Io(error) => CreateError::io("read", path, error),
                Why::Bad(reason) => bad(path, stream.name(), &reason),
            })?);
            if stream.take_skipped_global() {
                report(CreateEvent::Skipped {
                    path,
                    reason: "a global pax header",
                });
            }
        }
    }

    fn item(&mut self, head: Head, data: &mut impl Read) -> Result<Item, Why> {
        let Head {
            header,
            name,
            link,
            pax,
            old_map,
        } = head;
        let narrow = |wide: u64| u32::try_from(wide).map_err(|_| Why::from("an id is too large"));
        let link = || link.ok_or(Why::from("a link without a target"));
        let device = || -> Result<(u32, u32), Why> {
            let missing = || Why::from("a device without numbers");
            Ok((
                header.device_major()?.ok_or_else(missing)?,
                header.device_minor()?.ok_or_else(missing)?,
            ))
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime {
                // Two's complement comes back as it went in.
                seconds: header.mtime()?.cast_signed(),
                nanos: 0,
            },
        };
        let mut listed = Entry {
            path: normal(&name)?,
            mode: header.mode()? & 0o7777,
            uid: narrow(pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: narrow(pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime,
            kind: Kind::Directory,
            xattrs: pax.xattrs,
        };
        let mut content = Content::None;
        listed.kind = match header.entry_type() {
            // The oldest tars know no other sign of a directory.
            EntryType::Regular if header.as_bytes()[156] == 0 && name.ends_with(b"/") => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let offset = self.end;
                let sparse = old_map.is_some() || pax.sparse_size.is_some();
                let size = match (old_map, pax.sparse_size) {
                    (Some((map, size)), _) => self.spool_extents(data, &map, size)?,
                    (None, Some(size)) => self.spool_mapped(data, size)?,
                    (None, None) => self.spool_plain(data)?,
                };
                content = Content::Spool {
                    file: Arc::clone(&self.spool),
                    offset,
                    sparse,
                };
                Kind::File {
                    size,
                    sha256: Digest([0; 32]),
                }
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Link => Kind::HardLink(normal(&link()?)?),
            EntryType::Char => device().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            other => return Err(unknown(other)),
        };
        Ok(Item {
            entry: listed,
            content,
        })
    }

    fn spool_plain(&mut self, data: &mut impl Read) -> Result<u64, Why> {
        let size = io::copy(data, &mut SpoolAt(&self.spool, self.end))?;
        self.reserve(size)?;
        Ok(size)
    }

    /// Copies a content of GNU format 1.0: a map in decimal lines, then the data.
    fn spool_mapped(&mut self, data: &mut impl Read, size: u64) -> Result<u64, Why> {
        let mut map = MapReader { data, read: 0 };
        let count = map.number()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push((map.number()?, map.number()?));
        }
        let padding = map.read.next_multiple_of(512) - map.read;
        io::copy(&mut data.take(padding), &mut io::sink())?;
        self.spool_extents(data, &extents, size)
    }

    fn spool_extents(
        &mut self,
        data: &mut impl Read,
        extents: &[(u64, u64)],
        size: u64,
    ) -> Result<u64, Why> {
        let mut last = 0;
        for (offset, length) in extents {
            let end = offset.checked_add(*length);
            let end = end.filter(|end| *offset >= last && *end <= size);
            last = end.ok_or("its sparse map lies outside the file, or is out of order")?;
            let at = self.end.checked_add(*offset).ok_or("it is too large")?;
            let mut at = SpoolAt(&self.spool, at);
            if io::copy(&mut data.take(*length), &mut at)? != *length {
                return Err("its data are cut off".into());
            }
        }
        self.reserve(size)?;
        Ok(size)
    }

    fn reserve(&mut self, size: u64) -> Result<(), Why> {
        let end = self
            .end
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(ALIGN));
        self.end = end.ok_or("it is too large")?;
        self.spool.set_len(self.end)?;
        Ok(())
    }
}

struct SpoolAt<'a>(&'a File, u64);

impl io::Write for SpoolAt<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all_at(bytes, self.1)?;
        self.1 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct MapReader<'a, R> {
    data: &'a mut R,
    read: u64,
}

impl<R: Read> MapReader<'_, R> {
    fn number(&mut self) -> Result<u64, Why> {
        let mut number: u64 = 0;
        loop {
            let mut byte = [0];
            self.data.read_exact(&mut byte)?;
            self.read += 1;
            number = match byte[0] {
                b'\n' => return Ok(number),
                digit @ b'0'..=b'9' => number
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(u64::from(digit - b'0')))
                    .ok_or("its sparse map has a number that is too large")?,
                _ => return Err("its sparse map is not in numbers".into()),
            };
        }
    }
}

/// Why an entry cannot be used.
pub(super) enum Why {
    Io(io::Error),
    Bad(String),
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => "is cut off".into(),
            _ => Self::Io(error),
        }
    }
}

impl From<&str> for Why {
    fn from(reason: &str) -> Self {
        Self::Bad(reason.to_owned())
    }
}

fn bad(tarball: &Path, path: &[u8], reason: &str) -> CreateError {
    CreateError::Entry {
        path: format!("{}: {}", tarball.display(), path.escape_ascii()),
        reason: reason.to_owned(),
    }
}

/// Takes `./` and trailing slashes off. Anything else that is not in shortest form is refused: a
/// tarball that needs `..` says something its maker did not mean.
fn normal(name: &[u8]) -> Result<Vec<u8>, Why> {
    let mut name = name;
    if name.is_empty() {
        return Err("has no name".into());
    }
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    let name = if name.is_empty() { b"." } else { name };
    if is_normal_path(name) {
        Ok(name.to_vec())
    } else {
        Err("its path is not relative and in shortest form".into())
    }
}
