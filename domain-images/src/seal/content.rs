//! Reads files' content in the order of the disk and compares its digest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};

use rustix::fs::{Advice, OFlags};
use sha2::{Digest as _, Sha256};

use super::extents::{Extent, Place};
use super::verdict::{Found, Verdict};
use super::{Queue, SealError};
use crate::aligned::{Aligned, BLOCK};
use crate::manifest::Digest;
use crate::tree::Root;

/// Bytes read at once: neighbours on the disk come together.
const SPAN: u64 = 1 << 20;
/// Bytes between two files that are rather read than stepped over.
const GAP: u64 = 64 << 10;

/// Bytes of files' descriptions that are brought into order at once.
const WINDOW: usize = 512 << 10;

/// A file whose content is to be compared.
pub(super) struct Content {
    pub(super) path: Vec<u8>,
    pub(super) size: u64,
    pub(super) sha256: Digest,
    pub(super) extents: Place,
}

impl Content {
    /// Memory that it takes.
    pub(super) fn weight(&self) -> usize {
        let extents = match &self.extents {
            Place::Known(extents) => size_of_val(extents.as_slice()),
            Place::Unknown(_) => 0,
        };
        size_of::<Self>() + self.path.len() + extents
    }

    /// Its only extent, when one read gets all of it.
    fn small(&self) -> Option<Extent> {
        match &self.extents {
            Place::Known(extents) => match extents[..] {
                [only] if only.logical == 0 && only.bytes >= self.size && only.bytes <= SPAN => {
                    Some(only)
                }
                _ => None,
            },
            Place::Unknown(_) => None,
        }
    }
}

/// The block device under the file system, read past the page cache.
pub(super) struct Device(File);

impl Device {
    pub(super) fn open(path: &Path) -> Result<Self, SealError> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(path)
            .map_err(SealError::read(b"."))?;
        // What the file system's own pages are concerned: the next reader gets them from the disk.
        if let Err(error) = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed) {
            tracing::debug!(%error, "the device keeps its pages");
        }
        Ok(Self(file))
    }

    /// Has a part read into the device's pages, without waiting for it.
    pub(super) fn read_ahead(&self, from: u64, bytes: u64) {
        if let Err(error) =
            rustix::fs::fadvise(&self.0, from, bytes.try_into().ok(), Advice::WillNeed)
        {
            tracing::debug!(%error, "the device reads nothing ahead");
        }
    }
}

/// Brings files into the order of the disk, as far as that goes with those that have come in, and
/// hands them on in spans: neighbours that one read gets.
pub(super) fn sort(files: &Receiver<Vec<Content>>, to_read: &SyncSender<Vec<Content>>) {
    while let Ok(mut window) = files.recv() {
        let mut bytes: usize = window.iter().map(Content::weight).sum();
        while bytes < WINDOW
            && let Ok(more) = files.try_recv()
        {
            bytes += more.iter().map(Content::weight).sum::<usize>();
            window.extend(more);
        }
        window.sort_unstable_by_key(|file| file.extents.start());
        for span in spans(window) {
            // It fails only after a panic in all readers, which ends the seal.
            let _ = to_read.send(span);
        }
    }
}

/// Compares all files of the spans that come; returns how many bytes that were.
pub(super) fn compare_all(
    root: &Root,
    device: Option<&Device>,
    spans: &Queue<Vec<Content>>,
    verdict: &Verdict,
) -> u64 {
    let mut reader = Reader {
        root,
        device,
        buffer: Aligned::new(SPAN as usize + BLOCK),
        zeros: vec![0; BLOCK * 16],
    };
    let mut bytes = 0;
    while let Some(span) = spans.take() {
        // All are taken, so that nobody waits for room in the queue.
        if verdict.is_moot(u64::MAX) {
            continue;
        }
        match reader.span(&span) {
            Ok(read) => bytes += read,
            Err(error) => verdict.fail(0, Found::Error(error)),
        }
    }
    bytes
}

