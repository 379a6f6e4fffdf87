//! What the fuzz targets call: each function takes any bytes, must not panic, and checks what has to
//! hold of everything that is accepted. With the feature `fuzzing` only.

use crate::bundle::{Bundle, fuzz_frame, verify};
use crate::filelist::{Reader, Writer};
use crate::manifest::{Digest, FileList, Manifest};
use crate::{signature, stage};

/// The manifest and its check. What is accepted is written down and read again as the same.
///
/// # Panics
/// When a property does not hold: that is the find.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else {
        return;
    };
    assert!(
        manifest.check().is_ok(),
        "a parsed manifest is a checked one"
    );
    let again = serde_json::to_vec(&manifest).map(|text| Manifest::parse(&text).ok());
    assert!(
        matches!(again, Ok(Some(again)) if again == manifest),
        "a manifest changes when it is written and read"
    );
}

/// The outer tar, the manifest in it, and all payloads' frames and lists; nobody has to have signed.
pub fn bundle(bytes: &[u8]) {
    let bytes = with_checksums(bytes);
    if let Ok(mut bundle) = Bundle::open_unverified(&bytes[..]) {
        // Its result is an error of the bundle, or everything was in order.
        let _ = verify(&mut bundle, &mut |_| {});
    }
}

/// The CMS that stands in `manifest.sig`, taken apart as it is before OpenSSL sees it.
pub fn signature(bytes: &[u8]) {
    signature::fuzz_parts(bytes);
}

/// One frame whose bytes are the signed ones. The first four bytes are the size that the manifest
/// gives it, the lowest bit of the fifth tells a list's frame from one of the stream.
///
/// # Panics
/// When the decoder gives another size than the signed one.
pub fn frame(bytes: &[u8]) {
    fuzz_frame(bytes);
}

/// The file list. What is accepted to the end is the only way to write that tree down.
///
/// # Panics
/// When a list that is accepted is not what the writer makes of its entries.
pub fn file_list(bytes: &[u8]) {
    let signed = FileList {
        sha256: Digest::of(bytes),
        bytes: bytes.len() as u64,
    };
    let Ok(entries) = Reader::new(bytes, signed).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let written = Writer::new(Vec::new()).and_then(|mut writer| {
        entries.iter().try_for_each(|entry| writer.add(entry))?;
        Ok(writer.finish().1)
    });
    assert!(
        written.is_ok_and(|text| text == bytes),
        "there is a second way to write this tree down"
    );
}

/// One decoded frame of a tar stream: headers, pax records, sparse maps.
///
/// # Panics
/// When an entry comes out that could leave the root or reach beyond its file.
pub fn tar(bytes: &[u8]) {
    stage::fuzz_tar(&with_checksums(bytes));
}

/// The entries of one decoded frame, made in a small file system in step with a list that has the
/// same ones.
///
/// # Panics
/// When e2fsck has something to say about a file system that was filled to the end.
pub fn unpack(bytes: &[u8]) {
    stage::fuzz_unpack(&with_checksums(bytes));
}

/// Mends the checksum of whatever may be a tar header: every change of a header would be refused for
/// it, and what comes after would hardly be tried.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}
