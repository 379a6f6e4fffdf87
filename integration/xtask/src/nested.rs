//! A node under test: what an operator sees of it, asked for from outside.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bundles::Factory;
use crate::consoles::Consoles;
use crate::node::machine::Machine;
use crate::node::ssh::Said;
use crate::node::state::NodeState;
use crate::progress;

/// A boot under emulation, on a busy machine, with two domUs.
pub const BOOT: Duration = Duration::from_secs(600);
/// Unpacking and reading back a release under emulation.
pub const APPLY: Duration = Duration::from_secs(1200);
/// A command that only looks.
pub const LOOK: Duration = Duration::from_secs(60);

/// A running node, and what its domUs say.
pub struct Node {
    /// The machine.
    pub machine: Machine,
    /// What the domUs have said since the lab began to listen.
    pub consoles: Consoles,
}

impl Node {
    /// Switches a node on and waits until its boot service is done.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(state: NodeState, factory: &Factory) -> Result<Self> {
        let machine = Machine::start(state, &factory.keys.ssh())?;
        let consoles = Consoles::new(machine.ssh().clone());
        let mut node = Self { machine, consoles };
        node.wait_until_up(0)?;
        Ok(node)
    }

    /// Goes on where a snapshot was taken.
    ///
    /// # Errors
    /// When there is no such snapshot.
    pub fn resume(state: NodeState, factory: &Factory, snapshot: &str) -> Result<Self> {
        let machine = Machine::resume(state, &factory.keys.ssh(), snapshot)?;
        let mut consoles = Consoles::new(machine.ssh().clone());
        machine.ssh().wait(Instant::now() + LOOK)?;
        // dom0's clock stood still while the snapshot lay on the shelf.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        machine.ssh().run(&format!("date -s @{now}"), LOOK)?;
        consoles.listen()?;
        Ok(Self { machine, consoles })
    }

    /// Waits until dom0 answers, and listens to its domUs from then on.
    ///
    /// # Errors
    /// When it does not within [`BOOT`].
    pub fn wait_until_up(&mut self, mark: usize) -> Result<()> {
        self.machine.wait_until_up(mark, BOOT)?;
        self.consoles.listen()
    }

    /// Runs a shell line in dom0 that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn run(&self, line: &str) -> Result<String> {
        self.machine.ssh().run(line, LOOK)
    }

    /// Runs `xupg ARGUMENTS` in dom0; how it ended is for the caller to judge.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub fn xupg(&self, arguments: &str) -> Result<Said> {
        self.machine
            .ssh()
            .try_run(&format!("xupg {arguments}"), APPLY)
    }

    /// `xupg status --json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn status(&self) -> Result<Value> {
        let text = self.run("xupg status --json")?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Waits until the node's status is as wanted.
    ///
    /// # Errors
    /// When it is not within `patience`; with the last status.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        let mut told = Instant::now();
        loop {
            // A busy node may let a connection wait too long; the deadline is what counts.
            let status = self.status();
            if let Ok(status) = &status
                && wanted(status)
            {
                return Ok(status.clone());
            }
            if Instant::now() >= deadline {
                let status = status?;
                bail!("not {what} after {} s: {status:#}", patience.as_secs());
            }
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                let state =
                    status.map_or_else(|error| error.to_string(), |s| s["state"].to_string());
                progress::say(format_args!("  waiting until {what}; now {state}"));
            }
            // Each look is an ssh handshake, and dom0 has better things to do.
            std::thread::sleep(Duration::from_secs(5));
        }
    }

    /// Runs `xupg ARGUMENTS`, which ends in a reboot, and waits until the node is up again.
    ///
    /// # Errors
    /// When it fails or the node does not come back.
    pub fn through_reboot(&mut self, arguments: &str) -> Result<()> {
        let mark = self.machine.console_mark();
        match self.xupg(arguments) {
            Ok(said) if said.status != Some(0) => {
                bail!(
                    "xupg {arguments}: exit {:?}\n{}\n{}",
                    said.status,
                    said.stdout,
                    said.stderr
                )
            }
            // The reboot may cut the connection before the answer.
            _ => self.wait_until_up(mark),
        }
    }

    /// Checks that hypervisor, dom0 and both domUs are of one release, and that the domUs live.
    ///
    /// # Errors
    /// When one is not, or a domU does not speak.
    pub fn expect_release(&mut self, version: &str) -> Result<()> {
        let xen = self.run("xl info xen_commandline")?;
        ensure!(
            xen.split_ascii_whitespace()
                .any(|word| word == format!("xupg.release={version}")),
            "Xen's command line is not {version}'s: {xen}"
        );
        let dom0 = self.run("cat /usr/lib/xupg/release")?;
        ensure!(dom0.trim() == version, "dom0 is {dom0}");
        for domain in ["web", "db"] {
            let wanted = format!("{domain}: alive, release {version}");
            self.consoles.wait_for(domain, &wanted, BOOT)?;
        }
        Ok(())
    }

    /// Checks that each domain's hook ran exactly once, in its own domain: dom0's in the stage and the
    /// boot phase, the domUs' in the boot phase of the new root.
    ///
    /// # Errors
    /// When one ran more or less often.
    pub fn hooks_ran_once(&self) -> Result<()> {
        let dom0 = self.run("cat /var/lib/xupg-hook.log")?;
        let phases: Vec<_> = dom0
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        ensure!(
            phases == ["stage", "boot"],
            "dom0's hook ran for {phases:?}"
        );
        for domain in ["web", "db"] {
            // What the hook has noted is on the guest's console: its file system is the guest's,
            // and its journal not ours to read.
            let wanted = ["; hook: ", " boot "];
            let line = self.consoles.wait_for_all(domain, &wanted, BOOT)?;
            let notes = line.split("; hook: ").nth(1).unwrap_or_default().to_owned();
            let runs: Vec<_> = notes
                .split(';')
                .filter_map(|note| note.split(' ').nth(1))
                .collect();
            ensure!(
                runs == ["boot"] && notes.contains(&format!(" {domain} ")),
                "the hook of `{domain}` ran for {runs:?}: {notes}"
            );
        }
        Ok(())
    }

    /// Hands files to dom0, under `/offer`.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn offer(&self, files: &[&Path]) -> Result<()> {
        self.machine.offer(files)
    }
}
