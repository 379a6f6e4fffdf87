//! Payloads of more than 2, 4 and 8 GiB, where numbers of 31, 32 and 33 bits end, and payloads that
//! are cut off anywhere. Files are sparse, so nothing of that size is ever written.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use lab::canary::{Canary, outcome};
use lab::forge::{Forged, Piece, entry, file, header, link, listed, pax, sparse};
use lab::{Lab, Watcher};
use xupg_images::filelist::Kind;
use xupg_images::manifest::{Digest, Part};

const SIZES: [u64; 3] = [(2 << 30) + 1, (4 << 30) + 1, (8 << 30) + 4097];

#[test]
fn files_beyond_every_width_of_numbers_come_back_exactly() {
    let lab = Lab::new();
    fs::create_dir(lab.path("dom0")).unwrap();
    // What is written where: at both ends, and across every place at which a number could end.
    let marks = |size: u64| {
        [0, (1_u64 << 31) - 3, (1 << 32) - 3, (1 << 33) - 3, size - 6]
            .into_iter()
            .filter(move |at| at + 6 <= size)
    };
    for size in SIZES {
        let file = File::create(lab.path("dom0").join(size.to_string())).unwrap();
        file.set_len(size).unwrap();
        for at in marks(size) {
            file.write_all_at(b"across", at).unwrap();
        }
    }
    let bundle = lab.bundle(r#"{"domain":"dom0","source":"dom0"}"#);
    assert!(fs::metadata(&bundle).unwrap().len() < 1 << 20);
    // The seal compares every byte with the signed digests.
    let staged = lab.stage(&bundle, &Watcher::default()).unwrap();
    staged.finish().unwrap();
    lab.in_slot(|root| {
        for size in SIZES {
            let file = File::open(root.join(size.to_string())).unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!(meta.len(), size);
            assert!(meta.blocks() < 256, "{size}: {} blocks", meta.blocks());
            for at in marks(size) {
                let mut read = [0; 6];
                file.read_exact_at(&mut read, at).unwrap();
                assert_eq!(&read, b"across", "{size} at {at}");
            }
        }
    });
}

#[test]
fn a_lie_about_a_size_is_refused() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    let hollow = |real: u64| {
        let map = format!("1\n{real}\n0\n");
        Forged::files(&[sparse(&map, 0, real.to_string().as_bytes())])
    };
    let mut rows = Vec::new();
    for real in SIZES {
        // The signed list says what is left of the size in 31, 32 and 33 bits.
        for bits in [31, 32, 33] {
            let size = real & ((1 << bits) - 1);
            let sha256 = Digest::of(&[0; 4097][..size.min(4097) as usize]);
            let list = vec![listed(b"s", Kind::File { size, sha256 })];
            if size != real {
                rows.push((hollow(real).with(|f| f.list = Some(list)), "its size"));
            }
        }
        rows.push((hollow(real).with(|f| f.data = real), "stream can hold"));
        let plain = |size| header(b"x", b'0', size, 0o644, b"");
        rows.push((Forged::files(&[plain(real)]), "not the signed 0"));
        let size = real.to_string();
        let records: [(&[u8], &[u8]); 1] = [(b"size", size.as_bytes())];
        for other in [0, real & 0x7fff_ffff, real - 1] {
            let tar = pax(&records, &plain(other));
            rows.push((Forged::files(&[tar]), "sizes disagree"));
        }
        let map = format!("1\n{real}\n1\n");
        let beyond = sparse(&map, 1, real.to_string().as_bytes());
        rows.push((
            Forged::files(&[beyond]).with(|f| f.data = 1),
            "beyond its end",
        ));
    }
    rows.push((hollow(1 << 62), "larger than ext4 takes"));
    rows.push((hollow(u64::MAX), "more than a file can have"));
    for (at, (dom0, reason)) in rows.into_iter().enumerate() {
        let row = format!("row {at}");
        let error = outcome(&lab, &lab.forge(&dom0, None)).expect_err(&row);
        assert!(error.contains(reason), "{row}: {error} and not `{reason}`");
        canary.check(&lab, &row);
    }
}

#[test]
fn ten_million_entries_are_refused_before_anything_is_written() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    // The stream is long enough for them: 1,250 frames of 4 MiB, which nobody has to decode.
    let dom0 = Forged::files(&[vec![0; 4 << 20]]).with(|f| {
        f.endless = true;
        f.repeats = 1_249;
        f.entries = 10_000_000;
    });
    let error = outcome(&lab, &lab.forge(&dom0, None)).unwrap_err();
    assert!(error.contains("the slot"), "{error}");
    let slot = fs::metadata(lab.path("slot.img")).unwrap();
    assert_eq!(slot.blocks(), 0, "not a byte was written");
    canary.check(&lab, "10 million entries");
}

#[test]
fn a_payload_that_is_cut_off_anywhere_is_refused() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    // Entries that make the stream longer than what is claimed of the others, however they are cut.
    let value = [b'v'; 3500];
    let records: [(&[u8], &[u8]); 1] = [(b"SCHILY.xattr.user.filler", &value)];
    let filler: Vec<u8> = (0..6)
        .flat_map(|n| pax(&records, &file(format!("f{n}").as_bytes())))
        .collect();
    let name: (&[u8], &[u8]) = (b"path", b"x");
    let map = "2\n0\n4096\n8192\n512\n";
    let cut = [
        entry(b"g", b'0', &[1; 700]),
        link(b"l", b'2', b"x"),
        sparse(map, 4608, b"8704"),
        pax(&[name], &entry(b"x", b'0', &[2; 1024])),
        file(b"z"),
        vec![0; 1024],
    ]
    .concat();
    let dom0 = |cut: &[u8]| {
        Forged::files(&[]).with(|f| {
            f.pieces = vec![Piece {
                part: Part::Files,
                continues: None,
                tar: [&filler, cut].concat(),
            }];
            f.entries = 11;
            f.data = 700 + 1024 + 4608;
            f.endless = true;
        })
    };
    outcome(&lab, &lab.forge(&dom0(&cut), None)).unwrap();
    for blocks in 0..cut.len() / 512 {
        let dom0 = dom0(&cut[..blocks * 512]);
        let error = outcome(&lab, &lab.forge(&dom0, None)).unwrap_err();
        let told = ["cut off", "does not end", "not end as it should"];
        assert!(
            told.iter().any(|reason| error.contains(reason)),
            "after {blocks} blocks: {error}"
        );
        canary.check(&lab, "cut off");
    }
}
