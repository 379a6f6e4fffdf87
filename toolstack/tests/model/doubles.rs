//! The doubles of the journal, the firmware, the stager, dom0's hook and the power. They take as
//! many steps as the real ones, in the same order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use xupg::error::{Error, Result};
use xupg::journal::{Journal, Verdict};
use xupg::ports::{BootControl, Hooks, JournalStore, Power, StagedSlot, Stager};
use xupg::report::Event;
use xupg::slot::Slot;
use xupg_hooks::Flag;
use xupg_images::manifest::{Manifest, Mode};

use crate::world::{Disk, Hook, Shared, index};

pub(crate) struct Disc(pub(crate) Shared);
pub(crate) struct Firmware(pub(crate) Shared);
pub(crate) struct Dom0Hook(pub(crate) Shared);
pub(crate) struct Plug(pub(crate) Shared);
pub(crate) struct Bundle(pub(crate) Shared, pub(crate) Manifest);
struct Written(Shared, Slot, Manifest, PathBuf);

impl JournalStore for Disc {
    fn load(&self) -> Result<Journal> {
        self.0
            .borrow_mut()
            .step("read the journal", |world| world.journal.clone())
    }

    fn save(&self, journal: &Journal) -> Result<()> {
        let journal = journal.clone();
        self.0
            .borrow_mut()
            .step("write the journal", |world| world.journal = journal)
    }

    fn take_verdict(&self) -> Option<Verdict> {
        self.0.borrow_mut().verdict.take()
    }
}

impl BootControl for Firmware {
    fn forbid(&mut self, slot: Slot) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if slot == world.booted {
            world.broken("the active slot is made unbootable");
        }
        world.step("delete BootNext", |world| world.once = None)?;
        world.step("write BootOrder without it", |world| {
            world.order.retain(|s| *s != slot)
        })?;
        world.step("remove its boot image", |world| {
            world.images[index(slot)] = None
        })
    }

    fn install_image(&mut self, slot: Slot, root: &Path) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if slot == world.booted {
            world.broken("the active slot's boot image is replaced");
        }
        let release = root.to_string_lossy().into_owned();
        world.step("write the boot image", |world| {
            world.images[index(slot)] = Some(release)
        })
    }

    fn try_once(&mut self, slot: Slot) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if !world.boots(slot) {
            world.broken(format!("slot {slot} is tried and cannot boot"));
        }
        world.step("write BootNext", |world| world.once = Some(slot))
    }

    fn cancel_try(&mut self) -> Result<()> {
        self.0
            .borrow_mut()
            .step("delete BootNext", |world| world.once = None)
    }

    fn make_default(&mut self, slot: Slot) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if world.images[index(slot)].is_none() {
            return Err(Error::failed(format!("slot {slot} has no boot image")));
        }
        world.step("write BootOrder", |world| {
            world.order = vec![slot];
            if world.images[index(!slot)].is_some() {
                world.order.push(!slot);
            }
        })?;
        world.step("delete BootNext", |world| world.once = None)?;
        world.step("write the removable image", |world| world.removable = slot)
    }

    fn next(&self) -> Result<Option<Slot>> {
        let world = self.0.borrow();
        Ok(world.once.or(world.order.first().copied()))
    }
}

impl Stager for Bundle {
    fn write(
        &mut self,
        slot: Slot,
        _events: &dyn Fn(Event),
        stop_domus: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Box<dyn StagedSlot>> {
        let Self(world, manifest) = self;
        world.borrow_mut().step("make the file system", |world| {
            if slot == world.booted || world.order.contains(&slot) || world.once == Some(slot) {
                world.broken(format!("slot {slot} is written while it may boot"));
            }
            world.disks[index(slot)] = Disk::Partial;
            world.done.retain(|(s, _, _, _)| *s != slot);
        })?;
        let mut stopped = false;
        for payload in &manifest.payloads {
            let domain = payload.domain.as_str();
            if payload.mode == Mode::Overlay && !stopped {
                stop_domus()?;
                stopped = true;
            }
            let mut world = world.borrow_mut();
            if payload.mode == Mode::Overlay && world.running.contains_key(domain) {
                world.broken(format!("the image of `{domain}` is copied while it runs"));
            }
            world.step(format!("unpack {domain}"), |_| ())?;
        }
        let root = PathBuf::from(&manifest.release);
        Ok(Box::new(Written(
            world.clone(),
            slot,
            manifest.clone(),
            root,
        )))
    }
}

impl StagedSlot for Written {
    fn root(&self) -> &Path {
        &self.3
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self(world, slot, manifest, _) = *self;
        world.borrow_mut().step("flush the slot", |world| {
            world.disks[index(slot)] = Disk::Whole(Box::new(manifest));
        })
    }
}

impl Hooks for Dom0Hook {
    fn run(
        &mut self,
        root: &Path,
        slot: Slot,
        flag: &Flag,
        _events: &dyn Fn(Event),
    ) -> Result<&'static str> {
        let mut world = self.0.borrow_mut();
        let live = root == Path::new("/");
        if live != (slot == world.booted) {
            world.broken(format!(
                "dom0's hook runs in {} for slot {slot}",
                root.display()
            ));
        }
        if world.is_done(slot, "dom0", flag) {
            return Ok("done");
        }
        // While it is staged, a slot is not whole yet; its hook is scripted by its release all
        // the same.
        let hook = world
            .hooks
            .iter()
            .find(|((domain, release, phase), _)| {
                *domain == "dom0" && *release == flag.release.as_str() && *phase == flag.phase
            })
            .map_or(Hook::Good, |(_, hook)| *hook);
        world.step(format!("run dom0's {} hook", flag.phase), |_| ())?;
        match hook {
            Hook::Missing => Ok("none"),
            Hook::Good | Hook::GoodOnce => {
                world.step("remember dom0's hook", |world| {
                    world.complete(slot, "dom0", flag)
                })?;
                Ok("done")
            }
            _ => Err(Error::failed("its hook failed: scripted")),
        }
    }
}

impl Power for Plug {
    fn reboot(&mut self) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if !world.running.is_empty() {
            let names: Vec<_> = world.running.keys().cloned().collect();
            world.broken(format!("a reboot with {} running", names.join(", ")));
        }
        world.step("reboot", |world| world.rebooting = true)
    }
}

/// How long the model lets pass at most in one go.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
