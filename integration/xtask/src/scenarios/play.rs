//! A node in the middle of a scenario, and what scenarios do with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::drill;
use super::stand::{self, Stand, Start};
use crate::nested::{BOOT, LOOK, Node};
use crate::node::ssh::Said;
use crate::{paths, progress};

/// A node, and what its tests have to tell each other.
pub(super) struct Play<'a> {
    pub(super) stand: &'a Stand,
    pub(super) node: Node,
    /// What an earlier test of the story has seen.
    pub(super) notes: BTreeMap<&'static str, String>,
    name: &'static str,
    place: PathBuf,
}

/// What is asked of a node after a failure: a file's name, and the line that fills it.
const EVIDENCE: [(&str, &str); 5] = [
    ("status.txt", "xupg status 2>&1"),
    ("journal.json", "cat /var/lib/xupg/state/journal.json"),
    (
        "boot-service.log",
        "journalctl -b --no-pager -o short-monotonic -u xupg-boot -u xen",
    ),
    ("xenstore.txt", "xenstore-ls -fp"),
    (
        "domains.txt",
        "xl list; tail -n 40 /var/log/xen/console/*.log",
    ),
];

impl<'a> Play<'a> {
    /// A new machine where `start` says.
    pub(super) fn begin(stand: &'a Stand, name: &'static str, start: Start) -> Result<Self> {
        let place = stand::place(name);
        let node = stand.node(start, &place)?;
        Ok(Self {
            stand,
            node,
            notes: BTreeMap::new(),
            name,
            place,
        })
    }

    /// Pulls the plug. What is left of a good end is removed.
    pub(super) fn end(self, good: bool) {
        drop(self.node);
        if good && let Err(error) = fs::remove_dir_all(&self.place) {
            progress::say(format_args!("{} stays: {error}", self.place.display()));
        }
    }

    /// Saves what a person wants to see after a failure.
    pub(super) fn keep_evidence(&self) {
        let folder = paths::lab().join("failed").join(self.name);
        if let Err(error) = self.write_evidence(&folder) {
            progress::say(format_args!("  not all could be kept: {error:#}"));
        }
        progress::say(format_args!("  evidence: {}", folder.display()));
    }

    fn write_evidence(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let console = self.node.machine.state().console();
        fs::copy(console, folder.join("console.log"))?;
        for (file, line) in EVIDENCE {
            let said = self.node.machine.ssh().try_run(line, LOOK)?;
            fs::write(folder.join(file), said.stdout + &said.stderr)?;
        }
        Ok(())
    }

    /// Writes how the drill is to go wrong, see [`drill`].
    pub(super) fn drill(&self, faults: &str) -> Result<()> {
        self.node
            .machine
            .ssh()
            .put(drill::FILE, format!("{faults}\n").as_bytes(), 0o644)
    }

    /// Offers a bundle and runs `xupg apply OPTIONS` of it, which must not get as far as a reboot.
    pub(super) fn apply(&self, options: &str, bundle: &Path) -> Result<Said> {
        self.node.offer(&[bundle])?;
        self.node
            .xupg(&format!("apply {options} {}", stand::offered(bundle)?))
    }

    /// Runs a `xupg` that ends in a reboot. The reboot may cut the connection before the answer.
    pub(super) fn reboots(&self, arguments: &str) -> Result<()> {
        match self.node.xupg(arguments) {
            Ok(said) if said.status != Some(0) => bail!("xupg {arguments}: {said:?}"),
            _ => Ok(()),
        }
    }

    /// Waits until the node, which said `mark` before, is back in slot A as 1.0 with both domUs;
    /// the status then.
    pub(super) fn is_back(&mut self, mark: usize) -> Result<Value> {
        self.node.machine.wait_for_console(
            mark,
            "lab: node up, release 1.0, slot a",
            BOOT + BOOT,
        )?;
        self.node.wait_until_up(mark)?;
        let status = self
            .node
            .wait_for("idle in slot a", BOOT, |it| {
                it["state"] == "idle" && it["active"] == "a"
            })
            .context("after the way back")?;
        ensure!(
            status["next"] == "a" && status["confirmed"] == "a",
            "slot A is not what boots next: {status:#}"
        );
        self.node.expect_release("1.0")?;
        Ok(status)
    }

    /// Waits until a trial has been confirmed in slot B; the status then.
    pub(super) fn is_confirmed(&self) -> Result<Value> {
        let status = self
            .node
            .wait_for("confirmed", BOOT, |status| status["state"] == "idle")?;
        ensure!(
            status["last"]["outcome"]["outcome"] == "confirmed",
            "not confirmed: {status:#}"
        );
        ensure!(
            ["active", "confirmed", "next"]
                .iter()
                .all(|key| status[*key] == "b"),
            "slot B is not what runs and boots next: {status:#}"
        );
        Ok(status)
    }

    /// Makes the running `web` ignore its shutdown.
    pub(super) fn make_web_stubborn(&self) -> Result<()> {
        // The kernel runs /sbin/poweroff when Xen asks for a shutdown.
        let line = "set -e; xl shutdown -w web >/dev/null; \
             mount -o loop /var/lib/xupg/images/web.img /mnt; \
             rm /mnt/sbin/poweroff; printf '#!/bin/sh\\n' >/mnt/sbin/poweroff; \
             chmod 755 /mnt/sbin/poweroff; umount /mnt; \
             xl create /etc/xen/web.cfg </dev/null >/dev/null 2>&1";
        self.node
            .machine
            .ssh()
            .run(line, Duration::from_secs(300))?;
        self.web_is_alive()
    }

    /// `web` speaks.
    pub(super) fn web_is_alive(&self) -> Result<()> {
        let patience = Duration::from_secs(180);
        let spoke = self.node.consoles.wait_for("web", "web: alive", patience);
        spoke.map(drop)
    }
}

/// The reason and the culprit of a fallback.
pub(super) fn expect_fallback(status: &Value, culprit: &str, words: &str) -> Result<()> {
    let outcome = &status["last"]["outcome"];
    ensure!(outcome["outcome"] == "fell_back", "no fallback: {status:#}");
    ensure!(
        outcome["domain"] == culprit,
        "the culprit should be `{culprit}`: {status:#}"
    );
    let message = outcome["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains(words),
        "the reason should say `{words}`: {message}"
    );
    ensure!(
        outcome["release_at_fault"] == true
            && status["failed"]
                .as_array()
                .is_some_and(|all| !all.is_empty()),
        "the release should be remembered as failed: {status:#}"
    );
    Ok(())
}
