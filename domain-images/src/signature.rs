//! Who signed a release, and whether this node believes them.
//!
//! A signature is a detached CMS `SignedData` in DER over the bytes of `manifest.json`; stock tools
//! check it with `openssl cms -verify -binary -inform DER -content manifest.json -in manifest.sig
//! -CAfile anchor.pem`. (For a signer's certificate that names `codeSigning` only, add
//! `-purpose any`: the program's default is mail.)
//!
//! **Several signers.** Each signer is verified alone; one that is valid and trusted is enough. A
//! release that introduces a new key is signed with both the old and the new one.
//!
//! **Trust.** Every certificate in the trust directory is an anchor, also an intermediate or a
//! signer's own. Other intermediates travel inside the CMS. Anchors and chain need keys of at least
//! 112 bits of strength, signatures SHA-256 or better.
//!
//! **Purpose.** A signer's certificate has no extendedKeyUsage, or one with codeSigning; keyUsage,
//! if present, allows digitalSignature. So a web server's certificate from the same authority signs
//! no releases.
//!
//! **Time.** Controllers start with a wrong clock, so by default the clock is not asked. A signature
//! holds if the whole chain was valid at its signing time, which is one of the signed attributes.
//! Who steals a key that has expired can lie about that time; but a node also remembers the newest
//! signing time that it has accepted ([`TrustStore::not_before`]), and checks the chain at the later
//! of the two. The file `policy.json` beside the anchors changes this ([`Expiry`]); it arrives there
//! inside a signed release, or by the hands of who installs the node.

mod cms_parts;
mod sign;
mod trust;

use thiserror::Error;

pub use sign::{SignError, SigningKey, add_signer, sign};
pub use trust::{Expiry, TrustError, TrustStore};

/// A signer whose signature holds and whom the node trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The certificate's subject, for people.
    pub subject: String,
    /// SHA-256 of the certificate.
    pub fingerprint: crate::manifest::Digest,
    /// When it was signed, in seconds since 1970, as the signer says.
    pub signed_at: u64,
}

/// Why a signature is not accepted. With several signers, the reason that came closest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// Not a CMS signature of the expected shape.
    #[error("the signature is malformed: {0}")]
    Malformed(String),
    /// The manifest or the signature was changed.
    #[error("the signature does not match the manifest (signer {0})")]
    Bad(String),
    /// A stranger's.
    #[error("signed by {signer}, who is not trusted here: {reason}")]
    Untrusted {
        /// The certificate's subject.
        signer: String,
        /// What OpenSSL says about the chain.
        reason: String,
    },
    /// The certificate is not for signing releases.
    #[error("the certificate of {0} is not for signing code")]
    Purpose(String),
    /// A certificate of the chain was not valid at the time that counts.
    #[error("a certificate of {signer} was not valid at {at} (seconds since 1970)")]
    Expired {
        /// The certificate's subject.
        signer: String,
        /// The time that was asked about.
        at: u64,
    },
}

impl SignatureError {
    /// How far the check got.
    fn rank(&self) -> u8 {
        match self {
            Self::Malformed(_) => 0,
            Self::Bad(_) => 1,
            Self::Untrusted { .. } => 2,
            Self::Purpose(_) => 3,
            Self::Expired { .. } => 4,
        }
    }
}

/// See [`crate::fuzzing::signature`].
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_parts(bytes: &[u8]) {
    // Each signer becomes a message of its own, which is taken apart again like any other.
    for signer in cms_parts::split(bytes).into_iter().flatten().flatten() {
        let again = cms_parts::split(&signer.message).map(|signers| signers.len());
        assert!(
            again == Ok(1),
            "a signer's own message has not exactly one signer: {again:?}"
        );
    }
}

#[cfg(test)]
#[path = "signature/tests.rs"]
mod tests;
