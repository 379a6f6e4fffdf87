//! The slots on the node's flash, through `xupg-images`: a release is written into one, read back
//! and kept exact.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Instant;

use rustix::mount::{UnmountFlags, unmount};
use xupg_images::bundle::{Bundle, ReadError};
use xupg_images::image::{
    LoopDevice, LoopOptions, MountGuard, MountOptions, Region as ImageRegion,
};
use xupg_images::manifest::Manifest;
use xupg_images::signature::TrustStore;
use xupg_images::stage::{self, StageObserver, StageTarget, StagedRoot};

use crate::disk::Partition;
use crate::error::{Error, Kind, OrFailed, Result};
use crate::node::{Node, NodeConfig, Region};
use crate::ports::{StagedSlot, Stager};
use crate::report::Event;
use crate::slot::Slot;

/// A bundle from a file or a pipe, its manifest verified.
pub type VerifiedBundle = Bundle<Box<dyn Read + Send>>;

/// Reads and verifies the manifest at the head of `input` against the anchors in `trust`.
/// Certificates are judged at the signing time, and never earlier than `not_before` (seconds since
/// 1970, the newest signing time that this node has accepted).
///
/// # Errors
/// A refusal: nothing has been changed.
pub fn open_bundle(
    input: Box<dyn Read + Send>,
    trust: &Path,
    not_before: u64,
) -> Result<VerifiedBundle> {
    let store = TrustStore::load(trust)
        .map_err(|error| {
            Error::refused(error).doing(format!("reading the trust anchors in {}", trust.display()))
        })?
        .not_before(not_before);
    Bundle::open(input, &store).map_err(|error| match error {
        ReadError::Signature(_) => Error::refused(error)
            .hint("the bundle must be signed by somebody whom this node trusts"),
        other => Error::refused(other),
    })
}

/// The newest signing time of a bundle, in seconds since 1970.
pub fn signed_at(bundle: &VerifiedBundle) -> u64 {
    bundle
        .signers()
        .iter()
        .map(|signer| signer.signed_at)
        .max()
        .unwrap_or(0)
}

/// Writes a bundle into the standby slot of a node.
pub struct FlashStager {
    node: Node,
    config: NodeConfig,
    booted: Slot,
    bundle: Option<VerifiedBundle>,
}

impl FlashStager {
    /// `bundle` will be written into the slot that is not `booted`.
    ///
    /// # Errors
    /// Where the node's configuration cannot be read.
    pub fn new(node: &Node, booted: Slot, bundle: VerifiedBundle) -> Result<Self> {
        Ok(Self {
            node: node.clone(),
            config: node.config()?,
            booted,
            bundle: Some(bundle),
        })
    }
}

