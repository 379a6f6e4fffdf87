//! Our own initramfs: busybox, a few modules, one script. Not compressed: unpacking is slow under emulation.

use super::kernels::Kernel;
use crate::command::{command, run, run_with_input};
use crate::paths;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Debian's busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";

/// dom0 finds its root on virtio, SATA or NVMe disks.
const DOM0_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "ahci",
    "sd_mod",
    "nvme",
    "crc32c-intel",
    "ext4",
];
const DOMU_MODULES: &[&str] = &["xen-blkfront", "crc32c-intel", "ext4"];

/// dom0's initramfs for one release; it boots no root of another one.
///
/// # Errors
/// When a tool fails.
pub fn dom0(kernel: &Kernel, release: &str, scratch: &Path) -> Result<Vec<u8>> {
    let tree = scratch.join("initramfs-dom0");
    let files = kernel.modules(DOM0_MODULES)?;
    fill(&tree, &files, "dom0-init")?;
    fs::write(tree.join("release"), format!("{release}\n"))?;
    pack(&tree)
}

/// The initramfs of every domU.
///
/// # Errors
/// When a tool fails.
pub fn domu(kernel: &Kernel, scratch: &Path) -> Result<Vec<u8>> {
    let tree = scratch.join("initramfs-domu");
    let files = kernel.modules(DOMU_MODULES)?;
    fill(&tree, &files, "domu-init")?;
    pack(&tree)
}

fn fill(tree: &Path, modules: &[std::path::PathBuf], init: &str) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    for dir in ["bin", "dev", "proc", "sys", "modules"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    copy(Path::new(BUSYBOX), &tree.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh"))?;
    copy(
        &paths::recipes().join("initramfs").join(init),
        &tree.join("init"),
    )?;
    for program in ["init", "bin/busybox"] {
        fs::set_permissions(tree.join(program), fs::Permissions::from_mode(0o755))?;
    }
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default();
        copy(module, &tree.join("modules").join(name))?;
        order.push_str(&name.to_string_lossy());
        order.push('\n');
    }
    fs::write(tree.join("modules/order"), order)?;
    Ok(())
}

fn pack(tree: &Path) -> Result<Vec<u8>> {
    let names = run(command("find", ["."]).current_dir(tree))?;
    let mut cpio = command(BUSYBOX, ["cpio", "-o", "-H", "newc", "-R", "0:0"]);
    let archive = run_with_input(cpio.current_dir(tree), &names)?;
    fs::remove_dir_all(tree)?;
    Ok(archive)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
