//! Slots in files, bundles made on the spot, and the assertion that nothing is left behind.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its own part.

pub mod canary;
pub mod forge;
pub mod honest;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use xupg_images::TrustStore;
use xupg_images::bundle::create::Options;
use xupg_images::bundle::{Bundle, BundleSpec, create};
use xupg_images::image::{LoopDevice, LoopOptions, MountGuard, MountOptions};
use xupg_images::stage::{self, Event, StageObserver, StageTarget, StagedRoot};

use crate::keys::{self, Keys};

pub struct Lab {
    pub keys: Keys,
}

impl Lab {
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts file systems: run it as root"
        );
        let lab = Self { keys: Keys::new() };
        for folder in ["slot", "active"] {
            fs::create_dir(lab.path(folder)).unwrap();
        }
        lab.empty_slot(192 << 20);
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.keys.path(name)
    }

    pub fn empty_slot(&self, bytes: u64) {
        let slot = File::create(self.path("slot.img")).unwrap();
        slot.set_len(bytes).unwrap();
    }

    /// A bundle of these payloads, as JSON objects.
    pub fn bundle(&self, payloads: &str) -> PathBuf {
        let text = format!(
            r#"{{"schema":1,"release":"2.0","compatible":"test","floor":"1.0","payloads":[{payloads}]}}"#
        );
        let spec = keys::write(&self.path(""), "spec.json", &text);
        let out = self.path("release.xupg");
        let _ = fs::remove_file(&out);
        let options = Options {
            threads: 2,
            level: 1,
        };
        let spec = BundleSpec::load(&spec).unwrap();
        create(&spec, &self.keys.key("vendor"), &out, &options, &mut |_| {}).unwrap();
        out
    }

    pub fn trust(&self) -> TrustStore {
        TrustStore::load(&self.path("trust")).unwrap()
    }

    pub fn target(&self) -> StageTarget {
        StageTarget {
            slot: self.path("slot.img"),
            region: None,
            mountpoint: self.path("slot"),
            active_root: self.path("active"),
            seal: true,
        }
    }

    pub fn stage(&self, bundle: &Path, watcher: &Watcher) -> Result<StagedRoot, stage::Error> {
        let file = File::open(bundle).unwrap();
        let bundle = Bundle::open(file, &self.trust()).unwrap();
        stage::write_release(bundle, &self.target(), watcher)
    }

    /// Mounts the slot, runs `look` and unmounts.
    pub fn in_slot<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        self.in_image(&self.path("slot.img"), look)
    }

    pub fn in_image<T>(&self, image: &Path, look: impl FnOnce(&Path) -> T) -> T {
        let options = LoopOptions {
            small_blocks: true,
            ..LoopOptions::default()
        };
        let device = LoopDevice::attach(image, options).unwrap();
        let at = tempfile::tempdir().unwrap();
        let mount = MountGuard::mount(device.path(), at.path(), MountOptions::default()).unwrap();
        let found = look(at.path());
        mount.unmount().unwrap();
        device.detach().unwrap();
        found
    }
}

impl Drop for Lab {
    /// Neither a mount nor a loop device may be left, however a test ended.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let folder = self.path("");
        let folder = folder.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(folder), "a mount is left: {mounts}");
        let loops = keys::run(
            "losetup",
            &["--list", "--noheadings", "--output", "BACK-FILE"],
        );
        let loops = String::from_utf8_lossy(&loops);
        assert!(!loops.contains(folder), "a loop device is left: {loops}");
    }
}

/// Keeps what it is told.
#[derive(Default)]
pub struct Watcher {
    pub events: Mutex<Vec<String>>,
    pub not_at_rest: bool,
}

impl StageObserver for Watcher {
    fn event(&self, event: Event<'_>) {
        let text = match event {
            Event::Preparing { domain } => format!("preparing {domain}"),
            Event::Sealing { domain } => format!("sealing {domain}"),
            Event::Sealed { domain, .. } => format!("sealed {domain}"),
            _ => return,
        };
        self.events.lock().unwrap().push(text);
    }

    fn before_overlay(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.events.lock().unwrap().push("before overlay".into());
        if self.not_at_rest {
            return Err("web does not stop".into());
        }
        Ok(())
    }
}
