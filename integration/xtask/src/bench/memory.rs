//! `cargo xtask bench memory`: how much memory the real `xupg apply` takes, for a small bundle and for one ten times its size.
//!
//! The node is a folder with a disk image in it, made by `xupg install`, as in the toolstack's own tests: everything that an
//! upgrade does before the reboot is done, and the reboot is a program that notes that it was called. No Xen is needed.

use super::noise::Noise;
use super::watch;
use crate::command::{command, run};
use crate::keys::Keys;
use crate::{packages, paths, progress};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the measured bundles, nearly.
const SIZES: [u64; 2] = [100_000_000, 1_000_000_000];

/// Measures and prints a table, or one JSON object for each of its rows.
///
/// # Errors
/// When `xupg` fails.
#[allow(clippy::print_stdout, reason = "the command's result")]
pub fn memory(json: bool) -> Result<()> {
    packages::ensure()?;
    let keys = Keys::ensure()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = command(&cargo, ["build", "--quiet", "--release", "-p", "xupg"]);
    run(build.current_dir(paths::repo()))?;
    if !json {
        println!("| bundle MB | unpacked MB | entries | peak memory of `xupg apply`, MiB |");
        println!("|----------:|------------:|--------:|---------------------------------:|");
    }
    for bytes in SIZES {
        let place = Place::new(&keys, bytes)?;
        let row = place.measure(bytes)?;
        if json {
            println!(
                "{}",
                json!({
                    "bundle_bytes": row.bundle, "unpacked_bytes": row.unpacked, "entries": row.entries,
                    "peak_rss_bytes": row.peak_rss,
                })
            );
        } else {
            println!(
                "| {:9} | {:11} | {:7} | {:32.1} |",
                row.bundle / 1_000_000,
                row.unpacked / 1_000_000,
                row.entries,
                row.peak_rss as f64 / f64::from(1 << 20)
            );
        }
    }
    Ok(())
}

struct Row {
    bundle: u64,
    unpacked: u64,
    entries: u64,
    peak_rss: u64,
}

