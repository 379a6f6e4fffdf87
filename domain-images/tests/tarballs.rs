//! Tarballs of foreign tools as sources: what they mean is kept, and what would be lost is refused.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;

use std::fs;
use std::path::Path;

use keys::{Keys, run};
use xupg_images::bundle::create::Options;
use xupg_images::bundle::{BundleSpec, create};

/// Makes a bundle from the tarball `t.tar` that `script` leaves, and lists what its payload has.
fn listed(keys: &Keys, script: &str) -> Result<String, String> {
    let folder = keys.path("work");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let at = folder.display();
    run("bash", &["-c", &format!("set -e; cd {at}; {script}")]);
    from(keys, &folder.join("t.tar"))?;
    let list = format!(
        "tar -xOf {} dom0.tar.zst | zstd -dq | tar --numeric-owner --full-time -tvf -",
        keys.path("r.xupg").display()
    );
    Ok(String::from_utf8(run("bash", &["-c", &list])).unwrap())
}

/// Makes `r.xupg`.
fn from(keys: &Keys, tarball: &Path) -> Result<(), String> {
    let text = format!(
        r#"{{"schema":1,"release":"2.0","compatible":"test","floor":"1.0","epoch":1700000000,
        "payloads":[{{"domain":"dom0","source":{tarball:?}}}]}}"#
    );
    let spec = BundleSpec::load(&keys::write(&keys.path(""), "spec.json", &text)).unwrap();
    let out = keys.path("r.xupg");
    let _ = fs::remove_file(&out);
    let made = create(
        &spec,
        &keys.key("vendor"),
        &out,
        &Options::default(),
        &mut |_| {},
    );
    assert_eq!(made.is_ok(), out.exists());
    made.map(drop).map_err(|error| error.to_string())
}

/// Unpacks `r.xupg` and `t.tar` with stock tools and compares the trees.
fn same_as_unpacked(keys: &Keys) {
    let script = format!(
        "set -e -o pipefail; cd {}; rm -rf one two; mkdir one two; tar -C one -Pxpf work/t.tar
        tar -xOf r.xupg dom0.tar.zst | zstd -dq | tar -C two -xpf -
        list() {{ (cd $1; find . -not -type d -printf '%P %y %m %U %G %s %n %l\\n' | sort; \
                  find . -type f -print0 | sort -z | xargs -0 sha256sum); }}
        diff <(list one) <(list two)",
        keys.path("").display()
    );
    run("bash", &["-c", &script]);
}

#[test]
fn names_through_links_are_what_unpacking_makes_of_them() {
    let keys = Keys::new();
    // As two packages would fill a merged root: by either name, and links of all sorts.
    let script = "mkdir -p r/usr/bin r/usr/lib/sub r/etc; cd r
        ln -s usr/bin bin; ln -s /usr/lib lib; ln -s ../lib usr/lib64; ln -s usr/lib64 lib64
        echo a > usr/bin/a; cd ..
        tar --sort=name -C r -cf t.tar .
        mkdir -p x/bin x/lib/sub x/lib64; echo b > x/bin/b; ln x/bin/b x/bin/c; ln -s b x/bin/d
        echo s > x/lib/sub/s; echo l > x/lib64/l
        tar -C x -rf t.tar bin/b bin/c bin/d lib/sub/s lib64/l
        tar -tf t.tar > names; grep -qx bin/b names; grep -q '^lib64/l' names";
    let list = listed(&keys, script).unwrap();
    for wanted in [
        " usr/bin/b\n",
        " usr/bin/c link to usr/bin/b\n",
        " usr/bin/d -> b\n",
        " usr/lib/sub/s\n",
        " usr/lib/l\n",
        " bin -> usr/bin\n",
        " lib -> /usr/lib\n",
    ] {
        assert!(list.contains(wanted), "{wanted} in {list}");
    }
    assert!(!list.contains(" bin/"), "{list}");
    // Stock tar follows an absolute link out of the folder, so that one is left out here.
    listed(
        &keys,
        &script.replace("ln -s /usr/lib lib", "ln -s usr/lib lib"),
    )
    .unwrap();
    same_as_unpacked(&keys);
}

