//! The node's side: anchors, policy, verification.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::error::ErrorStack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId};
use serde::Deserialize;
use thiserror::Error;

use super::cms_parts::{self, OneSigner};
use super::{SignatureError, Signer};
use crate::manifest::Digest;

/// Bits of strength: OpenSSL's level 2 is 112 bits, so RSA of 2048 bits and no SHA-1.
const AUTH_LEVEL: i32 = 2;

/// At which time certificates must be valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// At the signing time, or the newest one accepted before if that is later. No clock needed.
    #[default]
    SigningTime,
    /// In addition now, by the node's clock. For nodes whose clock can be trusted.
    Clock,
    /// Never checked. For nodes that outlive their vendor.
    Ignore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    schema: u32,
    expiry: Expiry,
}

/// Why the trust directory cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds no certificates.
    #[error("{path} holds no certificate in PEM: {error}")]
    Certificate {
        /// Which one.
        path: PathBuf,
        /// What OpenSSL says.
        error: ErrorStack,
    },
    /// The policy is not one.
    #[error("{path} is not a trust policy: {reason}")]
    Policy {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Without an anchor nothing could ever be installed; better to say so.
    #[error("{0} holds no *.pem")]
    Empty(PathBuf),
}

/// Whom the node trusts to sign releases.
pub struct TrustStore {
    anchors: Vec<X509>,
    expiry: Expiry,
    not_before: u64,
}

impl TrustStore {
    /// Reads all `*.pem` of a directory, each with one or more certificates, and `policy.json`
    /// (`{"schema":1,"expiry":"signing-time"}`, or `clock`, or `ignore`) if it is there.
    ///
    /// # Errors
    /// Any [`TrustError`]. A file that cannot be understood is an error, never left out.
    pub fn load(directory: &Path) -> Result<Self, TrustError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| TrustError::Read { path, error }
        };
        let mut anchors = Vec::new();
        for item in std::fs::read_dir(directory).map_err(failed(directory))? {
            let path = item.map_err(failed(directory))?.path();
            if path.extension().is_none_or(|ending| ending != "pem") {
                continue;
            }
            let pem = std::fs::read(&path).map_err(failed(&path))?;
            match X509::stack_from_pem(&pem) {
                Ok(stack) if !stack.is_empty() => anchors.extend(stack),
                Ok(_) => {
                    let error = ErrorStack::get();
                    return Err(TrustError::Certificate { path, error });
                }
                Err(error) => return Err(TrustError::Certificate { path, error }),
            }
        }
        if anchors.is_empty() {
            return Err(TrustError::Empty(directory.to_owned()));
        }
        let policy = directory.join("policy.json");
        let expiry = match std::fs::read(&policy) {
            Ok(text) => parse_policy(&text).map_err(|reason| TrustError::Policy {
                path: policy,
                reason,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Expiry::default(),
            Err(error) => return Err(failed(&policy)(error)),
        };
        Ok(Self {
            anchors,
            expiry,
            not_before: 0,
        })
    }

    /// Remembers the newest signing time the node has accepted so far (seconds since 1970): chains
    /// are checked at that time or later.
    #[must_use]
    pub fn not_before(mut self, newest_accepted: u64) -> Self {
        self.not_before = newest_accepted;
        self
    }

    /// Verifies a detached signature over `content` and names those signers who count: at least one.
    ///
    /// # Errors
    /// Any [`SignatureError`].
    pub fn verify(&self, content: &[u8], signature: &[u8]) -> Result<Vec<Signer>, SignatureError> {
        let mut signers = Vec::new();
        let mut refusal = SignatureError::Malformed("nobody has signed".into());
        for part in cms_parts::split(signature).map_err(SignatureError::Malformed)? {
            let verified = part
                .map_err(SignatureError::Malformed)
                .and_then(|part| self.verify_one(content, &part));
            match verified {
                Ok(signer) => signers.push(signer),
                Err(error) if error.rank() >= refusal.rank() => refusal = error,
                Err(_) => {}
            }
        }
        if signers.is_empty() {
            return Err(refusal);
        }
        Ok(signers)
    }

    fn verify_one(&self, content: &[u8], part: &OneSigner) -> Result<Signer, SignatureError> {
        let signer = || part.subject.clone();
        let check = |store: Option<&X509Store>, flags: CMSOptions| -> Result<(), ErrorStack> {
            let mut message = CmsContentInfo::from_der(&part.message)?;
            let flags = flags | CMSOptions::BINARY;
            message.verify(
                None,
                store.map(|store| &**store),
                Some(content),
                None,
                flags,
            )
        };
        check(None, CMSOptions::NO_SIGNER_CERT_VERIFY)
            .map_err(|_| SignatureError::Bad(signer()))?;
        let untrusted = |error: ErrorStack| SignatureError::Untrusted {
            signer: signer(),
            reason: last_reason(&error),
        };
        let chain_at = |time: Option<u64>| {
            let store = self.store(time)?;
            check(Some(&store), CMSOptions::empty())
        };
        chain_at(None).map_err(untrusted)?;
        if !part.for_releases {
            return Err(SignatureError::Purpose(signer()));
        }
        for at in self.times(part.signed_at) {
            chain_at(Some(at)).map_err(|_| SignatureError::Expired {
                signer: signer(),
                at,
            })?;
        }
        Ok(Signer {
            subject: signer(),
            fingerprint: Digest::of(&part.certificate),
            signed_at: part.signed_at,
        })
    }

    fn times(&self, signed_at: u64) -> Vec<u64> {
        let signed_at = signed_at.max(self.not_before);
        match self.expiry {
            Expiry::SigningTime => vec![signed_at],
            // A clock before 1970 finds every certificate not valid yet: refused, as it must be.
            Expiry::Clock => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                vec![signed_at, now.map_or(0, |since| since.as_secs())]
            }
            Expiry::Ignore => Vec::new(),
        }
    }

    /// A store for one check; `None` for a check that leaves time aside.
    fn store(&self, time: Option<u64>) -> Result<X509Store, ErrorStack> {
        let mut param = X509VerifyParam::new()?;
        param.set_purpose(X509PurposeId::ANY)?;
        param.set_auth_level(AUTH_LEVEL);
        // Whatever lies in the trust directory is trusted, whether or not it is its own issuer.
        param.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        match time {
            Some(time) => param.set_time(i64::try_from(time).unwrap_or(i64::MAX)),
            None => param.set_flags(X509VerifyFlags::NO_CHECK_TIME)?,
        }
        let mut store = X509StoreBuilder::new()?;
        for anchor in &self.anchors {
            store.add_cert(anchor.clone())?;
        }
        store.set_param(&param)?;
        Ok(store.build())
    }
}

fn parse_policy(text: &[u8]) -> Result<Expiry, String> {
    let policy: Policy = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if policy.schema != 1 {
        return Err(format!("schema {} is not known here", policy.schema));
    }
    Ok(policy.expiry)
}

/// The innermost of OpenSSL's errors carries what people want to know ("unable to get local issuer
/// certificate").
fn last_reason(stack: &ErrorStack) -> String {
    let error = stack.errors().last();
    let text = error.and_then(|error| error.data().or_else(|| error.reason()));
    text.unwrap_or("unknown reason").to_owned()
}
