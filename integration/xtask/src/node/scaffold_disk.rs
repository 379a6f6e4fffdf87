//! A node's disk made without the product, for as long as the product cannot make it: GPT, the ESP, slot A and B from release
//! trees, an empty state partition.

use crate::command::{command, run, run_with_input};
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;
const ESP_MIB: u64 = 128;
const SLOT_MIB: u64 = 1024;
const STATE_MIB: u64 = 64;

/// Writes a raw disk to `disk`. `a` and `b` are release trees as [`crate::images::release::Release::trees`] makes them.
///
/// # Errors
/// When a tool fails.
pub fn make(disk: &Path, a: &Path, b: &Path) -> Result<()> {
    let scratch = disk.with_extension("scratch");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    let file = fs::File::create(disk)?;
    file.set_len((ESP_MIB + 2 * SLOT_MIB + STATE_MIB + 2) * MIB)?;
    let table = format!(
        "label: gpt\n\
         start=1MiB, size={ESP_MIB}MiB, type=uefi, name=ESP\n\
         size={SLOT_MIB}MiB, name=xupg-a\n\
         size={SLOT_MIB}MiB, name=xupg-b\n\
         size={STATE_MIB}MiB, name=xupg-state\n"
    );
    run_with_input(
        command("sfdisk", ["--quiet", "--no-reread", "--no-tell-kernel"]).arg(disk),
        table.as_bytes(),
    )?;

    esp(disk, a, b).context("the ESP")?;
    let mut offset = 1 + ESP_MIB;
    for tree in [a, b] {
        progress::step("filling a slot", || slot(disk, offset, tree, &scratch))?;
        offset += SLOT_MIB;
    }
    ext4(disk, offset, STATE_MIB, None)?;
    fs::remove_dir_all(scratch)?;
    Ok(())
}

fn esp(disk: &Path, a: &Path, b: &Path) -> Result<()> {
    let image = format!("{}@@1M", disk.display());
    run(&mut command(
        "mformat",
        [
            "-i",
            &image,
            "-F",
            "-v",
            "ESP",
            "-T",
            &(ESP_MIB * 2048).to_string(),
            "-h",
            "64",
            "-s",
            "32",
            "::",
        ],
    ))?;
    run(&mut command(
        "mmd",
        [
            "-i",
            &image,
            "::EFI",
            "::EFI/BOOT",
            "::EFI/xupg",
            "::EFI/xupg/a",
            "::EFI/xupg/b",
        ],
    ))?;
    let boot_image = "dom0/usr/lib/xupg/boot/xen.efi";
    for (tree, to) in [
        (a, "::EFI/BOOT/BOOTX64.EFI"),
        (a, "::EFI/xupg/a/xen.efi"),
        (b, "::EFI/xupg/b/xen.efi"),
    ] {
        run(command("mcopy", ["-i", &image])
            .arg(tree.join(boot_image))
            .arg(to))?;
    }
    Ok(())
}

fn slot(disk: &Path, offset_mib: u64, tree: &Path, scratch: &Path) -> Result<()> {
    let root = scratch.join("dom0");
    run(command("cp", ["-a", "--reflink=auto"])
        .arg(tree.join("dom0"))
        .arg(&root))?;
    for (domain, mib) in [("web", 32), ("db", 192)] {
        let image = root.join(format!("var/lib/xupg/images/{domain}.img"));
        fs::File::create(&image)?.set_len(mib * MIB)?;
        ext4(&image, 0, mib, Some(&tree.join(domain)))?;
    }
    ext4(disk, offset_mib, SLOT_MIB, Some(&root))?;
    fs::remove_dir_all(root)?;
    Ok(())
}

fn ext4(file: &Path, offset_mib: u64, mib: u64, tree: Option<&Path>) -> Result<()> {
    let mut mke2fs = command(
        "mke2fs",
        ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E"],
    );
    mke2fs.arg(format!("offset={}", offset_mib * MIB));
    if let Some(tree) = tree {
        mke2fs.arg("-d").arg(tree);
    }
    run(mke2fs.arg(file).arg(format!("{mib}M")))?;
    Ok(())
}