impl Stager for FlashStager {
    fn write(
        &mut self,
        slot: Slot,
        events: &dyn Fn(Event),
        stop_domus: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Box<dyn StagedSlot>> {
        if slot == self.booted {
            return Err(Error::failed(format!(
                "slot {slot} is live and is never written"
            )));
        }
        let Some(bundle) = self.bundle.take() else {
            return Err(Error::failed("the bundle has been read already"));
        };
        let mountpoint = self.node.standby_mountpoint();
        std::fs::create_dir_all(&mountpoint)
            .or_failed(|| format!("making {}", mountpoint.display()))?;
        let target = target(
            self.node.slot_region(slot, &self.config)?,
            mountpoint,
            self.node.path("/"),
        );
        let manifest = bundle.manifest().clone();
        release_stale_mounts(&target.mountpoint, &manifest);
        let staged = write(bundle, &target, events, stop_domus)?;
        let preserve: Vec<_> = manifest
            .payloads
            .iter()
            .flat_map(|payload| payload.preserve.clone())
            .collect();
        xupg_images::preserve::carry(&self.node.path("/"), staged.path(), &preserve)
            .or_failed(|| "carrying the node's own files over".to_owned())?;
        Ok(Box::new(Staged(staged)))
    }
}

/// Unmounts what an xupg that was killed has left mounted; its loop devices go with that.
fn release_stale_mounts(mountpoint: &Path, manifest: &Manifest) {
    let images = manifest.payloads.iter().map(|payload| {
        let mut name = mountpoint.as_os_str().to_owned();
        name.push(".");
        name.push(&payload.domain);
        PathBuf::from(name)
    });
    for stale in images.chain([mountpoint.to_owned()]) {
        // Nothing is mounted there, as a rule; if it cannot be unmounted, the stage will say so.
        if unmount(&stale, UnmountFlags::empty()).is_ok() {
            tracing::info!(
                "unmounted {}, which an earlier run has left",
                stale.display()
            );
        }
    }
}

/// A written slot.
struct Staged(StagedRoot);

impl StagedSlot for Staged {
    fn root(&self) -> &Path {
        self.0.path()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.0.finish().map_err(Error::failed)
    }
}

/// The first slot of a new disk.
#[derive(Debug)]
pub struct NewSlot {
    /// The disk or image file.
    pub device: PathBuf,
    /// The slot's partition on it.
    pub partition: Partition,
    /// An empty folder.
    pub mountpoint: PathBuf,
}

impl NewSlot {
    /// Writes `bundle` into it.
    ///
    /// # Errors
    /// Where that fails; overlay payloads are refused, for there is nothing to lay them over.
    pub fn write(
        self,
        bundle: VerifiedBundle,
        events: &dyn Fn(Event),
    ) -> Result<Box<dyn StagedSlot>> {
        // Not through the partition's node: whether the kernel has read the new table or not.
        let region = Region {
            device: self.device,
            offset: self.partition.offset,
            bytes: Some(self.partition.bytes),
        };
        let target = target(region, self.mountpoint, PathBuf::from("/nonexistent"));
        let mut nothing_to_lay_over = || {
            Err(Error::refused(
                "an overlay payload needs an older release to lie on",
            ))
        };
        write(bundle, &target, events, &mut nothing_to_lay_over)
            .map(|staged| Box::new(Staged(staged)) as Box<dyn StagedSlot>)
    }
}

fn target(region: Region, mountpoint: PathBuf, active_root: PathBuf) -> StageTarget {
    StageTarget {
        slot: region.device,
        region: region.bytes.map(|bytes| ImageRegion {
            offset: region.offset,
            bytes,
        }),
        mountpoint,
        active_root,
        seal: true,
    }
}

/// What the stage's threads have to say to the one that called it.
enum Message {
    Event(Event),
    Unpacked {
        domain: String,
        done: u64,
        total: u64,
    },
    BringToRest(Sender<std::result::Result<(), String>>),
}

/// Carries the stage's words, which come from several threads, over to one.
struct Bridge(Sender<Message>);

/// Runs the stage beside this thread, which hears its events and stops the domUs when asked.
fn write(
    bundle: VerifiedBundle,
    target: &StageTarget,
    events: &dyn Fn(Event),
    stop_domus: &mut dyn FnMut() -> Result<()>,
) -> Result<StagedRoot> {
    let mut overall = Overall::of(bundle.manifest());
    let mut refused_rest = None;
    let outcome = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let stage = scope.spawn(move || stage::write_release(bundle, target, &Bridge(sender)));
        for message in receiver {
            match message {
                Message::Event(event) => events(event),
                Message::Unpacked {
                    domain,
                    done,
                    total,
                } => {
                    for event in overall.add(domain, done, total) {
                        events(event);
                    }
                }
                Message::BringToRest(reply) => {
                    let rest = stop_domus().map_err(|error| {
                        let words = error.because();
                        refused_rest = Some(error);
                        words
                    });
                    // The stage waits for exactly this; it is not gone.
                    let _ = reply.send(rest);
                }
            }
        }
        stage.join()
    });
    match (outcome, refused_rest) {
        (_, Some(error)) => Err(error),
        (Ok(outcome), None) => outcome.map_err(|error| match error {
            stage::Error::Refused(_) => Error::new(Kind::Refused, error),
            _ => Error::failed(error),
        }),
        (Err(_), None) => Err(Error::failed(
            "the stage ended in a panic, which is a bug in xupg",
        )),
    }
}

impl Bridge {
    fn say(&self, message: Message) {
        // The other end outlives the stage.
        let _ = self.0.send(message);
    }
}

