//! Whatever comes, in whatever order: e2fsck has nothing to say about what is finished.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::image::{self, Shape};

/// What a payload may do next.
#[derive(Debug, Clone)]
enum Step {
    Enter(usize),
    Leave,
    /// Length of the name, and extents in blocks: a hole, then content.
    File(usize, Vec<(u64, u64)>),
    Symlink(usize),
    Device(u32, u32),
    /// A file with so many further names, which follow it.
    Linked(u32),
}

/// A step, and the attributes of what it makes: lengths of name and value.
type Entry = (Step, Vec<(usize, usize)>);

fn step() -> impl Strategy<Value = Step> {
    let length = 1..=255_usize;
    prop_oneof![
        3 => length.clone().prop_map(Step::Enter),
        3 => Just(Step::Leave),
        6 => (length, prop::collection::vec((0..9_u64, 0..5_u64), 0..12))
            .prop_map(|(name, extents)| Step::File(name, extents)),
        2 => (1..=4095_usize).prop_map(Step::Symlink),
        1 => (0..0x1000_u32, 0..0x10_0000_u32).prop_map(|(major, minor)| Step::Device(major, minor)),
        2 => (1..9_u32).prop_map(Step::Linked),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let attributes = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec((1..200_usize, 0..700_usize), 1..5),
    ];
    (step(), attributes)
}

/// A name of about this length that was not there before.
fn name(number: usize, length: usize) -> Vec<u8> {
    let number = number.to_string();
    let fill = length.saturating_sub(number.len());
    [number.as_bytes(), &vec![b'n'; fill][..]].concat()
}

/// Takes all steps; ends where there is no room, as a stage does.
fn fill(image: &Path, entries: &[Entry]) -> Result<(), FillError> {
    let disk = Arc::new(Disk::open(image, None)?);
    let mut fill = Fill::begin(&disk, None)?;
    let mut content = Content::new();
    let mut depth = 0;
    for (number, (step, attributes)) in entries.iter().enumerate() {
        let attributes: Vec<(Vec<u8>, Vec<u8>)> = attributes
            .iter()
            .enumerate()
            .map(|(at, (name, value))| {
                let name = format!("trusted.{at}{:a>name$}", "").into_bytes();
                (name, vec![b'v'; *value])
            })
            .collect();
        let xattrs: Vec<(&[u8], &[u8])> = attributes
            .iter()
            .map(|(name, value)| (&name[..name.len().min(200)], &value[..]))
            .collect();
        let meta = Meta {
            mode: 0o640,
            uid: 70_000,
            gid: 3,
            mtime: Mtime {
                seconds: number as i64,
                nanos: 7,
            },
            xattrs: &xattrs,
        };
        match step {
            Step::Enter(length) => {
                fill.enter(&name(number, *length), &meta)?;
                depth += 1;
            }
            Step::Leave if depth > 0 => {
                fill.leave()?;
                depth -= 1;
            }
            Step::Leave => {}
            Step::File(length, blocks) => {
                let mut at = 0;
                let mut stored = Vec::new();
                for (hole, content) in blocks {
                    at += hole * BLOCK as u64;
                    stored.push((at, content * BLOCK as u64));
                    at += content * BLOCK as u64;
                }
                let name = name(number, *length);
                let (_, extents) = fill.file(&name, &meta, at, 0, stored.iter().copied())?;
                for (offset, bytes) in stored {
                    content.put(&disk, &extents, offset, &vec![0x5A; bytes as usize])?;
                }
                content.flush(&disk)?;
            }
            Step::Symlink(length) => {
                let node = Node::Symlink(&b"t".repeat(*length));
                fill.node(&name(number, 9), &meta, 0, node)?;
            }
            Step::Device(major, minor) => {
                let node = Node::BlockDevice(*major, *minor);
                fill.node(&name(number, 9), &meta, 0, node)?;
            }
            Step::Linked(more) => {
                let (file, _) = fill.file(&name(number, 9), &meta, 0, *more, [].into_iter())?;
                for link in 0..*more {
                    let link = format!("{number}.{link}");
                    fill.link(link.as_bytes(), file)?;
                }
            }
        }
    }
    fill.finish()
}

fn e2fsck(image: &Path) -> Result<(), String> {
    let out = Command::new("e2fsck")
        .args([OsStr::new("-fn"), image.as_os_str()])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status.success().then_some(()).ok_or(said)
}

#[test]
fn names_are_found_whatever_sign_their_bytes_have() {
    for flag in ["1", "2"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, vec![0; 8 << 20]).unwrap();
        let shape = Shape {
            bytes: 8 << 20,
            entries: 600,
        };
        image::make(&path, None, shape).unwrap();
        // As a machine has made it whose `char` has a sign, and one whose has none.
        let request = format!("ssv flags {flag}");
        let set = Command::new("debugfs")
            .args(["-w", "-R", &request])
            .arg(&path)
            .output();
        assert!(set.unwrap().status.success());
        let disk = Arc::new(Disk::open(&path, None).unwrap());
        let mut fill = Fill::begin(&disk, None).unwrap();
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime {
                seconds: 0,
                nanos: 0,
            },
            xattrs: &[],
        };
        for number in 0..600_u32 {
            let odd = [0x80 | number as u8, 0xff, (number * 7) as u8 | 0x80];
            let name = [&odd[..], number.to_string().as_bytes()].concat();
            fill.node(&name, &meta, 0, Node::Fifo).unwrap();
        }
        fill.finish().unwrap();
        assert_eq!(e2fsck(&path), Ok(()), "flags {flag}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_finished_is_sound(entries in prop::collection::vec(entry(), 0..400), blocks in 600..9000_u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        // Nothing of what was there may come back to light.
        std::fs::write(&path, vec![0xA5; blocks as usize * BLOCK]).unwrap();
        let shape = Shape { bytes: blocks * BLOCK as u64, entries: 400 };
        image::make(&path, None, shape).unwrap();
        match fill(&path, &entries) {
            Ok(()) => prop_assert_eq!(e2fsck(&path), Ok(())),
            Err(FillError::Full | FillError::NoInodes) => {}
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}
