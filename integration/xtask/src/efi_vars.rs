//! OVMF's variable store, written from outside: the lab's own Secure Boot keys, enrolled and enforcing.
//!
//! The store is what edk2 calls an authenticated variable store inside a firmware volume (`VariableFormat.h`): a header, then
//! records with a GUID, a UCS-2 name and data, each aligned to four bytes, in flash that reads 0xff where nothing was written.

use anyhow::{Result, bail, ensure};

/// A GUID in the byte order of UEFI: the first three fields little-endian.
type Guid = [u8; 16];

const GLOBAL: Guid = guid(
    0x8be4_df61,
    0x93ca,
    0x11d2,
    *b"\xaa\x0d\x00\xe0\x98\x03\x2b\x8c",
);
const IMAGE_SECURITY: Guid = guid(
    0xd719_b2cb,
    0x3d3a,
    0x4596,
    *b"\xa3\xbc\xda\xd0\x0e\x67\x65\x6f",
);
const SECURE_BOOT_ENABLE: Guid = guid(
    0xf0a3_0bc7,
    0xaf08,
    0x4556,
    *b"\x99\xc4\x00\x10\x09\xc9\x3a\x44",
);
const CUSTOM_MODE: Guid = guid(
    0xc076_ec0c,
    0x7028,
    0x4399,
    *b"\xa0\x72\x71\xee\x5c\x44\x8b\x9f",
);
const CERT_X509: Guid = guid(
    0xa5c0_59a1,
    0x94e4,
    0x4aa7,
    *b"\x87\xb5\xab\x15\x5c\x2b\xf0\x72",
);
const AUTH_STORE: Guid = guid(
    0xaaf3_2c78,
    0x947b,
    0x439a,
    *b"\xa1\x80\x2e\x14\x4e\xc3\x77\x92",
);
/// Who put the certificates there: the lab (a random GUID).
const OWNER: Guid = guid(
    0x6f1c_41d2,
    0x5c3b,
    0x4e0a,
    *b"\x9d\x1e\x78\x75\x70\x67\x6c\x62",
);

const NON_VOLATILE_BOOT: u32 = 0x3;
const NON_VOLATILE_RUNTIME_AUTHENTICATED: u32 = 0x27;
const STORE_HEADER: usize = 28;

/// The certificates to enrol, as DER.
pub struct Keys<'a> {
    /// Platform key.
    pub pk: &'a [u8],
    /// Key exchange key.
    pub kek: &'a [u8],
    /// What boot images are signed with.
    pub db: &'a [u8],
}

/// Returns `template` (the empty `OVMF_VARS_4M.fd`) with `keys` enrolled and Secure Boot on.
///
/// # Errors
/// When the template is not an empty variable store, or too small.
pub fn enroll(template: &[u8], keys: &Keys) -> Result<Vec<u8>> {
    let mut store = template.to_vec();
    let mut at = first_record(template)?;
    // EFI_TIME of the enrolment; any later, properly signed change is accepted.
    let when = time(2020, 1, 1);
    let never = [0; 16];
    let secured = NON_VOLATILE_RUNTIME_AUTHENTICATED;
    let records = [
        record(
            "db",
            IMAGE_SECURITY,
            secured,
            when,
            &signature_list(keys.db),
        ),
        record("KEK", GLOBAL, secured, when, &signature_list(keys.kek)),
        record("PK", GLOBAL, secured, when, &signature_list(keys.pk)),
        record(
            "SecureBootEnable",
            SECURE_BOOT_ENABLE,
            NON_VOLATILE_BOOT,
            never,
            &[1],
        ),
        record("CustomMode", CUSTOM_MODE, NON_VOLATILE_BOOT, never, &[0]),
    ];
    for record in records {
        let Some(place) = store.get_mut(at..at + record.len()) else {
            bail!("the variable store is too small");
        };
        place.copy_from_slice(&record);
        at = (at + record.len()).next_multiple_of(4);
    }
    Ok(store)
}

/// Where the first record goes: right after the headers of the volume and of the store.
fn first_record(template: &[u8]) -> Result<usize> {
    ensure!(
        template.get(40..44) == Some(b"_FVH"),
        "not a firmware volume: no _FVH signature"
    );
    let volume_header = usize::from(u16::from_le_bytes([template[48], template[49]]));
    let store = template.get(volume_header..).unwrap_or_default();
    ensure!(
        store.get(..16) == Some(&AUTH_STORE),
        "not an authenticated variable store"
    );
    ensure!(
        store.get(STORE_HEADER..STORE_HEADER + 2) == Some(&[0xff, 0xff]),
        "the variable store is not empty"
    );
    Ok(volume_header + STORE_HEADER)
}

/// AUTHENTICATED_VARIABLE_HEADER, name and data.
fn record(name: &str, vendor: Guid, attributes: u32, timestamp: [u8; 16], data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut record = Vec::new();
    record.extend(0x55aa_u16.to_le_bytes());
    record.extend([0x3f, 0]); // state: added; reserved
    record.extend(attributes.to_le_bytes());
    record.extend(0_u64.to_le_bytes()); // monotonic count: unused with timestamps
    record.extend(timestamp);
    record.extend(0_u32.to_le_bytes()); // public key index: unused with timestamps
    record.extend((name.len() as u32).to_le_bytes());
    record.extend((data.len() as u32).to_le_bytes());
    record.extend(vendor);
    record.extend(name);
    record.extend(data);
    record
}

/// EFI_SIGNATURE_LIST with one X.509 certificate.
fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let entry = 16 + certificate.len() as u32;
    let mut list = Vec::new();
    list.extend(CERT_X509);
    list.extend((28 + entry).to_le_bytes());
    list.extend(0_u32.to_le_bytes());
    list.extend(entry.to_le_bytes());
    list.extend(OWNER);
    list.extend(certificate);
    list
}

/// EFI_TIME at midnight UTC.
fn time(year: u16, month: u8, day: u8) -> [u8; 16] {
    let mut time = [0; 16];
    time[..2].copy_from_slice(&year.to_le_bytes());
    time[2] = month;
    time[3] = day;
    time
}

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_store() -> Vec<u8> {
        let mut store = vec![0xff; 4096];
        store[..72].fill(0);
        store[40..44].copy_from_slice(b"_FVH");
        store[48..50].copy_from_slice(&72_u16.to_le_bytes());
        store[72..88].copy_from_slice(&AUTH_STORE);
        store
    }

    #[test]
    fn enrols_all_three_keys_and_turns_secure_boot_on() {
        let keys = Keys {
            pk: b"pk-der",
            kek: b"kek-der",
            db: b"db-der",
        };
        let store = enroll(&empty_store(), &keys).unwrap();
        for text in ["pk-der", "kek-der", "db-der"] {
            assert!(
                store.windows(text.len()).any(|w| w == text.as_bytes()),
                "{text}"
            );
        }
        let name: Vec<u8> = "SecureBootEnable\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let at = store.windows(name.len()).position(|w| w == name).unwrap();
        assert_eq!(store[at + name.len()], 1);
    }

    #[test]
    fn refuses_what_is_not_an_empty_store() {
        let keys = Keys {
            pk: b"p",
            kek: b"k",
            db: b"d",
        };
        assert!(enroll(b"", &keys).is_err());
        assert!(enroll(&[0; 4096], &keys).is_err());
        let enrolled = enroll(&empty_store(), &keys).unwrap();
        assert!(enroll(&enrolled, &keys).is_err());
        assert!(enroll(&empty_store()[..120], &keys).is_err());
    }
}
