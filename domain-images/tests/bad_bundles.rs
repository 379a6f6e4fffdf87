//! Bundles that must be refused, each with its reason, and signatures that must or must not hold.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;

use std::fs;

use keys::Keys;
use proptest::prelude::*;
use xupg_images::bundle::create::Options;
use xupg_images::bundle::{
    Bundle, BundleSpec, NewSignature, Present, ReadError, VerifyError, create, resign, verify,
};
use xupg_images::signature::SignatureError;
use xupg_images::{Manifest, TrustStore};

/// A small bundle of dom0 and `web`.
fn small(keys: &Keys, signer: &xupg_images::signature::SigningKey) -> Vec<u8> {
    for name in ["a", "b"] {
        let tree = keys.path(name);
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/hostname"), name).unwrap();
    }
    let text = r#"{"schema":1,"release":"2.0","compatible":"test","floor":"1.0","epoch":1700000000,
        "payloads":[{"domain":"dom0","source":"a"},
                    {"domain":"web","source":"b","image":{"bytes":8388608}}]}"#;
    let spec = BundleSpec::load(&keys::write(&keys.path(""), "spec.json", text)).unwrap();
    let out = keys.path("small.xupg");
    create(&spec, signer, &out, &Options::default(), &mut |_| {}).unwrap();
    fs::read(out).unwrap()
}

fn read_all(bytes: &[u8], trust: &TrustStore) -> Result<(), VerifyError> {
    let mut bundle = Bundle::open(bytes, trust)?;
    verify(&mut bundle, &mut |_| {}).map(drop)
}

/// Where the members' headers and data lie.
fn members(bytes: &[u8]) -> Vec<(usize, usize, usize)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let data = entry.raw_file_position() as usize;
            (data - 512, data, data + entry.size() as usize)
        })
        .collect()
}

fn reason(error: &VerifyError) -> &'static str {
    let VerifyError::Read(error) = error else {
        return "list";
    };
    match error {
        ReadError::Input(_) => "input",
        ReadError::Truncated(_) => "truncated",
        ReadError::Malformed(_) => "malformed",
        ReadError::Member { .. } => "member",
        ReadError::Size { .. } => "size",
        ReadError::Signature(SignatureError::Malformed(_)) => "signature malformed",
        ReadError::Signature(SignatureError::Bad(_)) => "signature bad",
        ReadError::Signature(SignatureError::Untrusted { .. }) => "stranger",
        ReadError::Signature(SignatureError::Purpose(_)) => "purpose",
        ReadError::Signature(SignatureError::Expired { .. }) => "expired",
        ReadError::Manifest(_) => "manifest",
        ReadError::Frame { .. } => "frame",
        ReadError::TrailingData => "trailing",
        ReadError::Unfinished(_) => "unfinished",
    }
}

