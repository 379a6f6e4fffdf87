//! Content, and metadata that are complete, on their way to their places.

use std::io;

use super::BLOCK;
use super::disk::Disk;
use super::extents::Extent;
use crate::aligned::Aligned;

/// Bytes that are put together at most: small files of one frame are neighbours on the disk.
const TOGETHER: usize = 1 << 20;

/// One worker's way to write content, in pieces as large as what lies side by side.
pub(crate) struct Content {
    buffer: Aligned,
    filled: usize,
    /// Where on the disk the buffer's first byte belongs.
    at: u64,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self {
            buffer: Aligned::new(TOGETHER),
            filled: 0,
            at: 0,
        }
    }

    /// Takes what a file has from `offset` on, the beginning of a block, to where `extents` say. What
    /// does not fill its last block is followed by zeros.
    pub(crate) fn put(
        &mut self,
        disk: &Disk,
        extents: &[Extent],
        mut offset: u64,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        let first = extents.partition_point(|extent| end(extent) <= offset);
        for extent in &extents[first..] {
            if bytes.is_empty() {
                break;
            }
            let skip = offset - extent.logical * BLOCK as u64;
            let room = extent.run.blocks * BLOCK as u64 - skip;
            let now = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (piece, rest) = bytes.split_at(now);
            self.piece(disk, extent.run.start * BLOCK as u64 + skip, piece)?;
            offset += now as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Takes the metadata that are complete; all of them, or when they are worth it.
    pub(crate) fn metadata(&mut self, disk: &Disk, all: bool) -> io::Result<()> {
        for (block, bytes) in disk.ready(all) {
            self.piece(disk, block * BLOCK as u64, &bytes[..])?;
        }
        Ok(())
    }

    /// Writes what is still in memory.
    pub(crate) fn flush(&mut self, disk: &Disk) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if filled > 0 {
            disk.write_blocks(self.at, &self.buffer.bytes()[..filled])?;
        }
        Ok(())
    }

    /// Forgets it.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    fn piece(&mut self, disk: &Disk, mut at: u64, mut piece: &[u8]) -> io::Result<()> {
        // Straight from the decoder's memory, where that begins as a block does.
        let whole = piece.len() / BLOCK * BLOCK;
        if whole >= TOGETHER / 2 && piece.as_ptr().align_offset(BLOCK) == 0 {
            disk.write_blocks(at, &piece[..whole])?;
            at += whole as u64;
            piece = &piece[whole..];
        }
        while !piece.is_empty() {
            if self.filled == TOGETHER || self.at + self.filled as u64 != at {
                self.flush(disk)?;
                self.at = at;
            }
            let now = piece.len().min(TOGETHER - self.filled);
            let padded = now.next_multiple_of(BLOCK);
            let place = &mut self.buffer.bytes()[self.filled..self.filled + padded];
            place[..now].copy_from_slice(&piece[..now]);
            place[now..].fill(0);
            self.filled += padded;
            at += now as u64;
            piece = &piece[now..];
        }
        Ok(())
    }
}

/// The first byte of the file behind the extent.
fn end(extent: &Extent) -> u64 {
    (extent.logical + extent.run.blocks) * BLOCK as u64
}
