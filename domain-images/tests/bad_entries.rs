//! What a payload may try although it is rightly signed. Every row is a real bundle, is refused for
//! its reason, and leaves everything outside of the image as it was.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use keys::run;
use lab::forge::{Forged, Piece, entry, header, link, pax, sum};
use lab::{Lab, Watcher};
use xupg_images::bundle::Bundle;
use xupg_images::filelist::{Entry, Kind, Mtime};
use xupg_images::manifest::{Digest, Mode, Part};
use xupg_images::stage;

/// Stages the bundle into a fresh slot and says how that ended.
fn outcome(lab: &Lab, bundle: &[u8]) -> Result<(), String> {
    lab.empty_slot(16 << 20);
    let bundle = Bundle::open(bundle, &lab.trust()).map_err(|error| error.to_string())?;
    stage::write_release(bundle, &lab.target(), &Watcher::default())
        .and_then(stage::StagedRoot::finish)
        .map_err(|error| error.to_string())
}

/// Everything outside that an entry could aim at.
struct Canary(Vec<u8>);

impl Canary {
    fn look(lab: &Lab) -> Vec<u8> {
        let (victim, active) = (lab.path("victim"), lab.path("active"));
        let all = format!(
            "find {0} {1} /etc/passwd -printf '%p %y %m %U %G %T@ %n %s %l\\n' && \
             find {0} {1} /etc/passwd -type f -exec sha256sum {{}} + && ls -A / /etc",
            victim.display(),
            active.display()
        );
        run("bash", &["-c", &all])
    }

    fn set(lab: &Lab) -> Self {
        fs::create_dir_all(lab.path("victim")).unwrap();
        fs::write(lab.path("victim/file"), b"untouched").unwrap();
        Self(Self::look(lab))
    }

    fn check(&self, lab: &Lab, row: &str) {
        assert!(
            self.0 == Self::look(lab),
            "{row}: something outside was touched"
        );
    }
}

fn dir(name: &[u8]) -> Vec<u8> {
    header(name, b'5', 0, 0o755, b"")
}

fn file(name: &[u8]) -> Vec<u8> {
    header(name, b'0', 0, 0o644, b"")
}

/// A header with one field overwritten.
fn patched(mut block: Vec<u8>, at: usize, text: &[u8]) -> Vec<u8> {
    block[at..at + text.len()].copy_from_slice(text);
    sum(&mut block);
    block
}

/// Adds three entries without data, so that the stream is long enough for what the manifest says of
/// the others.
fn filled(mut payload: Forged) -> Forged {
    let value = [b'v'; 3500];
    let records: [(&[u8], &[u8]); 1] = [(b"SCHILY.xattr.user.filler", &value)];
    let fillers = [b"f", b"g", b"h"].map(|name| pax(&records, &file(name)));
    payload.entries += 3;
    let first = Piece {
        part: Part::Files,
        continues: None,
        tar: fillers.concat(),
    };
    payload.pieces.insert(0, first);
    payload
}

fn sparse(map: &str, size: u64, real: &[u8]) -> Vec<u8> {
    let mut data = map.as_bytes().to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    let stored = data.len() as u64 + size;
    let mut tar = header(b"s", b'0', stored, 0o644, b"");
    tar.extend(data);
    tar.extend(vec![7; size as usize]);
    tar.resize(tar.len().next_multiple_of(512), 0);
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", real),
    ];
    pax(&records, &tar)
}

fn listed(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime {
            seconds: 1,
            nanos: 0,
        },
        kind,
        xattrs: Vec::new(),
    }
}

fn empty_file() -> Kind {
    Kind::File {
        size: 0,
        sha256: Digest::of(b""),
    }
}

/// Rows whose stream alone could not hold what their manifest says, which is refused at once.
const TOO_SHORT: [&str; 8] = [
    "pax header alone",
    "fewer entries than signed",
    "file cut off",
    "nothing goes on",
    "file does not go on",
    "no end",
    "end in the middle",
    "half an end",
];

type Row = (&'static str, Forged, &'static str);