impl StageObserver for Bridge {
    fn event(&self, event: stage::Event<'_>) {
        let domain = |domain: &str, state: &str, message: String| {
            Message::Event(Event::Domain {
                domain: domain.to_owned(),
                state: state.to_owned(),
                percent: None,
                message,
            })
        };
        match event {
            stage::Event::Preparing { domain: name } => {
                self.say(domain(name, "preparing", String::new()));
            }
            stage::Event::Unpacked {
                domain,
                done,
                total,
            } => {
                self.say(Message::Unpacked {
                    domain: domain.to_owned(),
                    done,
                    total,
                });
            }
            stage::Event::Sealing { domain: name } => {
                self.say(domain(name, "sealing", String::new()));
            }
            stage::Event::Sealed {
                domain: name,
                sealed,
            } => {
                self.say(domain(
                    name,
                    "sealed",
                    format!("{} entries", sealed.entries),
                ));
            }
            _ => {}
        }
    }

    fn before_overlay(&self) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (reply, answer) = mpsc::channel();
        self.say(Message::BringToRest(reply));
        answer.recv()?.map_err(Into::into)
    }
}

/// How far the release has come as a whole.
struct Overall {
    began: Instant,
    total: u64,
    done: BTreeMap<String, u64>,
    shown: u8,
}

impl Overall {
    fn of(manifest: &Manifest) -> Self {
        let total = manifest
            .payloads
            .iter()
            .map(|payload| payload.unpacked_bytes)
            .sum();
        Self {
            began: Instant::now(),
            total,
            done: BTreeMap::new(),
            shown: 0,
        }
    }

    /// More of one payload: its own progress, and the release's where that has moved.
    fn add(&mut self, domain: String, done: u64, total: u64) -> Vec<Event> {
        let before = self.done.entry(domain.clone()).or_default();
        // The words of several threads may overtake one another.
        *before = done.max(*before);
        let done = *before;
        let mut events = vec![Event::Domain {
            domain,
            state: "unpacking".to_owned(),
            percent: Some(percent(done, total)),
            message: String::new(),
        }];
        let all: u64 = self.done.values().sum();
        let percent = percent(all, self.total);
        if percent > self.shown {
            self.shown = percent;
            let rest = self.total.saturating_sub(all);
            let eta_s = self
                .began
                .elapsed()
                .as_secs()
                .checked_mul(rest)
                .map(|t| t / all.max(1));
            events.push(Event::Progress { percent, eta_s });
        }
        events
    }
}

fn percent(done: u64, total: u64) -> u8 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u8::try_from(percent.min(100)).unwrap_or(100)
}

/// Reads `slot`, which must not be live, back and compares it with the signed lists it was written
/// from. Returns the release it holds.
///
/// # Errors
/// The first difference, by name.
pub fn verify(node: &Node, slot: Slot) -> Result<String> {
    let doing = || format!("reading slot {slot} back");
    let trust = TrustStore::load(&node.trust()).or_failed(doing)?;
    let mountpoint = node.standby_mountpoint();
    let scratch = mountpoint.with_extension("images");
    for folder in [&mountpoint, &scratch] {
        std::fs::create_dir_all(folder).or_failed(|| format!("making {}", folder.display()))?;
    }
    let region = node.slot_region(slot, &node.config()?)?;
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    // A region of a disk image needs a loop device; a partition is one already.
    let (device, mount) = match region.bytes {
        Some(bytes) => {
            let part = Some(ImageRegion {
                offset: region.offset,
                bytes,
            });
            let options_of_loop = LoopOptions {
                region: part,
                read_only: true,
                ..LoopOptions::default()
            };
            let device = LoopDevice::attach(&region.device, options_of_loop).or_failed(doing)?;
            let mount = device.mount(&mountpoint, options).or_failed(doing)?;
            (Some(device), mount)
        }
        None => (
            None,
            MountGuard::mount(&region.device, &mountpoint, options).or_failed(doing)?,
        ),
    };
    let verified = xupg_images::verify::slot(mount.path(), &scratch, &trust, &Silent);
    mount.unmount().or_failed(doing)?;
    if let Some(device) = device {
        device.detach().or_failed(doing)?;
    }
    Ok(verified.or_failed(doing)?.release)
}

/// Watches nothing.
struct Silent;

impl StageObserver for Silent {
    fn event(&self, _event: stage::Event<'_>) {}

    fn before_overlay(&self) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}
