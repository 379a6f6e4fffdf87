//! Takes a CMS apart into its signers. OpenSSL verifies all signers of a message or none, and keeps
//! signing times to itself; so each signer becomes a message of its own, which OpenSSL verifies.

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use der::asn1::{ObjectIdentifier, SetOfVec};
use der::{Any, Decode, Encode};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier};
use x509_cert::time::Time;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNING_TIME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.5");
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const DIGESTS: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
    ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
    ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
];

/// Signers that are looked at; more would only waste time.
const MAX_SIGNERS: usize = 16;

/// One signer of a message. Nothing of it is verified yet.
pub(super) struct OneSigner {
    /// A message with this signer alone and all certificates.
    pub(super) message: Vec<u8>,
    /// The signer's certificate.
    pub(super) certificate: Vec<u8>,
    pub(super) subject: String,
    pub(super) signed_at: u64,
    /// Whether the certificate may sign releases.
    pub(super) for_releases: bool,
}

fn odd(error: der::Error) -> String {
    error.to_string()
}

/// Reads a detached signature.
pub(super) fn parse(der: &[u8]) -> Result<SignedData, String> {
    let info = ContentInfo::from_der(der).map_err(odd)?;
    if info.content_type != SIGNED_DATA {
        return Err("not signed data".into());
    }
    let signed: SignedData = info.content.decode_as().map_err(odd)?;
    // Two contents, one inside and one outside, would be one too many to sign.
    if signed.encap_content_info.econtent.is_some()
        || signed.encap_content_info.econtent_type != DATA
    {
        return Err("not a detached signature".into());
    }
    Ok(signed)
}

/// Writes a message.
pub(super) fn to_der(signed: &SignedData) -> Result<Vec<u8>, String> {
    let info = ContentInfo {
        content_type: SIGNED_DATA,
        content: Any::encode_from(signed).map_err(odd)?,
    };
    info.to_der().map_err(odd)
}

/// Takes a message apart. Each part may be malformed by itself.
pub(super) fn split(der: &[u8]) -> Result<Vec<Result<OneSigner, String>>, String> {
    let signed = parse(der)?;
    match signed.signer_infos.0.len() {
        0 => Err("nobody has signed".into()),
        1..=MAX_SIGNERS => Ok(signed
            .signer_infos
            .0
            .iter()
            .map(|signer| take_out(&signed, signer))
            .collect()),
        _ => Err(format!("more than {MAX_SIGNERS} signers")),
    }
}

fn take_out(signed: &SignedData, signer: &SignerInfo) -> Result<OneSigner, String> {
    if !DIGESTS.contains(&signer.digest_alg.oid) {
        return Err("the digest is not one of SHA-2".into());
    }
    let certificate = certificate_of(signed, &signer.sid)?;
    let signed_at = signing_time(signer)?;
    let mut alone = signed.clone();
    alone.crls = None;
    let signer = SignerInfo {
        unsigned_attrs: None,
        ..signer.clone()
    };
    alone.signer_infos = SignerInfos(SetOfVec::from_iter([signer]).map_err(odd)?);
    Ok(OneSigner {
        message: to_der(&alone)?,
        certificate: certificate.to_der().map_err(odd)?,
        subject: certificate.tbs_certificate.subject.to_string(),
        signed_at,
        for_releases: is_for_releases(certificate)?,
    })
}

fn certificate_of<'a>(
    signed: &'a SignedData,
    signer: &SignerIdentifier,
) -> Result<&'a Certificate, String> {
    let certificates = signed.certificates.as_ref().map(|set| set.0.iter());
    let mut matching = certificates.into_iter().flatten().filter_map(|choice| {
        let CertificateChoices::Certificate(certificate) = choice else {
            return None;
        };
        is_named(certificate, signer).then_some(certificate)
    });
    match (matching.next(), matching.next()) {
        (Some(certificate), None) => Ok(certificate),
        (None, _) => Err("a signer's certificate is missing".into()),
        (Some(_), Some(_)) => Err("a signer has two certificates".into()),
    }
}

fn is_named(certificate: &Certificate, signer: &SignerIdentifier) -> bool {
    let tbs = &certificate.tbs_certificate;
    match signer {
        SignerIdentifier::IssuerAndSerialNumber(name) => {
            tbs.issuer == name.issuer && tbs.serial_number == name.serial_number
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            matches!(tbs.get::<SubjectKeyIdentifier>(), Ok(Some((_, own))) if own == *id)
        }
    }
}

fn signing_time(signer: &SignerInfo) -> Result<u64, String> {
    let attributes = signer.signed_attrs.as_ref().map(|set| set.iter());
    let mut times = attributes
        .into_iter()
        .flatten()
        .filter(|attribute| attribute.oid == SIGNING_TIME);
    let (Some(time), None) = (times.next(), times.next()) else {
        return Err("a signer does not say when it signed".into());
    };
    match time.values.as_slice() {
        [value] => {
            let time = Time::from_der(&value.to_der().map_err(odd)?).map_err(odd)?;
            Ok(time.to_unix_duration().as_secs())
        }
        _ => Err("a signer names several signing times".into()),
    }
}

fn is_for_releases(certificate: &Certificate) -> Result<bool, String> {
    let tbs = &certificate.tbs_certificate;
    let signs_code = match tbs.get::<ExtendedKeyUsage>().map_err(odd)? {
        Some((_, usage)) => usage.0.contains(&CODE_SIGNING),
        None => true,
    };
    let signs = match tbs.get::<KeyUsage>().map_err(odd)? {
        Some((_, usage)) => usage.digital_signature(),
        None => true,
    };
    Ok(signs_code && signs)
}

/// Moves signers, certificates and digests of `more` into `all`; what is there already stays once.
pub(super) fn merge(all: &mut SignedData, more: SignedData) -> Result<(), String> {
    union(&mut all.digest_algorithms, more.digest_algorithms)?;
    union(&mut all.signer_infos.0, more.signer_infos.0)?;
    match (&mut all.certificates, more.certificates) {
        (Some(mine), Some(theirs)) => union(&mut mine.0, theirs.0)?,
        (mine @ None, theirs) => *mine = theirs,
        (Some(_), None) => {}
    }
    all.version = all.version.max(more.version);
    Ok(())
}

fn union<T: der::DerOrd + PartialEq>(
    all: &mut SetOfVec<T>,
    more: SetOfVec<T>,
) -> Result<(), String> {
    for item in more.into_vec() {
        if !all.iter().any(|known| *known == item) {
            all.insert(item).map_err(odd)?;
        }
    }
    Ok(())
}
