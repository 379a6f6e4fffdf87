//! What `create` makes, stock tools open, and everything a file system keeps comes back.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use keys::{Keys, run};
use xupg_images::bundle::create::Options;
use xupg_images::bundle::{Bundle, BundleSpec, create, verify};

fn root_only() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes devices and capabilities: run it as root"
    );
}

/// A tree with everything that is easily lost.
fn make_tree(root: &Path, sparse_end: u64) {
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("/run", root.join("usr/abs")).unwrap();
    symlink("x".repeat(150), root.join("usr/long-target")).unwrap();
    fs::write(root.join("usr/bin/ping"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/ping"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("usr/bin/ping"), root.join("another-ping")).unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    run("setcap", &["cap_net_raw+ep", &path("usr/bin/ping")]);
    run(
        "setfattr",
        &["-n", "user.note", "-v", "a b=c", &path("usr")],
    );
    run("setfacl", &["-m", "u:1234:rw", &path("usr/bin/ping")]);
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
    run(
        "touch",
        &["-h", "-d", "1960-01-02 03:04:05.25 UTC", &path("bin")],
    );
    run(
        "touch",
        &[
            "-d",
            "2001-02-03 04:05:06.000000007 UTC",
            &path("usr/bin/ping"),
        ],
    );
    // Large, not compressible, and so many frames; its length is no multiple of anything.
    let mut big = File::create(root.join("usr/big")).unwrap();
    let mut state = 1_u32;
    for _ in 0..1_300_001 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        big.write_all(&state.to_be_bytes()).unwrap();
    }
    big.write_all(b"xyz").unwrap();
    // Sparse, with data at the beginning, in the middle and at the end.
    let sparse = File::create(root.join("usr/sparse")).unwrap();
    sparse.set_len(sparse_end + 5).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse
        .write_all_at(&vec![7; 5 << 20], (sparse_end / 2) + 100)
        .unwrap();
    sparse.write_all_at(b"end", sparse_end + 2).unwrap();
    let hollow = File::create(root.join("usr/hollow")).unwrap();
    hollow.set_len(1 << 20).unwrap();
}

fn spec(folder: &Path, source: &Path) -> BundleSpec {
    let text = format!(
        r#"{{"schema":1,"release":"2.0","compatible":"test","floor":"1.0","epoch":1700000000,
        "payloads":[{{"domain":"dom0","source":{source:?},
        "allow":{{"devices":true,"fifos":true,"setuid":true}}}}]}}"#
    );
    BundleSpec::load(&keys::write(folder, "spec.json", &text)).unwrap()
}

fn build(spec: &BundleSpec, keys: &Keys, name: &str, threads: usize) -> PathBuf {
    let out = keys.path(name);
    let options = Options { threads, level: 3 };
    create(spec, &keys.key("vendor"), &out, &options, &mut |_| {}).unwrap();
    out
}

/// Everything that `lstat` and friends tell about a tree, but directories' sizes.
fn describe(root: &Path) -> Vec<String> {
    let root = root.to_str().unwrap();
    let find = format!(
        "cd {root} && find . -printf '%P\\0%y %m %U %G %T@ %n %l\\0' && \
         find . \\( -type c -o -type b \\) -exec stat -c '%n %t %T' {{}} + && \
         find . -type f -printf '%s %P\\0' && \
         getfattr -Rhd -m - . && find . -type f -size -100M -exec sha256sum {{}} + "
    );
    let text = run("bash", &["-c", &find]);
    let mut all: Vec<String> = text
        .split(|b| matches!(b, 0 | b'\n'))
        .map(|piece| piece.escape_ascii().to_string())
        .collect();
    all.sort();
    all
}

fn unpack_with_stock_tools(bundle: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    let script = format!(
        "set -e -o pipefail; tar -xOf {} dom0.tar.zst | zstd -dq | tar -C {} -xpf - --numeric-owner \
         --xattrs --xattrs-include='*' --same-owner --delay-directory-restore",
        bundle.display(),
        into.display()
    );
    run("bash", &["-c", &script]);
}

