//! The ceiling on memory: whatever a rightly signed bundle is or claims, staging it takes at most
//! 64 MiB. Each bundle is staged by a process of its own, whose peak the kernel tells.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // In functions that tests share, too.

mod keys;
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::forge::{Forged, Piece, dir, empty_file, file, header, pax, sparse, sparse_named};
use lab::{Lab, Watcher, honest};
use xupg_images::manifest::Part;
use xupg_images::stage::{self, StageTarget};
use xupg_images::{Bundle, TrustStore};

/// Names the folder of a [`Lab`]: this process is the one that stages, and nothing else.
const STAGE_IN: &str = "XUPG_TEST_STAGE_IN";
const CEILING_KIB: u64 = 64 << 10;

#[test]
fn staging_takes_at_most_64_mib_whatever_the_bundle_is() {
    if let Some(folder) = std::env::var_os(STAGE_IN) {
        let ended = stage_in(&PathBuf::from(folder));
        println!("\nended: {}", ended.err().unwrap_or("well".to_owned()));
        println!("peak: {}", peak_kib());
        return;
    }
    let lab = Lab::new();
    big_and_good(&lab);
    for (row, dom0, reason) in rows() {
        fs::write(lab.path("release.xupg"), lab.forge(&dom0, None)).unwrap();
        lab.empty_slot(4 << 30);
        measure(&lab, row, reason);
    }
}

fn stage_in(folder: &Path) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string().replace('\n', " ");
    let trust = TrustStore::load(&folder.join("trust")).map_err(|e| told(&e))?;
    let file = File::open(folder.join("release.xupg")).map_err(|e| told(&e))?;
    let bundle = Bundle::open(file, &trust).map_err(|e| told(&e))?;
    let target = StageTarget {
        slot: folder.join("slot.img"),
        region: None,
        mountpoint: folder.join("slot"),
        active_root: folder.join("active"),
        seal: true,
    };
    stage::write_release(bundle, &target, &Watcher::default())
        .and_then(stage::StagedRoot::finish)
        .map_err(|e| told(&e))
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

/// Stages the lab's `release.xupg` in another process; it must end as `reason` says.
fn measure(lab: &Lab, row: &str, reason: &str) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args([
            "--exact",
            "staging_takes_at_most_64_mib_whatever_the_bundle_is",
        ])
        .arg("--nocapture")
        .env(STAGE_IN, lab.path(""))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.unwrap_or_else(|| panic!("{row}: {text}")).to_owned()
    };
    let (ended, peak) = (told("ended: "), told("peak: ").parse::<u64>().unwrap());
    println!("{row}: {peak} KiB, {ended}");
    assert!(ended.contains(reason), "{row}: {ended} and not `{reason}`");
    assert!(peak <= CEILING_KIB, "{row}: {peak} KiB");
}

/// Three domains: many small files, large ones that cannot be packed, one of a gibibyte with holes.
fn big_and_good(lab: &Lab) {
    let mut state = 1_u64;
    let mut noise = vec![0; 48 << 20];
    for bytes in noise.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    for domain in ["dom0", "web", "db"] {
        let tree = lab.path(domain);
        for folder in 0..20 {
            let folder = tree.join(folder.to_string());
            fs::create_dir_all(&folder).unwrap();
            for n in 0..100 {
                fs::write(folder.join(n.to_string()), n.to_string().repeat(500)).unwrap();
            }
        }
        fs::write(tree.join("noise"), &noise).unwrap();
        fs::write(tree.join("even"), vec![7; 64 << 20]).unwrap();
    }
    let holes = File::create(lab.path("dom0/holes")).unwrap();
    holes.set_len(1 << 30).unwrap();
    for n in 0..4000 {
        holes.write_all_at(&noise[..4096], n * (256 << 10)).unwrap();
    }
    let image = r#""image":{"bytes":201326592}"#;
    lab.bundle(&format!(
        r#"{{"domain":"dom0","source":"dom0"}},{{"domain":"web","source":"web",{image}}},
           {{"domain":"db","source":"db",{image}}}"#
    ));
    lab.empty_slot(1 << 30);
    measure(lab, "big and good", "well");
}

type Row = (&'static str, Forged, &'static str);