fn names(lab: &Lab) -> Vec<Row> {
    let outside = lab.path("victim");
    let outside = outside.to_str().unwrap().as_bytes();
    let absolute = [outside, b"/new"].concat();
    let one = |tar: Vec<u8>| Forged::files(&[tar]);
    let long = vec![b'n'; 4096];
    let deep = b"d/".repeat(2100);
    let linked = |target: &[u8], then: Vec<u8>| Forged::files(&[link(b"l", b'2', target), then]);
    let twice = Forged::files(&[
        link(b"l", b'2', outside),
        link(b"m", b'2', b"l"),
        file(b"m/new"),
    ]);
    vec![
        ("parent", one(file(b"../new")), "`..`"),
        ("parent inside", one(file(b"a/../../new")), "`..`"),
        ("parent at the end", one(file(b"a/..")), "`..`"),
        (
            "parent alone",
            Forged::parts(&[dir(b"../")], &[], &[]),
            "`..`",
        ),
        ("absolute", one(file(&absolute)), "absolute"),
        (
            "absolute directory",
            Forged::parts(&[dir(b"/x/")], &[], &[]),
            "absolute",
        ),
        (
            "absolute in pax",
            one(pax(&[(b"path", b"/x")], &file(b"/x"))),
            "absolute",
        ),
        (
            "parent in pax",
            one(pax(&[(b"path", b"../x")], &file(b"../x"))),
            "`..`",
        ),
        ("dot in front", one(file(b"./x")), "shortest form"),
        ("double slash", one(file(b"a//x")), "shortest form"),
        ("slash at a file", one(file(b"a/")), "shortest form"),
        ("no name", one(file(b"")), "shortest form"),
        ("a file as root", one(file(b".")), "shortest form"),
        (
            "a NUL in pax",
            one(pax(&[(b"path", b"a\0b")], &file(b"a"))),
            "shortest form",
        ),
        (
            "4096 bytes",
            one(pax(&[(b"path", &long)], &file(&long))),
            "too long",
        ),
        (
            "4200 bytes in parts",
            one(pax(&[(b"path", &deep)], &file(&deep))),
            "too long",
        ),
        (
            "component of 256",
            one(pax(&[(b"path", &long[..256])], &file(&long))),
            "too long",
        ),
        (
            "no directory",
            one(file(b"a/x")),
            "in neither payload nor image",
        ),
        (
            "through a file",
            Forged::files(&[file(b"a"), file(b"a/x")]),
            "goes through a file",
        ),
        (
            "through a link out",
            linked(outside, file(b"l/new")),
            "symbolic link",
        ),
        (
            "through a relative link out",
            linked(b"../../../../tmp", file(b"l/new")),
            "symbolic link",
        ),
        ("through two links", twice, "symbolic link"),
        (
            "over a file through a link",
            linked(outside, file(b"l/file")),
            "symbolic link",
        ),
        (
            "file over a link",
            linked(&absolute, file(b"l")),
            "taken already",
        ),
        (
            "link over a file",
            Forged::files(&[file(b"l"), link(b"l", b'2', b"x")]),
            "taken already",
        ),
        (
            "file twice",
            Forged::files(&[file(b"x"), file(b"x")]),
            "taken already",
        ),
        (
            "link twice",
            Forged::files(&[link(b"x", b'2', b"a"), link(b"x", b'2', b"b")]),
            "taken already",
        ),
        (
            "file over a directory",
            Forged::parts(&[dir(b"x/")], &[file(b"x")], &[]),
            "taken already",
        ),
        (
            "directory twice",
            Forged::parts(&[dir(b"x/"), dir(b"x/")], &[], &[]).with(|f| f.entries = 1),
            "2 entries",
        ),
    ]
}

