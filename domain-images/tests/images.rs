//! Images that are not what they should be: full, damaged by their guest, in other places than they
//! seem. Every row leaves everything outside of the image as it was.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};

use keys::run;
use lab::Lab;
use lab::canary::{Canary, outcome};
use lab::forge::{Forged, dir, empty_file, entry, file, header, link, listed};
use xupg_images::manifest::Mode;

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
        let web = Forged::files(&[file(name)]).with(|f| f.list = Some(list));
        let error = overlay(&lab, &web).expect_err(row);
        assert!(error.contains(reason), "{row}: {error}");
    }
    for name in [&b"out/.wh.file"[..], b"out/.wh..wh..opq", b"up/.wh.passwd"] {
        let list = vec![listed(name, empty_file())];
        let web = Forged::files(&[file(name)]).with(|f| f.list = Some(list));
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

/// Stages the overlay, which must fail for `reason` and touch nothing outside.
fn refused(lab: &Lab, web: &Forged, row: &str, reason: &str) {
    let canary = Canary::set(lab);
    let error = overlay(lab, web).expect_err(row);
    assert!(error.contains(reason), "{row}: {error}");
    canary.check(lab, row);
}

#[test]
fn images_that_are_not_what_they_should_be_are_refused() {
    let lab = Lab::new();
    let image = active_image(&lab);
    let web = nothing();
    let second = lab.path("active/second");
    fs::hard_link(&image, &second).unwrap();
    refused(&lab, &web, "a second name", "second hard link");
    fs::remove_file(&image).unwrap();
    symlink(&second, &image).unwrap();
    refused(&lab, &web, "a link", "symbolic link");
    fs::remove_file(&image).unwrap();
    fs::create_dir(&image).unwrap();
    refused(&lab, &web, "a directory", "not a regular file");
    fs::remove_dir(&image).unwrap();
    run("mkfifo", &[image.to_str().unwrap()]);
    refused(&lab, &web, "a fifo", "not a regular file");
    fs::remove_file(&image).unwrap();
    refused(&lab, &web, "nothing", "No such file");
}

#[test]
fn images_that_a_guest_has_damaged_are_refused_or_repaired() {
    let lab = Lab::new();
    let web = Forged::files(&[file(b"new")]);
    let image = active_image(&lab);
    fs::write(&image, vec![0x5a; 8 << 20]).unwrap();
    refused(&lab, &web, "no superblock", "is damaged");
    let image = active_image(&lab);
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    damaged(&lab, &web, "cut in two");
    // Two names for one directory, and a directory in itself: what a kernel trusts to be impossible.
    for (row, request) in [
        ("a directory twice", "link d e"),
        ("a directory in itself", "link d d/d"),
        ("links miscounted", "sif f links_count 60000"),
        ("an inode of no type", "sif d mode 0"),
        ("a size beyond all blocks", "sif d size 0x7fffffffffff"),
        ("a block of the superblock's", "sif f block[0] 1"),
        ("the root is free", "freei <2>"),
        ("the root is a file", "sif <2> mode 0100644"),
        ("a feature of tomorrow", "ssv feature_incompat 0x80000000"),
    ] {
        let image = active_image(&lab);
        run("debugfs", &["-w", "-R", request, image.to_str().unwrap()]);
        damaged(&lab, &web, row);
    }
    // The same at any place, always the same places.
    let mut state = 1_u64;
    for round in 0..12 {
        let image = active_image(&lab);
        let file = File::options().write(true).open(&image).unwrap();
        for _ in 0..1 << (round % 6) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Descriptors, bitmaps and inode tables lie in front.
            let at = (state >> 33) % (if round < 6 { 256 << 10 } else { 8 << 20 });
            file.write_all_at(&state.to_le_bytes(), at).unwrap();
        }
        damaged(&lab, &web, &format!("round {round}"));
    }
}

