use proptest::prelude::*;

use super::*;
use crate::manifest::{Digest, FileList};

fn write(entries: &[Entry]) -> (Vec<u8>, FileList) {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for entry in entries {
        writer.add(entry).unwrap();
    }
    let (list, text) = writer.finish();
    (text, list)
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: 0o755,
        uid: 0,
        gid: 4_000_000_000,
        mtime: Mtime {
            seconds: -5,
            nanos: 0,
        },
        kind,
        xattrs: Vec::new(),
    }
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let digest = Digest::of(b"hi");
    let mut file = entry(
        b"a/\xff \\:\n",
        Kind::File {
            size: 2,
            sha256: digest,
        },
    );
    file.mtime.nanos = 7;
    file.xattrs = vec![
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, b' ']),
        (b"user.a:b".to_vec(), Vec::new()),
    ];
    let entries = [
        entry(b".", Kind::Directory),
        entry(b"a", Kind::Directory),
        file,
        entry(b"a.b", Kind::CharDevice(1, 3)),
        entry(b"b", Kind::BlockDevice(8, 1 << 19)),
        entry(b"f", Kind::Fifo),
        entry(b"h", Kind::HardLink(b"a.b".to_vec())),
        entry(b"l", Kind::Symlink(b"/\xfe ../x".to_vec())),
    ];
    let (text, list) = write(&entries);
    assert!(text.is_ascii());
    assert_eq!(list.sha256, Digest::of(&text));
    let back: Vec<_> = Reader::new(&text[..], list).map(Result::unwrap).collect();
    assert_eq!(back, entries);
    let packed = zstd::encode_all(&text[..], 3).unwrap();
    let back = Reader::open_packed(&packed[..], list)
        .unwrap()
        .map(Result::unwrap);
    assert!(back.eq(entries));
}

#[test]
fn anything_but_the_signed_text_is_refused() {
    let (text, list) = write(&[entry(b".", Kind::Directory), entry(b"a", Kind::Fifo)]);
    for changed in [
        &b""[..],
        &text[..text.len() - 1],
        &text[..20],
        &[&text[..], &b"\n"[..]].concat(),
        &[&text[..], &text[12..]].concat(),
        &text.to_ascii_uppercase(),
    ] {
        assert!(Reader::new(changed, list).any(|entry| entry.is_err()));
    }
}

