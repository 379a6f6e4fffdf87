//! `cargo xtask test`: everything that must hold, the quick things first.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::fuzz::{self, Fuzzer};
use crate::scenarios::{self, Ended};
use crate::{command, packages, paths, progress};

mod layers;

/// A part of the tests; they run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// `cargo fmt --check`.
    Format,
    /// Which crate may know which.
    Layers,
    /// clippy, warnings denied.
    Lints,
    /// All that needs no Xen: units, programs on images, a real xenstored.
    Programs,
    /// Coverage-guided fuzz targets, a fixed number of inputs each.
    Fuzz,
    /// Nested Xen: the scenarios.
    Nested,
}

/// How many tests went which way, and how long the parts took.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
    took: Vec<(String, Duration)>,
}

/// Runs the tiers (all when none is named). Names choose among scenarios, see
/// [`scenarios::run`]; with names and no tier only scenarios run.
///
/// # Errors
/// When a test fails, or packages are missing that may not be installed.
pub fn run(tiers: &[Tier], names: &[String]) -> Result<()> {
    progress::step("packages", packages::ensure)?;
    let all = [
        Tier::Format,
        Tier::Layers,
        Tier::Lints,
        Tier::Programs,
        Tier::Fuzz,
        Tier::Nested,
    ];
    let wanted = |tier: &Tier| match (tiers, names) {
        ([], []) => true,
        ([], _) => *tier == Tier::Nested,
        _ => tiers.contains(tier),
    };
    let mut tally = Tally::default();
    for tier in all.iter().filter(|tier| wanted(tier)) {
        match tier {
            Tier::Format => tally.one("format", || cargo(&["fmt", "--all", "--check"])),
            Tier::Layers => tally.one("layers", layers::check),
            Tier::Lints => tally.one("lints", || {
                let lints = ["clippy", "--quiet", "--workspace", "--all-targets"];
                cargo(&[&lints[..], &["--", "-D", "warnings"]].concat())
            }),
            Tier::Programs => tally.programs(),
            Tier::Fuzz => tally.fuzz(),
            Tier::Nested => tally.nested(names),
        }
    }
    tally.report();
    let (passed, failed) = (tally.passed, tally.failed.len());
    // The one line on standard output.
    writeln!(std::io::stdout(), "{passed} passed, {failed} failed")?;
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

impl Tally {
    fn add(&mut self, ended: Ended) {
        match ended.failure {
            None => self.passed += 1,
            Some(_) => self.failed.push(ended.name.clone()),
        }
        self.took.push((ended.name, ended.took));
    }

    fn one(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.add(Ended::of(name, work));
    }

    /// `cargo test`, whose own tests are counted one by one.
    fn programs(&mut self) {
        let mut counted = Counted::default();
        let ended = Ended::of("programs", || cargo_test(&mut counted));
        self.passed += counted.passed;
        let silent = ended.failure.is_some() && counted.failed.is_empty();
        self.failed.append(&mut counted.failed);
        if silent {
            // It did not even build.
            self.failed.push(ended.name.clone());
        }
        self.took.push((ended.name, ended.took));
    }

    /// Every target is a test, and so is that the engine finds a bug at all.
    fn fuzz(&mut self) {
        let fuzzer = match Fuzzer::build() {
            Ok(fuzzer) => fuzzer,
            Err(error) => return self.one("fuzz", || Err(error)),
        };
        self.one("fuzz: a planted bug is found", || fuzzer.finds_the_trap());
        for (target, share) in fuzz::TARGETS {
            self.one(&format!("fuzz: {target}"), || {
                fuzzer.run(target, fuzz::ITERATIONS / share)
            });
        }
    }

    fn nested(&mut self, names: &[String]) {
        match scenarios::run(names) {
            Ok(ended) => ended.into_iter().for_each(|ended| self.add(ended)),
            Err(error) => self.one("nested", || Err(error)),
        }
    }

    fn report(&self) {
        let mut text = String::from("\n seconds  test\n");
        for (name, took) in &self.took {
            text.push_str(&format!("{:8.1}  {name}\n", took.as_secs_f64()));
        }
        for name in &self.failed {
            text.push_str(&format!("  FAILED  {name}\n"));
        }
        progress::say(text);
    }
}

fn program(arguments: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = command::command(&cargo, arguments);
    cargo.current_dir(paths::repo());
    cargo
}

/// Runs cargo; what it says goes to the terminal.
fn cargo(arguments: &[&str]) -> Result<()> {
    let mut cargo = program(arguments);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(
        status.success(),
        "{} ended with {status}",
        command::shown(&cargo)
    );
    Ok(())
}

/// What `cargo test` says about its tests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    passed: u32,
    failed: Vec<String>,
    ignored: u32,
}

impl Counted {
    fn hear(&mut self, line: &str) {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|line| line.rsplit_once(" ... "))
        else {
            return;
        };
        match result.split([',', ' ']).next() {
            Some("ok") => self.passed += 1,
            Some("FAILED") => self.failed.push(name.to_owned()),
            Some("ignored") => self.ignored += 1,
            _ => {}
        }
    }
}

fn cargo_test(counted: &mut Counted) -> Result<()> {
    let mut cargo = program(&["test", "--workspace", "--no-fail-fast"]);
    // Not --quiet: every test is a line.
    cargo.args(["--", "--format", "pretty"]);
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        counted.hear(&line);
        if !line.ends_with(" ... ok") && !line.trim().is_empty() {
            progress::say(line);
        }
    }
    let status = child.wait()?;
    ensure!(
        counted.ignored == 0,
        "{} tests are ignored: nothing may be skipped silently",
        counted.ignored
    );
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_words_are_counted() {
        let mut counted = Counted::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c - should panic ... ok",
            "test d ... FAILED",
            "test e ... ignored, why not",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored",
        ] {
            counted.hear(line);
        }
        let expected = Counted {
            passed: 2,
            failed: vec!["d".to_owned()],
            ignored: 1,
        };
        assert_eq!(counted, expected);
    }
}
