//! Booting once for many: a node that is up, kept as a snapshot.

use super::machine::Machine;
use super::state::NodeState;
use crate::cache::{Key, get_or_make};
use crate::keys::Keys;
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The name of the snapshot.
const SNAPSHOT: &str = "up";

/// A first boot under emulation on a busy machine takes minutes.
pub const BOOT: Duration = Duration::from_secs(900);

/// A node that has been booted once and is continued from there as often as wanted.
#[derive(Debug, Clone)]
pub struct Booted {
    state: NodeState,
    keys: Keys,
}

impl Booted {
    /// Boots a node whose flash `make_flash` has made, lets `prepare` bring it where the scenarios start, and keeps that. With the
    /// same `name` and `key` it is there at once.
    ///
    /// # Errors
    /// When it does not come up, and those of the two functions; then the console's end is part of the error.
    pub fn ensure(
        name: &str,
        key: Key,
        keys: &Keys,
        make_flash: impl FnOnce(&Path) -> Result<()>,
        prepare: impl FnOnce(&mut Machine) -> Result<()>,
    ) -> Result<Self> {
        let dir = get_or_make(&format!("node-{name}"), key, |dir| {
            let state = NodeState::with_flash(&dir.join("node"), &keys.ovmf_vars(), make_flash)?;
            let mut machine = Machine::start(state, &keys.ssh())?;
            let line = progress::step("first boot", || machine.wait_until_up(0, BOOT))?;
            progress::say(line);
            prepare(&mut machine)?;
            progress::step("saving the machine", || machine.save(SNAPSHOT))?;
            machine.quit()?;
            Ok(())
        })?;
        Ok(Self {
            state: NodeState::open(&dir.join("node"))?,
            keys: keys.clone(),
        })
    }

    /// A running copy in `dir`, right after `prepare`, with ssh answering.
    ///
    /// # Errors
    /// When QEMU does not start or ssh does not answer.
    pub fn resume(&self, dir: &Path) -> Result<Machine> {
        let copy = self.state.copy_to(dir)?;
        // What it said before belongs to the story.
        fs::copy(self.state.console(), copy.console()).context("cannot copy the console's log")?;
        let machine = Machine::resume(copy, &self.keys.ssh(), SNAPSHOT)?;
        machine
            .ssh()
            .wait(std::time::Instant::now() + Duration::from_secs(120))?;
        Ok(machine)
    }
}
