//! The standby slot while it is written, and the staged root that comes out.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::StageTarget;
use super::error::Problem;
use super::plan::Plan;
use crate::image::{self, ImageError, LoopDevice, LoopOptions, MountGuard, MountOptions, Shape};

const DOM0: &str = "dom0";

/// The slot with its fresh file system. Field order is drop order: unmount, then detach.
pub(super) struct Slot {
    mount: Option<MountGuard>,
    device: SlotDevice,
    mountpoint: PathBuf,
}

enum SlotDevice {
    Block(PathBuf),
    File(LoopDevice, PathBuf),
}

impl SlotDevice {
    fn path(&self) -> &Path {
        match self {
            Self::Block(path) => path,
            Self::File(device, _) => device.path(),
        }
    }
}

impl Slot {
    /// Makes the slot's file system and mounts it to be filled.
    pub(super) fn make(target: &StageTarget, plan: &Plan, entries: u64) -> Result<Self, Problem> {
        let fail = || Problem::image(DOM0);
        let device = if plan.is_device {
            SlotDevice::Block(target.slot.clone())
        } else {
            let options = LoopOptions {
                region: target.region,
                ..LoopOptions::default()
            };
            let device = LoopDevice::attach(&target.slot, options).map_err(fail())?;
            SlotDevice::File(device, target.slot.clone())
        };
        let shape = Shape {
            bytes: plan.slot_bytes,
            entries,
        };
        image::make(device.path(), shape).map_err(fail())?;
        let mut slot = Self {
            mount: None,
            device,
            mountpoint: target.mountpoint.clone(),
        };
        slot.mount(MountOptions {
            without_journal: true,
            ..MountOptions::default()
        })?;
        Ok(slot)
    }

    fn mount(&mut self, options: MountOptions) -> Result<(), Problem> {
        let guard = MountGuard::mount(self.device.path(), &self.mountpoint, options);
        self.mount = Some(guard.map_err(Problem::image(DOM0))?);
        Ok(())
    }

    /// Mounts the slot anew, with its journal and as dom0's own root will be: what is read from now
    /// on comes from the disk.
    pub(super) fn remount(&mut self) -> Result<(), Problem> {
        self.unmount()?;
        self.mount(MountOptions {
            trusted: true,
            ..MountOptions::default()
        })
    }

    fn unmount(&mut self) -> Result<(), Problem> {
        if let Some(mount) = self.mount.take() {
            mount.unmount().map_err(Problem::image(DOM0))?;
        }
        Ok(())
    }

    /// The block device, for the seal.
    pub(super) fn device(&self) -> &Path {
        self.device.path()
    }

    pub(super) fn root(&self) -> &Path {
        &self.mountpoint
    }

    fn finish(mut self) -> Result<(), Problem> {
        self.unmount()?;
        let sync = |path: &Path| {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(ImageError::io("flush", path))
        };
        match self.device {
            SlotDevice::Block(path) => sync(&path),
            SlotDevice::File(device, file) => sync(device.path())
                .and_then(|()| device.detach())
                .and_then(|()| sync(&file)),
        }
        .map_err(Problem::image(DOM0))
    }
}

/// A staged release: every domain's file system is written, flushed and sealed, and dom0's new root
/// is mounted, so that its hook can run and the node's own files can be carried over. Ends with
/// [`StagedRoot::finish`]; dropped, it unmounts and detaches, and logs what goes wrong.
pub struct StagedRoot(pub(super) Slot);

impl StagedRoot {
    /// dom0's new root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.root()
    }

    /// Flushes and unmounts the slot and gives its device back. After that, all is on the disk.
    ///
    /// # Errors
    /// Something could not be written or is still in use: the slot must not be booted.
    pub fn finish(self) -> Result<(), super::Error> {
        self.0.finish().map_err(super::Error::Failed)
    }
}
