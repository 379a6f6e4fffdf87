//! The bundle: one signed file that holds a release. See [`crate::format`] for its layers.

pub mod create;
mod frame;
mod inspect;
mod outer;
mod read;
mod resign;
mod verify;

pub use create::{BundleSpec, CreateError, CreateEvent, create};
#[cfg(feature = "fuzzing")]
pub(crate) use frame::fuzz_frame;
pub use frame::{CheckedFrame, Decoder, FrameError, UncheckedFrame, WINDOW_LOG_MAX};
pub use inspect::{PayloadSummary, SignerSummary, Summary};
pub use read::{Bundle, PayloadReader, ReadError};
pub use resign::{NewSignature, Present, ResignError, resign};
pub use verify::{Verified, VerifyError, verify};

/// The first member.
pub const MANIFEST_MEMBER: &str = "manifest.json";
/// The second member: a detached CMS signature over the first one's bytes, in DER.
pub const SIGNATURE_MEMBER: &str = "manifest.sig";
/// Bytes of the largest manifest that is read.
///
/// OpenSSL copies what it verifies, and holds three times as much while its copy grows: with more, a
/// stranger's manifest would go over the ceiling on memory before its signature is refused. There is
/// room for 75,000 frames, a release of 150 GB.
pub const MAX_MANIFEST: u64 = 8 << 20;
/// Bytes of the largest signature that is read.
pub const MAX_SIGNATURE: u64 = 64 << 10;
