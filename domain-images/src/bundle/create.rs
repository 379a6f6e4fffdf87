//! Builds bundles: same input, same bytes, whatever the number of threads. (But the signature: it
//! holds the time of signing.)
//!
//! Memory is bounded by a few frames and by the list of entries, about 200 bytes each and their
//! paths; contents pass through. The finished payloads wait in temporary files beside the output,
//! because the manifest, which comes first, is known last.

mod frames;
mod header;
mod item;
mod merged;
mod pax;
mod payload;
pub mod spec;
pub mod table;
mod tar_stream;
mod tarball;
mod walk;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::outer;
use super::{MANIFEST_MEMBER, MAX_MANIFEST, SIGNATURE_MEMBER};
use crate::manifest::{Invalid, Manifest, SCHEMA};
use crate::signature::{SignError, SigningKey, sign};
pub use spec::{BundleSpec, ImageSpec, Owners, PayloadSpec};

/// How to build. The result does not depend on `threads`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Threads that pack.
    pub threads: usize,
    /// zstd's level, 1 to 19.
    pub level: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            level: 9,
        }
    }
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum CreateEvent<'a> {
    /// A source has been listed.
    Scanned {
        /// Whose.
        domain: &'a str,
        /// How many entries it has.
        entries: u64,
        /// Bytes of its files, holes included.
        bytes: u64,
    },
    /// Content is being packed.
    Packing {
        /// Whose.
        domain: &'a str,
        /// Bytes so far, holes not counted.
        bytes: u64,
        /// What [`CreateEvent::Scanned`] said.
        total: u64,
    },
    /// A payload is done.
    Packed {
        /// Whose.
        domain: &'a str,
        /// Bytes in the bundle.
        packed_bytes: u64,
        /// Bytes of the tar stream.
        unpacked_bytes: u64,
    },
    /// Something of a source is not in the bundle.
    Skipped {
        /// Which entry or file.
        path: &'a Path,
        /// Why.
        reason: &'static str,
    },
}

/// Why no bundle was made. The output path is then as it was.
#[derive(Debug, Error)]
pub enum CreateError {
    /// A file or folder fails.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// Writing temporary or final data fails.
    #[error("cannot write the bundle: {0}")]
    Write(#[from] io::Error),
    /// The spec, or its table, is not one.
    #[error("the bundle's specification: {0}")]
    Spec(String),
    /// A source holds something that cannot be in a bundle.
    #[error("{path} {reason}")]
    Entry {
        /// Its path, escaped.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A file has changed while it was read.
    #[error("{0} has changed meanwhile")]
    Changed(PathBuf),
    /// The manifest that came out would be refused by every node.
    #[error("a node would refuse this: {0}")]
    Invalid(#[from] Invalid),
    /// The manifest is larger than a node reads.
    #[error("the manifest has {0} bytes, and a node reads {MAX_MANIFEST}")]
    ManifestSize(u64),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl CreateError {
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            error,
        }
    }
}

/// Builds and signs a bundle at `out`, all at once or not at all. `SOURCE_DATE_EPOCH` is the
/// caller's business: it belongs into `spec.epoch`.
///
/// # Errors
/// Any [`CreateError`].
pub fn create(
    spec: &BundleSpec,
    key: &SigningKey,
    out: &Path,
    options: &Options,
    report: &mut dyn FnMut(CreateEvent<'_>),
) -> Result<Manifest, CreateError> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut packed = Vec::new();
    for payload in &spec.payloads {
        let done = payload::build(payload, options, spec.epoch, folder, report)?;
        report(CreateEvent::Packed {
            domain: &payload.domain,
            packed_bytes: done.payload.packed_bytes,
            unpacked_bytes: done.payload.unpacked_bytes,
        });
        packed.push(done);
    }
    let manifest = Manifest {
        schema: SCHEMA,
        release: spec.release.clone(),
        compatible: spec.compatible.clone(),
        floor: spec.floor.clone(),
        description: spec.description.clone(),
        payloads: packed.iter().map(|done| done.payload.clone()).collect(),
    };
    manifest.check()?;
    let mut text = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
    text.push(b'\n');
    if text.len() as u64 > MAX_MANIFEST {
        return Err(CreateError::ManifestSize(text.len() as u64));
    }
    let signature = sign(&text, key)?;
    write_bundle(out, folder, |bundle| {
        let mtime = spec.epoch.unwrap_or(0);
        write_member(bundle, MANIFEST_MEMBER, &text, mtime)?;
        write_member(bundle, SIGNATURE_MEMBER, &signature, mtime)?;
        for done in &mut packed {
            let size = done.payload.packed_bytes;
            bundle.write_all(&outer::header(&done.payload.member(), size, mtime))?;
            for file in &mut done.files {
                payload::copy_all(file, bundle)?;
            }
            write_padding(bundle, size)?;
        }
        bundle.write_all(&[0; 2 * outer::BLOCK])
    })?;
    Ok(manifest)
}

/// Writes a file beside `out`, flushes it, and gives it its name.
pub(super) fn write_bundle(
    out: &Path,
    folder: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<(), CreateError> {
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(out)
        .map_err(|error| CreateError::io("write", out, error.error))?;
    Ok(())
}

pub(super) fn write_member(
    out: &mut impl Write,
    name: &str,
    bytes: &[u8],
    mtime: u64,
) -> io::Result<()> {
    let size = bytes.len() as u64;
    out.write_all(&outer::header(name, size, mtime))?;
    out.write_all(bytes)?;
    write_padding(out, size)
}

pub(super) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    out.write_all(&[0; outer::BLOCK][..outer::padding(size) as usize])
}
