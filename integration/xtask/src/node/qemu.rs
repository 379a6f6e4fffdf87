//! The QEMU command line of a node. Which flag is there for what stands beside it.

use crate::command::command;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";
/// Firmware that keeps its variables behind SMM, so that only signed programs boot.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// How the processor is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware; Xen's PV guests need no nested virtualization.
    Kvm,
    /// Emulation: slow, but everywhere.
    Tcg,
}

impl Accelerator {
    /// What `XUPG_LAB_ACCEL` says, else KVM when it really works here, else emulation.
    ///
    /// # Errors
    /// When the variable is neither `kvm` nor `tcg`.
    pub fn choose() -> Result<Self> {
        static WORKS: OnceLock<bool> = OnceLock::new();
        match std::env::var("XUPG_LAB_ACCEL").as_deref() {
            Ok("kvm") => Ok(Self::Kvm),
            Ok("tcg") => Ok(Self::Tcg),
            Ok(other) if !other.is_empty() => bail!("XUPG_LAB_ACCEL is `{other}`; use kvm or tcg"),
            _ if *WORKS.get_or_init(kvm_works) => Ok(Self::Kvm),
            _ => Ok(Self::Tcg),
        }
    }
}

/// `/dev/kvm` may exist where it does not work: start an empty machine with it and see.
fn kvm_works() -> bool {
    let mut qemu = command(
        QEMU,
        [
            "-accel",
            "kvm",
            "-machine",
            "q35,smm=on",
            "-cpu",
            "host",
            "-nodefaults",
            "-display",
            "none",
            "-S",
        ],
    );
    qemu.args(["-monitor", "stdio"]);
    crate::command::run_with_input(&mut qemu, b"quit\n").is_ok()
}

/// A node's machine, ready to be started.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// Emulated or not.
    pub accelerator: Accelerator,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The node's flash: qcow2.
    pub disk: PathBuf,
    /// The UEFI variables: qcow2, so that snapshots cover them.
    pub vars: PathBuf,
    /// A raw, read-only second disk through which files get in.
    pub offer: PathBuf,
    /// All that the first serial port says is appended here.
    pub console: PathBuf,
    /// Where QEMU listens for QMP.
    pub monitor: PathBuf,
    /// The port on 127.0.0.1 that leads to the node's ssh.
    pub ssh_port: u16,
    /// Start from this snapshot instead of from the firmware.
    pub snapshot: Option<String>,
}

impl Qemu {
    /// The command; it prints only errors, on stderr.
    pub fn command(&self) -> Command {
        let mut qemu = command(QEMU, ["-nodefaults", "-no-user-config", "-display", "none"]);
        // smm, secure and disable_s3 belong together: see integration/README.md.
        qemu.args(["-machine", "q35,smm=on"]);
        qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        qemu.args(["-global", "ICH9-LPC.disable_s3=1"]);
        match self.accelerator {
            Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
            // npt: Debian's Xen has no shadow paging, PVH guests would not start.
            Accelerator::Tcg => qemu.args([
                "-accel",
                "tcg,thread=multi,tb-size=1024",
                "-cpu",
                "qemu64,+svm,+npt",
            ]),
        };
        qemu.args(["-smp", "2", "-m", &self.memory_mib.to_string()]);

        drive(
            &mut qemu,
            &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"),
            None,
        );
        drive(
            &mut qemu,
            "if=pflash,unit=1,format=qcow2,file=",
            Some(&self.vars),
        );
        // Not cache=unsafe: it would keep qcow2's tables in memory, and a power cut here is SIGKILL.
        drive(
            &mut qemu,
            "if=none,id=node,format=qcow2,discard=unmap,file=",
            Some(&self.disk),
        );
        qemu.args(["-device", "virtio-blk-pci,drive=node,serial=node"]);
        drive(
            &mut qemu,
            "if=none,id=offer,format=raw,readonly=on,file.locking=off,file=",
            Some(&self.offer),
        );
        qemu.args(["-device", "virtio-blk-pci,drive=offer,serial=offer"]);

        // No boot ROM: the firmware must not try the network.
        qemu.args(["-device", "virtio-net-pci,netdev=user,romfile="]);
        qemu.arg("-netdev");
        qemu.arg(format!(
            "user,id=user,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22",
            self.ssh_port
        ));
        qemu.args(["-object", "rng-random,id=entropy,filename=/dev/urandom"]);
        qemu.args(["-device", "virtio-rng-pci,rng=entropy"]);

        qemu.arg("-chardev");
        qemu.arg(format!(
            "file,id=console,append=on,path={}",
            escaped(&self.console)
        ));
        qemu.args(["-serial", "chardev:console"]);
        qemu.arg("-qmp");
        qemu.arg(format!(
            "unix:{},server=on,wait=off",
            escaped(&self.monitor)
        ));
        if let Some(snapshot) = &self.snapshot {
            qemu.args(["-loadvm", snapshot]);
        }
        qemu.stdin(Stdio::null());
        qemu
    }
}

fn drive(qemu: &mut Command, options: &str, file: Option<&Path>) {
    let file = file.map(escaped).unwrap_or_default();
    qemu.arg("-drive").arg(format!("{options}{file}"));
}

/// QEMU's option syntax doubles commas.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
