//! What is seen of a node before anything is decided.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use xupg_images::manifest::Manifest;

use crate::boot::efi::EfiBoot;
use crate::boot::esp::Esp;
use crate::disk::{self, Partition};
use crate::error::{Error, OrFailed, Result};
use crate::journal::{JournalFile, Release};
use crate::node::{Node, NodeConfig, Region};
use crate::plan::Observed;
use crate::ports::{BootControl, Domains};
use crate::report::Status;

/// Where a slot keeps the manifest of what it holds.
pub const MANIFEST_IN_ROOT: &str = "/var/lib/xupg/release/manifest.json";

/// Looks at the node for a plan.
///
/// # Errors
/// Where the node cannot be read.
pub fn observe(node: &Node, domains: &mut dyn Domains) -> Result<Observed> {
    let config = node.config()?;
    let booted = node.booted()?;
    let standby = node.slot_region(!booted, &config)?;
    Ok(Observed {
        booted,
        compatible: config.compatible,
        journal: JournalFile::in_directory(&node.state_directory()).load()?,
        standby_bytes: region_bytes(&standby)?,
        running: domains.running()?,
        saved: saved_domains(node),
    })
}

/// Where the node stands.
///
/// # Errors
/// Where its journal cannot be read. A firmware that cannot be read is told as an unknown next.
pub fn status(node: &Node) -> Result<Status> {
    let journal = JournalFile::in_directory(&node.state_directory()).load()?;
    let next = boot_control(node)
        .and_then(|boot| boot.next())
        .unwrap_or_else(|error| {
            tracing::warn!("the next boot is unknown: {}", error.because());
            None
        });
    Ok(Status::of(&journal, node.booted()?, next))
}

/// The firmware of the node.
///
/// # Errors
/// Where the ESP cannot be found on its disk.
pub fn boot_control(node: &Node) -> Result<EfiBoot> {
    let partition = esp_partition(node, &node.config()?)?;
    let efivars = node.path("/sys/firmware/efi/efivars");
    if !efivars.is_dir() {
        return Err(Error::refused(format!("there is no {}", efivars.display()))
            .hint("xupg needs UEFI firmware, and efivarfs mounted"));
    }
    Ok(EfiBoot::new(
        &efivars,
        Esp::mounted_at(node.esp()),
        partition,
    ))
}

/// The manifest of the release that is mounted at `root` (`/` of the node for the active one).
///
/// # Errors
/// Where there is none, or it is not one.
pub fn manifest_of(node: &Node) -> Result<Manifest> {
    let path = node.path(MANIFEST_IN_ROOT);
    let doing = || format!("reading this slot's manifest {}", path.display());
    let bytes = fs::read(&path).or_failed(doing)?;
    Manifest::parse(&bytes).or_failed(doing)
}

/// A release's name in the journal.
pub fn release_of(manifest: &Manifest, bytes: &[u8]) -> Release {
    Release {
        version: manifest.release.clone(),
        manifest: xupg_images::manifest::Digest::of(bytes).to_string(),
    }
}

fn esp_partition(node: &Node, config: &NodeConfig) -> Result<Partition> {
    if let Some(disk) = &config.disk {
        return disk::find(&node.path(&disk.to_string_lossy()), "ESP");
    }
    let label = node.path("/dev/disk/by-partlabel/ESP");
    let doing = || format!("looking for the disk of {}", label.display());
    let device = fs::canonicalize(&label).or_failed(doing)?;
    let name = device.file_name().unwrap_or_default();
    // `/sys/class/block/vda1` points into the folder of its disk: `.../block/vda/vda1`.
    let sysfs = fs::canonicalize(Path::new("/sys/class/block").join(name)).or_failed(doing)?;
    let disk = sysfs
        .parent()
        .and_then(Path::file_name)
        .ok_or_else(|| Error::failed(format!("{} is no partition", device.display())))?;
    disk::find(&Path::new("/dev").join(disk), "ESP")
}

fn region_bytes(region: &Region) -> Result<u64> {
    let doing = || format!("measuring {}", region.device.display());
    match region.bytes {
        Some(bytes) => Ok(bytes),
        None => {
            let mut device = fs::File::open(&region.device).or_failed(doing)?;
            Ok(device
                .seek(SeekFrom::End(0))
                .or_failed(doing)?
                .saturating_sub(region.offset))
        }
    }
}

/// Names under xendomains' folder of saved domains (Debian: `XENDOMAINS_SAVE`).
fn saved_domains(node: &Node) -> Vec<String> {
    let Ok(entries) = fs::read_dir(node.path("/var/lib/xen/save")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name != "lost+found")
        .collect()
}
