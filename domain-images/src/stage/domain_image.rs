//! A domU's image in the mounted slot while its payload is written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::store::make_dirs;
use super::under;
use crate::ext4::Disk;
use crate::image::{
    self, Check, FileKind, ImageError, LoopDevice, LoopOptions, MountGuard, MountOptions, Shape,
};
use crate::manifest::{Image, Mode, Payload};
use crate::tree::{Links, Root, split};

/// The image file, mounted or not.
pub(super) struct DomainImage {
    mounted: Option<Mounted>,
    file: PathBuf,
    mountpoint: PathBuf,
    domain: String,
}

/// Field order is drop order: unmount, remove the mount point, detach.
struct Mounted {
    mount: Option<MountGuard>,
    mountpoint: MountPoint,
    device: LoopDevice,
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

/// Makes the image file of a payload in the slot, with all its blocks where it is not to be a copy.
pub(super) fn reserve(payload: &Payload, slot_root: &Path) -> Result<(), Problem> {
    let Some(wanted) = &payload.image else {
        return Ok(());
    };
    let path = under(slot_root, &wanted.path);
    create(slot_root, &wanted.path, &path)
        .and_then(|file| match payload.mode {
            Mode::Replace => image::allocate(&file, &path, wanted.bytes),
            Mode::Overlay => Ok(()),
        })
        .map_err(Problem::image(&payload.domain))
}

impl DomainImage {
    /// Makes a fresh file system in the reserved image, for [`Disk`] to be filled.
    pub(super) fn fresh(
        payload: &Payload,
        wanted: &Image,
        slot_root: &Path,
        mountpoint: &Path,
    ) -> Result<Self, Problem> {
        let image = Self::at(payload, wanted, slot_root, mountpoint);
        let shape = Shape {
            bytes: wanted.bytes,
            entries: payload.entries,
        };
        image::make(&image.file, None, shape).map_err(Problem::image(&image.domain))?;
        Ok(image)
    }

    /// Copies the active image into the reserved one and mounts it.
    pub(super) fn copied(
        payload: &Payload,
        wanted: &Image,
        slot_root: &Path,
        mountpoint: &Path,
        active_root: &Path,
    ) -> Result<Self, Problem> {
        let mut image = Self::at(payload, wanted, slot_root, mountpoint);
        image
            .copy(wanted, &under(active_root, &wanted.path))
            .map_err(Problem::image(&image.domain))?;
        // The guest's file system may have blocks of any size.
        image.attach(true)?;
        if let Some(Mounted { device, .. }) = &image.mounted {
            // A guest has written it: it is checked before the kernel mounts it.
            image::check(device.path(), Check::Repair)
                .and_then(|()| image::grow(device.path()))
                .map_err(Problem::image(&image.domain))?;
        }
        image.mount(MountOptions {
            without_journal: true,
            ..MountOptions::default()
        })?;
        Ok(image)
    }

    fn at(payload: &Payload, wanted: &Image, slot_root: &Path, mountpoint: &Path) -> Self {
        let mut own = mountpoint.as_os_str().to_owned();
        own.push(".");
        own.push(&payload.domain);
        Self {
            mounted: None,
            file: under(slot_root, &wanted.path),
            mountpoint: own.into(),
            domain: payload.domain.clone(),
        }
    }

    fn copy(&self, wanted: &Image, from: &Path) -> Result<(), ImageError> {
        let active = image::open_regular(from, FileKind::Read)?;
        let file = image::open_regular(&self.file, FileKind::Write)?;
        image::copy(&active, &file, &self.file, wanted.bytes)?;
        file.sync_all().map_err(ImageError::io("flush", &self.file))
    }

    /// The image while it is not mounted.
    pub(super) fn disk(&self) -> Result<Disk, Problem> {
        let doing = || format!("open the image {}", self.file.display());
        Disk::open(&self.file, None).map_err(Problem::io(doing()))
    }

    /// Where it is mounted.
    pub(super) fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// The loop device, for the seal, while there is one.
    pub(super) fn device(&self) -> &Path {
        let attached = self.mounted.as_ref();
        attached.map_or(&self.file, |mounted| mounted.device.path())
    }

    /// Mounts the image anew and read-only: what is read from now on comes from the disk.
    pub(super) fn remount_read_only(&mut self) -> Result<(), Problem> {
        match &mut self.mounted {
            Some(mounted) => mounted.unmount().map_err(Problem::image(&self.domain))?,
            None => self.attach(false)?,
        }
        self.mount(MountOptions {
            read_only: true,
            ..MountOptions::default()
        })
    }

    fn attach(&mut self, small_blocks: bool) -> Result<(), Problem> {
        let options = LoopOptions {
            small_blocks,
            ..LoopOptions::default()
        };
        let fail = || Problem::image(&self.domain);
        let device = LoopDevice::attach(&self.file, options).map_err(fail())?;
        let mountpoint = self.make_mountpoint().map_err(fail())?;
        self.mounted = Some(Mounted {
            mount: None,
            mountpoint,
            device,
        });
        Ok(())
    }

    fn mount(&mut self, options: MountOptions) -> Result<(), Problem> {
        if let Some(mounted) = &mut self.mounted {
            let mount = mounted.device.mount(&mounted.mountpoint.0, options);
            mounted.mount = Some(mount.map_err(Problem::image(&self.domain))?);
        }
        Ok(())
    }

    fn make_mountpoint(&self) -> Result<MountPoint, ImageError> {
        match fs::create_dir(&self.mountpoint) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(ImageError::io("make the mount point", &self.mountpoint)(
                    error,
                ))
            }
            _ => Ok(MountPoint(self.mountpoint.clone())),
        }
    }

    /// Unmounts, detaches and flushes the image file.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let sync = |file: &Path| {
            File::open(file)
                .and_then(|opened| opened.sync_all())
                .map_err(ImageError::io("flush", file))
        };
        let detached = match self.mounted.take() {
            Some(mounted) => mounted.end(),
            None => Ok(()),
        };
        detached
            .and_then(|()| sync(&self.file))
            .map_err(Problem::image(&self.domain))
    }
}

impl Mounted {
    fn unmount(&mut self) -> Result<(), ImageError> {
        self.mount.take().map_or(Ok(()), MountGuard::unmount)
    }

    fn end(mut self) -> Result<(), ImageError> {
        self.unmount()?;
        let Self { device, .. } = self;
        device.detach()
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
