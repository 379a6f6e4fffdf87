//! The forward-only reader: a file or a pipe goes in, a verified manifest and frames come out.
//! Nothing is read twice and nothing is kept but the manifest.

use std::io::{self, Read};
use std::sync::Arc;

use thiserror::Error;

use super::frame::{FrameError, UncheckedFrame};
use super::outer::{self, BLOCK};
use super::{MANIFEST_MEMBER, MAX_MANIFEST, MAX_SIGNATURE, SIGNATURE_MEMBER};
use crate::manifest::{Invalid, Manifest, Payload};
use crate::signature::{SignatureError, Signer, TrustStore};

/// Bytes of zeros that may follow the end of the bundle; tar pads to its record size.
const MAX_TRAILER: usize = 1 << 20;

/// Why a bundle cannot be used. Everything but `Input` is the bundle's fault.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The input itself fails.
    #[error("cannot read the bundle: {0}")]
    Input(#[from] io::Error),
    /// The input ends too early.
    #[error("the bundle is cut off in {0}")]
    Truncated(String),
    /// The outer tar is not a bundle's.
    #[error("not a bundle: {0}")]
    Malformed(&'static str),
    /// A member is missing, extra, twice or out of order.
    #[error("not a bundle: member `{found}` where `{expected}` belongs")]
    Member {
        /// The name that belongs there.
        expected: String,
        /// The name in the bundle, escaped.
        found: String,
    },
    /// A member's size is not what the manifest says, or over the limit.
    #[error("member `{member}` has {found} bytes, not {expected}")]
    Size {
        /// Which one.
        member: String,
        /// The manifest's size, or the limit.
        expected: u64,
        /// What its header says.
        found: u64,
    },
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The signature holds, and the manifest makes no sense.
    #[error("the signed manifest is not acceptable: {0}")]
    Manifest(#[from] Invalid),
    /// A frame is not what the manifest says.
    #[error("payload `{domain}`, frame {index}: {error}")]
    Frame {
        /// Whose payload.
        domain: String,
        /// Which frame, from 0.
        index: usize,
        /// What is wrong.
        error: FrameError,
    },
    /// Something follows the last payload.
    #[error("something follows the end of the bundle")]
    TrailingData,
    /// The caller asked for the next payload before it had read all of this one.
    #[error("payload `{0}` has not been read to its end")]
    Unfinished(String),
}

/// A bundle whose manifest is verified and whose payloads are still to be read, in order.
pub struct Bundle<R> {
    input: R,
    manifest: Arc<Manifest>,
    manifest_bytes: Vec<u8>,
    signature: Vec<u8>,
    signers: Vec<Signer>,
    /// The next payload, or the one that is being read when `open` is set.
    next: usize,
    open: bool,
    ended: bool,
}

impl<R: Read> Bundle<R> {
    /// Reads manifest and signature and verifies them. No byte of a payload is read, and before the
    /// signature holds nothing is parsed but two tar headers and the signature itself.
    ///
    /// # Errors
    /// Any [`ReadError`]; nothing has been changed anywhere, so the caller may call it a refusal.
    pub fn open(input: R, trust: &TrustStore) -> Result<Self, ReadError> {
        Self::open_with(input, |manifest, signature| {
            trust.verify(manifest, signature)
        })
    }

    /// Reads a bundle **without** verifying who made it: for people who look into a bundle or sign
    /// it. What comes out must never be installed.
    ///
    /// # Errors
    /// As [`Bundle::open`], but never [`ReadError::Signature`].
    pub fn open_unverified(input: R) -> Result<Self, ReadError> {
        Self::open_with(input, |_, _| Ok(Vec::new()))
    }

    fn open_with(
        mut input: R,
        verify: impl FnOnce(&[u8], &[u8]) -> Result<Vec<Signer>, SignatureError>,
    ) -> Result<Self, ReadError> {
        let manifest_bytes = small_member(&mut input, MANIFEST_MEMBER, MAX_MANIFEST)?;
        let signature = small_member(&mut input, SIGNATURE_MEMBER, MAX_SIGNATURE)?;
        let signers = verify(&manifest_bytes, &signature)?;
        let manifest = Arc::new(Manifest::parse(&manifest_bytes)?);
        Ok(Self {
            input,
            manifest,
            manifest_bytes,
            signature,
            signers,
            next: 0,
            open: false,
            ended: false,
        })
    }

    /// The verified manifest; shared, because workers outlive borrows.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The very bytes that were verified.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The signature as it is in the bundle, in DER.
    #[must_use]
    pub fn signature_bytes(&self) -> &[u8] {
        &self.signature
    }

    /// Those signers whose signatures hold and who are trusted; at least one, unless unverified.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// The input, where the next member's header begins.
    pub(super) fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Goes on to the next payload, in the manifest's order. `None` when all were read and nothing
    /// follows them.
    ///
    /// # Errors
    /// The member that follows is not that payload; [`ReadError::Unfinished`] when the frames of
    /// the payload before were not all read; [`ReadError::TrailingData`].
    pub fn next_payload(&mut self) -> Result<Option<PayloadReader<'_, R>>, ReadError> {
        if self.open {
            let unfinished = self.manifest.payloads.get(self.next);
            let domain = unfinished.map_or_else(String::new, |p| p.domain.clone());
            return Err(ReadError::Unfinished(domain));
        }
        let Some(payload) = self.manifest.payloads.get(self.next) else {
            if !self.ended {
                read_trailer(&mut self.input)?;
                self.ended = true;
            }
            return Ok(None);
        };
        let name = payload.member();
        let size = next_member(&mut self.input, &name)?;
        if size != payload.packed_bytes {
            return Err(ReadError::Size {
                member: name,
                expected: payload.packed_bytes,
                found: size,
            });
        }
        self.open = true;
        Ok(Some(PayloadReader {
            manifest: Arc::clone(&self.manifest),
            index: self.next,
            frame: 0,
            bundle: self,
        }))
    }
}

/// Reads one payload's frames.
pub struct PayloadReader<'a, R> {
    bundle: &'a mut Bundle<R>,
    manifest: Arc<Manifest>,
    index: usize,
    frame: usize,
}

