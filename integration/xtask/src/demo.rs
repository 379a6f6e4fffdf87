//! `cargo xtask demo`: the main job on real Xen, told step by step, and checked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::bundles::Factory;
use crate::nested::{APPLY, BOOT, Node};
use crate::node::ssh::Ssh;
use crate::node::state::NodeState;
use crate::{paths, progress};

/// What took how long.
#[derive(Default)]
struct Timeline {
    steps: Vec<(String, Duration)>,
}

impl Timeline {
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let value = progress::step(name, work)?;
        self.steps.push((name.to_owned(), began.elapsed()));
        Ok(value)
    }
}

/// How long each domU was away.
type Downtime = BTreeMap<&'static str, Duration>;

/// Upgrades a node from 1.0 to 2.0 and takes it back, and prints a timeline.
///
/// # Errors
/// At the first step or check that fails.
pub fn run() -> Result<()> {
    let mut timeline = Timeline::default();
    let factory = timeline.step("set-up: keys, roots, programs", Factory::ensure)?;
    let old = timeline.step("bundle 1.0", || factory.good("1.0"))?;
    let new = timeline.step("bundle 2.0", || factory.good("2.0"))?;
    let disk = timeline.step("xupg install of 1.0 on an empty disk", || {
        factory.disk(&old)
    })?;
    let state = NodeState::create(&paths::lab().join("demo"), &disk, &factory.keys.ovmf_vars())?;
    let mut node = timeline.step("first boot, Secure Boot enforcing", || {
        Node::start(state, &factory)
    })?;
    timeline.step("web and db are alive as 1.0", || settled(&mut node, "1.0"))?;

    node.offer(&[&new])?;
    let bundle = new
        .file_name()
        .context("a bundle has a name")?
        .to_string_lossy()
        .into_owned();
    let upgrade = timeline.step("xupg apply: stage, switch, reboot, trial, confirm", || {
        downtime(&mut node, "2.0", |node| {
            watched(node, |node| {
                node.through_reboot(&format!("apply /offer/{bundle}"))
            })
        })
    })?;
    timeline.step("the node has confirmed 2.0", || {
        let status = node.wait_for("confirmed", BOOT, |status| status["state"] == "idle")?;
        ensure!(
            status["last"]["outcome"]["outcome"] == "confirmed",
            "not confirmed: {status:#}"
        );
        ensure!(
            status["active"] == "b" && status["confirmed"] == "b",
            "not in slot B: {status:#}"
        );
        node.hooks_ran_once()
    })?;

    let rollback = timeline.step("xupg rollback", || {
        downtime(&mut node, "1.0", |node| node.through_reboot("rollback"))
    })?;
    timeline.step("the node is 1.0 again", || {
        let status = node.wait_for("idle", BOOT, |status| status["state"] == "idle")?;
        ensure!(
            status["last"]["outcome"]["outcome"] == "rolled_back",
            "{status:#}"
        );
        ensure!(
            status["active"] == "a" && status["confirmed"] == "a",
            "not in slot A: {status:#}"
        );
        Ok(())
    })?;
    let plain = timeline.step("plain reboot of the node, for comparison", || {
        downtime(&mut node, "1.0", |node| {
            let line = "xl shutdown -a -w >/dev/null; systemctl reboot";
            let mark = node.machine.console_mark();
            // The reboot may cut the connection before the answer.
            drop(node.machine.ssh().try_run(line, APPLY));
            node.wait_until_up(mark)
        })
    })?;
    report(&timeline, &plain, &upgrade, &rollback);
    Ok(())
}

/// The node is idle and of one release.
fn settled(node: &mut Node, version: &str) -> Result<()> {
    node.wait_for("idle", BOOT, |status| status["state"] == "idle")?;
    node.expect_release(version)
}

/// Runs `work`, which takes the node down and brings it back as `version`, and says how long each
/// domU was away: from the last line it said before to the first one after.
fn downtime(
    node: &mut Node,
    version: &str,
    work: impl FnOnce(&mut Node) -> Result<()>,
) -> Result<Downtime> {
    let before = last_words(node);
    work(node)?;
    settled(node, version)?;
    let mut away = Downtime::new();
    for domain in ["web", "db"] {
        // The longest silence since the work began is the downtime.
        let lines = node.consoles.lines(domain);
        let began = before.get(domain).copied().context("it spoke before")?;
        let mut alive: Vec<SystemTime> = lines
            .iter()
            .filter(|line| line.at >= began && line.text.contains("alive"))
            .map(|line| line.at)
            .collect();
        // A log that is listened to again is heard again.
        alive.sort();
        let longest = alive
            .windows(2)
            .filter_map(|pair| pair[1].duration_since(pair[0]).ok())
            .max()
            .context("it spoke only once")?;
        away.insert(domain, longest);
    }
    Ok(away)
}

fn last_words(node: &Node) -> BTreeMap<&'static str, SystemTime> {
    ["web", "db"]
        .into_iter()
        .filter_map(|domain| {
            Some((
                domain,
                node.consoles
                    .lines(domain)
                    .iter()
                    .map(|line| line.at)
                    .max()?,
            ))
        })
        .collect()
}

/// Runs `work`, and meanwhile shows what stock xenstore tools see.
fn watched(node: &mut Node, work: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    let ssh = node.machine.ssh().clone();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| show_xenstore(&ssh, &over));
        let outcome = work(node);
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

/// One connection for as long as the node is up: a handshake each time would cost it more than the
/// look itself.
fn show_xenstore(ssh: &Ssh, over: &AtomicBool) {
    let mut shown = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let mut looks = ssh.command();
        looks.arg("for i in 1 2 3 4 5 6 7 8 9 10; do xenstore-ls -f /tool/xupg; sleep 2; done");
        looks
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let Ok(mut child) = looks.spawn() else { return };
        for line in child
            .stdout
            .take()
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufRead::lines)
        {
            let Some((key, value)) = line.as_deref().unwrap_or_default().split_once(" = ") else {
                continue;
            };
            if shown.insert(key.to_owned(), value.to_owned()).as_deref() != Some(value) {
                progress::say(format_args!("  {key} = {value}"));
            }
        }
        // It has ended, or the node went down: while it reboots there is nobody to ask.
        let _ = child.wait();
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn report(timeline: &Timeline, plain: &Downtime, upgrade: &Downtime, rollback: &Downtime) {
    let mut out =
        String::from("\nstep                                                       seconds\n");
    for (name, took) in &timeline.steps {
        out.push_str(&format!("{name:<58} {:>7.1}\n", took.as_secs_f64()));
    }
    out.push_str(
        "\ndowntime of the domUs           plain reboot     upgrade    rollback  upgrade/plain\n",
    );
    for (domain, plain) in plain {
        let seconds = |all: &Downtime| all.get(domain).map_or(0.0, Duration::as_secs_f64);
        out.push_str(&format!(
            "{domain:<30} {:>11.1} s {:>9.1} s {:>9.1} s {:>13.2}\n",
            plain.as_secs_f64(),
            seconds(upgrade),
            seconds(rollback),
            seconds(upgrade) / plain.as_secs_f64().max(0.001),
        ));
    }
    progress::say(out);
}