#[test]
fn there_is_one_way_to_write_an_entry() {
    for bad in [
        "f 0644 0 0 0 a size=1",
        "f 644 0 0 0 a",
        "p 0644 00 0 0 a",
        "p 0644 0 0 0.000000000 a",
        "p 0644 0 0 1.5 a",
        "p 0644 0 0 1.5000000000 a",
        "p 0644 0 0 1.+00000001 a",
        "p 0644 0 0 1. a",
        "p 0644 0 0 -0 a",
        "p 0644 0 0 +1 a",
        "p 0644 0 0 01 a",
        "p 0644 0 0 - a",
        "p 0644 0 0 9223372036854775808 a",
        "p 0644 0 0 -9223372036854775809 a",
        "p 0644 +0 0 0 a",
        "p 0644  0 0 0 a",
        "p 00644 0 0 0 a",
        "p 0648 0 0 0 a",
        "P 0644 0 0 0 a",
        "pp 0644 0 0 0 a",
        "p 0644 0 0 0 a:b",
        "p 0644 0 0 0 a\u{e9}",
        "p 0644 0 0 0 a\tb",
        "p 0644 0 0 0 a\\",
        "p 0644 0 0 0 a\\x0",
        "p 0644 0 0 0 a\\X0a",
        "p 0644 0 0 0 a link=b",
        "d 0755 0 0 0 a size=1",
        "c 0644 0 0 0 a device=01:3",
        "c 0644 0 0 0 a device=1:3:",
        "c 0644 0 0 0 a device=1:4294967296",
        "f 0644 0 0 0 a size=1 sha256=",
        "f 0644 0 0 0 a size=9223372036854775808 sha256=0000000000000000000000000000000000000000000000000000000000000000",
        "f 0644 0 0 0 a size=18446744073709551616 sha256=0000000000000000000000000000000000000000000000000000000000000000",
        "f 0644 0 0 0 a size=1 sha256=000000000000000000000000000000000000000000000000000000000000000",
        "f 0644 0 0 0 a size=1 sha256=00000000000000000000000000000000000000000000000000000000000000000",
        "f 0644 0 0 0 a size=1 sha256=A000000000000000000000000000000000000000000000000000000000000000",
        "p 0644 0 0 0 \\x61",
        "p 0644 0 0 0 a\\x0A",
        "p 0644 0 0 0 ../a",
        "p 0644 0 0 0 /a",
        "p 0644 0 0 0 a//b",
        "p 0644 0 0 0 a\\x00b",
        "p 0644 0 0 0 .",
        "p 10644 0 0 0 a",
        "p +644 0 0 0 a",
        "p 0644 0 0 0 a ",
        "p 0644 0 0 0 a xattr=b: xattr=a:",
        "p 0644 0 0 0 a xattr=a: xattr=a:",
        "p 0644 0 0 0 a xattr=:",
        "p 0644 -1 0 0 a",
        "p 0644 4294967296 0 0 a",
        "h 0644 0 0 0 a link=../b",
        "h 0644 0 0 0 a link=a",
        "l 0777 0 0 0 a link=",
        "c 0644 0 0 0 a device=1",
        "x 0644 0 0 0 a",
        "",
    ] {
        assert!(Entry::read_line(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn paths_sort_as_a_walk_meets_them() {
    let walk: [&[u8]; 6] = [b".", b"a", b"a/b", b"a/b/c", b"a b", b"a.b"];
    for pair in walk.windows(2) {
        assert!(path_order(pair[0], pair[1]).is_lt(), "{pair:?}");
    }
}

#[test]
fn the_ends_of_every_range_come_back() {
    let zeros = "0".repeat(64);
    for line in [
        "p 0000 0 0 -9223372036854775808.999999999 a".to_owned(),
        "p 7777 4294967295 4294967295 9223372036854775807.000000001 a".to_owned(),
        format!("f 0644 0 0 -1 a size=0 sha256={zeros}"),
        format!("f 0644 0 0 10 a size=9223372036854775807 sha256={zeros} xattr=a:\\x00b"),
        "b 0644 0 0 0 a device=4294967295:0".to_owned(),
    ] {
        let mut again = Vec::new();
        let entry = Entry::read_line(line.as_bytes()).unwrap();
        entry.write_line(&mut again);
        assert_eq!(again.escape_ascii().to_string(), line.replace('\\', "\\\\"));
    }
}

proptest! {
    #[test]
    fn a_line_with_a_change_has_one_form_or_none(which in 0..5usize, at in 0..200usize, gone in 0..3usize, put in "[0-9a-fx:. \\\\+=-]{0,3}") {
        let line = [
            "p 0644 0 12 -1700000000.250000000 etc/a\\x20name",
            "f 0755 0 0 1700000000 b size=120 sha256=98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4",
            "c 0666 0 0 0 dev/null device=1:3",
            "l 0777 10 0 5 bin link=usr/bin xattr=user.a:\\x01b xattr=user.b:",
            "h 4755 0 0 7.000000010 usr/bin/p link=usr/bin/q",
        ][which];
        let mut line = line.as_bytes().to_vec();
        let at = at % (line.len() + 1);
        let end = (at + gone).min(line.len());
        line.splice(at..end, put.bytes());
        if let Ok(entry) = Entry::read_line(&line) {
            let mut again = Vec::new();
            entry.write_line(&mut again);
            prop_assert_eq!(again, line);
        }
    }

    #[test]
    fn the_reader_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..100usize) {
        let (mut text, mut list) = write(&[entry(b".", Kind::Directory), entry(b"a", Kind::Fifo)]);
        let at = at.min(text.len());
        text.splice(at.., bytes);
        list.bytes = text.len() as u64;
        let _ = Reader::new(&text[..], list).count();
    }

    #[test]
    fn any_name_is_kept(name in proptest::collection::vec(1..=255u8, 1..100), target in proptest::collection::vec(1..=255u8, 1..100)) {
        prop_assume!(is_normal_path(&name) && name != b".");
        let one = [entry(&name, Kind::Symlink(target))];
        let (text, list) = write(&one);
        let back: Vec<_> = Reader::new(&text[..], list).map(Result::unwrap).collect();
        prop_assert_eq!(&back[..], &one[..]);
    }
}