/// A node in a folder, and the vendor's workshop beside it. Removed with what is in it.
struct Place<'a> {
    folder: PathBuf,
    program: PathBuf,
    keys: &'a Keys,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // What is left is found and removed by the next run.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl<'a> Place<'a> {
    /// A node whose slots hold a release of `bytes`, and that runs a small one.
    fn new(keys: &'a Keys, bytes: u64) -> Result<Self> {
        let folder = paths::lab().join("bench/memory");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("removing what an earlier run has left")?;
        }
        let place = Self {
            program: paths::target()?.join("release/xupg"),
            folder,
            keys,
        };
        for folder in ["trust", "look", "node/sys/firmware/efi/efivars"] {
            fs::create_dir_all(place.folder.join(folder))?;
        }
        fs::copy(keys.release_ca(), place.folder.join("trust/release-ca.pem"))?;
        let bundle = place.bundle("1.0", 1_000_000)?;
        let slot_mib = (bytes + bytes / 2) >> 20;
        let disk_mib = 2 * (slot_mib + 96) + 64;
        let mut install = place.xupg(&["install", "node/disk.img", "--esp", "40", "--state", "16"]);
        install.args([
            "--trust",
            "trust",
            "--efivars",
            "node/sys/firmware/efi/efivars",
        ]);
        install.args(["--size", &disk_mib.to_string(), "--bundle", &bundle]);
        run(&mut install)?;
        place.boot()?;
        Ok(place)
    }

    fn xupg(&self, arguments: &[&str]) -> Command {
        let mut xupg = command(&self.program.to_string_lossy(), arguments);
        xupg.current_dir(&self.folder);
        xupg
    }

    /// What a boot of slot A would lay out around the disk.
    fn boot(&self) -> Result<()> {
        let node = self.folder.join("node");
        for folder in ["proc", "run", "sbin", "boot/efi/EFI/xupg/a"] {
            fs::create_dir_all(node.join(folder))?;
        }
        fs::write(node.join("proc/cmdline"), "quiet xupg.slot=a\n")?;
        fs::write(node.join("boot/efi/EFI/xupg/a/xen.efi"), "MZ 1.0")?;
        let reboot = node.join("sbin/reboot");
        fs::write(
            &reboot,
            format!("#!/bin/sh\n: >{}/rebooted\n", self.folder.display()),
        )?;
        fs::set_permissions(&reboot, Permissions::from_mode(0o755))?;
        self.take(
            "xupg-state",
            "journal.json",
            "var/lib/xupg/state/journal.json",
        )?;
        for name in [
            "etc/xupg/node.json",
            "etc/xupg/trust/release-ca.pem",
            "var/lib/xupg/release/manifest.json",
        ] {
            self.take("xupg-a", name, name)?;
        }
        Ok(())
    }

    /// Copies a file out of a partition of the node's disk.
    fn take(&self, label: &str, from: &str, to: &str) -> Result<()> {
        let disk = self.folder.join("node/disk.img");
        let table = run(command("sfdisk", ["--json"]).arg(&disk))?;
        let table: Value = serde_json::from_slice(&table)?;
        let partitions = table["partitiontable"]["partitions"].as_array();
        let partition = partitions
            .and_then(|all| all.iter().find(|part| part["name"] == label))
            .with_context(|| format!("no partition {label}"))?;
        let bytes = |key: &str| partition[key].as_u64().unwrap_or(0) * 512;
        let look = self.folder.join("look");
        let (start, size) = (bytes("start"), bytes("size"));
        let options = format!("loop,ro,noload,offset={start},sizelimit={size}");
        run(command("mount", ["-t", "ext4", "-o", &options])
            .arg(&disk)
            .arg(&look))?;
        let to = self.folder.join("node").join(to);
        let copied = fs::create_dir_all(to.parent().unwrap_or(&to))
            .and_then(|()| fs::copy(look.join(from), &to))
            .with_context(|| format!("taking {from} out of {label}"));
        run(&mut command("umount", [&look]))?;
        copied.map(drop)
    }

    /// Makes a bundle of about `bytes`: half of them dom0's, half a domU's.
    fn bundle(&self, release: &str, bytes: u64) -> Result<String> {
        let dom0 = self.folder.join("dom0");
        let node = json!({ "schema": 1, "compatible": "xupg-bench", "disk": "/disk.img" });
        write(
            &dom0.join("etc/xupg/node.json"),
            node.to_string().as_bytes(),
        )?;
        write(&dom0.join("usr/lib/xupg/boot/xen.efi"), b"MZ")?;
        let domu = self.folder.join("domu");
        for root in [&dom0, &domu] {
            tree(root, bytes / 2).with_context(|| format!("filling {}", root.display()))?;
        }
        let spec = json!({
            "schema": 1, "release": release, "compatible": "xupg-bench", "floor": "1.0",
            "payloads": [
                { "domain": "dom0", "source": dom0, "preserve": ["/etc/xupg"] },
                { "domain": "domu", "source": domu, "image": { "bytes": (bytes / 4 * 3 + (32 << 20)) >> 20 << 20 } },
            ],
        });
        fs::write(self.folder.join("spec.json"), spec.to_string())?;
        let name = format!("{release}.xupg");
        let signer = self.keys.release_signer();
        let mut create = self.xupg(&["bundle", "create", "spec.json", "--level", "1"]);
        create
            .arg("--cert")
            .arg(&signer.cert)
            .arg("--key")
            .arg(&signer.key);
        run(create.args(["--output", &name]))?;
        // The bundle is all that is needed from here on.
        fs::remove_dir_all(dom0)?;
        fs::remove_dir_all(domu)?;
        Ok(name)
    }

    fn measure(&self, bytes: u64) -> Result<Row> {
        let bundle = self.bundle("2.0", bytes)?;
        let path = self.folder.join(&bundle);
        let manifest = run(command("tar", ["-xOf"]).arg(&path).arg("manifest.json"))?;
        let manifest: Value = serde_json::from_slice(&manifest)?;
        let sum = |key: &str| -> u64 {
            let payloads = manifest["payloads"].as_array().into_iter().flatten();
            payloads.filter_map(|payload| payload[key].as_u64()).sum()
        };
        progress::say(format_args!(
            "applying a bundle of {} MB",
            bytes / 1_000_000
        ));
        let node = self.folder.join("node");
        let mut apply = self.xupg(&["--root", &node.to_string_lossy(), "apply", &bundle]);
        let taken = watch::run(&mut apply, &[])?;
        ensure!(
            self.folder.join("rebooted").exists(),
            "`xupg apply` has ended well and has not rebooted the node"
        );
        Ok(Row {
            bundle: fs::metadata(&path)?.len(),
            unpacked: sum("unpacked_bytes"),
            entries: sum("entries"),
            peak_rss: taken.peak_rss,
        })
    }
}

/// Files that cannot be compressed, in all sizes, `bytes` in all.
fn tree(root: &Path, bytes: u64) -> Result<()> {
    let mut noise = Noise::default();
    let mut done = 0;
    let mut folder = 0;
    while done < bytes {
        folder += 1;
        // About as many entries for a megabyte as a Debian root has.
        for (size, count) in [(3_000_000, 1), (200_000, 6), (15_000, 40), (500, 350)] {
            for number in 0..count {
                let name = format!("srv/{folder}/{size}/{number}");
                let size = usize::try_from((bytes - done).min(size))?;
                write(&root.join(name), &noise.take(size))?;
                done += size as u64;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