#[test]
fn stock_tools_bring_everything_back() {
    root_only();
    let keys = Keys::new();
    let tree = keys.path("tree");
    make_tree(&tree, 64 << 20);
    run(
        "bash",
        &[
            "-c",
            &format!(
                "find {} -newermt @1700000000 -exec touch -hd @1700000000 {{}} +",
                tree.display()
            ),
        ],
    );
    let bundle = build(&spec(&keys.path(""), &tree), &keys, "r.xupg", 2);

    let members = run("tar", &["-tf", bundle.to_str().unwrap()]);
    assert_eq!(members, b"manifest.json\nmanifest.sig\ndom0.tar.zst\n");
    let folder = keys.path("members");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    run(
        "tar",
        &[
            "-C",
            folder.to_str().unwrap(),
            "-xf",
            bundle.to_str().unwrap(),
        ],
    );
    run(
        "openssl",
        &[
            "cms",
            "-verify",
            "-binary",
            "-inform",
            "DER",
            "-purpose",
            "any",
            "-content",
            &at("manifest.json"),
            "-in",
            &at("manifest.sig"),
            "-out",
            "/dev/null",
            "-CAfile",
            keys.path("ca.pem").to_str().unwrap(),
        ],
    );

    let back = keys.path("back");
    unpack_with_stock_tools(&bundle, &back);
    let (was, is) = (describe(&tree), describe(&back));
    for line in was.iter().zip(&is).filter(|(a, b)| a != b).take(5) {
        eprintln!("{line:?}");
    }
    assert!(was == is, "metadata differ");
    assert!(fs::metadata(back.join("usr/sparse")).unwrap().blocks() * 512 < 16 << 20);
    run(
        "cmp",
        &[
            tree.join("usr/sparse").to_str().unwrap(),
            back.join("usr/sparse").to_str().unwrap(),
        ],
    );
    assert_eq!(
        fs::metadata(back.join("another-ping")).unwrap().ino(),
        fs::metadata(back.join("usr/bin/ping")).unwrap().ino()
    );

    let mut read = Bundle::open(File::open(&bundle).unwrap(), &keys.store()).unwrap();
    let verified = verify(&mut read, &mut |_| {}).unwrap();
    assert_eq!(verified[0].entries as usize, walkdir_count(&tree));
}

fn walkdir_count(root: &Path) -> usize {
    run("find", &[root.to_str().unwrap(), "-printf", "x"]).len()
}

fn without_signature(bundle: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(bundle).unwrap());
    let members = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = entry.header().as_bytes().to_vec();
        std::io::copy(&mut entry, &mut bytes).unwrap();
        (name, bytes)
    });
    members
        .filter(|member| member.0 != "manifest.sig")
        .collect()
}

#[test]
fn same_input_same_bytes() {
    root_only();
    let keys = Keys::new();
    let tree = keys.path("tree");
    make_tree(&tree, 64 << 20);
    let spec = spec(&keys.path(""), &tree);
    let one = without_signature(&build(&spec, &keys, "1.xupg", 1));
    let four = without_signature(&build(&spec, &keys, "4.xupg", 4));
    assert!(one == four, "the number of threads shows");

    // A copy whose folders list in another order, and whose inodes are others.
    let copy = keys.path("copy");
    run(
        "cp",
        &[
            "-a",
            "--sparse=always",
            tree.to_str().unwrap(),
            copy.to_str().unwrap(),
        ],
    );
    let mut other = spec.clone();
    other.payloads[0].source = copy;
    assert!(
        one == without_signature(&build(&other, &keys, "c.xupg", 2)),
        "the place shows"
    );
}

#[test]
fn a_tarball_gives_the_same_bundle_as_its_directory() {
    root_only();
    let keys = Keys::new();
    let tree = keys.path("tree");
    make_tree(&tree, 64 << 20);
    let spec = spec(&keys.path(""), &tree);
    // Bytes that a reader of text takes for a record's end, or for the next record.
    let note = tree.join("usr/big").to_str().unwrap().to_owned();
    for (name, value) in [
        ("user.lines", "0x0a0a3132206d74696d653d310a00ff"),
        ("user.empty", ""),
        ("user.zero", "0x00"),
    ] {
        run("setfattr", &["-n", name, "-v", value, &note]);
    }
    let wanted = without_signature(&build(&spec, &keys, "d.xupg", 2));
    for (format, name) in [("pax", "t.tar"), ("pax", "t.tar.zst")] {
        let tarball = keys.path(name);
        let script = format!(
            "tar -C {} --format={format} --xattrs --xattrs-include='*' --sparse -caf {} .",
            tree.display(),
            tarball.display()
        );
        run("bash", &["-c", &script]);
        let mut from = spec.clone();
        from.payloads[0].source = tarball;
        let got = without_signature(&build(&from, &keys, "t.xupg", 2));
        assert!(got == wanted, "{name}");
    }
}

