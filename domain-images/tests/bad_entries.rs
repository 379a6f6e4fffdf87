//! What a payload may try although it is rightly signed. Every row is a real bundle, is refused for
//! its reason, and leaves everything outside of the image as it was.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use lab::Lab;
use lab::canary::{Canary, outcome};
use lab::forge::{
    Forged, Piece, dir, empty_file, entry, file, header, link, listed, pax, sparse, sum,
};
use xupg_images::filelist::{Entry, Kind};
use xupg_images::manifest::{Digest, Mode, Part};

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
            "not in the signed list",
        ),
        (
            "link over a file",
            Forged::files(&[file(b"l"), link(b"l", b'2', b"x")]),
            "not in the signed list",
        ),
        (
            "file twice",
            Forged::files(&[file(b"x"), file(b"x")]),
            "not in the signed list",
        ),
        (
            "link twice",
            Forged::files(&[link(b"x", b'2', b"a"), link(b"x", b'2', b"b")]),
            "not in the signed list",
        ),
        (
            "file over a directory",
            Forged::parts(&[dir(b"x/")], &[file(b"x")], &[]),
            "not in the signed list",
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
        ("hard link through a link", via, "not there"),
        ("hard link to nothing", hard(b"b"), "not there"),
        (
            "hard link to a directory",
            Forged::parts(&[dir(b"d/")], &[], &[link(b"h", b'1', b"d")]),
            "to a directory",
        ),
        (
            "hard link over a file",
            Forged::parts(&[], &[file(b"a"), file(b"h")], &[link(b"h", b'1', b"a")]),
            "not in the signed list",
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
        (
            "xattr larger than the file system takes",
            with_pax(b"SCHILY.xattr.user.x", &big[..60_000]),
            "attribute",
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
            one(sparse("1\n0\n4096\n", 1024, b"4096")).with(|f| f.data = 1024),
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
            // Both are counted: which worker comes first must not matter.
            pieces(vec![piece(None, half.clone()), piece(None, file(b"y"))])
                .with(|f| f.entries = 2),
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

/// What ext4 cannot keep, or not there.
fn beyond_ext4() -> Vec<Row> {
    let one = |tar: Vec<u8>| Forged::files(&[tar]);
    let with_pax = |key: &[u8], value: &[u8], entry: &[u8]| one(pax(&[(key, value)], entry));
    let devices = |f: &mut Forged| f.allow.devices = true;
    let acl = |entries: &[[u8; 8]]| [&2_u32.to_le_bytes()[..], &entries.concat()].concat();
    let entry_of = |tag: u8, rights: u8| [tag, 0, rights, 0, 0xff, 0xff, 0xff, 0xff];
    let of_acl =
        |value: &[u8]| with_pax(b"SCHILY.xattr.system.posix_acl_access", value, &file(b"x"));
    let list = "access control list";
    vec![
        (
            "map inside of a block",
            one(sparse("1\n512\n512\n", 512, b"4096")).with(|f| f.data = 512),
            "whole blocks",
        ),
        (
            "major number of 13 bits",
            one(patched(
                header(b"c", b'3', 0, 0o644, b""),
                329,
                b"0010000\0",
            ))
            .with(devices),
            "out of range",
        ),
        (
            "minor number of 21 bits",
            one(patched(
                header(b"b", b'4', 0, 0o644, b""),
                337,
                b"4000000\0",
            ))
            .with(devices),
            "out of range",
        ),
        (
            "the year 5138",
            with_pax(b"mtime", b"99999999999", &file(b"x")),
            "none that ext4 can keep",
        ),
        (
            "the year 1899",
            with_pax(b"mtime", b"-2208988801", &file(b"x")),
            "none that ext4 can keep",
        ),
        ("ACL that is none", of_acl(b"junk"), list),
        ("ACL without entries", of_acl(&acl(&[])), list),
        (
            "ACL without others",
            of_acl(&acl(&[entry_of(1, 6), entry_of(4, 4)])),
            list,
        ),
        (
            "ACL out of order",
            of_acl(&acl(&[entry_of(4, 4), entry_of(1, 6), entry_of(0x20, 4)])),
            list,
        ),
        (
            "ACL with a user and no mask",
            of_acl(&acl(&[
                entry_of(1, 6),
                entry_of(2, 6),
                entry_of(4, 4),
                entry_of(0x20, 4),
            ])),
            list,
        ),
        (
            "default ACL of a file",
            with_pax(
                b"SCHILY.xattr.system.posix_acl_default",
                &acl(&[entry_of(1, 6), entry_of(4, 4), entry_of(0x20, 4)]),
                &file(b"x"),
            ),
            list,
        ),
        (
            "attribute of a user on a link",
            with_pax(b"SCHILY.xattr.user.x", b"y", &link(b"l", b'2', b"x")),
            "only files and directories",
        ),
        (
            "attribute of another file system",
            with_pax(b"SCHILY.xattr.btrfs.x", b"y", &file(b"x")),
            "does not keep",
        ),
        (
            "a file by the name of mke2fs's own",
            one(file(b"lost+found")),
            "taken already",
        ),
        (
            "hard link before its file",
            Forged::parts(&[], &[file(b"z")], &[link(b"a", b'1', b"z")]),
            "not there",
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
    let one = |list: Vec<Entry>| Forged::files(&[file(b"x")]).with(|f| f.list = Some(list));
    let x = || listed(b"x", empty_file());
    let changed = |change: fn(&mut Entry)| {
        let mut entry = x();
        change(&mut entry);
        one(vec![entry])
    };
    vec![
        (
            "directory not listed",
            Forged::parts(&[dir(b"d/")], &[], &[]).with(|f| f.list = Some(vec![])),
            "not in the signed list",
        ),
        (
            "directory listed and not there",
            one(vec![listed(b"d", Kind::Directory), x()]),
            "in the signed list and not in the payload",
        ),
        (
            "hard link listed and not there",
            one(vec![x(), listed(b"y", Kind::HardLink(b"x".to_vec()))]),
            "not there",
        ),
        (
            "hard link to another file",
            Forged::parts(&[], &[file(b"a"), file(b"b")], &[link(b"h", b'1', b"a")]).with(|f| {
                let mut link = listed(b"h", Kind::HardLink(b"b".to_vec()));
                link.mode = 0o777;
                f.list = Some(vec![
                    listed(b"a", empty_file()),
                    listed(b"b", empty_file()),
                    link,
                ]);
            }),
            "its target",
        ),
        ("not listed", one(vec![]), "not in the signed list"),
        (
            "listed and not there",
            one(vec![x(), listed(b"y", empty_file())]),
            "in the signed list and not in the payload",
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
                f.list = Some(vec![listed(
                    b"x",
                    Kind::File {
                        size: 3,
                        sha256: Digest::of(b"abd"),
                    },
                )]);
            }),
            "content",
        ),
        (
            "another target",
            Forged::files(&[link(b"x", b'2', b"a")])
                .with(|f| f.list = Some(vec![listed(b"x", Kind::Symlink(b"b".to_vec()))])),
            "its target",
        ),
        (
            "another inode",
            Forged::files(&[file(b"a"), file(b"x")]).with(|f| {
                f.list = Some(vec![
                    listed(b"a", empty_file()),
                    listed(b"x", Kind::HardLink(b"a".to_vec())),
                ]);
            }),
            "not there",
        ),
    ]
}

#[test]
fn every_row_is_refused_for_its_reason_and_touches_nothing_outside() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    let rows: Vec<Row> = [
        names(&lab),
        kinds(&lab),
        claims(),
        beyond_ext4(),
        frames(),
        lists(),
    ]
    .concat();
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

#[test]
fn on_top_of_a_guests_image_no_row_touches_anything_outside() {
    let lab = Lab::new();
    let image = lab.path("active/var/lib/xupg/images/web.img");
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    keys::run("mke2fs", &["-q", "-t", "ext4", image.to_str().unwrap()]);
    let canary = Canary::set(&lab);
    let nothing = Forged::files(&[Vec::new()]).with(|f| f.entries = 0);
    let mut refused = 0;
    let rows: Vec<Row> = [names(&lab), kinds(&lab), claims(), beyond_ext4()].concat();
    for (row, web, _) in &rows {
        let web = lab.forge(&nothing, Some((web, Mode::Overlay)));
        // Some are no sin there: a second file by one name replaces the first.
        refused += usize::from(outcome(&lab, &web).is_err());
        canary.check(&lab, row);
    }
    assert!(refused > rows.len() * 3 / 4, "{refused} of {}", rows.len());
}
