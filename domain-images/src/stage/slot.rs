//! The standby slot while it is written, and the staged root that comes out.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::StageTarget;
use super::error::Problem;
use super::plan::Plan;
use crate::ext4::Disk;
use crate::image::{
    self, ImageError, LoopDevice, LoopOptions, MountGuard, MountOptions, Region, Shape,
};

const DOM0: &str = "dom0";

/// The slot with its fresh file system. Field order is drop order: unmount, then detach.
pub(super) struct Slot {
    mount: Option<MountGuard>,
    /// Only while it is mounted, and only for a slot that is no block device.
    attached: Option<LoopDevice>,
    path: PathBuf,
    region: Option<Region>,
    is_device: bool,
    mountpoint: PathBuf,
}

impl Slot {
    /// Makes the slot's file system, for [`Disk`] to be filled.
    pub(super) fn make(target: &StageTarget, plan: &Plan, entries: u64) -> Result<Self, Problem> {
        let shape = Shape {
            bytes: plan.slot_bytes,
            entries,
        };
        image::make(&target.slot, target.region, shape).map_err(Problem::image(DOM0))?;
        Ok(Self {
            mount: None,
            attached: None,
            path: target.slot.clone(),
            region: target.region,
            is_device: plan.is_device,
            mountpoint: target.mountpoint.clone(),
        })
    }

    /// The slot while it is not mounted.
    pub(super) fn disk(&self) -> Result<Disk, Problem> {
        Disk::open(&self.path, self.region).map_err(Problem::io(format!(
            "open the slot {}",
            self.path.display()
        )))
    }

    /// Mounts the filled slot as dom0's own root will be: what is read from now on comes from the
    /// disk.
    pub(super) fn mount(&mut self) -> Result<(), Problem> {
        if !self.is_device && self.attached.is_none() {
            let options = LoopOptions {
                region: self.region,
                ..LoopOptions::default()
            };
            let device = LoopDevice::attach(&self.path, options);
            self.attached = Some(device.map_err(Problem::image(DOM0))?);
        }
        let options = MountOptions {
            trusted: true,
            ..MountOptions::default()
        };
        let guard = MountGuard::mount(self.device(), &self.mountpoint, options);
        self.mount = Some(guard.map_err(Problem::image(DOM0))?);
        Ok(())
    }

    /// The block device, for the seal, while the slot is mounted.
    pub(super) fn device(&self) -> &Path {
        self.attached.as_ref().map_or(&self.path, LoopDevice::path)
    }

    pub(super) fn root(&self) -> &Path {
        &self.mountpoint
    }

    fn finish(mut self) -> Result<(), Problem> {
        if let Some(mount) = self.mount.take() {
            mount.unmount().map_err(Problem::image(DOM0))?;
        }
        let sync = |path: &Path| {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(ImageError::io("flush", path))
        };
        let detached = match self.attached.take() {
            Some(device) => sync(device.path()).and_then(|()| device.detach()),
            None => Ok(()),
        };
        detached
            .and_then(|()| sync(&self.path))
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