#[test]
fn links_that_lead_nowhere_good_are_refused() {
    let keys = Keys::new();
    for (links, reason) in [
        ("ln -s ../etc r/bin", "leads out of the root"),
        ("ln -s /../etc r/bin", "leads out of the root"),
        (
            "mkdir r/a; ln -s ../../x r/a/l; ln -s a/l r/bin",
            "leads out of the root",
        ),
        ("ln -s bin r/bin", "never end"),
        ("ln -s nib r/bin; ln -s bin r/nib", "never end"),
        ("ln -s nothing r/bin", "does not list"),
        ("touch r/f; ln -s f r/bin", "not a directory"),
        (
            "mkdir r/usr; echo b > r/usr/b; ln -s usr r/bin",
            "is there twice",
        ),
        (
            "mkdir r/bin; ln -s usr r/bim; mv r/bin r/usr; touch y; tar --transform s,y,bin, -rf t.tar y",
            "directory",
        ),
    ] {
        let script = format!(
            "mkdir r; {links}; tar -C r -rf t.tar .; mkdir -p x/bin; touch x/bin/b; tar -C x -rf t.tar bin/b"
        );
        let error = listed(&keys, &script).expect_err(links);
        assert!(error.contains(reason), "{links}: {error}");
    }
}

#[test]
fn every_format_of_stock_tar_is_read() {
    let keys = Keys::new();
    let long = "n".repeat(150);
    for (format, names) in [
        ("v7", "short/sub/f"),
        ("oldgnu", &format!("{long}/{long}/f")[..]),
        ("gnu", &format!("{long}/{long}/f")),
        ("ustar", &format!("{0}/{0}/f", "n".repeat(90))),
        ("pax", &format!("{long}/{long}/{long}/f")),
    ] {
        let script = format!(
            "mkdir -p r/$(dirname {names}); echo x > r/{names}; ln -s {names} r/link
             ln r/{names} r/hard; chmod 640 r/{names}
             tar --format={format} -C r -cf t.tar . "
        );
        // ustar has room for long names, and not for links to them.
        let script = match format {
            "ustar" => script.replace("ln ", ": "),
            _ => script,
        };
        let list = listed(&keys, &script).unwrap();
        assert!(list.contains(names), "{format}: {list}");
        same_as_unpacked(&keys);
    }
}

#[test]
fn holes_stay_holes_in_every_format() {
    let keys = Keys::new();
    for format in ["oldgnu", "gnu", "pax"] {
        // Thirty extents: more than one header, and more than one block of map, have room for.
        let script = format!(
            "truncate -s 64M s; for n in $(seq 30); do
                echo $n | dd of=s bs=1M seek=$((2 * n)) conv=notrunc status=none; done
             tar --format={format} --sparse -cf t.tar s; [ $(stat -c %s t.tar) -lt 1000000 ]
             mkdir r; mv s r; tar --format={format} --sparse -C r -cf t.tar . "
        );
        listed(&keys, &script).unwrap();
        let size = fs::metadata(keys.path("r.xupg")).unwrap().len();
        assert!(size < 200_000, "{format}: {size}");
        same_as_unpacked(&keys);
    }
}

#[test]
fn nothing_is_lost_silently() {
    let keys = Keys::new();
    for (script, reason) in [
        (
            "tar --format=pax --pax-option comment=x,gid=5 -cf t.tar r",
            "global pax header with gid",
        ),
        (
            "tar --format=pax --pax-option VENDOR.x:=1 -cf t.tar r",
            "would be lost",
        ),
        ("tar -cf t.tar r; truncate -s 512 t.tar", "is cut off"),
        ("tar -cf t.tar r; truncate -s 1024 t.tar", "is cut off"),
        ("tar -cf t.tar r; truncate -s 1700 t.tar", "is cut off"),
        ("tar -b1 -cf t.tar r; truncate -s -1024 t.tar", "is cut off"),
        (
            "tar -cf t.tar r; cat t.tar >> t2; cat t2 t2 > t.tar",
            "something behind it",
        ),
        ("echo no tar > t.tar; truncate -s 4096 t.tar", "checksum"),
        ("tar -cf t.tar --transform s,r/f,/f, -P r", "shortest form"),
        ("tar -cf t.tar -V label r", "unknown type 'V'"),
        (
            "tar --format=gnu -g snapshot -cf t.tar r",
            "unknown type 'D'",
        ),
        (": > t.tar", "is cut off"),
    ] {
        let script = format!("mkdir r; head -c 700 /dev/zero > r/f; {script}");
        let error = listed(&keys, &script).expect_err(&script);
        assert!(error.contains(reason), "{script}: {error}");
    }
    // A comment says nothing of any entry.
    let comment = "mkdir r; tar --format=pax --pax-option comment=x -C r -cf t.tar .";
    listed(&keys, comment).unwrap();
}
