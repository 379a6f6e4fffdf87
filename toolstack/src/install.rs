//! Lays out an empty disk, or a disk image file, from a bundle: the way every node begins.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;

use crate::boot::efi::EfiBoot;
use crate::boot::esp::{Esp, IMAGE_IN_ROOT};
use crate::disk::{self, Partition};
use crate::error::{Doing, Error, OrFailed, Result};
use crate::journal::{Journal, JournalFile};
use crate::slot::Slot;

/// How the disk is divided.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Bytes of the disk, where it is a file that does not exist yet.
    pub disk_bytes: Option<u64>,
    /// Bytes of the EFI system partition.
    pub esp_bytes: u64,
    /// Bytes of the state partition. The slots share the rest.
    pub state_bytes: u64,
}

/// A partitioned disk whose slots are still empty.
#[derive(Debug)]
pub struct NewDisk {
    path: PathBuf,
}

const MIB: u64 = 1 << 20;

/// Writes the partition table, the file systems of ESP and state partition.
///
/// # Errors
/// [`crate::error::Kind::Refused`] where the disk is not empty and `force` is not given.
pub fn lay_out(path: &Path, layout: Layout, force: bool) -> Result<NewDisk> {
    let bytes = open_empty(path, layout, force)?;
    let doing = || format!("writing the partition table of {}", path.display());
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .or_failed(doing)?;
    let sectors = u32::try_from(bytes / disk::BLOCK - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut device)
        .or_failed(doing)?;
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, None)
        .or_failed(doing)?;
    let fixed = layout.esp_bytes + layout.state_bytes + 4 * MIB;
    let slot_bytes = bytes.saturating_sub(fixed) / 2 / MIB * MIB;
    if slot_bytes < 64 * MIB {
        return Err(
            Error::refused(format!("{bytes} bytes are too few for two slots")).doing(doing()),
        );
    }
    for (label, size, kind) in [
        ("ESP", layout.esp_bytes, partition_types::EFI),
        (
            Slot::A.partition_label(),
            slot_bytes,
            partition_types::LINUX_FS,
        ),
        (
            Slot::B.partition_label(),
            slot_bytes,
            partition_types::LINUX_FS,
        ),
        ("xupg-state", layout.state_bytes, partition_types::LINUX_FS),
    ] {
        table
            .add_partition(label, size, kind, 0, Some(MIB / disk::BLOCK))
            .or_failed(doing)?;
    }
    table
        .write()
        .or_failed(doing)?
        .sync_all()
        .or_failed(doing)?;
    let disk = NewDisk {
        path: path.to_owned(),
    };
    disk.make_esp()?;
    Ok(disk)
}

impl NewDisk {
    /// A partition of this disk.
    ///
    /// # Errors
    /// Where the table cannot be read again.
    pub fn partition(&self, label: &str) -> Result<Partition> {
        disk::find(&self.path, label)
    }

    fn make_esp(&self) -> Result<()> {
        let esp = self.partition("ESP")?;
        let sectors = (esp.bytes / disk::BLOCK).to_string();
        // Heads and sectors are nobody's business any more, but a FAT header has to name some.
        let geometry = [
            "-F", "-v", "ESP", "-h", "64", "-s", "32", "-T", &sectors, "::",
        ];
        tool(self.mtool("mformat", &esp).args(geometry))?;
        for folder in ["EFI", "EFI/BOOT", "EFI/xupg", "EFI/xupg/a", "EFI/xupg/b"] {
            tool(self.mtool("mmd", &esp).arg(format!("::/{folder}")))?;
        }
        Ok(())
    }

    /// mtools work inside an image or device at an offset, so that no kernel has to know FAT.
    fn mtool(&self, name: &str, esp: &Partition) -> Command {
        let mut command = Command::new(name);
        command.env("MTOOLS_SKIP_CHECK", "1");
        command
            .arg("-i")
            .arg(format!("{}@@{}", self.path.display(), esp.offset));
        command
    }

    /// Copies the boot image of the release under `root` to `slot`'s place and to where a
    /// firmware without boot entries finds it.
    ///
    /// # Errors
    /// Where it is missing, does not fit, or does not read back.
    pub fn install_image(&self, slot: Slot, root: &Path) -> Result<()> {
        let esp = self.partition("ESP")?;
        let image = root.join(IMAGE_IN_ROOT);
        let bytes =
            fs::read(&image).or_failed(|| format!("reading the boot image {}", image.display()))?;
        for place in [
            format!("EFI/xupg/{}/xen.efi", slot.letter()),
            "EFI/BOOT/BOOTX64.EFI".into(),
        ] {
            tool(
                self.mtool("mcopy", &esp)
                    .arg("-o")
                    .arg(&image)
                    .arg(format!("::/{place}")),
            )?;
            let back = tool(self.mtool("mtype", &esp).arg(format!("::/{place}")))?;
            if back != bytes {
                return Err(Error::failed("what was written does not read back")
                    .doing(format!("writing {place}")));
            }
        }
        Ok(())
    }