/// Groups neighbours that one read gets.
fn spans(files: Vec<Content>) -> impl Iterator<Item = Vec<Content>> {
    let mut files = files.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = files.next()?;
        let mut place = first.small().map(|extent| (extent.physical, extent.end()));
        let mut span = vec![first];
        while let Some((start, end)) = place
            && let Some(next) = files.next_if(|file| {
                file.small().is_some_and(|extent| {
                    extent.physical >= end
                        && extent.physical - end <= GAP
                        && extent.end() - start <= SPAN
                })
            })
        {
            place = next.small().map(|extent| (start, extent.end()));
            span.push(next);
        }
        Some(span)
    })
}

struct Reader<'a> {
    root: &'a Root,
    device: Option<&'a Device>,
    buffer: Aligned,
    zeros: Vec<u8>,
}

impl Reader<'_> {
    fn span(&mut self, files: &[Content]) -> Result<u64, SealError> {
        if let (Some(device), [first, ..]) = (self.device, files)
            && let (Some(start), Some(end)) = (first.small(), files.last().and_then(Content::small))
        {
            let from = start.physical;
            let length = end.physical + end.bytes - from;
            let buffer = &mut self.buffer.bytes()[..length as usize];
            device
                .0
                .read_exact_at(buffer, from)
                .map_err(SealError::read(&first.path))?;
            let mut bytes = 0;
            for file in files {
                let at = file.small().map_or(0, |extent| extent.physical - from) as usize;
                let content = &buffer[at..at + file.size as usize];
                verdict(file, Digest::of(content))?;
                bytes += file.size;
            }
            return Ok(bytes);
        }
        let mut bytes = 0;
        for file in files {
            let digest = match (self.device, &file.extents) {
                (Some(device), Place::Known(extents)) => self.by_extents(device, file, extents)?,
                _ => self.by_file(file)?,
            };
            verdict(file, digest)?;
            bytes += file.size;
        }
        Ok(bytes)
    }

    fn by_extents(
        &mut self,
        device: &Device,
        file: &Content,
        extents: &[Extent],
    ) -> Result<Digest, SealError> {
        let mut digest = Sha256::new();
        let mut at = 0;
        for extent in extents {
            let start = extent.logical.min(file.size);
            self.hash_zeros(&mut digest, start.saturating_sub(at));
            at = start;
            let end = (extent.logical + extent.bytes).min(file.size);
            while at < end {
                let step = (end - at).min(SPAN);
                // Whole blocks, but not beyond the extent, which ends at one.
                let whole = step.next_multiple_of(BLOCK as u64);
                let whole = whole.min(extent.logical + extent.bytes - at);
                let buffer = &mut self.buffer.bytes()[..whole as usize];
                device
                    .0
                    .read_exact_at(buffer, extent.physical + (at - extent.logical))
                    .map_err(SealError::read(&file.path))?;
                digest.update(&buffer[..step as usize]);
                at += step;
            }
        }
        self.hash_zeros(&mut digest, file.size - at);
        Ok(digest.into())
    }

    /// Through the file system, past what the page cache may hold of it.
    fn by_file(&mut self, file: &Content) -> Result<Digest, SealError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let opened = File::from(
            self.root
                .open_at(&file.path, flags)
                .map_err(SealError::read(&file.path))?,
        );
        let drop_pages = || {
            if let Err(error) = rustix::fs::fadvise(&opened, 0, None, Advice::DontNeed) {
                tracing::debug!(%error, "the page cache keeps a file");
            }
        };
        drop_pages();
        let mut digest = Sha256::new();
        let mut at = 0;
        while at < file.size {
            let step = (file.size - at).min(SPAN);
            let buffer = &mut self.buffer.bytes()[..step as usize];
            opened
                .read_exact_at(buffer, at)
                .map_err(SealError::read(&file.path))?;
            digest.update(buffer);
            at += step;
        }
        drop_pages();
        Ok(digest.into())
    }

    fn hash_zeros(&self, digest: &mut Sha256, mut count: u64) {
        while count > 0 {
            let step = count.min(self.zeros.len() as u64);
            digest.update(&self.zeros[..step as usize]);
            count -= step;
        }
    }
}

fn verdict(file: &Content, found: Digest) -> Result<(), SealError> {
    if found == file.sha256 {
        return Ok(());
    }
    Err(SealError::Differs {
        entry: file.path.escape_ascii().to_string(),
        what: "the digest of its content",
        signed: file.sha256.to_string(),
        found: found.to_string(),
    })
}
