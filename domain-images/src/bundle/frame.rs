//! A frame's way from bytes of a stranger to bytes of the vendor. The types keep the order: only a
//! [`CheckedFrame`] can be decoded, and it owns the very buffer that was checked.

use thiserror::Error;
use zstd::zstd_safe;

use crate::manifest::{Digest, Frame, Part, limits};

/// The largest window that a frame may ask for, as a power of two: the largest frame's size.
pub const WINDOW_LOG_MAX: u32 = 22;

/// Magic number of the skippable frames that carry the file list.
pub(super) const SKIPPABLE_MAGIC: u32 = 0x184D_2A58;
const ZSTD_MAGIC: u32 = 0xFD2F_B528;

/// Why a frame is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Its bytes are not the signed ones.
    #[error("its bytes are not the signed ones")]
    Digest,
    /// Its bytes are signed, and yet no sound frame. The vendor's tool is at fault.
    #[error("{0}")]
    Unsound(&'static str),
}

/// A frame as it was read: exactly `packed` bytes, not to be believed yet.
#[derive(Debug)]
pub struct UncheckedFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) frame: Frame,
    pub(super) index: usize,
}

impl UncheckedFrame {
    /// The frame's place in the payload, counted from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Compares the bytes with the signed digest. Costs CPU, so workers do it, side by side.
    ///
    /// # Errors
    /// [`FrameError::Digest`].
    pub fn check(self) -> Result<CheckedFrame, FrameError> {
        if Digest::of(&self.bytes) == self.frame.sha256 {
            Ok(CheckedFrame(self))
        } else {
            Err(FrameError::Digest)
        }
    }
}

/// A frame whose bytes are the signed ones.
#[derive(Debug)]
pub struct CheckedFrame(UncheckedFrame);

impl CheckedFrame {
    /// The frame's place in the payload, counted from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// What the manifest says about it.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.0.frame
    }

    /// The packed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Gives the buffer back, to be read into again.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.0.bytes
    }

    /// A piece of the zstd-compressed file list: the content of a frame of [`Part::List`].
    ///
    /// # Errors
    /// [`FrameError::Unsound`] for a frame of another kind or with a wrong length.
    pub fn list_piece(&self) -> Result<&[u8], FrameError> {
        let bytes = self.bytes();
        if self.frame().part != Part::List || word(bytes, 0) != Some(SKIPPABLE_MAGIC) {
            return Err(FrameError::Unsound("it is not a frame of the file list"));
        }
        let length = word(bytes, 4).map(|length| length as usize);
        match bytes.get(8..) {
            Some(piece) if Some(piece.len()) == length => Ok(piece),
            _ => Err(FrameError::Unsound(
                "a skippable frame lies about its length",
            )),
        }
    }
}

/// Decodes frames. One for each worker; it is reused from frame to frame.
pub struct Decoder(zstd::bulk::Decompressor<'static>);

impl Decoder {
    /// Sets a decoder up.
    ///
    /// # Errors
    /// When zstd has no memory for its context.
    pub fn new() -> std::io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// Decodes a frame of the tar stream into `out`, replacing what is there: exactly
    /// `frame.unpacked` bytes, in memory bounded by it whatever the frame claims about itself.
    ///
    /// # Errors
    /// [`FrameError::Unsound`] when it is not one zstd frame with exactly that content.
    pub fn decode(&mut self, frame: &CheckedFrame, out: &mut Vec<u8>) -> Result<(), FrameError> {
        // Checked first, so that no memory is taken for a size that is not allowed.
        let size = frame.frame().unpacked;
        check_header(frame.bytes(), size)?;
        out.resize(size as usize, 0);
        self.decode_into(frame, out)
    }

    /// Like [`Decoder::decode`], into the first bytes of memory that is there already.
    ///
    /// # Errors
    /// As there, and when `out` is shorter than the content.
    pub fn decode_into(&mut self, frame: &CheckedFrame, out: &mut [u8]) -> Result<(), FrameError> {
        let bytes = frame.bytes();
        let size = frame.frame().unpacked;
        check_header(bytes, size)?;
        let out = out
            .get_mut(..size as usize)
            .ok_or(FrameError::Unsound("it is larger than a frame may be"))?;
        match self.0.decompress_to_buffer(bytes, out) {
            Ok(got) if got == size as usize => Ok(()),
            Ok(_) => Err(FrameError::Unsound(
                "it decodes to another size than stated",
            )),
            Err(_) => Err(FrameError::Unsound("zstd cannot decode it")),
        }
    }
}

fn check_header(bytes: &[u8], size: u32) -> Result<(), FrameError> {
    if word(bytes, 0) != Some(ZSTD_MAGIC) || size > limits::FRAME_UNPACKED {
        return Err(FrameError::Unsound("it is not a zstd frame"));
    }
    // Frame_Header_Descriptor (RFC 8878, 3.1.1.1.1): bit 5 says that there is no window descriptor.
    let descriptor = bytes.get(4).copied().unwrap_or_default();
    let window = bytes.get(5).copied().unwrap_or_default();
    if descriptor & 0x20 == 0 && u32::from(window >> 3) + 10 > WINDOW_LOG_MAX {
        return Err(FrameError::Unsound("it asks for too large a window"));
    }
    if !matches!(zstd_safe::get_frame_content_size(bytes), Ok(Some(stated)) if stated == u64::from(size))
    {
        return Err(FrameError::Unsound(
            "it decodes to another size than stated",
        ));
    }
    if zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
        return Err(FrameError::Unsound("it is not exactly one zstd frame"));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// See [`crate::fuzzing::frame`].
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_frame(input: &[u8]) {
    let (Some(claimed), Some(kind)) = (word(input, 0), input.get(4)) else {
        return;
    };
    let bytes = input[5..].to_vec();
    let list = kind & 1 == 1;
    let frame = Frame {
        packed: bytes.len() as u32,
        // The manifest's check lets no more through; some more shows that the decoder refuses too.
        unpacked: claimed % (limits::FRAME_UNPACKED + 4096),
        sha256: Digest::of(&bytes),
        part: if list { Part::List } else { Part::Files },
        continues: None,
    };
    let unchecked = UncheckedFrame {
        bytes,
        frame,
        index: 0,
    };
    let (Ok(frame), Ok(mut decoder)) = (unchecked.check(), Decoder::new()) else {
        return;
    };
    if list {
        let _ = frame.list_piece();
        return;
    }
    let mut out = Vec::new();
    if decoder.decode(&frame, &mut out).is_ok() {
        assert!(
            out.len() == frame.frame().unpacked as usize,
            "a frame decodes to another size than the signed one"
        );
    }
}
