//! Whole releases into slots that are files, read back with stock tools.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use keys::run;
use lab::{Lab, Watcher};
use xupg_images::preserve::carry;
use xupg_images::stage::{Error, Problem};
use xupg_images::verify;

/// A tree with everything that is easily lost.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("/run", root.join("usr/abs")).unwrap();
    symlink("x".repeat(150), root.join("usr/long-target")).unwrap();
    fs::write(root.join("usr/bin/ping"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/ping"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("usr/bin/ping"), root.join("another-ping")).unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    run("setcap", &["cap_net_raw+ep", &path("usr/bin/ping")]);
    let note = ["-n", "user.note", "-v", "a b=c", &path("usr")];
    run("setfattr", &note);
    run("setfacl", &["-m", "u:1234:rw", &path("usr/bin/ping")]);
    run("setfacl", &["-d", "-m", "u:1234:rw", &path("usr")]);
    fs::create_dir_all(root.join("usr/share")).unwrap();
    fs::write(root.join("usr/share/plain"), b"no inherited acl").unwrap();
    run("setfacl", &["-b", &path("usr/share/plain")]);
    fs::create_dir_all(root.join("dev")).unwrap();
    run("mknod", &["-m", "620", &path("dev/null"), "c", "1", "3"]);
    run("mknod", &[&path("dev/sda"), "b", "8", "0"]);
    run("mkfifo", &[&path("dev/initctl")]);
    let odd: &[u8] = b"caf\xe9 \n\\";
    fs::write(root.join(std::ffi::OsStr::from_bytes(odd)), b"odd").unwrap();
    let deep = root.join("d".repeat(120)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), b"").unwrap();
    std::os::unix::fs::chown(deep.join("f"), Some(3_000_000_000), Some(65_534)).unwrap();
    fs::set_permissions(&deep, PermissionsExt::from_mode(0o2511)).unwrap();
    let old = ["-h", "-d", "1960-01-02 03:04:05.25 UTC", &path("bin")];
    run("touch", &old);
    // Large, not compressible, and so many frames; its length is no multiple of anything.
    let mut noise = Vec::new();
    let mut state = 1_u32;
    for _ in 0..2_300_001 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.extend_from_slice(&state.to_be_bytes());
    }
    noise.extend_from_slice(b"xyz");
    fs::write(root.join("usr/big"), &noise).unwrap();
    let sparse = File::create(root.join("usr/sparse")).unwrap();
    sparse.set_len((64 << 20) + 5).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&noise[..5 << 20], 32 << 20).unwrap();
    sparse.write_all_at(b"end", (64 << 20) + 2).unwrap();
    for n in 0..400 {
        fs::write(root.join(format!("usr/share/{n}")), n.to_string()).unwrap();
    }
}

/// Everything that `lstat` and friends tell about a tree.
fn describe(root: &Path) -> Vec<String> {
    let root = root.to_str().unwrap();
    let all = "-path ./lost+found -prune -o -path ./var -prune -o";
    let find = format!(
        "cd {root} && find . {all} -printf '%P %y %m %U %G %T@ %l\\0' && \
         find . {all} \\( -type c -o -type b \\) -exec stat -c '%n %t %T' {{}} + && \
         find . {all} -type f -printf '%s %n %P\\0' && \
         find . {all} -print0 | xargs -0 getfattr -hd -m - && \
         find . {all} -type f -exec sha256sum {{}} + "
    );
    let text = run("bash", &["-c", &find]);
    let mut all: Vec<String> = text
        .split(|b| matches!(b, 0 | b'\n'))
        .map(|piece| piece.escape_ascii().to_string())
        .collect();
    all.sort();
    all
}

const EVERYTHING: &str = r#""allow":{"devices":true,"fifos":true,"setuid":true}"#;

#[test]
fn a_release_comes_back_exactly() {
    let lab = Lab::new();
    make_tree(&lab.path("dom0"));
    make_tree(&lab.path("web"));
    // A stage puts files of its own into these, whose times are signed like all others.
    for folder in ["release", "images"] {
        fs::create_dir_all(lab.path("dom0/var/lib/xupg").join(folder)).unwrap();
    }
    let bundle = lab.bundle(&format!(
        r#"{{"domain":"dom0","source":"dom0",{EVERYTHING}}},
           {{"domain":"web","source":"web","image":{{"bytes":67108864}},{EVERYTHING}}}"#
    ));
    let watcher = Watcher::default();
    let staged = lab.stage(&bundle, &watcher).unwrap();
    assert!(staged.path().join("usr/big").exists());
    staged.finish().unwrap();
    // One payload is sealed while the next one is unpacked.
    for domain in ["dom0", "web"] {
        let events = watcher.events.lock().unwrap();
        let own: Vec<&str> = events
            .iter()
            .filter_map(|event| event.strip_suffix(domain))
            .collect();
        assert_eq!(own, ["preparing ", "sealing ", "sealed "], "{domain}");
    }
    run("e2fsck", &["-fn", lab.path("slot.img").to_str().unwrap()]);
    let dom0 = describe(&lab.path("dom0"));
    let (slot, web) = lab.in_slot(|root| {
        let image = root.join("var/lib/xupg/images/web.img");
        run("e2fsck", &["-fn", image.to_str().unwrap()]);
        assert!(root.join("var/lib/xupg/release/manifest.sig").exists());
        let blocks = fs::metadata(root.join("usr/sparse")).unwrap().blocks();
        assert!(blocks * 512 < 6 << 20, "holes stay holes");
        (describe(root), lab.in_image(&image, describe))
    });
    assert_eq!(dom0, slot);
    assert_eq!(describe(&lab.path("web")), web);
}

