//! A small test runner for scenarios on real Xen: one after the other, since two QEMUs at once take twice as long.

use crate::node::booted::Booted;
use crate::paths;
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

/// One scenario. Its node's files are in the directory that it is given.
pub struct Scenario {
    /// What is shown and filtered by.
    pub name: &'static str,
    /// Fails by returning an error or by a failed assertion.
    pub run: fn(&Booted, &Path) -> Result<()>,
}

/// How many went which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Succeeded.
    pub passed: u32,
    /// Did not.
    pub failed: u32,
}

/// Runs the scenarios whose name contains `filter`, and says how each went. The files of one that failed are kept.
///
/// # Errors
/// When no name contains the filter, or the lab's directory cannot be written.
pub fn run_all(scenarios: &[Scenario], base: &Booted, filter: &str) -> Result<Tally> {
    let chosen: Vec<&Scenario> = scenarios
        .iter()
        .filter(|it| it.name.contains(filter))
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "no scenario's name contains `{filter}`");
    let mut tally = Tally::default();
    for scenario in chosen {
        let dir = paths::lab().join("scenarios").join(scenario.name);
        progress::say(format_args!("scenario {} ...", scenario.name));
        let begin = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(base, &dir)))
            // The assertion's text has been printed by the panic hook.
            .unwrap_or_else(|_| Err(anyhow::anyhow!("an assertion failed")));
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                tally.passed += 1;
                progress::say(format_args!("scenario {} ok, {seconds:.1}s", scenario.name));
                if dir.exists() {
                    fs::remove_dir_all(&dir)
                        .with_context(|| format!("cannot remove {}", dir.display()))?;
                }
            }
            Err(error) => {
                tally.failed += 1;
                progress::say(format_args!(
                    "scenario {} FAILED, {seconds:.1}s: {error:#}\n  its files: {}",
                    scenario.name,
                    dir.display()
                ));
            }
        }
    }
    Ok(tally)
}