fn kinds(lab: &Lab) -> Vec<Row> {
    let outside = lab.path("victim/file");
    let outside = outside.to_str().unwrap().as_bytes();
    let one = |tar: Vec<u8>| Forged::files(&[tar]);
    let hard = |target: &[u8]| Forged::parts(&[], &[file(b"a")], &[link(b"h", b'1', target)]);
    let via = Forged::parts(
        &[],
        &[link(
            b"l",
            b'2',
            lab.path("victim").to_str().unwrap().as_bytes(),
        )],
        &[link(b"h", b'1', b"l/file")],
    );
    vec![
        ("hard link out", hard(outside), "absolute"),
        ("hard link to a parent", hard(b"../etc/passwd"), "`..`"),
        ("hard link through a link", via, "symbolic link"),
        ("hard link to nothing", hard(b"b"), "not there"),
        (
            "hard link to a directory",
            Forged::parts(&[dir(b"d/")], &[], &[link(b"h", b'1', b"d")]),
            "to a directory",
        ),
        (
            "hard link over a file",
            Forged::parts(&[], &[file(b"a"), file(b"h")], &[link(b"h", b'1', b"a")]),
            "taken already",
        ),
        (
            "hard link among files",
            one(link(b"h", b'1', b"a")),
            "wrong part",
        ),
        ("directory among files", one(dir(b"d/")), "wrong part"),
        (
            "file among directories",
            Forged::parts(&[file(b"x")], &[], &[]),
            "wrong part",
        ),
        (
            "character device",
            one(header(b"c", b'3', 0, 0o644, b"")),
            "no devices",
        ),
        (
            "block device",
            one(header(b"b", b'4', 0, 0o644, b"")),
            "no devices",
        ),
        ("fifo", one(header(b"p", b'6', 0, 0o644, b"")), "no fifos"),
        (
            "set-user-id",
            one(header(b"x", b'0', 0, 0o4755, b"")),
            "set-user-id",
        ),
        (
            "set-group-id",
            one(header(b"x", b'0', 0, 0o2755, b"")),
            "set-user-id",
        ),
        (
            "file capabilities",
            one(pax(
                &[(b"SCHILY.xattr.security.capability", &[1, 0, 0, 2])],
                &file(b"x"),
            )),
            "no file capabilities",
        ),
        (
            "contiguous file",
            one(header(b"x", b'7', 0, 0o644, b"")),
            "not one of the format",
        ),
        (
            "old sparse file",
            one(header(b"x", b'S', 0, 0o644, b"")),
            "not one of the format",
        ),
        (
            "GNU long name",
            one(entry(b"././@LongLink", b'L', b"x\0")),
            "not one of the format",
        ),
        (
            "global pax header",
            one(header(b"x", b'g', 0, 0o644, b"")),
            "not one of the format",
        ),
        (
            "volume label",
            one(header(b"x", b'V', 0, 0o644, b"")),
            "not one of the format",
        ),
        (
            "old tar",
            one(patched(file(b"x"), 257, &[0; 8])),
            "not of the format",
        ),
        (
            "a prefix",
            one(patched(file(b"x"), 345, b"p")),
            "not of the format",
        ),
        (
            "mode of 13 bits",
            one(patched(file(b"x"), 100, b"0010644\0")),
            "twelve bits",
        ),
        (
            "mode that is none",
            one(patched(file(b"x"), 100, b"xxxxxxx\0")),
            "mode is no number",
        ),
        (
            "time that is none",
            one(patched(file(b"x"), 136, b"xxxxxxx\0")),
            "time is no number",
        ),
        (
            "checksum",
            one({
                let mut h = file(b"x");
                h[0] = b'y';
                h
            }),
            "checksum",
        ),
        (
            "directory with data",
            Forged::parts(&[entry(b"d/", b'5', b"x")], &[], &[]),
            "not a file",
        ),
        (
            "link to nothing",
            one(link(b"l", b'2', b"")),
            "target is empty",
        ),
    ]
}

