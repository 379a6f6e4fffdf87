//! The Debian packages that the lab needs, and putting them there.

use crate::command::{command, run};
use crate::progress;
use anyhow::{Result, bail};
use std::process::Command;

/// All of them, Debian 12 names.
pub const PACKAGES: &[&str] = &[
    // to build the product
    "libxen-dev",
    "libssl-dev",
    "libzstd-dev",
    "clang",
    "libclang-dev",
    "pkg-config",
    "binutils",
    // to make images
    "mmdebstrap",
    "busybox-static",
    "kmod",
    "xen-hypervisor-4.17-amd64",
    "sbsigntool",
    "openssl",
    "fdisk",
    "mtools",
    "dosfstools",
    "e2fsprogs",
    "zstd",
    // to run a node
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "openssh-client",
    // to look at what was unpacked
    "acl",
    "attr",
    "libcap2-bin",
    // a real xenstored for the tests that need no Xen
    "xen-utils-4.17",
    "xenstore-utils",
];

/// Those that are not installed.
///
/// # Errors
/// When `dpkg-query` is not there: this is not Debian.
pub fn missing() -> Result<Vec<&'static str>> {
    missing_of(PACKAGES)
}

fn missing_of(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output();
    let Ok(output) = output else {
        bail!("dpkg-query is not here: the lab needs Debian 12 or a derivative of it");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let there: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    Ok(wanted
        .iter()
        .copied()
        .filter(|name| !there.contains(name))
        .collect())
}

/// Installs what is missing.
///
/// # Errors
/// When apt fails, with its words.
pub fn ensure() -> Result<()> {
    ensure_these(PACKAGES)
}

/// Installs what is missing of `wanted`.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_these(wanted: &[&'static str]) -> Result<()> {
    let missing = missing_of(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = apt(&["install", "--yes", "--no-install-recommends"]);
    install.args(&missing);
    progress::say(format_args!("installing {}", missing.join(" ")));
    run(&mut apt(&["update"]))?;
    run(&mut install)?;
    Ok(())
}

fn apt(args: &[&str]) -> Command {
    let mut apt = command("apt-get", args);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}
