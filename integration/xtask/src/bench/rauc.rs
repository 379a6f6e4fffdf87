//! RAUC, as a vendor would set it up for the same content: a plain bundle, one slot for each domain, the service on a bus of its
//! own. Loop devices stand for its partitions: direct I/O, and no discard, which would cost it the slot file's blocks.

use super::material::{Builder, Material};
use super::tools::{Tool, programs};
use super::watch::{self, Taken};
use super::{Case, disk};
use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use crate::keys::Keys;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const COMPATIBLE: &str = "xupg-bench";

/// How long bus and service may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers for a boot loader: slot A runs and is good.
const BACKEND: &str = r#"#!/bin/sh
case $1 in
get-primary) echo A ;;
get-state) echo good ;;
esac
"#;

/// A bus without policies: nobody else is on it.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=@SOCKET@</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// The slot class of a domain.
fn class(domain: &str) -> &str {
    if domain == "dom0" { "rootfs" } else { domain }
}

/// Packs the tarballs as they are.
///
/// # Errors
/// When `rauc bundle` fails.
pub(super) fn bundle(
    keys: &Keys,
    case: Case,
    tarballs: &[(&'static str, PathBuf)],
) -> Result<PathBuf> {
    let mut manifest =
        format!("[update]\ncompatible={COMPATIBLE}\nversion=1.0\n\n[bundle]\nformat=plain\n");
    let mut key = Key::new().with("bench rauc 1");
    for (domain, path) in tarballs {
        let class = class(domain);
        write!(manifest, "\n[image.{class}]\nfilename={domain}.tar.zst\n")?;
        key = key.with(path.as_os_str().as_encoded_bytes());
    }
    let signer = keys.release_signer();
    let key = key.with(&manifest).with_path(&signer.cert)?;
    let dir = get_or_make(&format!("bench-{}-rauc", case.name()), key, |dir| {
        let content = dir.join("content");
        fs::create_dir(&content)?;
        fs::write(content.join("manifest.raucm"), &manifest)?;
        for (domain, path) in tarballs {
            fs::hard_link(path, content.join(format!("{domain}.tar.zst")))?;
        }
        let mut rauc = command("rauc", ["bundle"]);
        rauc.arg("--cert").arg(&signer.cert);
        rauc.arg("--key").arg(&signer.key);
        rauc.arg("--keyring").arg(keys.release_ca());
        run(rauc.arg(&content).arg(dir.join("release.raucb")))?;
        fs::remove_dir_all(content)?;
        Ok(())
    })?;
    Ok(dir.join("release.raucb"))
}

/// RAUC on one case.
pub(super) struct Rauc<'a> {
    material: &'a Material,
    config: PathBuf,
    log: PathBuf,
    slots: Vec<PathBuf>,
    /// Dropped in this order: service, bus, devices.
    service: Option<Process>,
    _bus: Process,
    address: String,
    _devices: Vec<Attached>,
}

impl<'a> Rauc<'a> {
    /// Makes the slots, the configuration and the bus.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub(super) fn new(builder: &Builder, material: &'a Material, folder: &Path) -> Result<Self> {
        let (backend, mounts) = (folder.join("backend"), folder.join("mnt"));
        fs::write(&backend, BACKEND)?;
        fs::set_permissions(&backend, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(&mounts)?;
        let mut config = format!(
            "[system]\ncompatible={COMPATIBLE}\nbootloader=custom\nmountprefix={}\nstatusfile={}\n\
             \n[keyring]\npath={}\n\n[handlers]\nbootloader-custom-backend={}\n",
            mounts.display(),
            folder.join("status.raucs").display(),
            builder.keys.release_ca().display(),
            backend.display(),
        );
        let (mut slots, mut devices) = (Vec::new(), Vec::new());
        for (domain, _) in &material.tarballs {
            let slot = disk::slot(folder, &format!("{domain}.slot"))?;
            let device = Attached::new(&slot)?;
            let class = class(domain);
            for (number, path) in [(0, folder.join("never-written")), (1, device.0.clone())] {
                let path = path.display();
                write!(
                    config,
                    "\n[slot.{class}.{number}]\ndevice={path}\ntype=ext4\n"
                )?;
                match (class, number) {
                    ("rootfs", 0) => config.push_str("bootname=A\n"),
                    ("rootfs", _) => config.push_str("bootname=B\n"),
                    _ => writeln!(config, "parent=rootfs.{number}")?,
                }
            }
            slots.push(slot);
            devices.push(device);
        }
        let config_path = folder.join("system.conf");
        fs::write(&config_path, config)?;

        let log = folder.join("service.log");
        // A socket's path may have 107 bytes, and nobody knows how long the lab's is.
        let socket = std::env::temp_dir().join(format!("xupg-bench-{}.bus", std::process::id()));
        let bus_config = folder.join("bus.conf");
        fs::write(
            &bus_config,
            BUS.replace("@SOCKET@", &socket.to_string_lossy()),
        )?;
        let mut daemon = command("dbus-daemon", ["--nofork", "--nopidfile"]);
        daemon.arg(format!("--config-file={}", bus_config.display()));
        let bus = Process::start(&mut daemon, &folder.join("bus.log"))?;
        patiently("the message bus", || Ok(socket.exists()))?;
        Ok(Self {
            material,
            config: config_path,
            log,
            slots,
            service: None,
            _bus: bus,
            address: format!("unix:path={}", socket.display()),
            _devices: devices,
        })
    }

    fn rauc(&self) -> Command {
        let mut rauc = command("rauc", ["-c"]);
        rauc.arg(&self.config);
        rauc.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        rauc
    }

    fn is_up(&self) -> Result<bool> {
        let said = run(&mut command(
            "dbus-send",
            [
                &format!("--bus={}", self.address),
                "--print-reply",
                "--dest=org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.NameHasOwner",
                "string:de.pengutronix.rauc",
            ],
        ))?;
        Ok(String::from_utf8_lossy(&said).contains("boolean true"))
    }
}

impl Tool for Rauc<'_> {
    fn name(&self) -> &'static str {
        "rauc"
    }

    fn reads(&self) -> Vec<PathBuf> {
        let mut files = programs(&["rauc", "mke2fs", "tar", "zstd", "mount", "umount", "dash"]);
        files.push(self.material.raucb.clone());
        files
    }

    /// A service for every run: its memory shall be this run's.
    fn prepare(&mut self) -> Result<()> {
        let mut service = self.rauc();
        service.args(["--override-boot-slot=A", "service"]);
        self.service = Some(Process::start(&mut service, &self.log)?);
        patiently("RAUC's service", || self.is_up())
    }

    fn run(&mut self) -> Result<Taken> {
        let mut install = self.rauc();
        install.arg("install").arg(&self.material.raucb);
        let service = self.service.iter().map(|service| service.0.id());
        let taken = watch::run(&mut install, &service.collect::<Vec<_>>());
        taken.with_context(|| format!("the service's log is {}", self.log.display()))
    }

    fn clean_up(&mut self) -> Result<()> {
        self.service = None;
        Ok(())
    }

    fn slots(&self) -> Vec<PathBuf> {
        self.slots.clone()
    }
}

fn patiently(what: &str, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_there()? {
        if begin.elapsed() > PATIENCE {
            bail!("{what} does not come up");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A process that is ended with its guard.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log_file = File::create(log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?);
        let child = command.stderr(log_file).spawn();
        Ok(Self(child.with_context(|| {
            format!("cannot start {}", crate::command::shown(command))
        })?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loop device that is detached with its guard.
struct Attached(PathBuf);

impl Attached {
    fn new(file: &Path) -> Result<Self> {
        let mut losetup = command("losetup", ["--find", "--show", "--direct-io=on"]);
        let name = run(losetup.arg("--sector-size=4096").arg(file))?;
        let device = Self(PathBuf::from(String::from_utf8(name)?.trim_end()));
        let name = device.0.file_name().unwrap_or_default().to_string_lossy();
        let discard = format!("/sys/block/{name}/queue/discard_max_bytes");
        fs::write(&discard, "0").with_context(|| format!("writing {discard}"))?;
        Ok(device)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // At worst a loop device stays until the next boot.
        let _ = run(command("losetup", ["--detach"]).arg(&self.0));
    }
}