fn claims() -> Vec<Row> {
    let one = |tar: Vec<u8>| Forged::files(&[tar]);
    let with_pax = |key: &[u8], value: &[u8]| one(pax(&[(key, value)], &file(b"x")));
    let big = vec![b'v'; 65_537];
    let many: Vec<Vec<u8>> = (0..5)
        .map(|n| format!("SCHILY.xattr.user.{n}").into_bytes())
        .collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|k| (&k[..], &big[..60_000])).collect();
    let piece = |continues, tar: Vec<u8>| Piece {
        part: Part::Files,
        continues,
        tar,
    };
    let cut = header(b"x", b'0', 8192, 0o644, b"");
    let half = [cut.clone(), vec![1; 4096]].concat();
    let pieces = |all: Vec<Piece>| {
        one(Vec::new()).with(|f| {
            f.pieces = all;
            f.data = 8192;
        })
    };
    vec![
        (
            "pax name of another file",
            with_pax(b"path", b"y"),
            "names disagree",
        ),
        (
            "pax target of another file",
            one(pax(&[(b"linkpath", b"y")], &link(b"l", b'2', b"x"))),
            "targets disagree",
        ),
        (
            "pax size of another file",
            with_pax(b"size", b"512"),
            "sizes disagree",
        ),
        (
            "pax owner of another",
            with_pax(b"uid", b"7"),
            "owners disagree",
        ),
        (
            "pax group of another",
            with_pax(b"gid", b"7"),
            "groups disagree",
        ),
        (
            "pax record twice",
            one(pax(&[(b"uid", b"0"), (b"uid", b"0")], &file(b"x"))),
            "comes twice",
        ),
        (
            "pax record unknown",
            with_pax(b"comment", b"x"),
            "not one of the format",
        ),
        (
            "pax record malformed",
            one([entry(b"p", b'x', b"99 uid=0\n"), file(b"x")].concat()),
            "malformed",
        ),
        (
            "pax time malformed",
            with_pax(b"mtime", b"soon"),
            "time is no number",
        ),
        (
            "pax header alone",
            one(entry(b"p", b'x', b"8 uid=0\n")).with(|f| f.endless = true),
            "cut off",
        ),
        (
            "xattr of 64 KiB and a byte",
            with_pax(b"SCHILY.xattr.user.x", &big),
            "64 KiB",
        ),
        ("xattrs of 300 KB", one(pax(&many, &file(b"x"))), "256 KiB"),
        (
            "xattr without a name",
            with_pax(b"SCHILY.xattr.", b"x"),
            "cannot be stored",
        ),
        (
            "xattr in no namespace",
            with_pax(b"SCHILY.xattr.x", b"x"),
            "attribute",
        ),
        (
            "sparse map beyond the end",
            one(sparse("1\n0\n4096\n", 4096, b"4095")).with(|f| f.data = 4096),
            "beyond its end",
        ),
        (
            "sparse map overlaps",
            one(sparse("2\n0\n512\n256\n512\n", 1024, b"4096")).with(|f| f.data = 1024),
            "out of order",
        ),
        (
            "sparse map of a million",
            one(sparse("1000000\n", 0, b"4096")),
            "too many extents",
        ),
        (
            "sparse map cut off",
            one(sparse("2\n0\n", 0, b"4096")),
            "malformed or cut off",
        ),
        (
            "sparse map and size differ",
            one(sparse("1\n0\n512\n", 1024, b"4096")).with(|f| f.data = 1024),
            "does not fit its size",
        ),
        (
            "size beyond the payload",
            one(header(b"x", b'0', 8 << 30, 0o644, b"")),
            "not the signed 0",
        ),
        (
            "more data than signed",
            one(entry(b"x", b'0', &[1; 600])).with(|f| f.data = 599),
            "600 bytes of data",
        ),
        (
            "less data than signed",
            one(entry(b"x", b'0', &[1; 500])).with(|f| f.data = 501),
            "500 bytes of data",
        ),
        (
            "more entries than signed",
            Forged::files(&[file(b"x"), file(b"y")]).with(|f| f.entries = 1),
            "2 entries",
        ),
        (
            "fewer entries than signed",
            one(entry(b"x", b'0', &[1; 900])).with(|f| {
                f.entries = 2;
                f.data = 900
            }),
            "4 entries",
        ),
        (
            "10 million entries",
            one(file(b"x")).with(|f| f.entries = 10_000_000),
            "can hold",
        ),
        (
            "file cut off",
            pieces(vec![piece(None, half.clone())]).with(|f| f.endless = true),
            "does not end",
        ),
        (
            "file goes on too early",
            pieces(vec![
                piece(None, half.clone()),
                piece(Some(8192), vec![1; 4096]),
            ]),
            "wrong place",
        ),
        (
            "nothing goes on",
            pieces(vec![
                piece(None, file(b"x")),
                piece(Some(4096), vec![1; 4096]),
            ]),
            "has ended",
        ),
        (
            "file does not go on",
            pieces(vec![piece(None, half.clone()), piece(None, file(b"y"))]),
            "cut off",
        ),
        (
            "padding is used",
            one({
                let mut t = entry(b"x", b'0', b"1");
                t[600] = 1;
                t
            })
            .with(|f| f.data = 1),
            "padding",
        ),
        (
            "no end",
            one(file(b"x")).with(|f| f.endless = true),
            "does not end",
        ),
        (
            "end in the middle",
            pieces(vec![piece(None, vec![0; 1024]), piece(None, file(b"y"))]),
            "does not end",
        ),
        (
            "half an end",
            one([file(b"x"), vec![0; 512]].concat()).with(|f| f.endless = true),
            "not end as it should",
        ),
        (
            "something behind the end",
            one([file(b"x"), vec![0; 1024], file(b"y")].concat()),
            "not end as it should",
        ),
    ]
}