#[test]
fn an_overlay_adds_replaces_and_deletes() {
    let lab = Lab::new();
    fs::create_dir(lab.path("dom0")).unwrap();
    let image = lab.path("active/var/lib/xupg/images/web.img");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", image.to_str().unwrap()]);
    lab.in_image(&image, |root| {
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/srv/data", root.join("data")).unwrap();
        fs::create_dir_all(root.join("srv/data/old/deep")).unwrap();
        fs::create_dir_all(root.join("var/cache/a")).unwrap();
        fs::write(root.join("var/cache/a/x"), b"x").unwrap();
        fs::write(root.join("keep"), b"guest").unwrap();
        fs::write(root.join("usr/bin/tool"), b"1").unwrap();
        fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/other")).unwrap();
        fs::write(root.join("gone"), b"x").unwrap();
    });
    let before = fs::read(&image).unwrap();
    let web = lab.path("web");
    // `bin` is a directory in the payload and a link in the image.
    fs::create_dir_all(web.join("bin")).unwrap();
    fs::write(web.join("bin/tool"), b"2").unwrap();
    fs::create_dir_all(web.join("data")).unwrap();
    fs::write(web.join("data/new"), b"n").unwrap();
    fs::write(web.join("data/.wh.old"), b"").unwrap();
    fs::write(web.join(".wh.gone"), b"").unwrap();
    fs::write(web.join(".wh.never-was"), b"").unwrap();
    fs::create_dir_all(web.join("var/cache/b")).unwrap();
    fs::write(web.join("var/cache/.wh..wh..opq"), b"").unwrap();
    let payloads = r#"{"domain":"dom0","source":"dom0"},
        {"domain":"web","source":"web","mode":"overlay","image":{"bytes":50331648}}"#;
    let bundle = lab.bundle(payloads);
    let watcher = Watcher::default();
    lab.stage(&bundle, &watcher).unwrap().finish().unwrap();
    assert!(
        watcher
            .events
            .lock()
            .unwrap()
            .contains(&"before overlay".into())
    );
    assert_eq!(
        before,
        fs::read(&image).unwrap(),
        "the active image is untouched"
    );
    lab.in_slot(|root| {
        let image = root.join("var/lib/xupg/images/web.img");
        assert_eq!(fs::metadata(&image).unwrap().len(), 48 << 20);
        run("e2fsck", &["-fn", image.to_str().unwrap()]);
        lab.in_image(&image, |root| {
            assert!(root.join("bin").is_symlink());
            assert_eq!(fs::read(root.join("usr/bin/tool")).unwrap(), b"2");
            assert_eq!(fs::read(root.join("usr/bin/other")).unwrap(), b"1");
            assert_eq!(fs::read(root.join("srv/data/new")).unwrap(), b"n");
            assert!(!root.join("srv/data/old").exists());
            assert!(!root.join("gone").exists());
            assert_eq!(fs::read(root.join("keep")).unwrap(), b"guest");
            assert!(!root.join("var/cache/a").exists());
            assert!(root.join("var/cache/b").is_dir());
        });
    });
    assert!(
        !Path::new("/srv/data/new").exists(),
        "nothing left the image"
    );
}