fn rows() -> Vec<Row> {
    let one = |tar: Vec<u8>| Forged::files(&[tar]);
    let at_frame =
        |packed: fn(usize, Vec<u8>) -> Vec<u8>| one(file(b"x")).with(|f| f.packed = packed);
    let text = |bytes: usize| vec![b'1'; bytes];
    let numbers: String = (0..200_000).map(|n| format!("{}\n1\n", n * 4096)).collect();
    vec![
        (
            "a window of 2 GiB",
            at_frame(|n, b| match n {
                1 => vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 0, 0, 0, 0, 0],
                _ => b,
            }),
            "too large a window",
        ),
        (
            "a frame that is 256 MiB and says so",
            at_frame(|n, b| if n == 1 { bomb(true) } else { b }),
            "another size",
        ),
        (
            "a frame that is 256 MiB and says nothing",
            at_frame(|n, b| if n == 1 { bomb(false) } else { b }),
            "frame 1",
        ),
        (
            "a list with a line of 256 MiB",
            at_frame(|n, b| match n {
                0 => {
                    let list = bomb(false);
                    let length = u32::try_from(list.len()).unwrap().to_le_bytes();
                    [&0x184D_2A58_u32.to_le_bytes()[..], &length, &list].concat()
                }
                _ => b,
            }),
            "list",
        ),
        (
            "a name of 3 MiB",
            one(pax(&[(b"path", &text(3 << 20))], &file(&text(100)))),
            "too long",
        ),
        (
            "a pax header of 3 MiB",
            one(pax(&[(b"comment", &text(3 << 20))], &file(b"x"))),
            "not one of the format",
        ),
        (
            "a pax header that claims 8 GiB",
            one([header(b"p", b'x', 8 << 30, 0o644, b""), file(b"x")].concat()),
            "cut off",
        ),
        (
            "a map of 200,000 extents",
            one(sparse(&format!("200000\n{numbers}"), 0, b"819200000")),
            "too many extents",
        ),
        (
            "a map that claims as many extents as there are numbers",
            one(sparse("18446744073709551615\n", 0, b"819200000")),
            "too many extents",
        ),
        ("maps of 16,000 extents", maps(), "its size"),
        (
            "a million entries claimed",
            million(),
            "not end as it should",
        ),
        ("50,000 entries in 50,000 frames", frames(), "well"),
        (
            "as many frames as a manifest can have",
            most_frames(),
            "2 entries",
        ),
        (
            "patterns without end",
            one(file(b"x")).with(|f| f.preserve = vec![String::new(); 2_750_000]),
            "at most 1024 patterns",
        ),
        ("70,000 directories in one", side_by_side(6), "well"),
        (
            "70,000 directories in one, by long names",
            side_by_side(180),
            "more directories in it",
        ),
        ("150,000 files in one directory", one_directory(), "well"),
        ("a tree of 1,300 levels", levels(), "well"),
        ("100,000 names of 50,000 files", linked(2), "well"),
        (
            "70,000 names of one file",
            linked(70_000),
            "more names than ext4 takes",
        ),
        (
            "attributes of 3 KiB for 4,000 entries",
            attributes(),
            "well",
        ),
    ]
}

/// 256 MiB of zeros, as a frame.
fn bomb(says_so: bool) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    if says_so {
        encoder.set_pledged_src_size(Some(256 << 20)).unwrap();
    }
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), 256 << 20),
        &mut encoder,
    )
    .unwrap();
    encoder.finish().unwrap()
}

/// Files with nearly as many holes as the format has, ten in a frame.
fn maps() -> Forged {
    let numbers: String = (0..16_000).map(|n| format!("{}\n0\n", n * 4096)).collect();
    let map = format!("16000\n{numbers}");
    let pieces = (0..40).map(|frame| Piece {
        part: Part::Files,
        continues: None,
        tar: (0..10)
            .flat_map(|n| {
                let name = format!("s{frame:02}.{n}");
                sparse_named(name.as_bytes(), &map, 0, b"65536000")
            })
            .collect(),
    });
    Forged::files(&[]).with(|f| {
        f.entries = 400;
        f.pieces = pieces.collect();
        // All of them are made before the last one is found to be another.
        let mut list = honest::list(&f.pieces);
        list[399].kind = empty_file();
        f.list = Some(list);
    })
}

/// The stream is long enough for a million, and nothing but zeros.
fn million() -> Forged {
    Forged::files(&[vec![0; 4 << 20]]).with(|f| {
        f.entries = 1_000_000;
        f.endless = true;
        f.repeats = 127;
    })
}

fn frames() -> Forged {
    let names = (0..50_000).map(|n| file(format!("{n:06}").as_bytes()));
    Forged::in_frames(Part::Files, &names.collect::<Vec<_>>(), 1)
}

/// A manifest of nearly 8 MiB.
fn most_frames() -> Forged {
    Forged::files(&[file(b"x")]).with(|f| {
        f.endless = true;
        f.repeats = 79_000;
    })
}

/// Files with so many names each.
fn linked(names: usize) -> Forged {
    let files = if names == 2 { 50_000 } else { 1 };
    let name = |file: usize, name: usize| format!("{file:06}.{name:06}").into_bytes();
    let first = (0..files).map(|n| file(&name(n, 0)));
    let more = (0..files)
        .flat_map(|n| (1..names).map(move |more| (n, more)))
        .map(|(n, more)| header(&name(n, more), b'1', 0, 0o644, &name(n, 0)));
    let first = Forged::in_frames(Part::Files, &first.collect::<Vec<_>>(), 4_000);
    let more = Forged::in_frames(Part::Links, &more.collect::<Vec<_>>(), 4_000);
    first.with(|f| {
        f.pieces.extend(more.pieces);
        f.entries += more.entries;
    })
}

fn one_directory() -> Forged {
    let names = (0..150_000).map(|n| file(format!("{n:06}").as_bytes()));
    Forged::in_frames(Part::Files, &names.collect::<Vec<_>>(), 4_000)
}

fn side_by_side(length: usize) -> Forged {
    let names = (0..70_000).map(|n| {
        let name = format!("{n:0>length$}/").into_bytes();
        let header = dir(&name);
        if length < 100 {
            header
        } else {
            pax(&[(b"path", &name)], &header)
        }
    });
    Forged::in_frames(Part::Directories, &names.collect::<Vec<_>>(), 2_000)
}

fn levels() -> Forged {
    let path = |level: usize| [b"d/".repeat(level - 1), b"d".to_vec()].concat();
    let entries: Vec<Vec<u8>> = (1..=1300)
        .map(|level| {
            let name = [&path(level)[..], b"/"].concat();
            pax(&[(b"path", &name)], &dir(&name))
        })
        .collect();
    Forged::parts(&entries, &[], &[])
}

fn attributes() -> Forged {
    let value = vec![b'v'; 3000];
    let entries = (0..4000).map(|n| {
        let entry = file(format!("{n:06}").as_bytes());
        pax(&[(b"SCHILY.xattr.user.x", &value)], &entry)
    });
    Forged::in_frames(Part::Files, &entries.collect::<Vec<_>>(), 800)
}