fn frames() -> Vec<Row> {
    let one = |packed: fn(usize, Vec<u8>) -> Vec<u8>| {
        Forged::files(&[file(b"x")]).with(|f| f.packed = packed)
    };
    // Index 0 is the list, 1 the tar.
    vec![
        (
            "not zstd",
            one(|n, b| if n == 1 { vec![7; 64] } else { b }),
            "not a zstd frame",
        ),
        (
            "window of 2 GiB",
            one(|n, b| {
                if n == 1 {
                    vec![
                        0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    ]
                } else {
                    b
                }
            }),
            "too large a window",
        ),
        (
            "two frames in one",
            one(|n, b| if n == 1 { [b.clone(), b].concat() } else { b }),
            "not exactly one",
        ),
        (
            "lies about its size",
            one(|n, b| {
                if n == 1 {
                    zstd::bulk::compress(&[0; 4096], 1).unwrap()
                } else {
                    b
                }
            }),
            "another size",
        ),
        (
            "damaged inside",
            one(|n, mut b| {
                if n == 1 {
                    let at = b.len() - 6;
                    b[at] ^= 0x55;
                }
                b
            }),
            "frame 1",
        ),
        (
            "list is no skippable frame",
            one(|n, b| {
                if n == 0 {
                    zstd::bulk::compress(b"x", 1).unwrap()
                } else {
                    b
                }
            }),
            "not a frame of the file list",
        ),
        (
            "list lies about its length",
            one(|n, mut b| {
                if n == 0 {
                    b[4] ^= 1;
                }
                b
            }),
            "lies about its length",
        ),
        (
            "list is no zstd",
            one(|n, b| {
                if n == 0 {
                    [
                        &0x184D_2A58_u32.to_le_bytes()[..],
                        &4_u32.to_le_bytes()[..],
                        b"junk",
                    ]
                    .concat()
                } else {
                    b
                }
            }),
            "file list",
        ),
    ]
}

