//! Verifies a whole bundle without installing it: signature, every frame's digest, and that frames
//! and file list are what they claim. `xupg bundle verify`.

use std::io::{self, Read, Seek, Write};

use super::frame::{CheckedFrame, Decoder};
use super::read::{Bundle, PayloadReader, ReadError};
use crate::filelist::{ListError, Reader};
use crate::manifest::{Part, Payload};

/// What has been verified of one payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose payload.
    pub domain: String,
    /// Frames, the file list's included.
    pub frames: usize,
    /// Bytes read.
    pub packed_bytes: u64,
    /// Bytes decoded.
    pub unpacked_bytes: u64,
    /// Entries in the file list.
    pub entries: u64,
}

/// Why a bundle is not what was signed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// See [`ReadError`].
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file list is not the signed one.
    #[error("payload `{domain}`: {error}")]
    List {
        /// Whose payload.
        domain: String,
        /// What is wrong.
        error: ListError,
    },
    /// The file list has another number of entries than the manifest.
    #[error("payload `{domain}`: {found} entries, not {expected}")]
    Entries {
        /// Whose payload.
        domain: String,
        /// The manifest's number.
        expected: u64,
        /// The list's.
        found: u64,
    },
    /// The file list has to be kept for a moment, and cannot be.
    #[error("cannot keep the file list: {0}")]
    Temporary(#[from] io::Error),
}

/// Reads a bundle to its end. `report` is told after every frame how many packed bytes of the
/// bundle's payloads have been verified.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<R: Read>(
    bundle: &mut Bundle<R>,
    report: &mut dyn FnMut(u64),
) -> Result<Vec<Verified>, VerifyError> {
    let mut all = Vec::new();
    let mut done = 0;
    while let Some(mut payload) = bundle.next_payload()? {
        let mut on_frame = |bytes| {
            done += bytes;
            report(done);
        };
        all.push(verify_payload(&mut payload, &mut on_frame)?);
    }
    Ok(all)
}

fn verify_payload<R: Read>(
    reader: &mut PayloadReader<'_, R>,
    on_frame: &mut dyn FnMut(u64),
) -> Result<Verified, VerifyError> {
    let mut decoder = Decoder::new()?;
    let mut list = tempfile::tempfile()?;
    let mut buffer = Vec::new();
    let mut out = Vec::new();
    while let Some(frame) = reader.next_frame(buffer)? {
        let index = frame.index();
        let frame = frame
            .check()
            .map_err(|error| reader.frame_error(index, error))?;
        let content = if frame.frame().part == Part::List {
            frame.list_piece().map(Some)
        } else {
            decoder.decode(&frame, &mut out).map(|()| None)
        };
        if let Some(piece) = content.map_err(|error| reader.frame_error(index, error))? {
            list.write_all(piece)?;
        }
        on_frame(frame.frame().packed.into());
        buffer = CheckedFrame::into_buffer(frame);
    }
    list.rewind()?;
    let payload = reader.payload();
    Ok(Verified {
        domain: payload.domain.clone(),
        frames: payload.frames.len(),
        packed_bytes: payload.packed_bytes,
        unpacked_bytes: payload.unpacked_bytes,
        entries: count_entries(list, payload)?,
    })
}

fn count_entries(list: impl Read, payload: &Payload) -> Result<u64, VerifyError> {
    let failed = |error| VerifyError::List {
        domain: payload.domain.clone(),
        error,
    };
    let mut found = 0;
    for entry in Reader::open_packed(list, payload.file_list).map_err(failed)? {
        entry.map_err(failed)?;
        found += 1;
    }
    if found == payload.entries {
        return Ok(found);
    }
    Err(VerifyError::Entries {
        domain: payload.domain.clone(),
        expected: payload.entries,
        found,
    })
}