impl<R: Read> PayloadReader<'_, R> {
    /// What the manifest says about this payload.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.manifest.payloads[self.index]
    }

    /// The payload's place in `manifest.payloads`.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Reads the next frame into `buffer` (its content is replaced, its memory reused). The bytes
    /// are not checked yet: call [`UncheckedFrame::check`], in whatever thread is free. `None` after
    /// the last frame.
    ///
    /// # Errors
    /// [`ReadError::Truncated`], [`ReadError::Input`], [`ReadError::Malformed`].
    pub fn next_frame(&mut self, mut buffer: Vec<u8>) -> Result<Option<UncheckedFrame>, ReadError> {
        let payload = &self.manifest.payloads[self.index];
        let Some(frame) = payload.frames.get(self.frame).copied() else {
            if self.bundle.open && self.bundle.next == self.index {
                read_padding(
                    &mut self.bundle.input,
                    payload.packed_bytes,
                    &payload.domain,
                )?;
                self.bundle.open = false;
                self.bundle.next += 1;
            }
            return Ok(None);
        };
        // Never more than limits::FRAME_PACKED: the manifest was checked.
        buffer.resize(frame.packed as usize, 0);
        if !outer::fill(&mut self.bundle.input, &mut buffer)? {
            let what = format!("payload `{}`, frame {}", payload.domain, self.frame);
            return Err(ReadError::Truncated(what));
        }
        let index = self.frame;
        self.frame += 1;
        Ok(Some(UncheckedFrame {
            bytes: buffer,
            frame,
            index,
        }))
    }

    /// Says which frame an error is about.
    #[must_use]
    pub fn frame_error(&self, index: usize, error: FrameError) -> ReadError {
        ReadError::Frame {
            domain: self.payload().domain.clone(),
            index,
            error,
        }
    }
}

fn next_member(input: &mut impl Read, expected: &str) -> Result<u64, ReadError> {
    let mut block = [0; BLOCK];
    if !outer::fill(input, &mut block)? {
        return Err(ReadError::Truncated(format!("the header of {expected}")));
    }
    let member = outer::parse(&block).map_err(ReadError::Malformed)?;
    match member {
        Some(member) if member.name == expected => Ok(member.size),
        found => Err(ReadError::Member {
            expected: expected.to_owned(),
            found: found.map_or_else(
                || "(the end)".to_owned(),
                |member| member.name.escape_debug().to_string(),
            ),
        }),
    }
}

fn small_member(input: &mut impl Read, name: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
    let size = next_member(input, name)?;
    if size > limit {
        return Err(ReadError::Size {
            member: name.to_owned(),
            expected: limit,
            found: size,
        });
    }
    let mut bytes = Vec::new();
    input.by_ref().take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(ReadError::Truncated(name.to_owned()));
    }
    read_padding(input, size, name)?;
    Ok(bytes)
}

fn read_padding(input: &mut impl Read, size: u64, name: &str) -> Result<(), ReadError> {
    let mut block = [0; BLOCK];
    let padding = &mut block[..outer::padding(size) as usize];
    if !outer::fill(input, padding)? {
        return Err(ReadError::Truncated(format!("the padding of {name}")));
    }
    if padding.iter().any(|b| *b != 0) {
        return Err(ReadError::Malformed("padding is not zero"));
    }
    Ok(())
}

fn read_trailer(input: &mut impl Read) -> Result<(), ReadError> {
    let mut block = [0; BLOCK];
    let mut total = 0;
    loop {
        match input.read(&mut block) {
            Ok(0) => break,
            Ok(got) => {
                total += got;
                if total > MAX_TRAILER || block[..got].iter().any(|b| *b != 0) {
                    return Err(ReadError::TrailingData);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if total < 2 * BLOCK {
        return Err(ReadError::Truncated("the end of the bundle".to_owned()));
    }
    Ok(())
}