fn lists() -> Vec<Row> {
    let one = |list: Vec<Entry>| Forged::files(&[file(b"x")]).with(|f| f.list = list);
    let x = || listed(b"x", empty_file());
    let changed = |change: fn(&mut Entry)| {
        let mut entry = x();
        change(&mut entry);
        one(vec![entry])
    };
    vec![
        ("not listed", one(vec![]), "`x` is there and was not signed"),
        (
            "listed and not there",
            one(vec![x(), listed(b"y", empty_file())]),
            "`y` is missing",
        ),
        ("another mode", changed(|e| e.mode = 0o600), "its mode"),
        ("another owner", changed(|e| e.uid = 5), "its owner"),
        ("another group", changed(|e| e.gid = 5), "its group"),
        ("another time", changed(|e| e.mtime.nanos = 5), "its time"),
        (
            "another size",
            changed(|e| {
                e.kind = Kind::File {
                    size: 1,
                    sha256: Digest::of(b"x"),
                }
            }),
            "its size",
        ),
        ("another type", changed(|e| e.kind = Kind::Fifo), "its type"),
        (
            "an attribute",
            changed(|e| e.xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())]),
            "extended attributes",
        ),
        (
            "another content",
            Forged::files(&[entry(b"x", b'0', b"abc")]).with(|f| {
                f.data = 3;
                f.list = vec![listed(
                    b"x",
                    Kind::File {
                        size: 3,
                        sha256: Digest::of(b"abd"),
                    },
                )];
            }),
            "content",
        ),
        (
            "another target",
            Forged::files(&[link(b"x", b'2', b"a")])
                .with(|f| f.list = vec![listed(b"x", Kind::Symlink(b"b".to_vec()))]),
            "its target",
        ),
        (
            "another inode",
            Forged::files(&[file(b"a"), file(b"x")]).with(|f| {
                f.list = vec![
                    listed(b"a", empty_file()),
                    listed(b"x", Kind::HardLink(b"a".to_vec())),
                ]
            }),
            "inode",
        ),
    ]
}

