//! Verbs that only look: `status`, `watch`, `verify`.

use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Global, print, print_json};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::observe;
use crate::report::{self, Status};
use crate::slot::Slot;

/// How often `watch` looks.
const POLL: Duration = Duration::from_secs(1);

pub(super) fn status(node: &Node, global: &Global) -> Result<()> {
    let status = observe::status(node)?;
    if global.json {
        print_json(&status)
    } else {
        print(&render(&status))
    }
}

fn render(status: &Status) -> String {
    let mut lines = vec![
        format!("state    {}", status.state),
        format!("node     {}", status.standing()),
    ];
    if let Some(upgrade) = &status.upgrade {
        lines.push(format!(
            "upgrade  {} -> {} in slot {}",
            upgrade.from, upgrade.to.version, upgrade.target
        ));
        if let Some(reason) = &upgrade.giving_up {
            lines.push(format!("reason   {reason}"));
        }
        lines.extend(domains(&upgrade.domains));
    }
    if let Some(last) = &status.last {
        lines.push(format!("last     {}", report::ending(last)));
        lines.extend(domains(&last.domains));
    }
    for failed in &status.failed {
        lines.push(format!(
            "failed   {}: {}",
            failed.release.version, failed.reason
        ));
    }
    lines.push(format!("floor    {}", status.floor));
    lines.join("\n")
}

fn domains(
    results: &std::collections::BTreeMap<String, crate::journal::DomainResult>,
) -> Vec<String> {
    results
        .iter()
        .map(|(name, result)| {
            let kind = if result.mandatory { "" } else { " (optional)" };
            let message = if result.message.is_empty() {
                String::new()
            } else {
                format!(": {}", result.message)
            };
            format!("         {name}{kind} {}{message}", result.state)
        })
        .collect()
}

pub(super) fn watch(node: &Node, global: &Global) -> Result<()> {
    let mut before = None;
    loop {
        let status = observe::status(node)?;
        if before.as_ref() != Some(&status) {
            if global.json {
                print_json(&status)?
            } else {
                print(&render(&status))?
            }
        }
        if !matches!(status.state, "staging" | "switched" | "trial") {
            return Ok(());
        }
        before = Some(status);
        thread::sleep(POLL);
    }
}

/// Read a slot back and compare it with its signed file lists.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Which slot: by its role, or by its letter. One that runs cannot be verified.
    #[arg(long, value_name = "SLOT", default_value = "standby")]
    slot: Which,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Standby,
    Active,
    A,
    B,
}

pub(super) fn verify(verb: &Verify, node: &Node, global: &Global) -> Result<()> {
    let booted = node.booted()?;
    let slot = match verb.slot {
        Which::Standby => !booted,
        Which::Active => booted,
        Which::A => Slot::A,
        Which::B => Slot::B,
    };
    if slot == booted {
        return Err(Error::refused(format!(
            "slot {slot} is running, and a running system changes its own files"
        ))
        .hint("boot the other slot to verify this one"));
    }
    // A slot that is being written cannot be read back.
    let _lock = node.lock()?;
    let journal = crate::journal::JournalFile::in_directory(&node.state_directory()).load()?;
    if journal.release(slot).is_none() {
        return Err(Error::refused(format!(
            "slot {slot} holds no whole release"
        )));
    }
    let release = crate::flash::verify(node, slot).map_err(|error| {
        error.hint("a slot that has been live since it was staged differs by what it wrote")
    })?;
    if global.json {
        print_json(
            &serde_json::json!({ "schema": report::SCHEMA, "slot": slot, "release": release }),
        )
    } else {
        print(&format!(
            "slot {slot} holds {release}, entry by entry as signed"
        ))
    }
}