/// Either is right: an error, or an image that e2fsck has put in order and that holds what is new.
fn damaged(lab: &Lab, web: &Forged, row: &str) {
    let canary = Canary::set(lab);
    if overlay(lab, web).is_ok() {
        lab.in_slot(|root| {
            let image = root.join("var/lib/xupg/images/web.img");
            run("e2fsck", &["-fn", image.to_str().unwrap()]);
        });
    }
    canary.check(lab, row);
}

#[test]
fn an_image_is_made_in_no_place_that_dom0s_payload_has_taken() {
    let lab = Lab::new();
    let outside = lab.path("victim");
    let outside = outside.to_str().unwrap().as_bytes();
    let parents = [dir(b"var/"), dir(b"var/lib/"), dir(b"var/lib/xupg/")];
    let folder = [&parents[..], &[dir(b"var/lib/xupg/images/")]].concat();
    let image = b"var/lib/xupg/images/web.img";
    let victim = [outside, b"/file"].concat();
    let rows = [
        (
            "the folder is a link out",
            Forged::parts(
                &parents,
                &[link(b"var/lib/xupg/images", b'2', outside)],
                &[],
            ),
        ),
        (
            "a link up",
            Forged::parts(
                &parents,
                &[link(b"var/lib/xupg/images", b'2', b"../../../../../victim")],
                &[],
            ),
        ),
        (
            "var is a link out",
            Forged::files(&[link(b"var", b'2', outside)]),
        ),
        (
            "the image is a link out",
            Forged::parts(&folder, &[link(image, b'2', &victim)], &[]),
        ),
        (
            "the image is there",
            Forged::parts(&folder, &[file(image)], &[]),
        ),
        (
            "the image is there by two names",
            Forged::parts(
                &folder,
                &[file(b"var/lib/second")],
                &[link(image, b'1', b"var/lib/second")],
            ),
        ),
        (
            "the image is a directory",
            Forged::parts(
                &[&folder[..], &[dir(b"var/lib/xupg/images/web.img/")]].concat(),
                &[],
                &[],
            ),
        ),
    ];
    for mode in [Mode::Replace, Mode::Overlay] {
        active_image(&lab);
        let canary = Canary::set(&lab);
        for (row, dom0) in &rows {
            let web = Forged::files(&[file(b"x")])
                .with(|f| f.list = Some(vec![listed(b"x", empty_file())]));
            let error = outcome(&lab, &lab.forge(dom0, Some((&web, mode)))).expect_err(row);
            assert!(
                !error.contains("stream can hold"),
                "{row} is refused for something else: {error}"
            );
            canary.check(&lab, row);
        }
    }
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
    refused(&lab, &web, "full half-way", "No space left");
    let image = active_image(&lab);
    lab.in_image(&image, |root| {
        let full = (0..10_000).find(|n| fs::write(root.join(format!("i{n}")), b"").is_err());
        assert!(full.is_some(), "all inodes are taken");
        for n in 0..2 {
            fs::remove_file(root.join(format!("i{n}"))).unwrap();
        }
    });
    let web = Forged::files(&[file(b"one"), file(b"two"), file(b"three")]);
    refused(&lab, &web, "out of inodes half-way", "No space left");
}

#[test]
fn a_fresh_file_system_that_runs_full_ends_the_stage() {
    let lab = Lab::new();
    let canary = Canary::set(&lab);
    let names = |count: usize| (0..count).map(|n| format!("{n:06}").into_bytes());
    // A byte takes a block, which the manifest's numbers do not tell.
    let small: Vec<Vec<u8>> = names(1500).map(|n| entry(&n, b'0', b"x")).collect();
    let empty: Vec<Vec<u8>> = names(2500).map(|n| file(&n)).collect();
    for (row, entries, data) in [("blocks", small, 1500), ("inodes", empty, 0)] {
        let web = Forged::files(&entries).with(|f| f.data = data);
        let bundle = lab.forge(&nothing(), Some((&web, Mode::Replace)));
        let error = outcome(&lab, &bundle).expect_err(row);
        assert!(error.contains("No space left"), "{row}: {error}");
        canary.check(&lab, row);
    }
}
