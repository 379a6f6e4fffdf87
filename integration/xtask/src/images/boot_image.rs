//! The unified boot image: Xen, its configuration, dom0's kernel and initramfs in one signed EFI program.
//!
//! Xen's EFI loader takes its files from the sections `.config`, `.kernel` and `.ramdisk` of its own image (Xen's
//! `docs/misc/efi.pandoc`, "Unified Xen kernel image"); then one signature covers all of what boots.

use crate::command::{command, run};
use crate::keys::Signer;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Debian's hypervisor as an EFI program.
const XEN: &str = "/boot/xen-4.17-amd64.efi";

/// dom0's memory in MiB; the rest of the machine is for domUs.
pub const DOM0_MEMORY_MIB: u32 = 1024;

/// What goes into a boot image.
pub struct BootImage<'a> {
    /// The release it belongs to; shown on Xen's command line.
    pub release: &'a str,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's initramfs.
    pub initramfs: &'a [u8],
    /// More words for dom0's kernel command line.
    pub dom0_options: &'a str,
    /// Who signs it; `None` leaves it unsigned, and no enforcing firmware starts it.
    pub signer: Option<&'a Signer>,
}

impl BootImage<'_> {
    /// Writes the image to `out`; `scratch` is an existing directory for intermediate files.
    ///
    /// # Errors
    /// When a tool fails or the hypervisor's package is not there.
    pub fn write(&self, scratch: &Path, out: &Path) -> Result<()> {
        let config = scratch.join("xen.cfg");
        let initramfs = scratch.join("initramfs");
        let unsigned = scratch.join("xen-unsigned.efi");
        fs::write(&config, self.config())?;
        fs::write(&initramfs, self.initramfs)?;

        let mut objcopy = command("objcopy", [] as [&str; 0]);
        let mut address = end_of_sections(XEN)?;
        for (section, file) in [
            (".config", &config),
            (".kernel", &self.kernel),
            (".ramdisk", &initramfs),
        ] {
            let length = fs::metadata(file)
                .with_context(|| format!("cannot read {}", file.display()))?
                .len();
            objcopy
                .arg("--add-section")
                .arg(format!("{section}={}", file.display()));
            objcopy
                .arg("--change-section-vma")
                .arg(format!("{section}={address:#x}"));
            address = (address + length).next_multiple_of(4096);
        }
        run(objcopy.arg(XEN).arg(&unsigned))?;

        match self.signer {
            Some(signer) => {
                run(command("sbsign", ["--key"])
                    .arg(&signer.key)
                    .arg("--cert")
                    .arg(&signer.cert)
                    .arg("--output")
                    .arg(out)
                    .arg(&unsigned))?;
            }
            None => {
                fs::copy(&unsigned, out)?;
            }
        }
        for file in [config, initramfs, unsigned] {
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// One section per slot; the boot entry's optional data (`xen.efi b`) chooses.
    fn config(&self) -> String {
        let mut config = String::from("[global]\ndefault=a\n");
        for slot in ["a", "b"] {
            config.push_str(&format!(
                "\n[{slot}]\n\
                 options=console=com1 com1=115200,8n1 dom0_mem={DOM0_MEMORY_MIB}M,max:{DOM0_MEMORY_MIB}M \
                 dom0_max_vcpus=2 bootscrub=0 spec-ctrl=no xupg.release={}\n\
                 kernel=vmlinuz root=PARTLABEL=xupg-{slot} xupg.slot={slot} rw console=hvc0 panic=1 \
                 net.ifnames=0 loglevel=4 apparmor=0 audit=0 mitigations=off \
                 systemd.show_status=error {}\n\
                 ramdisk=initramfs\n",
                self.release, self.dom0_options
            ));
        }
        config
    }
}

/// The first page-aligned address after all sections, `.pad` included.
fn end_of_sections(image: &str) -> Result<u64> {
    let said = String::from_utf8(run(&mut command("objdump", ["--section-headers", image]))?)?;
    let mut end = 0;
    for line in said.lines() {
        // Idx Name Size VMA ...; the lines between carry flags.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [index, _, size, address, ..] = fields[..] else {
            continue;
        };
        if index.parse::<u32>().is_err() {
            continue;
        }
        let size = u64::from_str_radix(size, 16).context("objdump's size")?;
        let address = u64::from_str_radix(address, 16).context("objdump's address")?;
        end = end.max(address + size);
    }
    anyhow::ensure!(end != 0, "objdump shows no section in {image}");
    Ok(end.next_multiple_of(4096))
}