    /// Makes the state partition with `journal` in it.
    ///
    /// # Errors
    /// Where mke2fs fails.
    pub fn make_state(&self, journal: &Journal) -> Result<()> {
        let state = self.partition("xupg-state")?;
        let folder = tempfile::tempdir().or_failed(|| "making a temporary folder".to_owned())?;
        JournalFile::in_directory(folder.path()).save(journal)?;
        tool(
            Command::new("mke2fs")
                .args([
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-L",
                    "xupg-state",
                    "-m",
                    "0",
                    "-E",
                ])
                .arg(format!("offset={},root_owner=0:0", state.offset))
                .arg("-d")
                .arg(folder.path())
                .arg(&self.path)
                .arg(format!("{}k", state.bytes / 1024)),
        )?;
        File::open(&self.path)
            .and_then(|disk| disk.sync_all())
            .or_failed(|| format!("flushing {}", self.path.display()))
    }

    /// Writes the slot's boot entry and makes it the default of the firmware at `efivars`, whose
    /// disk this is. Without that, the first boot goes through `EFI/BOOT/BOOTX64.EFI`, and
    /// `xupg boot` writes both entries.
    ///
    /// # Errors
    /// Where a variable cannot be written.
    pub fn register(&self, slot: Slot, root: &Path, efivars: &Path) -> Result<()> {
        let scratch = tempfile::tempdir().or_failed(|| "making a temporary folder".to_owned())?;
        // The entries are what is wanted here; the images are on the ESP already.
        let esp = Esp::mounted_at(scratch.path().to_owned());
        let mut boot = EfiBoot::new(efivars, esp, self.partition("ESP")?);
        crate::ports::BootControl::install_image(&mut boot, slot, root)?;
        crate::ports::BootControl::make_default(&mut boot, slot)
    }
}

/// Copies the node's own files (a folder tree) over the root of a new slot, as root's.
///
/// # Errors
/// Where one cannot be copied.
pub fn copy_node_files(from: &Path, to: &Path) -> Result<()> {
    let doing = || {
        format!(
            "copying the node's files {} to {}",
            from.display(),
            to.display()
        )
    };
    for entry in fs::read_dir(from).or_failed(doing)? {
        let entry = entry.or_failed(doing)?;
        let kind = entry.file_type().or_failed(doing)?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            fs::create_dir_all(&target).or_failed(doing)?;
            copy_node_files(&entry.path(), &target)?;
        } else if kind.is_file() {
            let mode = entry.metadata().or_failed(doing)?.permissions().mode();
            let bytes = fs::read(entry.path()).or_failed(doing)?;
            if fs::symlink_metadata(&target).is_ok() {
                fs::remove_file(&target).or_failed(doing)?;
            }
            fs::write(&target, bytes).or_failed(doing)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(mode & 0o777))
                .or_failed(doing)?;
        } else {
            return Err(Error::refused(format!(
                "{} is neither a file nor a folder",
                entry.path().display()
            ))
            .doing(doing()));
        }
    }
    Ok(())
}

/// Makes sure that `path` is an empty disk, makes the image file if asked; its size in bytes.
fn open_empty(path: &Path, layout: Layout, force: bool) -> Result<u64> {
    let doing = || format!("opening {}", path.display());
    if let (false, Some(bytes)) = (path.exists(), layout.disk_bytes) {
        let file = File::create_new(path).or_failed(doing)?;
        file.set_len(bytes).or_failed(doing)?;
        return Ok(bytes);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .or_failed(doing)?;
    let kind = file.metadata().or_failed(doing)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::refused("it is neither a disk nor a file").doing(doing()));
    }
    let bytes = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).or_failed(doing)?;
    let mut head = vec![0; usize::try_from(MIB.min(bytes)).unwrap_or(0)];
    file.read_exact_at(&mut head, 0).or_failed(doing)?;
    if head.iter().any(|byte| *byte != 0) && !force {
        return Err(Error::refused("the disk is not empty")
            .doing(doing())
            .hint("`--force` overwrites what is there"));
    }
    Ok(bytes)
}

/// Runs an outside program; its standard output.
fn tool(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    tracing::debug!(?command, "running");
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::refused(format!("there is no `{name}`"))
                .hint("install needs e2fsprogs and mtools"));
        }
        other => other.or_failed(|| format!("running {name}"))?,
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(format!(
        "{}: {}",
        output.status,
        words.trim()
    )))
    .doing(|| format!("running {name}"))
}

/// Writes `/etc/xupg/node.json` and the trust anchors, unless the node's files brought their own.
///
/// # Errors
/// Where they cannot be written.
pub fn write_defaults(root: &Path, compatible: &str, trust: &Path) -> Result<()> {
    let doing = || "writing the node's configuration".to_owned();
    let etc = root.join("etc/xupg");
    let anchors = etc.join("trust");
    if !anchors.exists() {
        fs::create_dir_all(&anchors).or_failed(doing)?;
        copy_node_files(trust, &anchors)?;
    }
    let config = etc.join("node.json");
    if !config.exists() {
        let json = serde_json::json!({ "schema": 1, "compatible": compatible });
        let mut file = File::create(&config).or_failed(doing)?;
        writeln!(file, "{json}").or_failed(doing)?;
    }
    Ok(())
}