#[test]
fn every_lie_is_refused_for_its_reason() {
    let keys = Keys::new();
    let trust = keys.store();
    let good = small(&keys, &keys.key("vendor"));
    read_all(&good, &trust).unwrap();
    let at = members(&good);
    let padded = |end: usize| end.next_multiple_of(512);
    let whole = |index: usize| at[index].0..padded(at[index].2);
    let flip = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        bytes
    };
    let cut = |place: usize| good[..place].to_vec();
    let order = |indices: &[usize]| {
        let mut bytes: Vec<u8> = Vec::new();
        indices
            .iter()
            .for_each(|index| bytes.extend(&good[whole(*index)]));
        bytes.extend([0; 1024]);
        bytes
    };
    let sized = |index: usize, size: u64| {
        let mut bytes = good.clone();
        let mut header = tar::Header::new_old();
        header
            .as_mut_bytes()
            .copy_from_slice(&good[at[index].0..at[index].1]);
        header.set_size(size);
        header.set_cksum();
        bytes[at[index].0..at[index].1].copy_from_slice(header.as_bytes());
        bytes
    };
    let last = |index: usize| at[index].2 - 1;
    let mut table = vec![
        ("manifest's first byte", flip(at[0].1), "signature bad"),
        ("manifest's last byte", flip(last(0)), "signature bad"),
        (
            "signature's first byte",
            flip(at[1].1),
            "signature malformed",
        ),
        ("signature's last byte", flip(last(1)), "signature bad"),
        ("dom0's first byte", flip(at[2].1), "frame"),
        ("dom0's last byte", flip(last(2)), "frame"),
        ("web's first byte", flip(at[3].1), "frame"),
        ("web's last byte", flip(last(3)), "frame"),
        ("a header", flip(at[2].0), "malformed"),
        ("padding", flip(last(3) + 1), "malformed"),
        ("signature first", order(&[1, 0, 2, 3]), "member"),
        ("web before dom0", order(&[0, 1, 3, 2]), "member"),
        ("no signature", order(&[0, 2, 3]), "member"),
        ("no web", order(&[0, 1, 2]), "member"),
        ("nothing but the end", order(&[]), "member"),
        ("dom0 twice", order(&[0, 1, 2, 2, 3]), "member"),
        ("web twice", order(&[0, 1, 2, 3, 3]), "trailing"),
        ("two manifests", order(&[0, 0, 1, 2, 3]), "member"),
        ("something behind", [&good[..], b"x"].concat(), "trailing"),
        (
            "another bundle behind",
            [&good[..], &good[..]].concat(),
            "trailing",
        ),
        ("no end", cut(padded(at[3].2)), "truncated"),
        ("half an end", cut(padded(at[3].2) + 512), "truncated"),
        ("nothing", Vec::new(), "truncated"),
        ("no tar", vec![b'x'; 4096], "malformed"),
        (
            "manifest of 8 MiB and a byte",
            sized(0, (8 << 20) + 1),
            "size",
        ),
        ("manifest of 8 GiB", sized(0, 8 << 30), "size"),
        ("manifest longer than it is", sized(0, 8 << 20), "truncated"),
        ("signature of 64 KiB and a byte", sized(1, 65_537), "size"),
    ];
    for size in [
        0,
        1,
        2 << 30,
        (2 << 30) + 1,
        4 << 30,
        (8 << 30) + 1,
        u64::MAX,
    ] {
        table.push(("dom0's size", sized(2, size), "size"));
    }
    for (header, data, end) in &at {
        for place in [*header, header + 1, *data, data + 1, end - 1] {
            table.push(("cut", cut(place), "truncated"));
        }
        if padded(*end) != *end {
            table.push(("cut in the padding", cut(*end), "truncated"));
        }
    }
    let manifest = Manifest::parse(&good[at[0].1..at[0].2]).unwrap();
    for (payload, (_, data, end)) in manifest.payloads.iter().zip(&at[2..]) {
        let mut place = *data;
        for frame in &payload.frames {
            for inside in [0, 1, frame.packed as usize / 2] {
                table.push(("cut at a frame", cut(place + inside), "truncated"));
            }
            place += frame.packed as usize;
        }
        assert_eq!(place, *end);
    }
    for (what, bytes, wanted) in table {
        let error = read_all(&bytes, &trust).expect_err(what);
        assert_eq!(reason(&error), wanted, "{what}: {error}");
    }
}

