//! The roots of dom0, `db` and `web`, before any release's files are laid over them.

use super::initramfs::BUSYBOX;
use super::kernels::Kernel;
use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use crate::paths;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const DOM0_PACKAGES: &str = "systemd-sysv,udev,kmod,xen-utils-4.17,xenstore-utils,e2fsprogs,iproute2,dropbear-bin,libssl3,zstd";
const DB_PACKAGES: &str = "systemd-sysv";

/// dom0: Debian 12 with systemd and Xen's tools, trimmed.
///
/// # Errors
/// When a tool fails; mmdebstrap needs root and the network.
pub fn dom0(kernel: &Kernel) -> Result<PathBuf> {
    let debian = debian("debian-dom0", DOM0_PACKAGES)?;
    customized("dom0", &debian, &[kernel.root()])
}

/// `db`: Debian 12 with systemd and nothing else.
///
/// # Errors
/// As [`dom0`].
pub fn db() -> Result<PathBuf> {
    let debian = debian("debian-db", DB_PACKAGES)?;
    customized("db", &debian, &[])
}

/// A copy of `debian` after `integration/images/<domain>/customize.sh ROOT ITS-DIRECTORY [MORE...]` and `trim.sh ROOT`.
fn customized(domain: &str, debian: &Path, more: &[&Path]) -> Result<PathBuf> {
    let recipes = paths::recipes();
    let here = recipes.join(domain);
    let mut key = Key::new()
        .with(debian.as_os_str().as_encoded_bytes())
        .with_path(&recipes.join("trim.sh"))?
        .with_path(&here)?;
    for path in more {
        key = key.with(path.as_os_str().as_encoded_bytes());
    }
    let dir = get_or_make(&format!("root-{domain}"), key, |dir| {
        let root = dir.join("root");
        run(command("cp", ["-a", "--reflink=auto"])
            .arg(debian)
            .arg(&root))?;
        run(&mut command("sh", [&recipes.join("trim.sh"), &root]))?;
        run(command("sh", [&here.join("customize.sh"), &root, &here]).args(more))?;
        Ok(())
    })?;
    Ok(dir.join("root"))
}

/// `web`: busybox.
///
/// # Errors
/// When busybox-static is not there.
pub fn web() -> Result<PathBuf> {
    let recipe = paths::recipes().join("web");
    let key = Key::new().with("web 1").with_path(&recipe)?;
    let dir = get_or_make("root-web", key, |dir| {
        let root = dir.join("root");
        run(command("cp", ["-a"]).arg(recipe.join("root")).arg(&root))?;
        run(command("chown", ["-R", "0:0"]).arg(&root))?;
        for name in [
            "bin", "sbin", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "var/lib", "root",
        ] {
            fs::create_dir_all(root.join(name))?;
        }
        let tmp = root.join("tmp");
        run(command("install", ["-d", "-m", "1777"]).arg(&tmp))?;
        fs::copy(BUSYBOX, root.join("bin/busybox")).context("cannot copy busybox")?;
        let applets = String::from_utf8(run(&mut command(BUSYBOX, ["--list-full"]))?)?;
        for applet in applets.lines().filter(|name| *name != "bin/busybox") {
            symlink("/bin/busybox", root.join(applet))
                .with_context(|| format!("cannot link {applet}"))?;
        }
        Ok(())
    })?;
    Ok(dir.join("root"))
}

/// What mmdebstrap makes of these packages. Slow, so it is kept apart from what is done to it.
fn debian(name: &str, packages: &str) -> Result<PathBuf> {
    let config = paths::recipes().join("dpkg.cfg");
    let key = Key::new().with(packages).with_path(&config)?;
    let dir = get_or_make(name, key, |dir| {
        let root = dir.join("root");
        let mut mmdebstrap = command(
            "mmdebstrap",
            [
                "--quiet",
                "--variant=minbase",
                "--mode=root",
                "--format=directory",
            ],
        );
        mmdebstrap.arg(format!("--include={packages}"));
        mmdebstrap.arg("--aptopt=Acquire::Retries \"3\"");
        for line in fs::read_to_string(&config)?.lines() {
            if !line.starts_with('#') && !line.is_empty() {
                mmdebstrap.arg(format!("--dpkgopt={line}"));
            }
        }
        run(mmdebstrap.arg("bookworm").arg(&root))?;
        // Some umasks leave it 0700; everybody must be able to enter /.
        run(command("chmod", ["0755"]).arg(&root))?;
        Ok(())
    })?;
    Ok(dir.join("root"))
}
