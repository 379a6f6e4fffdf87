//! Runs a program and watches how much memory it and its children take.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::shown;

/// Often enough to see every child, seldom enough to cost nothing.
const PERIOD: Duration = Duration::from_millis(20);

/// What a program took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// From its start to its end.
    pub(super) time: Duration,
    /// Most bytes resident at a time in it, its children and the `others`. The kernel's own high-water marks are added up, so
    /// no peak of a process is missed, and processes that peak one after the other count as if at once.
    pub(super) peak_rss: u64,
}

/// Runs `command` to its end; processes `others` and their children, which work for it, are watched too.
///
/// # Errors
/// When it cannot be started or fails, with what it said.
pub(super) fn run(command: &mut Command, others: &[u32]) -> Result<Taken> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begin = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let mut watched = others.to_vec();
    watched.push(child.id());
    let ended = AtomicBool::new(false);
    let (output, time, peak_rss) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(watched.iter().map(|id| resident(*id, None)).sum());
                thread::sleep(PERIOD);
            }
            peak
        });
        let output = child.wait_with_output();
        let time = begin.elapsed();
        ended.store(true, Ordering::Relaxed);
        (output, time, watcher.join().unwrap_or(0))
    });
    let output = output.with_context(|| format!("waiting for {}", shown(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Taken { time, peak_rss })
}

/// The high-water marks of a process and its children, in bytes; 0 for what has gone.
fn resident(id: u32, parent: Option<&Path>) -> u64 {
    let folder = PathBuf::from(format!("/proc/{id}"));
    let Ok(program) = fs::read_link(folder.join("exe")) else {
        return 0;
    };
    if parent == Some(program.as_path()) {
        // Forked, and not yet another program: its memory is its parent's.
        return 0;
    }
    high_water(&folder)
        + children(&folder)
            .map(|id| resident(id, Some(&program)))
            .sum::<u64>()
}

fn high_water(process: &Path) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

fn children(process: &Path) -> impl Iterator<Item = u32> {
    let threads = fs::read_dir(process.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    threads.flat_map(|thread| {
        let ids = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        ids.split_ascii_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect::<Vec<u32>>()
    })
}