#[test]
fn a_builder_without_root_says_whose_things_are() {
    let keys = Keys::new();
    let tree = keys.path("tree");
    fs::create_dir_all(tree.join("home/web")).unwrap();
    fs::write(tree.join("home/web/a b"), b"x").unwrap();
    let table = "# comment\n/dev d 0755 0 0\n/dev/null c 0666 0 0 1 3\n/home/web - - 1000 1001\n\
                 /home/web/a\\040b f 4750 0 5\n";
    keys::write(&keys.path(""), "table", table);
    let mut spec = spec(&keys.path(""), &tree);
    spec.payloads[0].owners = xupg_images::bundle::create::Owners::Root;
    spec.payloads[0].table = Some(keys.path("table"));
    let bundle = build(&spec, &keys, "r.xupg", 1);
    let list = format!(
        "tar -xOf {} dom0.tar.zst | zstd -dq | tar --numeric-owner -tvf -",
        bundle.display()
    );
    let list = String::from_utf8(run("bash", &["-c", &list])).unwrap();
    for wanted in ["crw-rw-rw- 0/0 ", "1000/1001 ", "-rwsr-x--- 0/5 ", "1,3 "] {
        assert!(list.contains(wanted), "{wanted} in {list}");
    }
    for bad in [
        "/nothing f 0644 0 0",
        "/home c 0644 0 0 1 3",
        "x d 0755 0 0",
        "/home d",
        "/a/.. d 0755 0 0",
    ] {
        keys::write(&keys.path(""), "table", bad);
        let made = create(
            &spec,
            &keys.key("vendor"),
            &keys.path("no"),
            &Options::default(),
            &mut |_| {},
        );
        assert!(made.is_err(), "{bad}");
        assert!(!keys.path("no").exists());
    }
}

#[test]
fn what_a_node_would_refuse_is_not_built() {
    root_only();
    let keys = Keys::new();
    let make = |script: &str| -> String {
        let tree = keys.path("bad");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(&tree).unwrap();
        run(
            "bash",
            &["-c", &format!("cd {} && {script}", tree.display())],
        );
        let mut spec = spec(&keys.path(""), &tree);
        spec.payloads[0].allow = Default::default();
        if tree.join("t.tar").exists() {
            spec.payloads[0].source = tree.join("t.tar");
        }
        let made = create(
            &spec,
            &keys.key("vendor"),
            &keys.path("no"),
            &Options::default(),
            &mut |_| {},
        );
        assert!(!keys.path("no").exists());
        made.expect_err(script).to_string()
    };
    for (script, reason) in [
        ("mknod null c 1 3", "device"),
        ("mkfifo f", "fifo"),
        ("touch s && chmod 4755 s", "set-user-id"),
        (
            "touch s && setcap cap_net_raw+ep s",
            "has file capabilities",
        ),
        (
            "touch a && tar -P --transform s,a,../a, -cf t.tar ./ a",
            "shortest form",
        ),
        (
            "touch a && tar -P --transform s,a,/a, -cf t.tar a",
            "shortest form",
        ),
        (
            "touch a && tar -cf t.tar ./ a a --hard-dereference",
            "twice",
        ),
        (
            "mkdir d && touch d/a && tar -cf t.tar --no-recursion . d/a",
            "does not list",
        ),
        (
            "ln -s /etc d && tar -cf t.tar --no-recursion . d && rm d && mkdir d && touch d/a && \
             tar -rf t.tar d/a",
            "etc/a lies in a directory that the source does not list",
        ),
        (
            "touch a && ln a b && tar -cf t.tar a b && tar --delete -f t.tar a",
            "hard link to nothing",
        ),
        (
            "touch a && tar -cf t.tar . a && truncate -s 700 t.tar",
            "is cut off",
        ),
    ] {
        let said = make(script);
        assert!(said.contains(reason), "{script}: {said}");
    }
}

#[test]
fn a_file_of_more_than_eight_gibibytes_keeps_its_size() {
    let keys = Keys::new();
    let tree = keys.path("tree");
    fs::create_dir(&tree).unwrap();
    let huge = File::create(tree.join("huge")).unwrap();
    huge.set_len((8 << 30) + 4097).unwrap();
    huge.write_all_at(b"end", (8 << 30) + 4094).unwrap();
    let bundle = build(&spec(&keys.path(""), &tree), &keys, "r.xupg", 1);
    let back = keys.path("back");
    unpack_with_stock_tools(&bundle, &back);
    let huge = File::open(back.join("huge")).unwrap();
    assert_eq!(huge.metadata().unwrap().len(), (8 << 30) + 4097);
    let mut end = [0; 3];
    huge.read_exact_at(&mut end, (8 << 30) + 4094).unwrap();
    assert_eq!(&end, b"end");
}
