//! The vendor's side: signing a manifest.

use std::path::{Path, PathBuf};

use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::X509;
use thiserror::Error;

use super::cms_parts;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} holds no {what}: {error}")]
    Pem {
        /// Which one.
        path: PathBuf,
        /// A certificate or a private key.
        what: &'static str,
        /// What OpenSSL says.
        error: ErrorStack,
    },
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// OpenSSL does not sign.
    #[error("cannot sign: {0}")]
    OpenSsl(#[from] ErrorStack),
    /// A signature to be added to, or the one to add, is not sound.
    #[error("the signature is malformed: {0}")]
    Malformed(String),
}

/// A vendor's certificate, private key and intermediates.
pub struct SigningKey {
    certificate: X509,
    key: PKey<Private>,
    chain: Vec<X509>,
}

impl SigningKey {
    /// Reads PEM files: the signer's certificate, followed by intermediates that nodes do not have;
    /// and its private key, not encrypted. (For a key that lives in hardware, let `openssl cms
    /// -sign -binary -outform DER` sign and hand the result to [`crate::bundle::resign`].)
    ///
    /// # Errors
    /// [`SignError::Read`], [`SignError::Pem`], [`SignError::Mismatch`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, SignError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| SignError::Read {
                path: path.to_owned(),
                error,
            })
        };
        let unusable = |path: &Path, what| {
            let path = path.to_owned();
            move |error| SignError::Pem { path, what, error }
        };
        let mut chain = X509::stack_from_pem(&read(certificate)?)
            .map_err(unusable(certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(unusable(certificate, "certificate")(ErrorStack::get()));
        }
        // An empty answer instead of OpenSSL's question on the terminal.
        let key = PKey::private_key_from_pem_callback(&read(key)?, |_| Ok(0))
            .map_err(unusable(key, "private key that is not encrypted"))?;
        let certificate = chain.remove(0);
        if !certificate.public_key()?.public_eq(&key) {
            return Err(SignError::Mismatch);
        }
        Ok(Self {
            certificate,
            key,
            chain,
        })
    }
}

/// Signs `content`: a detached CMS signature in DER, with the time of signing.
///
/// # Errors
/// [`SignError::OpenSsl`].
pub fn sign(content: &[u8], key: &SigningKey) -> Result<Vec<u8>, SignError> {
    let mut chain = Stack::new()?;
    for certificate in &key.chain {
        chain.push(certificate.clone())?;
    }
    let flags = CMSOptions::BINARY | CMSOptions::DETACHED | CMSOptions::NOSMIMECAP;
    let message = CmsContentInfo::sign(
        Some(&key.certificate),
        Some(&key.key),
        Some(&chain),
        Some(content),
        flags,
    )?;
    Ok(message.to_der()?)
}

/// Puts the signers of two signatures over the same content into one.
///
/// # Errors
/// [`SignError::Malformed`].
pub fn add_signer(signature: &[u8], added: &[u8]) -> Result<Vec<u8>, SignError> {
    let merged = || -> Result<Vec<u8>, String> {
        let mut all = cms_parts::parse(signature)?;
        cms_parts::merge(&mut all, cms_parts::parse(added)?)?;
        cms_parts::to_der(&all)
    };
    merged().map_err(SignError::Malformed)
}
