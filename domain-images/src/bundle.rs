//! The bundle: one signed file that holds a release. See [`crate::format`] for its layers.

mod frame;
mod outer;
mod read;

pub use frame::{CheckedFrame, Decoder, FrameError, UncheckedFrame, WINDOW_LOG_MAX};
pub use read::{Bundle, PayloadReader, ReadError};

/// The first member.
pub const MANIFEST_MEMBER: &str = "manifest.json";
/// The second member: a detached CMS signature over the first one's bytes, in DER.
pub const SIGNATURE_MEMBER: &str = "manifest.sig";
/// Bytes of the largest manifest that is read.
pub const MAX_MANIFEST: u64 = 16 << 20;
/// Bytes of the largest signature that is read.
pub const MAX_SIGNATURE: u64 = 64 << 10;
