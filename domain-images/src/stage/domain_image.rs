//! A domU's image in the mounted slot while its payload is written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::store::make_dirs;
use super::under;
use crate::image::{
    self, Check, FileKind, ImageError, LoopDevice, LoopOptions, MountGuard, MountOptions, Shape,
};
use crate::manifest::{Mode, Payload};
use crate::tree::{Links, Root, split};

/// The image, attached and mounted. Field order is drop order: unmount, remove the mount point,
/// detach.
pub(super) struct DomainImage {
    mount: Option<MountGuard>,
    mountpoint: MountPoint,
    device: LoopDevice,
    file: PathBuf,
    domain: String,
}

/// A directory made to mount on. Never removed with what is in it.
struct MountPoint(PathBuf);

impl Drop for MountPoint {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a mount point stays behind");
        }
    }
}

impl DomainImage {
    /// Makes a fresh image, or copies the active one, and mounts it to be filled.
    pub(super) fn make(
        payload: &Payload,
        slot_root: &Path,
        active_root: &Path,
        mountpoint: &Path,
    ) -> Result<Self, Problem> {
        let domain = payload.domain.as_str();
        let fail = || Problem::image(domain);
        let Some(wanted) = &payload.image else {
            return Err(Problem::Image {
                domain: domain.to_owned(),
                source: ImageError::Unusable {
                    path: slot_root.to_owned(),
                    reason: "a domU needs an image",
                },
            });
        };
        let path = under(slot_root, &wanted.path);
        let file = create(slot_root, &wanted.path, &path).map_err(fail())?;
        match payload.mode {
            Mode::Replace => image::allocate(&file, &path, wanted.bytes).map_err(fail())?,
            Mode::Overlay => {
                let from = under(active_root, &wanted.path);
                let active = image::open_regular(&from, FileKind::Read).map_err(fail())?;
                image::copy(&active, &file, &path, wanted.bytes).map_err(fail())?;
                file.sync_all()
                    .map_err(ImageError::io("flush", &path))
                    .map_err(fail())?;
            }
        }
        let bytes = file
            .metadata()
            .map_err(ImageError::io("look at", &path))
            .map_err(fail())?
            .size();
        drop(file);
        let options = LoopOptions {
            // Ours has blocks of 4096 bytes; the guest's may have any.
            small_blocks: payload.mode == Mode::Overlay,
            ..LoopOptions::default()
        };
        let device = LoopDevice::attach(&path, options).map_err(fail())?;
        let shape = Shape {
            bytes,
            entries: payload.entries,
        };
        match payload.mode {
            Mode::Replace => image::make(device.path(), shape).map_err(fail())?,
            Mode::Overlay => {
                // A guest has written it: it is checked before the kernel mounts it.
                image::check(device.path(), Check::Repair).map_err(fail())?;
                image::grow(device.path()).map_err(fail())?;
            }
        }
        let mountpoint = own_mountpoint(mountpoint, domain).map_err(fail())?;
        let options = MountOptions {
            without_journal: true,
            ..MountOptions::default()
        };
        let mount = device.mount(&mountpoint.0, options).map_err(fail())?;
        Ok(Self {
            mount: Some(mount),
            mountpoint,
            device,
            file: path,
            domain: domain.to_owned(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.mountpoint.0
    }

    /// The loop device, for the seal.
    pub(super) fn device(&self) -> &Path {
        self.device.path()
    }

    /// Mounts the image anew and read-only: what is read from now on comes from the disk.
    pub(super) fn remount_read_only(&mut self) -> Result<(), Problem> {
        self.unmount()?;
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        let mount = self.device.mount(&self.mountpoint.0, options);
        self.mount = Some(mount.map_err(Problem::image(&self.domain))?);
        Ok(())
    }

    pub(super) fn unmount(&mut self) -> Result<(), Problem> {
        if let Some(mount) = self.mount.take() {
            mount.unmount().map_err(Problem::image(&self.domain))?;
        }
        Ok(())
    }

    /// Unmounts, detaches and flushes the image file.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.unmount()?;
        let Self {
            device,
            file,
            domain,
            ..
        } = self;
        device.detach().map_err(Problem::image(&domain))?;
        File::open(&file)
            .and_then(|opened| opened.sync_all())
            .map_err(ImageError::io("flush", &file))
            .map_err(Problem::image(&domain))
    }
}

/// Creates the new image file; its directories are made where the payload has not.
fn create(slot_root: &Path, inside: &str, path: &Path) -> Result<File, ImageError> {
    let root = Root::open(slot_root, Links::Refuse).map_err(ImageError::io("open", slot_root))?;
    let (parent, _) = split(inside.trim_start_matches('/').as_bytes());
    // Refuses links, so that `path` below cannot lead out of the slot.
    make_dirs(&root, parent).map_err(ImageError::io("make the directory of", path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ImageError::io("create", path))
}

fn own_mountpoint(slot_mountpoint: &Path, domain: &str) -> Result<MountPoint, ImageError> {
    let mut name = slot_mountpoint.as_os_str().to_owned();
    name.push(".");
    name.push(domain);
    let path = PathBuf::from(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(ImageError::io("make the mount point", &path)(error))
        }
        _ => Ok(MountPoint(path)),
    }
}
