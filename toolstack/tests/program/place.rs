//! A node in a folder: a disk image made by `xupg install`, firmware variables and an ESP as plain
//! folders, a command line that says which slot is live.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The node, and the vendor's workshop beside it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// How a run of `xupg` ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    /// A node that runs release 1.0 from slot A.
    pub(crate) fn installed() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount file systems: run them as root"
        );
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        place.make_signer("vendor");
        place.make_signer("stranger");
        fs::create_dir(place.path("trust")).unwrap();
        fs::copy(place.path("vendor.crt"), place.path("trust/vendor.pem")).unwrap();
        let bundle = place.bundle("1.0", "vendor", |_| {});
        fs::create_dir_all(place.path("node/sys/firmware/efi/efivars")).unwrap();
        let ran = place.run_here(&[
            "install",
            "node/disk.img",
            "--size",
            "420",
            "--esp",
            "40",
            "--state",
            "16",
            "--bundle",
            &bundle,
            "--trust",
            "trust",
            "--efivars",
            "node/sys/firmware/efi/efivars",
        ]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        place.boot("a");
        place
    }

    /// What a boot of `slot` would lay out around the disk.
    pub(crate) fn boot(&self, slot: &str) {
        for folder in [
            "proc",
            "run",
            "sbin",
            "boot/efi/EFI/xupg/a",
            "sys/firmware/efi/efivars",
        ] {
            fs::create_dir_all(self.path("node").join(folder)).unwrap();
        }
        fs::write(
            self.path("node/proc/cmdline"),
            format!("quiet xupg.slot={slot}\n"),
        )
        .unwrap();
        self.look_into("xupg-state", |state| {
            copy(
                state,
                &self.path("node/var/lib/xupg/state"),
                &["journal.json"],
            );
        });
        self.look_into("xupg-a", |root| {
            let names = [
                "etc/xupg/node.json",
                "etc/xupg/trust/vendor.pem",
                "usr/lib/xupg/release",
            ];
            copy(root, &self.path("node"), &names);
            copy(
                root,
                &self.path("node"),
                &["var/lib/xupg/release/manifest.json"],
            );
        });
        fs::write(self.path("node/boot/efi/EFI/xupg/a/xen.efi"), "MZ 1.0").unwrap();
    }

    /// The firmware has taken `slot`, and it has come up.
    pub(crate) fn comes_up_in(&self, slot: &str) {
        let efivars = self.path("node/sys/firmware/efi/efivars");
        for entry in fs::read_dir(efivars).unwrap() {
            let path = entry.unwrap().path();
            // One-shot: the firmware removes it before it boots.
            if path
                .file_name()
                .unwrap()
                .as_encoded_bytes()
                .starts_with(b"BootNext-")
            {
                fs::remove_file(path).unwrap();
            }
        }
        let line = format!("quiet xupg.slot={slot}\n");
        fs::write(self.path("node/proc/cmdline"), line).unwrap();
        let reboot = self.path("node/sbin/reboot");
        let script = format!("#!/bin/sh\necho >>{}\n", self.path("reboots").display());
        fs::write(&reboot, script).unwrap();
        fs::set_permissions(&reboot, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How often the node was told to reboot since it came up.
    pub(crate) fn reboots(&self) -> usize {
        fs::read(self.path("reboots")).map_or(0, |lines| lines.len())
    }

    /// A path of the workshop; `node/...` is the node.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Mounts a partition of the node's disk for a look.
    pub(crate) fn look_into(&self, label: &str, look: impl FnOnce(&Path)) {
        let part = xupg::disk::find(&self.path("node/disk.img"), label).unwrap();
        let target = self.path("look");
        fs::create_dir_all(&target).unwrap();
        let options = format!(
            "loop,ro,noload,offset={},sizelimit={}",
            part.offset, part.bytes
        );
        let disk = self.path("node/disk.img");
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", &options])
            .arg(disk)
            .arg(&target));
        look(&target);
        run(Command::new("umount").arg(&target));
    }

    /// Runs `xupg ARGUMENTS` on the node.
    pub(crate) fn xupg(&self, arguments: &[&str]) -> Ran {
        let root = self.path("node");
        let mut all = vec!["--root", root.to_str().unwrap()];
        all.extend(arguments);
        self.run_here(&all)
    }

    /// `xupg status --json` of the node.
    pub(crate) fn status(&self) -> Value {
        let ran = self.xupg(&["status", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Runs `xupg ARGUMENTS` in the workshop.
    pub(crate) fn run_here(&self, arguments: &[&str]) -> Ran {
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran::of(&output)
    }

    /// The command, in the workshop.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xupg"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("XENSTORED_PATH");
        command
    }

    /// Makes the bundle of a release, for dom0 and `web`, signed by `signer`; its name.
    pub(crate) fn bundle(
        &self,
        release: &str,
        signer: &str,
        change: impl FnOnce(&mut Value),
    ) -> String {
        let dom0 = self.path(&format!("dom0-{release}"));
        for (name, text) in [
            ("usr/lib/xupg/boot/xen.efi", format!("MZ {release}")),
            ("usr/lib/xupg/release", format!("{release}\n")),
            (
                "etc/xupg/node.json",
                json!({
                    "schema": 1, "compatible": "acme", "disk": "/disk.img"
                })
                .to_string(),
            ),
            ("var/lib/data", "x".repeat(200_000)),
        ] {
            fs::create_dir_all(dom0.join(name).parent().unwrap()).unwrap();
            fs::write(dom0.join(name), text).unwrap();
        }
        let web = self.path(&format!("web-{release}"));
        fs::create_dir_all(&web).unwrap();
        fs::write(web.join("index.html"), release).unwrap();
        let mut spec = json!({
            "schema": 1, "release": release, "compatible": "acme", "floor": "1.0",
            "payloads": [
                { "domain": "dom0", "source": dom0, "preserve": ["/etc/xupg"] },
                { "domain": "web", "source": web, "image": { "bytes": 8 << 20 } },
            ],
        });
        change(&mut spec);
        let name = format!(
            "{release}-{signer}-{}",
            fs::read_dir(self.folder.path()).unwrap().count()
        );
        fs::write(self.path(&format!("{name}.json")), spec.to_string()).unwrap();
        let ran = self.run_here(&[
            "bundle",
            "create",
            &format!("{name}.json"),
            "--cert",
            &format!("{signer}.crt"),
            "--key",
            &format!("{signer}.key"),
            "--output",
            &format!("{name}.xupg"),
        ]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        format!("{name}.xupg")
    }

    fn make_signer(&self, name: &str) {
        run(Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "30",
            ])
            .args([
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "keyUsage=digitalSignature",
            ])
            .arg("-keyout")
            .arg(self.path(&format!("{name}.key")))
            .arg("-out")
            .arg(self.path(&format!("{name}.crt"))));
    }
}

impl Ran {
    /// What `output` says.
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(to.join(name).parent().unwrap()).unwrap();
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A disk as the kernel sees one: a loop device.
pub(crate) struct BlockDevice {
    path: String,
}

/// A part of it, mounted.
pub(crate) struct Mounted {
    target: PathBuf,
}

impl BlockDevice {
    /// A disk of `bytes`, kept in `file`.
    pub(crate) fn of(file: &Path, bytes: u64) -> Self {
        fs::File::create_new(file).unwrap().set_len(bytes).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self {
            path: String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Mounts the file system at an offset to look at it.
    pub(crate) fn mount(&self, offset: u64, bytes: u64, target: &Path) -> Mounted {
        fs::create_dir(target).unwrap();
        let options = format!("loop,ro,noload,offset={offset},sizelimit={bytes}");
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", &options, &self.path])
            .arg(target));
        Mounted {
            target: target.to_owned(),
        }
    }

    /// The disk, for nobody else.
    pub(crate) fn claim(&self) -> fs::File {
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
            .open(&self.path)
            .unwrap()
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["-d", &self.path]).status();
        assert!(detached.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.target).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
