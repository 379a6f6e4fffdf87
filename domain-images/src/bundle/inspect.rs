//! What a bundle says about itself, for people and programs. `xupg bundle inspect`.

use std::fmt;

use serde::Serialize;

use crate::manifest::{Digest, Manifest, Mode, Payload};
use crate::signature::Signer;

/// A summary of a manifest; its JSON is what `--json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// 1.
    pub schema: u32,
    /// The release's version.
    pub release: String,
    /// For which nodes.
    pub compatible: String,
    /// The oldest release that may follow.
    pub floor: String,
    /// For people.
    pub description: String,
    /// SHA-256 of `manifest.json`, which names the release for good.
    pub manifest_sha256: Digest,
    /// Who has signed; empty when nobody was asked for.
    pub signers: Vec<SignerSummary>,
    /// One for each domain.
    pub payloads: Vec<PayloadSummary>,
}

/// A trusted signer.
#[derive(Debug, Serialize)]
pub struct SignerSummary {
    /// The certificate's subject.
    pub subject: String,
    /// SHA-256 of the certificate.
    pub fingerprint: Digest,
    /// Seconds since 1970.
    pub signed_at: u64,
}

/// A payload without its frames.
#[derive(Debug, Serialize)]
pub struct PayloadSummary {
    /// Whose.
    pub domain: String,
    /// How it is installed.
    pub mode: Mode,
    /// Where its image lies.
    pub image: Option<String>,
    /// Bytes of the image.
    pub image_bytes: Option<u64>,
    /// Bytes in the bundle.
    pub packed_bytes: u64,
    /// Bytes of the tar stream.
    pub unpacked_bytes: u64,
    /// Bytes of file content.
    pub data_bytes: u64,
    /// Entries.
    pub entries: u64,
    /// zstd frames.
    pub frames: usize,
    /// Digest of the file list.
    pub file_list_sha256: Digest,
}

impl Summary {
    /// Sums a manifest up.
    #[must_use]
    pub fn new(manifest: &Manifest, manifest_bytes: &[u8], signers: &[Signer]) -> Self {
        Self {
            schema: 1,
            release: manifest.release.clone(),
            compatible: manifest.compatible.clone(),
            floor: manifest.floor.clone(),
            description: manifest.description.clone(),
            manifest_sha256: Digest::of(manifest_bytes),
            signers: signers
                .iter()
                .map(|signer| SignerSummary {
                    subject: signer.subject.clone(),
                    fingerprint: signer.fingerprint,
                    signed_at: signer.signed_at,
                })
                .collect(),
            payloads: manifest.payloads.iter().map(summarize).collect(),
        }
    }
}

fn summarize(payload: &Payload) -> PayloadSummary {
    let image = payload.image.as_ref();
    PayloadSummary {
        domain: payload.domain.clone(),
        mode: payload.mode,
        image: image.map(|image| image.path.clone()),
        image_bytes: image.map(|image| image.bytes),
        packed_bytes: payload.packed_bytes,
        unpacked_bytes: payload.unpacked_bytes,
        data_bytes: payload.data_bytes,
        entries: payload.entries,
        frames: payload.frames.len(),
        file_list_sha256: payload.file_list.sha256,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "release      {}", self.release)?;
        writeln!(f, "compatible   {}", self.compatible)?;
        writeln!(f, "floor        {}", self.floor)?;
        if !self.description.is_empty() {
            writeln!(f, "description  {}", self.description)?;
        }
        writeln!(f, "manifest     {}", self.manifest_sha256)?;
        if self.signers.is_empty() {
            writeln!(f, "signature    not verified")?;
        }
        for signer in &self.signers {
            writeln!(
                f,
                "signed by    {} ({})",
                signer.subject, signer.fingerprint
            )?;
        }
        writeln!(
            f,
            "\n{:<16} {:<8} {:>14} {:>14} {:>10}",
            "domain", "mode", "packed", "unpacked", "entries"
        )?;
        for payload in &self.payloads {
            let mode = match payload.mode {
                Mode::Replace => "replace",
                Mode::Overlay => "overlay",
            };
            writeln!(
                f,
                "{:<16} {mode:<8} {:>14} {:>14} {:>10}",
                payload.domain, payload.packed_bytes, payload.unpacked_bytes, payload.entries
            )?;
        }
        Ok(())
    }
}
