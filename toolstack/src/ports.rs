//! The few things an upgrade does to the world, each with a real and a recording implementation.
//!
//! Real: [`crate::flash`], [`crate::boot`], [`crate::domains`], [`crate::hook`], [`crate::power`]. Recording: the tests' model of a node, which fails and crashes at every call.

use std::path::Path;
use std::time::Duration;

use xupg_hooks::{Answer, Flag, Phase as HookPhase, Token};

use crate::error::{OrFailed, Result};
use crate::journal::{Journal, Verdict};
use crate::report::Event;
use crate::slot::Slot;

/// The journal's home.
pub trait JournalStore {
    /// Reads it.
    fn load(&self) -> Result<Journal>;
    /// Replaces it durably.
    fn save(&self, journal: &Journal) -> Result<()>;
    /// What an operator has decided about the running trial, once.
    fn take_verdict(&self) -> Option<Verdict>;
}

/// The firmware's choice of slot.
pub trait BootControl {
    /// Takes `slot`'s boot image and its place in the boot order away: it cannot boot.
    fn forbid(&mut self, slot: Slot) -> Result<()>;
    /// Copies the signed boot image of the release under `root` to `slot`'s place, reads it back
    /// and makes sure that `slot` has a boot entry.
    fn install_image(&mut self, slot: Slot, root: &Path) -> Result<()>;
    /// Boot `slot` next, once.
    fn try_once(&mut self, slot: Slot) -> Result<()>;
    /// Take [`BootControl::try_once`] back.
    fn cancel_try(&mut self) -> Result<()>;
    /// Boot `slot` from now on, the other one after it.
    fn make_default(&mut self, slot: Slot) -> Result<()>;
    /// The slot the next boot will be: the one-shot choice, or else the default.
    fn next(&self) -> Result<Option<Slot>>;
}

/// A bundle whose manifest is verified and whose payloads are still to be read, and the slot
/// that it goes to.
pub trait Stager {
    /// Writes every payload into `slot`, reads it back, and carries the node's own files over.
    /// `stop_domus` is called before the first `overlay` payload is touched.
    fn write(
        &mut self,
        slot: Slot,
        events: &dyn Fn(Event),
        stop_domus: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Box<dyn StagedSlot>>;
}

/// A written slot, its root still mounted.
pub trait StagedSlot {
    /// dom0's new root.
    fn root(&self) -> &Path;
    /// Unmounts and flushes everything; only now the slot is whole.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A domU that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its name in xl.
    pub name: String,
    /// Its xl monitor would start it again after a shutdown (`on_poweroff` is not `destroy`).
    pub restarts: bool,
}

/// What every flag and hook of one upgrade or rollback is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    txn: Token,
    to: Token,
    from: Option<Token>,
}

impl Attempt {
    /// The attempt `txn` to go from release `from` to release `to`.
    ///
    /// # Errors
    /// Where one of them can not be handed to a hook.
    pub fn new(txn: &str, from: &str, to: &str) -> Result<Self> {
        let token =
            |text: &str| Token::new(text).or_failed(|| format!("naming `{text}` to the hooks"));
        Ok(Self {
            txn: token(txn)?,
            to: token(to)?,
            from: Some(token(from)?),
        })
    }

    /// The flag that asks for `phase`, to be done within `timeout`.
    pub fn flag(&self, phase: HookPhase, timeout: Duration) -> Flag {
        Flag {
            txn: self.txn.clone(),
            phase,
            release: self.to.clone(),
            from_release: self.from.clone(),
            timeout,
        }
    }
}

/// The domUs.
pub trait Domains {
    /// Those that run now.
    fn running(&mut self) -> Result<Vec<Running>>;
    /// Raises the flag of a running domU.
    fn raise_flag(&mut self, name: &str, flag: &Flag) -> Result<()>;
    /// Reads what the domU's agent has answered to `flag`; `None` while it has not. A flag that
    /// is gone, because the domU has restarted, is raised again.
    fn answer(&mut self, name: &str, flag: &Flag) -> Result<Option<Answer>>;
    /// Asks for a shutdown and waits until the domU is gone. `false`: it still runs.
    fn shutdown(&mut self, name: &str, timeout: Duration) -> Result<bool>;
    /// Ends it at once.
    fn destroy(&mut self, name: &str) -> Result<()>;
    /// Makes sure that it runs: creates it paused from the xl configuration, raises the flag if
    /// any, lets it go. One that runs already only gets the flag.
    fn start(&mut self, name: &str, config: &str, flag: Option<&Flag>) -> Result<()>;
    /// Whether it is alive.
    fn is_alive(&mut self, name: &str) -> Result<bool>;
    /// Passes `duration`, while the world goes on.
    fn wait(&mut self, duration: Duration);
    /// Seconds on a clock that only goes forward.
    fn clock(&self) -> f64;
}

/// dom0's own hook.
pub trait Hooks {
    /// Runs it in `root` (`/` for the running dom0). `Ok` holds `done` or `none`.
    fn run(
        &mut self,
        root: &Path,
        slot: Slot,
        flag: &Flag,
        events: &dyn Fn(Event),
    ) -> Result<&'static str>;
}

/// The node's power.
pub trait Power {
    /// Reboots the node; returns once the reboot is on its way.
    fn reboot(&mut self) -> Result<()>;
}

/// All of them.
pub struct Ports<'a> {
    /// The journal's home.
    pub journal: &'a dyn JournalStore,
    /// The firmware.
    pub boot: &'a mut dyn BootControl,
    /// The domUs.
    pub domains: &'a mut dyn Domains,
    /// dom0's hook.
    pub hooks: &'a mut dyn Hooks,
    /// The node's power.
    pub power: &'a mut dyn Power,
    /// Whoever watches.
    pub events: &'a dyn Fn(Event),
}

impl Ports<'_> {
    /// Makes `journal` durable and shows it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn record(&self, journal: &Journal) -> Result<()> {
        self.journal.save(journal)?;
        (self.events)(Event::Recorded {
            journal: Box::new(journal.clone()),
        });
        Ok(())
    }
}