#[test]
fn domains_that_do_not_rest_end_the_stage() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("dom0")).unwrap();
    fs::create_dir_all(lab.path("web")).unwrap();
    let image = lab.path("active/var/lib/xupg/images/web.img");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let payloads = r#"{"domain":"dom0","source":"dom0"},
        {"domain":"web","source":"web","mode":"overlay","image":{"bytes":33554432}}"#;
    let bundle = lab.bundle(payloads);
    let watcher = Watcher {
        not_at_rest: true,
        ..Watcher::default()
    };
    let error = lab.stage(&bundle, &watcher).err().unwrap();
    assert!(
        matches!(error, Error::Failed(Problem::NotAtRest(_))),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("dom0")).unwrap();
    fs::create_dir_all(lab.path("web")).unwrap();
    let payloads = r#"{"domain":"dom0","source":"dom0"},
        {"domain":"web","source":"web","image":{"bytes":335544320}}"#;
    let bundle = lab.bundle(payloads);
    let error = lab.stage(&bundle, &Watcher::default()).err().unwrap();
    assert!(
        matches!(error, Error::Refused(Problem::TooLarge { .. })),
        "{error}"
    );
    let slot = fs::metadata(lab.path("slot.img")).unwrap();
    assert_eq!(slot.blocks(), 0, "not a byte was written");
}

/// A staged slot with an image, from trees with a few files.
fn staged() -> Lab {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("dom0/etc/ssh")).unwrap();
    fs::write(lab.path("dom0/etc/ssh/config"), b"release").unwrap();
    fs::write(lab.path("dom0/etc/motd"), b"hello").unwrap();
    fs::create_dir_all(lab.path("web/srv")).unwrap();
    fs::write(lab.path("web/srv/page"), b"page").unwrap();
    let payloads = r#"{"domain":"dom0","source":"dom0","preserve":["/etc/ssh/host_*"]},
        {"domain":"web","source":"web","image":{"bytes":33554432}}"#;
    let bundle = lab.bundle(payloads);
    let staged = lab.stage(&bundle, &Watcher::default()).unwrap();
    fs::create_dir_all(lab.path("active/etc/ssh")).unwrap();
    let key = lab.path("active/etc/ssh/host_rsa");
    fs::write(&key, b"secret").unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let patterns = ["/etc/ssh/host_*".to_owned()];
    let carried = carry(&lab.path("active"), staged.path(), &patterns).unwrap();
    assert_eq!(carried, 1);
    staged.finish().unwrap();
    lab
}

fn verified(lab: &Lab) -> Result<(), String> {
    lab.in_slot(|root| {
        let scratch = tempfile::tempdir().unwrap();
        verify::slot(root, scratch.path(), &lab.trust(), &Watcher::default())
            .map(drop)
            .map_err(|error| error.to_string())
    })
}

#[test]
fn a_staged_slot_verifies_and_every_change_is_named() {
    let lab = staged();
    verified(&lab).unwrap();
    lab.in_slot(|root| {
        let key = root.join("etc/ssh/host_rsa");
        assert_eq!(fs::read(&key).unwrap(), b"secret");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    });
    let web = |change: &dyn Fn(&Path)| {
        lab.in_slot(|root| lab.in_image(&root.join("var/lib/xupg/images/web.img"), change));
    };
    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    // Content changes while size and time stay.
    web(&|root| {
        let page = root.join("srv/page");
        let before = time(&page);
        fs::write(&page, b"pagE").unwrap();
        File::options()
            .write(true)
            .open(&page)
            .unwrap()
            .set_modified(before)
            .unwrap();
    });
    let error = verified(&lab).unwrap_err();
    assert!(
        error.contains("`web`") && error.contains("srv/page"),
        "{error}"
    );
    assert!(error.contains("content"), "{error}");

    let lab = staged();
    lab.in_slot(|root| fs::write(root.join("etc/extra"), b"").unwrap());
    let error = verified(&lab).unwrap_err();
    assert!(
        error.contains("etc/extra") && error.contains("not signed"),
        "{error}"
    );
    lab.in_slot(|root| {
        fs::remove_file(root.join("etc/extra")).unwrap();
        fs::remove_file(root.join("etc/motd")).unwrap();
    });
    let error = verified(&lab).unwrap_err();
    assert!(
        error.contains("etc/motd") && error.contains("missing"),
        "{error}"
    );

    let lab = staged();
    let motd = |root: &Path| root.join("etc/motd").to_str().unwrap().to_owned();
    lab.in_slot(|root| run("setfattr", &["-n", "user.x", "-v", "y", &motd(root)]));
    let error = verified(&lab).unwrap_err();
    assert!(
        error.contains("etc/motd") && error.contains("extended"),
        "{error}"
    );
    lab.in_slot(|root| {
        run("setfattr", &["-x", "user.x", &motd(root)]);
        run("chmod", &["600", &motd(root)])
    });
    let error = verified(&lab).unwrap_err();
    assert!(
        error.contains("etc/motd") && error.contains("mode"),
        "{error}"
    );
    lab.in_slot(|root| {
        let manifest = root.join("var/lib/xupg/release/manifest.json");
        let mut bytes = fs::read(&manifest).unwrap();
        bytes.push(b' ');
        fs::write(&manifest, bytes).unwrap();
    });
    let error = verified(&lab).unwrap_err();
    assert!(error.contains("signature"), "{error}");
}