#[test]
fn who_may_sign() {
    let keys = Keys::new();
    keys.authority("stranger");
    keys.signer("thief", "stranger", &[], "now", "30");
    keys.signer(
        "server",
        "ca",
        &["extendedKeyUsage=serverAuth"],
        "now",
        "30",
    );
    keys.signer("old", "ca", &[], "past", "");
    keys.signer(
        "middle",
        "ca",
        &["basicConstraints=critical,CA:TRUE"],
        "now",
        "30",
    );
    keys.signer("below", "middle", &[], "now", "30");
    keys.signer("plain", "ca", &[], "now", "30");
    let by = |signer: &str, chain: &[&str]| small(&keys, &keys.key_with_chain(signer, chain));
    let judge = |bytes: &[u8], trust: &TrustStore| match read_all(bytes, trust) {
        Ok(()) => "trusted",
        Err(error) => reason(&error),
    };
    let trust = keys.store();
    assert_eq!(judge(&by("vendor", &[]), &trust), "trusted");
    assert_eq!(judge(&by("plain", &[]), &trust), "trusted");
    assert_eq!(judge(&by("thief", &[]), &trust), "stranger");
    assert_eq!(judge(&by("thief", &["stranger"]), &trust), "stranger");
    assert_eq!(judge(&by("server", &[]), &trust), "purpose");
    assert_eq!(judge(&by("old", &[]), &trust), "expired");
    assert_eq!(judge(&by("below", &[]), &trust), "stranger");
    assert_eq!(judge(&by("below", &["middle"]), &trust), "trusted");

    // A node that has accepted something signed in 2090 does not believe a certificate of 30 days.
    let later = keys.store().not_before(3_786_912_000);
    assert_eq!(judge(&by("plain", &[]), &later), "expired");
    keys.policy(r#"{"schema":1,"expiry":"ignore"}"#);
    assert_eq!(judge(&by("old", &[]), &keys.store()), "trusted");
    keys.policy(r#"{"schema":1,"expiry":"clock"}"#);
    assert_eq!(judge(&by("old", &[]), &keys.store()), "expired");
    assert_eq!(judge(&by("plain", &[]), &keys.store()), "trusted");
    for bad in [
        "",
        "{}",
        r#"{"schema":2,"expiry":"ignore"}"#,
        r#"{"schema":1,"expiry":"never"}"#,
    ] {
        keys.policy(bad);
        assert!(TrustStore::load(&keys.path("trust")).is_err(), "{bad}");
    }
}

#[test]
fn one_of_several_signers_is_enough() {
    let keys = Keys::new();
    keys.authority("next");
    keys.signer("new", "next", &[], "now", "30");
    let old = small(&keys, &keys.key("vendor"));
    let again = |input: &[u8], present| {
        let out = keys.path("again.xupg");
        resign(input, &NewSignature::Key(&keys.key("new")), present, &out).unwrap();
        fs::read(out).unwrap()
    };
    let both = again(&old, Present::Keep);
    let only_new = again(&old, Present::Replace);
    let trust = keys.store();
    read_all(&both, &trust).unwrap();
    let error = read_all(&only_new, &trust).unwrap_err();
    assert_eq!(reason(&error), "stranger");

    fs::remove_file(keys.path("trust/ca.pem")).unwrap();
    keys.trust("next");
    let trust = keys.store();
    read_all(&both, &trust).unwrap();
    read_all(&only_new, &trust).unwrap();
    assert_eq!(reason(&read_all(&old, &trust).unwrap_err()), "stranger");
    assert_eq!(
        Bundle::open(&both[..], &trust)
            .ok()
            .unwrap()
            .signers()
            .len(),
        1
    );
}

#[test]
fn the_next_payload_waits_for_this_one() {
    let keys = Keys::new();
    let good = small(&keys, &keys.key("vendor"));
    let mut bundle = Bundle::open(&good[..], &keys.store()).ok().unwrap();
    assert!(bundle.next_payload().unwrap().is_some());
    assert!(matches!(
        bundle.next_payload(),
        Err(ReadError::Unfinished(_))
    ));
}

#[test]
fn changed_bytes_never_panic_and_never_pass() {
    let keys = Keys::new();
    let trust = keys.store();
    let good = small(&keys, &keys.key("vendor"));
    let at = members(&good);
    let covered = |place: usize| {
        at.iter()
            .any(|(_, data, end)| (*data..*end).contains(&place))
    };
    let change = (0..good.len(), 1..=255_u8);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    let outcome = runner.run(&change, |(place, by)| {
        let mut bytes = good.clone();
        bytes[place] ^= by;
        let refused = read_all(&bytes, &trust).is_err();
        // Outside members' data there are fields, like times, that say nothing. In the signature
        // there may be too, but then it is still the same signer's over the same manifest.
        let in_signature = (at[1].1..at[1].2).contains(&place);
        prop_assert!(refused || !covered(place) || in_signature);
        Ok(())
    });
    outcome.unwrap();
}
