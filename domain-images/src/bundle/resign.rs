//! Signs a bundle again: replaces its signature, or adds a signer to it. Manifest and payloads are
//! copied as they are. `xupg bundle sign`.

use std::io::{self, Read, Write};
use std::path::Path;

use super::create::{CreateError, write_bundle, write_member};
use super::read::ReadError;
use super::{Bundle, MANIFEST_MEMBER, MAX_SIGNATURE, SIGNATURE_MEMBER};
use crate::signature::{SignError, SigningKey, add_signer, sign};

/// Where a signature comes from.
pub enum NewSignature<'a> {
    /// Made here.
    Key(&'a SigningKey),
    /// Made elsewhere, for example by a key in hardware: detached CMS over `manifest.json`, in DER.
    Made(&'a [u8]),
}

/// What happens to the signatures that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// They stay beside the new one.
    Keep,
    /// They go.
    Replace,
}

/// Why a bundle was not signed. The output path is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum ResignError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// All signatures together are larger than a node reads.
    #[error("the signatures have {0} bytes together, and a node reads {MAX_SIGNATURE}")]
    TooLarge(u64),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] CreateError),
}

/// Copies a bundle to `out` with another signature.
///
/// The bundle's own signature is not verified: whoever signs decides what to sign. Its frames are
/// not checked either; a damaged one stays as damaged as it was.
///
/// # Errors
/// Any [`ResignError`].
pub fn resign(
    input: impl Read,
    signature: &NewSignature<'_>,
    present: Present,
    out: &Path,
) -> Result<(), ResignError> {
    let mut bundle = Bundle::open_unverified(input)?;
    let mut made = match signature {
        NewSignature::Key(key) => sign(bundle.manifest_bytes(), key)?,
        NewSignature::Made(made) => made.to_vec(),
    };
    if present == Present::Keep {
        made = add_signer(bundle.signature_bytes(), &made)?;
    }
    if made.len() as u64 > MAX_SIGNATURE {
        return Err(ResignError::TooLarge(made.len() as u64));
    }
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let manifest = bundle.manifest_bytes().to_vec();
    write_bundle(out, folder, |out| {
        write_member(out, MANIFEST_MEMBER, &manifest, 0)?;
        write_member(out, SIGNATURE_MEMBER, &made, 0)?;
        // The rest follows as it is.
        io::copy(bundle.input_mut(), out)?;
        out.flush()
    })?;
    Ok(())
}
