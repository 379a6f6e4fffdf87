//! Lays out an empty disk, or a disk image file, from a bundle: the way every node begins.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;
use rustix::fs::OFlags;

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

/// A disk, or the name of an image file, that may be laid out. Nothing has been written.
#[derive(Debug)]
pub struct EmptyDisk {
    path: PathBuf,
    layout: Layout,
    bytes: u64,
    slot_bytes: u64,
}

/// A partitioned disk whose slots are still empty.
#[derive(Debug)]
pub struct NewDisk {
    path: PathBuf,
}

const MIB: u64 = 1 << 20;

/// Runs beside the kernel's own: FAT and ext4 are made without mounting.
const TOOLS: [&str; 5] = ["mformat", "mmd", "mcopy", "mtype", "mke2fs"];

impl EmptyDisk {
    /// Looks at what is to be laid out.
    ///
    /// # Errors
    /// [`crate::error::Kind::Refused`] where the disk is in use, too small, or not empty and
    /// `force` is not given; where its blocks are not of 512 bytes; where a tool is missing.
    pub fn find(path: &Path, layout: Layout, force: bool) -> Result<Self> {
        for name in TOOLS {
            if let Err(error) = Command::new(name).arg("-V").output() {
                return Err(Error::refused(error)
                    .doing(format!("looking for the program `{name}`"))
                    .hint("install needs e2fsprogs and mtools"));
            }
        }
        let bytes = match (path.exists(), layout.disk_bytes) {
            (false, Some(bytes)) => bytes,
            _ => size_of_empty(path, force)
                .doing(|| format!("looking at the disk {}", path.display()))?,
        };
        let fixed = layout.esp_bytes + layout.state_bytes + 4 * MIB;
        let slot_bytes = bytes.saturating_sub(fixed) / 2 / MIB * MIB;
        if slot_bytes < 64 * MIB {
            return Err(Error::refused(format!(
                "{} MiB are too few for ESP, state partition and two slots",
                bytes / MIB
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            layout,
            bytes,
            slot_bytes,
        })
    }

    /// Writes the partition table and the file system of the ESP; makes the image file.
    ///
    /// # Errors
    /// Where a write or a tool fails.
    pub fn lay_out(self) -> Result<NewDisk> {
        let Self {
            path,
            layout,
            bytes,
            slot_bytes,
        } = self;
        let doing = || format!("writing the partition table of {}", path.display());
        let mut device = OpenOptions::new()
            .read(true)
            .write(true)
            .create(layout.disk_bytes.is_some())
            .truncate(false)
            .open(&path)
            .or_failed(doing)?;
        if layout.disk_bytes.is_some() && device.metadata().or_failed(doing)?.len() == 0 {
            device.set_len(bytes).or_failed(doing)?;
        }
        let sectors = u32::try_from(bytes / disk::BLOCK - 1).unwrap_or(u32::MAX);
        ProtectiveMBR::with_lb_size(sectors)
            .overwrite_lba0(&mut device)
            .or_failed(doing)?;
        let mut table = GptConfig::new()
            .writable(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .create_from_device(device, None)
            .or_failed(doing)?;
        let linux = || partition_types::LINUX_FS;
        for (label, size, kind) in [
            ("ESP", layout.esp_bytes, partition_types::EFI),
            (Slot::A.partition_label(), slot_bytes, linux()),
            (Slot::B.partition_label(), slot_bytes, linux()),
            ("xupg-state", layout.state_bytes, linux()),
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
        let disk = NewDisk { path };
        disk.make_esp()?;
        Ok(disk)
    }
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

/// The size in bytes of a disk or file that nobody uses and, unless `force` is given, that begins
/// with nothing but zeros.
fn size_of_empty(path: &Path, force: bool) -> Result<u64> {
    let doing = || "opening it".to_owned();
    let kind = fs::metadata(path).map_err(Error::refused)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::refused("it is neither a disk nor a file"));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind.is_block_device() {
        // Exclusive: a disk of which anything is mounted, swapped to or mapped is busy.
        options.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => Error::refused("it is in use"),
        _ => Error::refused(error),
    })?;
    if kind.is_block_device() {
        let block = rustix::fs::ioctl_blksszget(&file).or_failed(doing)?;
        if u64::from(block) != disk::BLOCK {
            return Err(Error::refused(format!(
                "its logical blocks are of {block} bytes; only {} are supported",
                disk::BLOCK
            )));
        }
    }
    let bytes = (&file).seek(SeekFrom::End(0)).or_failed(doing)?;
    let mut head = vec![0; usize::try_from(MIB.min(bytes)).unwrap_or(0)];
    file.read_exact_at(&mut head, 0).or_failed(doing)?;
    if head.iter().any(|byte| *byte != 0) && !force {
        return Err(
            Error::refused("the disk is not empty").hint("`--force` overwrites what is there")
        );
    }
    Ok(bytes)
}

/// Runs an outside program; its standard output.
fn tool(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    tracing::debug!(?command, "running");
    let output = command.output().or_failed(|| format!("running {name}"))?;
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