#[test]
fn every_row_is_refused_for_its_reason_and_touches_nothing_outside() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    let rows: Vec<Row> = [names(&lab), kinds(&lab), claims(), frames(), lists()].concat();
    assert!(rows.len() >= 100, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (row, mut dom0, reason) in rows {
        if TOO_SHORT.contains(&row) {
            dom0 = filled(dom0);
        }
        match outcome(&lab, &lab.forge(&dom0, None)) {
            Err(error) if error.contains(reason) => {}
            other => wrong.push(format!("{row}: {other:?} and not `{reason}`")),
        }
        canary.check(&lab, row);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A payload that is what it says: nothing.
fn nothing() -> Forged {
    Forged::files(&[Vec::new()]).with(|f| f.entries = 0)
}

/// Stages an overlay of `web` over the active image.
fn overlay(lab: &Lab, web: &Forged) -> Result<(), String> {
    outcome(lab, &lab.forge(&nothing(), Some((web, Mode::Overlay))))
}

/// Makes the active image of `web`, with links that lead out if they are followed outside.
fn active_image(lab: &Lab) -> std::path::PathBuf {
    let image = lab.path("active/var/lib/xupg/images/web.img");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&image);
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", image.to_str().unwrap()]);
    lab.in_image(&image, |root| {
        symlink(lab.path("victim"), root.join("out")).unwrap();
        symlink("../../../../../../etc", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("f"), b"x").unwrap();
    });
    image
}

#[test]
fn overlays_stay_inside_the_image_whatever_a_guest_has_left_there() {
    let lab = Lab::new();
    let image = active_image(&lab);
    let canary = Canary::set(&lab);
    let rows = [
        (
            "link out",
            vec![file(b"out/new")],
            "in neither payload nor image",
        ),
        (
            "over a file outside",
            vec![file(b"out/file")],
            "in neither payload nor image",
        ),
        (
            "link up",
            vec![file(b"up/passwd")],
            "in neither payload nor image",
        ),
        ("endless link", vec![file(b"loop/x")], "symbolic link"),
        ("through a file", vec![file(b"f/x")], "through a file"),
        (
            "file over a directory",
            vec![file(b"d")],
            "a directory is in its way",
        ),
        (
            "link over a directory",
            vec![link(b"d", b'2', b"x")],
            "a directory is in its way",
        ),
        (
            "whiteout with content",
            vec![header(b".wh.f", b'0', 9, 0o644, b"")],
            "bytes of data",
        ),
        (
            "whiteout that is a link",
            vec![link(b".wh.f", b'2', b"x")],
            "not an empty file",
        ),
    ];
    for (row, entries, reason) in rows {
        let error = overlay(&lab, &Forged::files(&entries)).expect_err(row);
        assert!(error.contains(reason), "{row}: {error}");
        canary.check(&lab, row);
    }
    for (row, name, reason) in [
        ("whiteout of the parent", &b"d/.wh..."[..], "no whiteout"),
        ("whiteout of itself", b"d/.wh..", "no whiteout"),
        ("whiteout of nothing", b"d/.wh.", "no whiteout"),
    ] {
        let list = vec![listed(name, empty_file())];
        let web = Forged::files(&[file(name)]).with(|f| f.list = list);
        let error = overlay(&lab, &web).expect_err(row);
        assert!(error.contains(reason), "{row}: {error}");
    }
    for name in [&b"out/.wh.file"[..], b"out/.wh..wh..opq", b"up/.wh.passwd"] {
        let list = vec![listed(name, empty_file())];
        let web = Forged::files(&[file(name)]).with(|f| f.list = list);
        overlay(&lab, &web).unwrap();
        canary.check(&lab, "whiteout through a link out");
    }
    for (row, dirs) in [
        ("directory over a link out", b"out/"),
        ("directory over a file", b"f///"),
    ] {
        let name = dirs.strip_suffix(b"//").unwrap_or(dirs);
        let web = Forged::parts(&[dir(name)], &[], &[]);
        let error = overlay(&lab, &web).expect_err(row);
        assert!(error.contains("in its way"), "{row}: {error}");
        canary.check(&lab, row);
    }
    drop(image);
}

#[test]
fn images_that_are_not_what_they_should_be_are_refused() {
    let lab = Lab::new();
    let image = active_image(&lab);
    let web = nothing();
    let second = lab.path("active/second");
    fs::hard_link(&image, &second).unwrap();
    assert!(
        overlay(&lab, &web)
            .unwrap_err()
            .contains("second hard link")
    );
    fs::remove_file(&image).unwrap();
    symlink(&second, &image).unwrap();
    assert!(overlay(&lab, &web).unwrap_err().contains("symbolic link"));
    fs::remove_file(&image).unwrap();
    fs::create_dir(&image).unwrap();
    assert!(
        overlay(&lab, &web)
            .unwrap_err()
            .contains("not a regular file")
    );
    fs::remove_dir(&image).unwrap();
    run("mkfifo", &[image.to_str().unwrap()]);
    assert!(
        overlay(&lab, &web)
            .unwrap_err()
            .contains("not a regular file")
    );
    fs::remove_file(&image).unwrap();
    assert!(overlay(&lab, &web).unwrap_err().contains("No such file"));
    let image = active_image(&lab);
    // A guest has wiped its superblocks.
    fs::write(&image, vec![0x5a; 8 << 20]).unwrap();
    assert!(overlay(&lab, &web).unwrap_err().contains("is damaged"));
}

#[test]
fn a_file_system_that_runs_full_ends_the_stage() {
    let lab = Lab::new();
    let noise = vec![b'n'; 1 << 20];
    let entries: Vec<Vec<u8>> = (0..7)
        .map(|n| entry(format!("{n}").as_bytes(), b'0', &noise))
        .collect();
    // Claims less than it takes, as far as the manifest's own check lets it.
    let image = active_image(&lab);
    lab.in_image(&image, |root| {
        fs::write(root.join("filler"), vec![1; 5 << 20]).unwrap();
    });
    let web = Forged::files(&entries[..3]).with(|f| f.data = 3 << 20);
    let error = overlay(&lab, &web).unwrap_err();
    assert!(error.contains("No space left"), "{error}");
    let image = active_image(&lab);
    lab.in_image(&image, |root| {
        let full = (0..10_000).find(|n| fs::write(root.join(format!("i{n}")), b"").is_err());
        assert!(full.is_some(), "all inodes are taken");
    });
    let error = overlay(&lab, &Forged::files(&[file(b"one-more")])).unwrap_err();
    assert!(error.contains("No space left"), "{error}");
}
